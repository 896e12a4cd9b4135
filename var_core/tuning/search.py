"""A search as jobs do it: a worker's trials, the trials of all put together, and the front run in the model."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pyarrow as pa

from var_core.config.tuning import TuningConfig
from var_core.evaluation.stage import Sources
from var_core.files import digest_of, file_digest, read_json
from var_core.parquet import read_provenance, read_table, write_table
from var_core.policy.make import thresholds_of
from var_core.tuning.names import CONTROL, SEARCH
from var_core.tuning.points import measure_points, points_of
from var_core.tuning.results import collect, importances, nearest_to_constraints
from var_core.tuning.stage import Search, evaluation_of, read_loss_model
from var_core.tuning.worker import run_worker

_LOGGER = logging.getLogger(__name__)
_NOT_OF_A_STUDY = {
    "enabled", "trials", "workers", "front_points", "max_sequences", "probes", "probe_sequences", "confidence",
    "choose",
}  # fmt: skip
"""Settings that a study can be gone on with, or that concern what comes before and after it."""


def run_search(search: Search, study: str, worker: int, loss_model: Path, output: Path, code: str) -> None:
    """Work on a study until its trials are done.

    The study lies in a journal beside the workers' files, under a name that has a digest of all that its trials depend
    on: a worker that is started again goes on, and with other settings another study begins.

    Parameters
    ----------
    search : Search
    study : str
        ``search``, or ``random``.
    worker : int
        Number of the worker.
    loss_model : Path
    output : Path
        The study's trials as this worker knows them at its end.
    code : str
        Digest of the stage's code.
    """
    thresholds_of(search.policy, len(search.recorded.layout))
    config = search.config
    if study == CONTROL:
        config = config.model_copy(update={"sampler": "random"})
    provenance = {
        "stage": "tuning",
        "study": study,
        "run": search.recorded.provenance["run"],
        "made_from": search.made_from,
        "config": config.model_dump(mode="json", exclude=_NOT_OF_A_STUDY),
        "policy": search.policy.model_dump(mode="json", exclude={"audit", "enabled"}),
        "loss_model": file_digest(loss_model),
        "tables": {path.stem: file_digest(path) for path in search.recorded.calibrated},
        "calibration": [file_digest(path) for path in search.recorded.calibration],
        "code": code,
    }
    name = f"{study} {digest_of(provenance)[:12]}"
    evaluate = search.evaluator(read_loss_model(loss_model))
    run_worker(
        output.parent / f"{study}.journal", name, worker, config, search.policy, len(search.recorded.layout), evaluate,
        output, study=study, provenance={**provenance, "study_name": name},
    )  # fmt: skip


def collect_trials(
    files: Mapping[str, Sequence[Path]], loss_model: Path, config: TuningConfig, output: Path, code: str
) -> None:
    """Put the trials of both studies together, and say which settings matter.

    Parameters
    ----------
    files : mapping of str to sequence of Path
        Study -> its workers' trials.
    loss_model : Path
        Whose reference the hypervolume is measured to.
    config : TuningConfig
    output : Path
        Folder for ``trials.parquet`` and ``importances.parquet``.
    code : str
        Digest of the stage's code.
    """
    worst = float(read_json(loss_model)["reference"])
    tables = [collect(files[study], config, worst) for study in (SEARCH, CONTROL)]
    found = nearest_to_constraints(tables[0])
    if found.line:
        _LOGGER.warning("%s", found.line)
    provenance = {
        "stage": "tuning",
        "made_from": read_provenance(files[SEARCH][0])["made_from"],
        "config": config.model_dump(mode="json"),
        "reference": worst,
        "code": code,
    }
    write_table(output / "trials.parquet", pa.concat_tables(tables), provenance)
    write_table(output / "importances.parquet", pa.concat_tables([importances(each) for each in tables]), provenance)


def measure_front(search: Search, sources: Sources, trials: Path, output: Path, code: str) -> None:
    """Run the model with points of the front on the tuning split; see :func:`var_core.tuning.points.measure_points`."""
    points = points_of(read_table(trials), search.policy, search.config)
    on_tuning = replace(sources, config=evaluation_of(sources.config, search.config))
    measure_points(search, on_tuning, points, output, code)
