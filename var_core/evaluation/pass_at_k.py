"""How many tasks are solved, how sure that is, and whether two runs differ."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from var_core.errors import VarError
from var_core.hypotheses.resampling import Floats, Interval, bootstrap_weights, generator, percentile_interval

Counts = NDArray[np.int64]

RESAMPLES = 10_000


@dataclass(frozen=True)
class PassAtK:
    """Probability that at least one of k completions passes, as a mean over tasks.

    Attributes
    ----------
    k : int
    tasks : int
    value : float
    low, high : float or None
        Ends of the interval; None with too few tasks.
    """

    k: int
    tasks: int
    value: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Comparison:
    """A second run less a first one, on the same tasks.

    Attributes
    ----------
    k, tasks : int
    difference : float
        pass@k of the second run less that of the first.
    low, high : float or None
        Ends of the interval of the difference, from a bootstrap of tasks.
    only_first, only_second : int or None
        Tasks that one run alone solves; None with several samples of a task.
    p_value : float or None
        Of McNemar's exact two-sided test; None with several samples of a task.
    """

    k: int
    tasks: int
    difference: float
    low: float | None
    high: float | None
    only_first: int | None
    only_second: int | None
    p_value: float | None


def pass_at_k(samples: int, passed: int, k: int) -> float:
    """Estimate, without bias, the probability that at least one of k completions passes.

    It is 1 - C(n - c, k) / C(n, k) for c of n samples that passed (Chen et al. 2021), as a product of factors below
    1, since the binomials overflow.

    Parameters
    ----------
    samples, passed : int
        n and c.
    k : int

    Raises
    ------
    VarError
        If k is not between 1 and n.
    """
    if not 1 <= k <= samples:
        raise VarError(f"pass@{k}: needs from 1 to {samples} of {samples} samples a task; change k or generate more")
    if not 0 <= passed <= samples:
        raise ValueError(f"{passed} of {samples} samples cannot pass")
    if samples - passed < k:
        return 1.0
    return float(1.0 - np.prod(1.0 - k / np.arange(samples - passed + 1, samples + 1)))


def mean_pass_at_k(
    samples: int, passed: Sequence[int], k: int, confidence: float = 0.95, resamples: int = RESAMPLES, seed: int = 0
) -> PassAtK:
    """Average pass@k over tasks, with a percentile interval from a bootstrap of tasks.

    Where all tasks are at 0, or all at 1, resampling knows no other value; the interval's other end is then that of the
    exact binomial interval of the share of tasks that differ.

    Parameters
    ----------
    samples : int
        Completions of each task.
    passed : sequence of int
        How many of them passed, for each task.
    k : int
    confidence : float, optional
    resamples, seed : int, optional
    """
    values = _values(samples, passed, k)
    interval = _interval(values, confidence, resamples, seed, k)
    if interval is not None and len(set(values)) == 1 and values[0] in (0.0, 1.0):
        margin = _unseen_share(len(values), confidence)
        interval = Interval(0.0, margin) if values[0] == 0.0 else Interval(1.0 - margin, 1.0)
    low, high = interval or (None, None)
    return PassAtK(k, len(values), float(values.mean()), low, high)


def compare(
    samples: int,
    first: Sequence[int],
    second: Sequence[int],
    k: int,
    confidence: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Comparison:
    """Compare two runs on the same tasks in the same order.

    With one sample of each task, McNemar's exact test looks at the tasks that one run alone solves. With more samples
    a task is no longer just solved or not, and the interval of the difference is all there is.

    Parameters
    ----------
    samples : int
        Completions of each task, in both runs.
    first, second : sequence of int
        How many passed, for each task.
    k : int
    confidence : float, optional
    resamples, seed : int, optional
    """
    if len(first) != len(second):
        raise VarError(f"comparison: {len(first)} tasks against {len(second)}; run both on the same tasks")
    differences = _values(samples, second, k) - _values(samples, first, k)
    interval = _interval(differences, confidence, resamples, seed, k)
    if interval is not None and not differences.any():
        margin = _unseen_share(len(differences), confidence)
        interval = Interval(-margin, margin)
    low, high = interval or (None, None)
    only_first, only_second = int((differences < 0).sum()), int((differences > 0).sum())
    single = samples == 1
    return Comparison(
        k=k,
        tasks=len(first),
        difference=float(differences.mean()),
        low=low,
        high=high,
        only_first=only_first if single else None,
        only_second=only_second if single else None,
        p_value=mcnemar_exact(only_first, only_second) if single else None,
    )


def mcnemar_exact(only_first: int, only_second: int) -> float:
    """Two-sided p-value of McNemar's test: the discordant pairs against a fair coin; 1 if there are none."""
    if only_first + only_second == 0:
        return 1.0
    return float(stats.binomtest(only_first, only_first + only_second, 0.5).pvalue)


def _values(samples: int, passed: Sequence[int], k: int) -> Floats:
    if not len(passed):
        raise VarError(f"pass@{k}: there are no tasks; give at least one")
    return np.array([pass_at_k(samples, each, k) for each in passed])


def _interval(values: Floats, confidence: float, resamples: int, seed: int, k: int) -> Interval | None:
    weights = bootstrap_weights(len(values), resamples, generator(seed, "humaneval tasks", k))
    return percentile_interval(weights @ values / len(values), len(values), confidence)


def _unseen_share(tasks: int, confidence: float) -> float:
    """Largest share of tasks that may differ though none of those seen does (Clopper and Pearson 1934)."""
    return float(stats.binomtest(0, tasks).proportion_ci(confidence, method="exact").high)
