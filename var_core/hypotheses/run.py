"""The hypotheses stage: all tests on one run, and the files that tell what came out."""

import platform
from importlib.metadata import version
from pathlib import Path

import duckdb

from var_core import __version__
from var_core.config.hypotheses import HypothesesConfig
from var_core.files import write_text
from var_core.hypotheses.data import RunData
from var_core.hypotheses.h1 import h1_results
from var_core.hypotheses.h2 import h2_results
from var_core.hypotheses.h3 import h3_results
from var_core.hypotheses.h4 import h4_outcome
from var_core.hypotheses.meaning import meanings
from var_core.hypotheses.multiplicity import judged
from var_core.hypotheses.results import Verdicts, write_verdicts
from var_core.hypotheses.text import report_text

_LIBRARIES = ("duckdb", "numpy", "powerlaw", "pyarrow", "scipy")


def test_hypotheses(
    connection: duckdb.DuckDBPyConnection, run: str, config: HypothesesConfig, output: Path, code: str
) -> Verdicts:
    """Test H1 to H4 on one run, and write ``verdicts.json``, ``verdicts.parquet``, ``report.txt`` and ``meaning.txt``.

    Parameters
    ----------
    connection : duckdb.DuckDBPyConnection
        A database with the warehouse's tables and views.
    run : str
        The run's name, ``{model}/{corpus}``.
    config : HypothesesConfig
        Thresholds, confidence, numbers of draws, seed.
    output : Path
        Folder to write into.
    code : str
        Digest of the stage's code, for the provenance record.

    Returns
    -------
    Verdicts
        What was written.

    Raises
    ------
    VarError
        If the run is not in the database, or its held-out trace is missing although something was held out.
    """
    data = RunData(connection, run)
    fast_path = h4_outcome(data, config)
    results = judged(
        [*h1_results(data, config), *h2_results(data, config), *h3_results(data, config), *fast_path.results]
    )
    capture_tokens = int(data.token_moments(data.layers[0].layer).n.sum())
    if not data.recorded.token_ids:
        capture_tokens = data.provenance["capture_tokens"]
    verdicts = Verdicts(
        run=run,
        provenance={
            "stage": "hypotheses",
            "run": data.provenance,
            "config": config.model_dump(mode="json"),
            "code": code,
        },
        versions={
            "python": platform.python_version(),
            "var_core": __version__,
            **{library: version(library) for library in _LIBRARIES},
        },
        samples={
            "layers": len(data.layers),
            "token types": data.types,
            "special token types left out": data.special_left_out,
            "capture tokens": capture_tokens,
            "capture shards": len(data.shards),
            "held-out documents": len(data.heldout_documents),
            "held-out decisions": fast_path.decisions,
        },
        results=results,
        curves=fast_path.curves,
        transfers=fast_path.transfers,
    )
    write_verdicts(verdicts, output)
    write_text(output / "report.txt", report_text(verdicts))
    write_text(output / "meaning.txt", "\n\n".join(meanings(verdicts).values()) + "\n")
    return verdicts
