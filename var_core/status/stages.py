"""The other stages of a run, coarsely: which of their final files are there, which of their logs end in an error."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from var_core.config.corpus import COUNTED_SPLITS
from var_core.config.models import DemoModel, TraceModel
from var_core.config.root import Config
from var_core.evaluation.names import POLICY, parts
from var_core.figures.registry import figures_of
from var_core.statistics.tables import SCHEMAS
from var_core.status.logs import Work, read_end
from var_core.tuning.names import CONTROL, SEARCH


@dataclass(frozen=True)
class StageStatus:
    """How far one stage is.

    Attributes
    ----------
    name : str
        The stage.
    state : str
        ``done``: all its files are there. ``failed``: the log of one that is not ends in an error. ``begun``: there is
        a log of one that is not; whether its job still runs, its files do not say. ``waiting``: none of these.
    done, total : int
        Files that are there, and that there will be.
    work : Work or None
        What the log last said of the progress.
    lines : tuple of str
        Last lines of the log that ends in an error.
    log : str or None
        That log, or the one of the job that has begun.
    """

    name: str
    state: Literal["done", "failed", "begun", "waiting"]
    done: int
    total: int
    work: Work | None = None
    lines: tuple[str, ...] = ()
    log: str | None = None


def before_capture(results: Path, model: str, corpus: str, config: Config) -> Iterator[StageStatus]:
    """Give the state of the stages of a run that capture waits for."""
    run, own = f"{model}/{corpus}", results / model / corpus
    kind = config.models[model]
    trains = isinstance(kind, DemoModel)
    maker = f"{'train_demo_model' if trains else 'fetch_model'}/{model}"
    yield _stage(results, "model", {results / "models" / model / "model.json": (maker,)})
    if isinstance(kind, TraceModel):
        yield _stage(results, "import", {own / "corpus" / "manifest.json": (f"import_trace/{run}",)})
    else:
        packed = {own / "corpus" / "manifest.json": (f"pack_sequences/{run}", f"write_documents/{corpus}")}
        yield _stage(results, "corpus", packed)


def after_capture(results: Path, model: str, corpus: str, config: Config) -> Iterator[StageStatus]:
    """Give the state of the stages of a run that come after capture."""
    run, own = f"{model}/{corpus}", results / model / corpus
    merged = {
        own / "statistics" / split / f"{table}.parquet": (f"merge_statistics/{run}/{split}",)
        for split in COUNTED_SPLITS
        for table in SCHEMAS
    }
    segments = {own / "statistics" / "segments.parquet": (f"measure_segments/{run}",)}
    yield _stage(results, "statistics", merged | segments)
    yield _stage(results, "hypotheses", {own / "hypotheses" / "verdicts.json": (f"test_hypotheses/{run}",)})
    policy = config.policy.enabled and not isinstance(config.models[model], TraceModel)
    if policy:
        yield from _policy(results, run, own, config)
    if config.systems.enabled:
        yield _stage(results, "systems", _systems_files(run, own / "systems", config, policy))
    names = figures_of(
        trained=isinstance(config.models[model], DemoModel),
        policy=policy,
        tuned=policy and config.tuning.enabled,
        systems=config.systems.enabled,
    )
    yield _stage(
        results, "figures", {own / "figures" / f"{name}.png": (f"draw_figure/{run}/{name}",) for name in names}
    )
    yield _stage(results, "report", {own / "report" / "summary.md": (f"write_summary/{run}",)})


def _policy(results: Path, run: str, own: Path, config: Config) -> Iterator[StageStatus]:
    """Give the state of what is made, measured and promised of a run's policy."""
    if config.tuning.enabled:
        yield _stage(results, "tuning", _tuning_files(run, own / "tuning", config))
    yield _stage(results, "policy", {own / "policy" / "policy.json": (f"make_policy/{run}",)})
    arms = {
        own / "evaluation" / f"{part}.losses.parquet": (
            f"evaluate_policy/{run}" if part == POLICY else f"evaluate_controls/{run}/{part}",
        )
        for part in parts(config.evaluation, config.tuning.enabled)
    }
    beside = {
        own / "evaluation" / "transfer.parquet": (f"evaluate_transfer/{run}",),
        own / "evaluation" / "speed.json": (f"time_policy/{run}",),
        own / "evaluation" / "verdict.json": (f"compare_policies/{run}",),
    }
    yield _stage(results, "evaluation", arms | beside)
    yield _stage(results, "certificate", {own / "policy" / "certificate.json": (f"certify_policy/{run}",)})


def _tuning_files(run: str, folder: Path, config: Config) -> dict[Path, tuple[str, ...]]:
    """Give the files of the search for a policy's settings, each with the logs of the jobs that make it."""
    workers = [(SEARCH, worker) for worker in range(config.tuning.workers)] + [(CONTROL, 0)]
    return {
        folder / "loss_model.json": (f"probe_losses/{run}",),
        **{
            folder / "studies" / f"{study}-{worker}.parquet": (f"tune/{run}/{study}-{worker}",)
            for study, worker in workers
        },
        folder / "trials.parquet": (f"collect_trials/{run}",),
        folder / "measured.losses.parquet": (f"measure_front/{run}",),
        folder / "chosen.json": (f"choose_policy/{run}",),
        folder / "summary.json": (f"report_tuning/{run}",),
    }


def _systems_files(run: str, folder: Path, config: Config, model_is_run: bool) -> dict[Path, tuple[str, ...]]:
    """Give the files on what a run's routing is worth, each with the log of the job that makes it."""
    on_model = {"profile.parquet": "profile_model"} if model_is_run else {}
    if model_is_run and config.systems.offload.enabled:
        on_model["offloaded.parquet"] = "run_offloaded"
    others = {
        "costs.parquet": "count_costs",
        "cache_simulations.parquet": "simulate_caches",
        "verdict.json": "find_break_even",
    }
    return {folder / name: (f"{rule}/{run}",) for name, rule in (on_model | others).items()}


def warehouse(results: Path) -> StageStatus:
    """Give the state of the database over all runs."""
    return _stage(results, "warehouse", {results / "var.duckdb": ("build_warehouse",)})


def _stage(results: Path, name: str, files: Mapping[Path, tuple[str, ...]]) -> StageStatus:
    """Judge a stage by its files, each with the logs of the jobs that make it."""
    missing = [path for path in files if not path.is_file()]
    count = len(files) - len(missing), len(files)
    if not missing:
        return StageStatus(name, "done", *count)
    logs = dict.fromkeys(results / "logs" / f"{log}.log" for path in missing for log in files[path])
    ends = {log: read_end(log) for log in logs if log.is_file()}
    for log, end in ends.items():
        if end.error:
            return StageStatus(name, "failed", *count, end.work, end.error, str(log))
    if not ends:
        return StageStatus(name, "waiting", *count)
    latest = max(ends, key=lambda log: log.stat().st_mtime)
    return StageStatus(name, "begun", *count, ends[latest].work, log=str(latest))
