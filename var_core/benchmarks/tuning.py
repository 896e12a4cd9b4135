"""Trials of a search: how many a second, what they take as traces grow, and beside a plain replay.

On one core: one thread, and nothing beside it.
"""

import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from var_core.benchmarks.document import Section
from var_core.benchmarks.environment import environment
from var_core.benchmarks.merging import line
from var_core.benchmarks.timing import Figure, figure, time_rounds
from var_core.benchmarks.tuning_run import TunedRun, decisions_of
from var_core.benchmarks.tuning_traces import PARTS, write_part
from var_core.config.policy import PolicyConfig
from var_core.errors import VarError
from var_core.policy.make import choose_by, mean_entropies, settings_of
from var_core.policy.replay import replay, sum_by_sequence
from var_core.policy.tables import PolicyTables
from var_core.policy.ways import Way
from var_core.tuning.stage import set_of
from var_core.tuning.trials import SEARCH, Values
from var_core.tuning.worker import run_worker

_PASSES = 2
"""Times that all settings of the search are replayed, and that a study is made."""
_GROWTH_POLICIES = 16
_WARM_UP = 2
_MILLION = 1e6


def tuning_section(run: TunedRun, rounds: int, trials: int = 200, passes: int = _PASSES) -> Section:
    """Time trials of a finished run's search.

    Parameters
    ----------
    run : TunedRun
    rounds : int
        Rounds of the comparison with a plain replay.
    trials : int, optional
        Of a whole study.
    passes : int, optional
        Times that all settings are replayed, and that a study is made.
    """
    run.check()
    about: dict[str, Any] = run.about() | {"rounds": rounds, "trials": trials, "passes": passes}
    figures: dict[str, Figure | str] = {}
    with one_thread():
        run.warm_up()
        for part in (_replays(run, passes), _studies(run, trials, passes), _growth(run), _beside_plain(run, rounds)):
            figures |= part[0]
            about |= part[1]
        where = environment(torch.device("cpu"))
    return Section("tuning", where, about, figures)


@contextmanager
def one_thread() -> Iterator[None]:
    """Let PyTorch compute with one thread in the block."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


_Part = tuple[dict[str, Figure], dict[str, Any]]
"""Figures, and what is said about them."""


def _replays(run: TunedRun, passes: int) -> _Part:
    """Replay all that the search proposed, in its order; of each trial the median over the passes."""
    seconds, prepared = np.empty((passes, len(run.policies))), []
    for number in range(passes):
        start = time.perf_counter()
        evaluate = run.evaluator()
        prepared.append(time.perf_counter() - start)
        for place, policy in enumerate(run.policies):
            start = time.perf_counter()
            evaluate(policy)
            seconds[number, place] = time.perf_counter() - start
    millions = run.decisions / _MILLION
    rates = 1 / (np.median(seconds, axis=0) / millions)
    unit = "trials a second for 1 M decisions"
    figures = {
        "tuning_replay_rate": figure(rates.tolist(), unit),
        "tuning_replay_rate_of_all": figure((millions / seconds.mean(axis=1)).tolist(), unit),
        "tuning_prepare_seconds": figure(prepared, "seconds"),
    }
    return figures, {"replay_quartiles": _quartiles(rates)}


def _studies(run: TunedRun, trials: int, passes: int) -> _Part:
    """Make whole studies: a trial is from one replay's begin to the next one's."""
    gaps, own, whole = [], [], []
    for seed in range(passes):
        begun, replayed, seconds = _study(run, trials, seed)
        gaps.append(np.diff(begun))
        own.append(replayed[:-1])
        whole.append(trials / seconds)
    rates = 1 / np.concatenate(gaps)
    beside = 1e3 * (np.concatenate(gaps) - np.concatenate(own))
    figures = {
        "tuning_study_rate": figure(rates.tolist(), "trials a second"),
        "tuning_study_rate_of_all": figure(whole, "trials a second"),
        "tuning_study_beside_replay": figure(beside.tolist(), "ms a trial"),
    }
    return figures, {"study_quartiles": _quartiles(rates), "beside_replay_quartiles": _quartiles(beside)}


def _study(run: TunedRun, trials: int, seed: int) -> tuple[list[float], list[float], float]:
    """When each replay began, how long it took, and seconds of the whole study."""
    search = run.search
    config = search.config.model_copy(update={"trials": trials, "seed": seed})
    evaluate, begun, replayed = run.evaluator(), [], []

    def timed(policy: PolicyConfig) -> Values:
        begun.append(time.perf_counter())
        values = evaluate(policy)
        replayed.append(time.perf_counter() - begun[-1])
        return values

    with tempfile.TemporaryDirectory() as scratch:
        start = time.perf_counter()
        run_worker(
            Path(scratch, "journal"), "benchmark", 0, config, search.policy, len(search.recorded.layout), timed,
            Path(scratch, "trials.parquet"), study=SEARCH, provenance={},
        )  # fmt: skip
        return begun, replayed, time.perf_counter() - start


def _growth(run: TunedRun, number: int = _GROWTH_POLICIES) -> _Part:
    """Replay the same policies on traces of several lengths, in a new order of these for every policy."""
    policies, random = run.spread(number), np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as scratch:
        paths = {name: write_part(run.search.recorded.calibration, Path(scratch), name) for name in PARTS}
        decisions = {name: decisions_of([path]) for name, path in paths.items()}
        evaluators = {name: run.evaluator([path]) for name, path in paths.items()}
    seconds: dict[str, list[float]] = {name: [] for name in PARTS}
    for policy in policies:
        for name in random.permutation(list(PARTS)).tolist():
            start = time.perf_counter()
            evaluators[name](policy)
            seconds[name].append(time.perf_counter() - start)
    sizes = list(decisions.values())
    fit = line(sizes, [float(np.median(each)) for each in seconds.values()])
    slopes = [line(sizes, each)["slope_s"] for each in zip(*seconds.values(), strict=True)]
    figures = {
        f"tuning_growth_{name}": figure([1e3 * each for each in own], "ms a trial") for name, own in seconds.items()
    }
    figures |= {
        "tuning_growth_slope": figure([1e9 * slope for slope in slopes], "ns a decision"),
        "tuning_growth_r_squared": figure([fit["r_squared"]], "ratio", "line through the medians"),
    }
    return figures, {"lengths": list(decisions.items()), "fit": fit, "growth_policies": len(policies)}


def _beside_plain(run: TunedRun, rounds: int) -> _Part:
    """Replay policies both ways, one a round; they must come to the same."""
    policies = run.spread(rounds + _WARM_UP)
    evaluate, plain = run.evaluator(), _Plain(run)
    shares: dict[str, list[Any]] = {"plain": [], "prepared": []}

    def with_plain(number: int) -> None:
        shares["plain"].append((number, *plain.replay(policies[number % len(policies)])))

    def with_prepared(number: int) -> None:
        values = evaluate(policies[number % len(policies)])
        shares["prepared"].append((number, values.learned_share, values.set_agreement))

    times = time_rounds({"plain": with_plain, "prepared": with_prepared}, rounds, torch.device("cpu"), _WARM_UP)
    if not np.allclose(shares["plain"], shares["prepared"], atol=1e-6, equal_nan=True):
        raise VarError("benchmark tuning: the prepared replay does not come to what the plain one comes to")
    return {"tuning_plain_over_prepared": times.ratio("plain", "prepared")}, {}


class _Plain:
    """The plain replay of the same policies, from the same tables."""

    def __init__(self, run: TunedRun) -> None:
        self._recorded = run.search.recorded
        self._tables: Mapping[str, PolicyTables] = {name: run.search.tables(name) for name in run.search.sets}
        self._entropies = None
        if any(policy.predicate == "classic" for policy in run.policies):
            token = self._tables["token"]
            self._entropies = mean_entropies(self._recorded.statistics, len(token.experts), token.vocabulary)

    def replay(self, policy: PolicyConfig) -> tuple[float, float]:
        """Learned share, and set agreement of the replaced decisions."""
        own = self._recorded
        tables = self._tables[set_of(policy)]
        chosen = choose_by(tables, policy, self._entropies)
        replayed = replay(chosen, settings_of(policy), own.layout, own.calibration, own.isolate_documents)
        sums = sum_by_sequence(replayed, own.layout)
        by_way, agreement = sums.decisions.sum(axis=(0, 1)), sums.set_agreement.sum(axis=(0, 1))
        replaced = by_way[Way.LEARNED + 1 :].sum()
        same = agreement[Way.LEARNED + 1 :].sum() / replaced if replaced else float("nan")
        return float(by_way[Way.LEARNED] / by_way.sum()), float(same)


def _quartiles(values: Sequence[float] | np.ndarray) -> list[float]:
    return [float(each) for each in np.quantile(values, [0.25, 0.75])]
