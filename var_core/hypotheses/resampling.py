"""Intervals and p-values by resampling: jackknife over shards, bootstrap over groups, Monte Carlo nulls."""

import hashlib
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from scipy.special import expit, logit

Floats = NDArray[np.float64]
Scale = Literal["identity", "fisher_z", "logit"]
Direction = Literal["above", "below"]

MINIMUM_CLUSTERS = 10
"""With fewer clusters than this, resampling them says too little about others, and there is no interval."""

_EDGE = 1e-12
"""Distance kept from the ends of a bounded scale, where its transform is infinite."""


class Interval(NamedTuple):
    """The two ends of a confidence interval."""

    low: float
    high: float

    def within(self, lowest: float, highest: float) -> "Interval":
        """Cut the ends to the values that are possible."""
        return Interval(max(self.low, lowest), min(self.high, highest))


def generator(seed: int, *purpose: object) -> np.random.Generator:
    """Random generator of its own for each purpose, so that adding a draw somewhere changes nothing elsewhere."""
    words = hashlib.sha256(repr(purpose).encode()).digest()[:16]
    return np.random.default_rng([seed, int.from_bytes(words, "little")])


def jackknife_interval(
    full: float, replicates: Floats, confidence: float, scale: Scale = "identity"
) -> Interval | None:
    """Confidence interval from the statistic with each of S groups left out in turn.

    The delete-one-group jackknife (Tukey 1958; Shao and Tu 1995): the variance is (S - 1)/S times the sum of
    squared deviations of the replicates, and the interval the full statistic plus or minus Student's t with S - 1
    degrees of freedom. It is formed on `scale` and transformed back: Fisher's z for correlations, logit for shares.

    Parameters
    ----------
    full : float
        The statistic of all the data.
    replicates : float array, shape (S,)
        The statistic without group s.
    confidence : float
    scale : {"identity", "fisher_z", "logit"}

    Returns
    -------
    Interval or None
        None when there are fewer than two groups or a value is not finite.
    """
    values = np.append(np.asarray(replicates, dtype=np.float64), full)
    groups = len(values) - 1
    if groups < 2 or not np.isfinite(values).all():
        return None
    if scale == "fisher_z":
        values = np.arctanh(np.clip(values, -1 + _EDGE, 1 - _EDGE))
    elif scale == "logit":
        values = logit(np.clip(values, _EDGE, 1 - _EDGE))
    left_out = values[:-1]
    error = np.sqrt((groups - 1) / groups * ((left_out - left_out.mean()) ** 2).sum())
    ends = values[-1] + error * stats.t.ppf((1 + confidence) / 2, groups - 1) * np.array([-1.0, 1.0])
    if scale == "fisher_z":
        ends = np.tanh(ends)
    elif scale == "logit":
        ends = expit(ends)
    return Interval(float(ends[0]), float(ends[1]))


def bootstrap_weights(clusters: int, resamples: int, random: np.random.Generator) -> Floats:
    """Draw how often each cluster is in each resample of as many clusters; shape (resamples, clusters)."""
    if not clusters:
        return np.zeros((resamples, 0))
    return random.multinomial(clusters, np.full(clusters, 1 / clusters), size=resamples).astype(np.float64)


def ratio_interval(parts: Floats, wholes: Floats, weights: Floats, confidence: float) -> Interval | None:
    """Percentile interval of sum(parts) / sum(wholes) from a bootstrap over clusters.

    Parameters
    ----------
    parts, wholes : float array, shape (D,)
        Sums of each cluster (document).
    weights : float array, shape (B, D)
        From :func:`bootstrap_weights`.
    confidence : float

    Returns
    -------
    Interval or None
        None when there are fewer than ``MINIMUM_CLUSTERS`` or some resample has nothing to divide by.
    """
    return percentile_interval(ratios(parts, wholes, weights), weights.shape[1], confidence)


def ratio_intervals(parts: Floats, wholes: Floats, weights: Floats, confidence: float) -> Floats:
    """Compute :func:`ratio_interval` for M ratios that share their resamples.

    Parameters
    ----------
    parts, wholes : float array, shape (D, M)
    weights : float array, shape (B, D)
    confidence : float

    Returns
    -------
    float array, shape (2, M)
        Lower and upper ends; NaN where :func:`ratio_interval` gives None.
    """
    if weights.shape[1] < MINIMUM_CLUSTERS:
        return np.full((2, parts.shape[1]), np.nan)
    levels = [(1 - confidence) / 2, (1 + confidence) / 2]
    return np.asarray(np.quantile(ratios(parts, wholes, weights), levels, axis=0))


def ratios(parts: Floats, wholes: Floats, weights: Floats) -> Floats:
    """Give sum(parts) / sum(wholes) in each resample; NaN where there is nothing to divide by."""
    above, below = weights @ parts, weights @ wholes
    return np.divide(above, below, out=np.full(above.shape, np.nan), where=below > 0)


def percentile_interval(draws: Floats, clusters: int, confidence: float) -> Interval | None:
    """Percentile interval of bootstrap draws over `clusters` clusters; None when too few or one is not finite."""
    if clusters < MINIMUM_CLUSTERS or not np.isfinite(draws).all():
        return None
    low, high = np.quantile(draws, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(float(low), float(high))


def monte_carlo_p(observed: float, null: Floats, direction: Direction) -> float | None:
    """One-sided p-value (1 + b) / (1 + B) of B draws from the null, b of them at least as extreme.

    The observed value counts as one draw, so the test is exact for any B and p is never 0 (Davison and Hinkley
    1997; Phipson and Smyth 2010). A margin of 1e-12 keeps rounding from breaking ties. None without a finite value.
    """
    draws = null[np.isfinite(null)]
    if not np.isfinite(observed) or not len(draws):
        return None
    extreme = draws >= observed - _EDGE if direction == "above" else draws <= observed + _EDGE
    return float((1 + extreme.sum()) / (1 + len(draws)))
