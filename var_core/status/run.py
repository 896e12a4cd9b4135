"""The state of all runs of a configuration, put together from that of their shards and stages."""

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from var_core.config.models import TraceModel
from var_core.config.root import RESERVED_NAMES, Config
from var_core.errors import VarError
from var_core.status.capture import STATES, ShardStatus, State, read_shards
from var_core.status.stages import StageStatus, after_capture, before_capture, warehouse


@dataclass(frozen=True)
class CaptureStatus:
    """How far the capture of a run is.

    Attributes
    ----------
    shards : tuple of ShardStatus
        All of them, split by split.
    counts : dict
        State -> shards in it.
    rate : float or None
        Units of work a second of all running jobs together; None if none says.
    unit : str
        Those units.
    remaining_s : float or None
        Seconds that the rest takes at this rate, if what is not yet begun is as large as what is; None if unknown.
    """

    shards: tuple[ShardStatus, ...]
    counts: dict[State, int]
    rate: float | None
    unit: str
    remaining_s: float | None


@dataclass(frozen=True)
class RunStatus:
    """How far one model on one corpus is; `capture` is None where the routing was recorded elsewhere."""

    model: str
    corpus: str
    before: tuple[StageStatus, ...]
    capture: CaptureStatus | None
    after: tuple[StageStatus, ...]


@dataclass(frozen=True)
class Status:
    """How far everything is.

    Attributes
    ----------
    results : str
        The folder that was looked at.
    seen : str
        When.
    runs : tuple of RunStatus
        The runs of the configuration.
    warehouse : StageStatus
        The database over all of them.
    others : tuple of str
        Runs that the folder also holds, but the configuration does not name.
    """

    results: str
    seen: str
    runs: tuple[RunStatus, ...]
    warehouse: StageStatus
    others: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        """Give everything as values that JSON has."""
        return asdict(self)


def read_status(results: Path, config: Config) -> Status:
    """Read how far the runs of a configuration are; nothing is written, and nobody is asked.

    Raises
    ------
    VarError
        If there is no such folder.
    """
    if not results.is_dir():
        raise VarError(f"{results}: no such folder; run snakemake first, or name the folder with the results")
    seen = time.strftime("%Y-%m-%d %H:%M:%S")
    named = {(run.model, run.corpus) for run in config.runs}
    return Status(
        results=str(results),
        seen=seen,
        runs=tuple(_run(results, run.model, run.corpus, config) for run in config.runs),
        warehouse=warehouse(results),
        others=tuple(f"{model}/{corpus}" for model, corpus in _captured(results) if (model, corpus) not in named),
    )


def _run(results: Path, model: str, corpus: str, config: Config) -> RunStatus:
    recorded = isinstance(config.models[model], TraceModel)
    return RunStatus(
        model,
        corpus,
        tuple(before_capture(results, model, corpus, config)),
        None if recorded else _capture(tuple(read_shards(results, model, corpus, config.capture))),
        tuple(after_capture(results, model, corpus, config)),
    )


def _capture(shards: tuple[ShardStatus, ...]) -> CaptureStatus:
    counted = Counter(shard.state for shard in shards)
    working = [shard.work for shard in shards if shard.state == "running" and shard.work]
    rate = sum(work.rate or 0.0 for work in working) or None
    return CaptureStatus(
        shards,
        {state: counted[state] for state in STATES},
        rate,
        working[0].unit if working else "token",
        _left(shards) / rate if rate else None,
    )


def _left(shards: Sequence[ShardStatus]) -> float:
    """Units of work that are left; a shard of which nothing is known counts as the mean of those that say."""
    said = [shard.work.total for shard in shards if shard.work]
    mean = sum(said) / len(said) if said else 0.0
    return sum(
        (shard.work.total - shard.work.done) if shard.work and (shard.resumable or shard.state == "running") else mean
        for shard in shards
        if shard.state != "done"
    )


def _captured(results: Path) -> Iterator[tuple[str, str]]:
    """Runs that have a folder of captures."""
    for model in sorted(path for path in results.iterdir() if path.is_dir() and path.name not in RESERVED_NAMES):
        for corpus in sorted(path for path in model.iterdir() if (path / "capture").is_dir()):
            yield model.name, corpus.name
