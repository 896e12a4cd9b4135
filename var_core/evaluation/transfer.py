"""Policies of one domain on the text of another."""

import itertools
import logging
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa

from var_core.evaluation import names
from var_core.evaluation.arms import run_plain, run_policy
from var_core.evaluation.results import ArmResult, Clusters, Row, compare, way_rows
from var_core.evaluation.stage import Sources
from var_core.parquet import read_provenance, read_table, write_table
from var_core.policy.make import Recorded, calibrated_tables, choose_rows
from var_core.progress import Progress

ALL = "all"
TRANSFER = pa.schema(
    [
        pa.field("made_on", pa.string(), nullable=False),
        pa.field("evaluated_on", pa.string(), nullable=False),
        pa.field("measure", pa.string(), nullable=False),
        pa.field("value", pa.float64()),
        pa.field("low", pa.float64()),
        pa.field("high", pa.float64()),
        pa.field("n", pa.int64(), nullable=False),
        pa.field("n_unit", pa.string(), nullable=False),
    ]
)
"""A row a (domain that the policy was made on, or all; domain that it was evaluated on; measure)."""

_MEASURES = ("coverage", "set_agreement", "recall_at_k")
_LOGGER = logging.getLogger(__name__)


def evaluate_transfer(sources: Sources, output: Path, code: str) -> None:
    """Make a policy on each domain, run them all on the text of each, and write the matrix.

    Parameters
    ----------
    sources : Sources
    output : Path
        Parquet file; without rows for a corpus of one domain.
    code : str
        Digest of the stage's code.
    """
    provenance = {
        "stage": "transfer",
        "policy": sources.load_policy().made_from,
        "text": {key: read_provenance(sources.shards[0])[key] for key in ("run", "split", "corpus")},
        "config": sources.config.model_dump(mode="json"),
        "code": code,
    }
    made_on, evaluated_on = _made_on(sources.recorded), _evaluated_on(sources.shards)
    several = len({*made_on, *evaluated_on}) > 1
    rows = _matrix(sources, made_on, evaluated_on) if several and evaluated_on else []
    write_table(output, pa.Table.from_pylist(rows, schema=TRANSFER), provenance)


def _made_on(recorded: Recorded) -> list[str]:
    """Domains with text in both splits that a policy is made from; a small one may have all its groups in another."""
    counted = _domains([recorded.statistics / "layer_stats.parquet"])
    calibrated = _domains(recorded.calibration)
    for domain in sorted(counted ^ calibrated):
        _LOGGER.warning(
            "domain %s has no text in one of the splits capture and calibration: no policy of its own", domain
        )
    return sorted(counted & calibrated)


def _evaluated_on(shards: Sequence[Path]) -> list[str]:
    return sorted(_domains(shards))


def _domains(paths: Sequence[Path]) -> set[str]:
    parts = (read_table(path, ["domain"])["domain"].unique().to_pylist() for path in paths)
    return set(itertools.chain.from_iterable(parts))


def _matrix(sources: Sources, domains: Sequence[str], evaluated_on: Sequence[str]) -> list[dict[str, object]]:
    """Rows of all cells."""
    policy = sources.load_policy()
    most = max(sources.config.max_sequences // len(evaluated_on), 1)
    texts = [sources.text(domain, most) for domain in evaluated_on]
    subject = sources.subject(policy)
    rows: list[dict[str, object]] = []
    tokens = sum(text.input_ids.size for text in texts)
    with Progress(tokens * (len(domains) + 2), "token", "evaluate transfer") as progress:
        plain = [ArmResult.of_run(names.PLAIN, text, run_plain(subject, text, progress.advance)) for text in texts]
        for made_on in (*domains, ALL):
            tables = policy.tables
            if made_on != ALL:
                own = calibrated_tables(sources.recorded, sources.policy_config, (made_on,))
                tables = choose_rows(own, sources.policy_config, sources.recorded, (made_on,))
            for text, before in zip(texts, plain, strict=True):
                arm = run_policy(subject, text, tables, policy.settings, progress.advance)
                rows += _cell(made_on, ArmResult.of_run(names.POLICY, text, arm), before, sources)
    return rows


def _cell(made_on: str, result: ArmResult, plain: ArmResult, sources: Sources) -> list[dict[str, object]]:
    config, evaluated_on = sources.config, str(plain.domain[0])
    clusters = Clusters(result.cluster, config)
    found = compare(result, plain, clusters, config)
    loss = Row(
        result.arm, None, "loss_difference", found.difference, found.difference_low, found.difference_high,
        found.confidence, found.sequences, "clusters",
    )  # fmt: skip
    ways = way_rows(result, clusters, config)
    rows = itertools.chain([loss], (row for row in ways if row.layer is None and row.measure in _MEASURES))
    keys = ("measure", "value", "low", "high", "n", "n_unit")
    return [
        {"made_on": made_on, "evaluated_on": evaluated_on, **{key: getattr(row, key) for key in keys}} for row in rows
    ]
