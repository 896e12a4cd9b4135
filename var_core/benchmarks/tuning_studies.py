"""Whole studies on a finished run's trace: the hypervolume by sampler, and the time by the number of workers."""

import os
import queue
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch

from var_core.benchmarks.document import Section
from var_core.benchmarks.environment import environment
from var_core.benchmarks.timing import Figure, Times, figure
from var_core.benchmarks.tuning import one_thread
from var_core.benchmarks.tuning_run import TunedRun
from var_core.benchmarks.tuning_worker import WorkerProcess, worker_processes
from var_core.config.tuning import Sampler, TuningConfig
from var_core.errors import VarError
from var_core.tuning.results import collect

SAMPLERS: tuple[Sampler, ...] = get_args(Sampler)
SEEDS = 5
AT = (25, 50, 100, 150, 200)
"""Trials after which the hypervolume is told; a study has as many as the last."""
WORKERS = (1, 2, 3, 4)
_ROUNDS = 2


def samplers_section(run: TunedRun, seeds: int = SEEDS, at: Sequence[int] = AT) -> Section:
    """Make a study with every sampler and seed; of each, the hypervolume after so many trials.

    Studies are made side by side, for nothing is timed here.

    Parameters
    ----------
    run : TunedRun
    seeds : int, optional
        Studies of every sampler.
    at : sequence of int, optional
        Numbers of trials, in order; a study has as many as the last.
    """
    run.check()
    configs = [_config(run, sampler, seed, at[-1]) for seed in range(seeds) for sampler in SAMPLERS]
    side_by_side = min(os.cpu_count() or 1, len(configs))
    free: queue.SimpleQueue[WorkerProcess] = queue.SimpleQueue()

    def of_study(config: TuningConfig) -> list[float]:
        worker = free.get()
        try:
            with tempfile.TemporaryDirectory() as scratch:
                _make_together([worker], config, Path(scratch), cold=False)
                table = collect([Path(scratch, "0.parquet")], config, run.reference)
        finally:
            free.put(worker)
        # Of the rectangle between the reference point and the origin: no decision of the router, and no loss.
        return [100 * float(table["hypervolume"][trials - 1].as_py()) / run.reference for trials in at]

    with worker_processes(run, side_by_side) as workers, ThreadPoolExecutor(side_by_side) as pool:
        for worker in workers:
            free.put(worker)
        found = list(pool.map(of_study, configs))
    figures: dict[str, Figure | str] = {}
    for sampler in SAMPLERS:
        own = [each for config, each in zip(configs, found, strict=True) if config.sampler == sampler]
        for trials, values in zip(at, zip(*own, strict=True), strict=True):
            figures[f"tuning_hypervolume_{sampler}_{trials}"] = figure(values, "% of the reference's rectangle")
    about = run.about() | {"samplers": list(SAMPLERS), "at": list(at), "seeds": seeds, "reference": run.reference}
    return _section("tuning_samplers", about, figures)


def workers_section(
    run: TunedRun, numbers: Sequence[int] = WORKERS, trials: int = AT[-1], rounds: int = _ROUNDS
) -> Section:
    """Make one study with several numbers of workers, `rounds` times in turn; another seed each round.

    Parameters
    ----------
    run : TunedRun
    numbers : sequence of int, optional
        Of workers; the first is what the others are told relative to.
    trials : int, optional
        Of a study.
    rounds : int, optional
        Studies of every number.
    """
    run.check()
    seconds: dict[str, list[float]] = {str(number): [] for number in numbers}
    random = np.random.default_rng(0)
    with worker_processes(run, max(numbers)) as workers:
        for seed in range(rounds):
            for number in random.permutation(list(numbers)).tolist():
                config = _config(run, run.search.config.sampler, seed, trials)
                seconds[str(number)].append(
                    _study_seconds(workers[:number], config.model_copy(update={"workers": number}), run.reference)
                )
    times, first = Times(seconds), str(numbers[0])
    figures: dict[str, Figure | str] = {}
    for number in map(str, numbers):
        figures[f"tuning_workers_{number}_rate"] = times.rate(number, trials, "trials a second")
        if number != first:
            faster = [own / theirs for own, theirs in zip(seconds[first], seconds[number], strict=True)]
            figures[f"tuning_workers_{number}_over_{first}"] = figure(faster, "times as fast", f"workers: {first}")
    about = run.about() | {"workers": list(numbers), "trials": trials, "studies": rounds}
    return _section("tuning_workers", about, figures)


def _config(run: TunedRun, sampler: Sampler, seed: int, trials: int) -> TuningConfig:
    return run.search.config.model_copy(update={"sampler": sampler, "seed": seed, "trials": trials})


def _study_seconds(workers: Sequence[WorkerProcess], config: TuningConfig, reference: float) -> float:
    """Time of a study from the first worker's begin to the last one's end, none of whose trials is lost or twice."""
    with tempfile.TemporaryDirectory() as scratch:
        done = _make_together(workers, config, Path(scratch), cold=True)
        # Refuses fewer trials than there should be.
        collect([Path(scratch, f"{number}.parquet") for number in range(len(workers))], config, reference)
    made = sum(each["made"] for each in done)
    if made != config.trials:
        raise VarError(f"benchmark tuning: {len(workers)} workers made {made:.0f} of {config.trials} trials")
    return max(each["ended"] for each in done) - min(each["begun"] for each in done)


def _make_together(
    workers: Sequence[WorkerProcess], config: TuningConfig, folder: Path, cold: bool
) -> list[dict[str, float]]:
    order: dict[str, Any] = {
        "journal": str(folder / "journal"), "config": config.model_dump(mode="json"), "cold": cold
    }  # fmt: skip
    for number, worker in enumerate(workers):
        worker.prepare(order | {"worker": number, "output": str(folder / f"{number}.parquet")})
    for worker in workers:
        worker.ready()
    for worker in workers:
        worker.begin()
    return [worker.result() for worker in workers]


def _section(name: str, about: dict[str, Any], figures: dict[str, Figure | str]) -> Section:
    with one_thread():  # as the workers have
        return Section(name, environment(torch.device("cpu")), about, figures)
