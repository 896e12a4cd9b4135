"""Zipf's law of a sample of frequencies: the straight line, and what a straight line cannot tell."""

import warnings
from typing import NamedTuple

import numpy as np
import powerlaw
from numpy.typing import NDArray
from scipy.special import zeta

from var_core.hypotheses.resampling import Floats

Ints = NDArray[np.int64]

MINIMUM_TAIL = 50
"""Types that the tail of a power law must hold to be fitted."""

_CANDIDATES = 100
"""Candidate starts of the tail that are tried at most."""

_STEEPEST = 20.0
_FLATTEST = 1.0001
_BISECTIONS = 40
_TABLE = 1 << 16


class Line(NamedTuple):
    """Least-squares line of ln(frequency) on ln(rank)."""

    slope: float
    r_squared: float


class PowerLaw(NamedTuple):
    """Discrete power law p(x) = x^-exponent / zeta(exponent, minimum) for x >= minimum."""

    exponent: float
    error: float
    """asymptotic standard error of the exponent"""
    minimum: int
    """start of the tail"""
    distance: float
    """Kolmogorov-Smirnov distance between the tail and the fitted law"""
    tail: int
    """types in the tail"""


class Comparison(NamedTuple):
    """Power law against lognormal on the same tail."""

    ratio: float
    """normalised log-likelihood ratio: standard normal if both are equally far from the truth, > 0 for the power law"""
    p: float
    """two-sided"""


def rank_frequency_line(frequencies: Ints) -> Line:
    """Fit a line through ln(rank) and ln(frequency) of all types by least squares."""
    if len(frequencies) < 3 or frequencies.min() == frequencies.max():
        return Line(float("nan"), float("nan"))
    ordered = np.sort(frequencies)[::-1].astype(np.float64)
    x, y = np.log(np.arange(1, len(ordered) + 1)), np.log(ordered)
    x, y = x - x.mean(), y - y.mean()
    return Line(float(x @ y / (x @ x)), float((x @ y) ** 2 / ((x @ x) * (y @ y))))


def fit_power_law(frequencies: Ints) -> PowerLaw | None:
    """Fit exponent by maximum likelihood and start of the tail by the smallest Kolmogorov-Smirnov distance.

    The method of Clauset, Shalizi and Newman 2009 (sections 3.1 and 3.3) with the exact discrete likelihood.
    Candidate starts are at most 100 of the frequencies that occur, evenly spread over their logarithm, each with at
    least ``MINIMUM_TAIL`` types in its tail. (The ``powerlaw`` library tries every frequency in a Python loop, which
    is too slow to repeat for each simulated sample of the goodness of fit; the tests hold both to the same answer.)

    Returns
    -------
    PowerLaw or None
        None when there are too few types or frequencies to fit anything.
    """
    values, types = np.unique(frequencies, return_counts=True)
    at_least = types[::-1].cumsum()[::-1]
    possible = np.flatnonzero((at_least >= MINIMUM_TAIL) & (values < values[-1]))
    if len(possible) < 2:
        return None
    starts = possible[_spread(values[possible].astype(np.float64))]
    log_sums = (types * np.log(values))[::-1].cumsum()[::-1]
    exponents = _likeliest(values[starts].astype(np.float64), log_sums[starts] / at_least[starts])
    distances = [
        _distance(values[start:], at_least[start:], exponent) for start, exponent in zip(starts, exponents, strict=True)
    ]
    best = int(np.argmin(distances))
    start, exponent = starts[best], float(exponents[best])
    return PowerLaw(
        exponent,
        _standard_error(exponent, float(values[start]), int(at_least[start])),
        int(values[start]),
        float(distances[best]),
        int(at_least[start]),
    )


def _spread(values: Floats) -> Ints:
    """Indices of at most ``_CANDIDATES`` ascending values, evenly spread over their logarithm."""
    marks = np.geomspace(values[0], values[-1], _CANDIDATES)
    return np.unique(np.searchsorted(values, marks * (1 - 1e-12)))


def _likeliest(minimum: Floats, mean_log: Floats) -> Floats:
    """Exponents that maximise the likelihood, for all candidates at once.

    The log-likelihood a type, -ln zeta(a, minimum) - a mean(ln x), is concave in a: bisect on its slope.
    """
    low, high = np.full(len(minimum), _FLATTEST), np.full(len(minimum), _STEEPEST)
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        rising = -_log_zeta_slope(middle, minimum) > mean_log
        low, high = np.where(rising, middle, low), np.where(rising, high, middle)
    return (low + high) / 2


def _log_zeta_slope(exponent: Floats, minimum: Floats) -> Floats:
    step = 1e-5 * (exponent - 1)
    return np.asarray((np.log(zeta(exponent + step, minimum)) - np.log(zeta(exponent - step, minimum))) / (2 * step))


def _standard_error(exponent: float, minimum: float, tail: int) -> float:
    """1 / sqrt(n I), with I the second derivative of ln zeta (Clauset, Shalizi and Newman 2009, eq. 3.6)."""
    step = 1e-3 * (exponent - 1)
    around = np.log(zeta(exponent + step * np.array([-1.0, 0.0, 1.0]), minimum))
    information = (around[0] - 2 * around[1] + around[2]) / step**2
    return float(1 / np.sqrt(tail * information)) if information > 0 else float("nan")


def _distance(values: Ints, at_least: Ints, exponent: float) -> float:
    """Kolmogorov-Smirnov distance of a tail: largest gap between the shares of types with at least x.

    Between two frequencies that occur, the empirical share is level and the model falls, so the gap is largest at a
    frequency or just above the one before.
    """
    share = at_least / at_least[0]
    model = zeta(exponent, values.astype(np.float64)) / zeta(exponent, float(values[0]))
    above = zeta(exponent, values + 1.0) / zeta(exponent, float(values[0]))
    return float(max(np.abs(share - model).max(), np.abs(np.append(share[1:], 0.0) - above).max()))


def simulated_distances(frequencies: Ints, fit: PowerLaw, draws: int, random: np.random.Generator) -> Floats:
    """Distances of samples that do follow the fitted law, each fitted anew; shape (draws,).

    The semi-parametric bootstrap of Clauset, Shalizi and Newman 2009 (section 4.1): each simulated type is in the
    tail with the real probability and then follows the fitted power law, or else repeats a real frequency from
    below the tail. The share of distances at least as large as the real one is the goodness-of-fit p-value.
    """
    body = frequencies[frequencies < fit.minimum]
    table = zeta(fit.exponent, fit.minimum + np.arange(_TABLE, dtype=np.float64)) / zeta(fit.exponent, fit.minimum)
    distances = []
    for _ in range(draws):
        simulated = fit_power_law(_simulate(body, fit, table, random))
        distances.append(np.nan if simulated is None else simulated.distance)
    return np.array(distances)


def _simulate(body: Ints, fit: PowerLaw, table: Floats, random: np.random.Generator) -> Ints:
    """Draw as many types as there are, in the tail or from the body below it."""
    types = len(body) + fit.tail
    in_tail = int(random.binomial(types, fit.tail / types))
    below = random.choice(body, types - in_tail) if len(body) else body
    return np.concatenate([below, _sample(fit, table, in_tail, random)])


def _sample(fit: PowerLaw, table: Floats, size: int, random: np.random.Generator) -> Ints:
    """Draw from the law: by its exact distribution for the first 65,536 values, beyond by the continuous law."""
    uniform = 1 - random.random(size)
    # table[i] is the probability of at least minimum + i; the value is the last i that reaches the uniform number.
    drawn = fit.minimum + np.searchsorted(-table, -uniform, side="right") - 1
    far = uniform < table[-1]
    edge = fit.minimum + len(table) - 1.5
    drawn[far] = np.minimum(edge * (uniform[far] / table[-1]) ** (1 / (1 - fit.exponent)) + 0.5, 2.0**52)
    return drawn.astype(np.int64)


def compare_with_lognormal(frequencies: Ints, minimum: int) -> Comparison | None:
    """Compare power law and lognormal by Vuong's likelihood-ratio test on the frequencies from `minimum` on.

    Both are fitted by the ``powerlaw`` library (Alstott, Bullmore and Plenz 2014). A lognormal with a very wide scale
    is as good as a power law, so a true power law gives a ratio near 0 and not one far above.

    Returns
    -------
    Comparison or None
        None when the tail is too small, or the two fits are the same.
    """
    tail = frequencies[frequencies >= minimum]
    if len(tail) < MINIMUM_TAIL or tail.min() == tail.max():
        return None
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")  # the library warns at every lognormal that runs into a power law
        fit = powerlaw.Fit(tail, discrete=True, xmin=minimum, estimate_discrete=False, verbose=0)
        ratio, p = fit.distribution_compare("power_law", "lognormal", normalized_ratio=True)
    return Comparison(float(ratio), float(p)) if np.isfinite(ratio) and np.isfinite(p) else None
