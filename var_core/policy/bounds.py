"""Confidence bounds on agreement and shares where whole sequences, not decisions, are the independent units.

Decisions of one sequence resemble each other, so a bound that counts them as independent promises too much. Here the
units are sequences (documents or groups, where one runs over several sequences): each has a number of decisions and
the sum of their scores in [0, 1], and the bounded quantity is the population's ratio of sums (a mean over decisions)
or, by :meth:`Clusters.means`, its mean of sequence means.

That the ratio E[s] / E[m] is at most `a` says E[s - a m] <= 0. Where no sequence can have more than M decisions,
(s - a m) / M lies in [-a, 1 - a]: a bound on the mean of a bounded variable, for each `a`, is a bound on the ratio.
M has to be known before the data (the sequence length); the longest sequence that was seen would not do.
"""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from var_core.errors import VarError

Floats = NDArray[np.float64]
Method = Literal["betting", "empirical Bernstein", "Hoeffding", "Clopper-Pearson"]

GUARANTEES: dict[Method, str] = {
    "betting": "exact in finite samples of independent sequences, and of sequences drawn without replacement",
    "empirical Bernstein": "exact in finite samples of independent, identically distributed sequences",
    "Hoeffding": "exact in finite samples of independent sequences, and of sequences drawn without replacement",
    "Clopper-Pearson": "exact in finite samples of independent single decisions that are right or wrong",
}
"""What each method's bounds are worth; for the certificate."""

_BETS = 16
_PLANNED = 0.8
_AROUND_PLAN = (0.7, 1.0, 1.4)
_HALVINGS = 32
"""Bisections of [0, 1]: the bound is low by at most 2**-32."""


@dataclass(frozen=True)
class Clusters:
    """Scores of S sequences at each of L layers.

    Attributes
    ----------
    sums : float array, shape (S, L)
        Sum of the scores, each in [0, 1], of the sequence's decisions at the layer.
    counts : float array, shape (S, L)
        Number of these decisions; 0 where a sequence has none.
    longest : float
        Largest count that any sequence of the population can have.
    """

    sums: Floats
    counts: Floats
    longest: float

    @classmethod
    def of(cls, sums: ArrayLike, counts: ArrayLike, longest: float) -> "Clusters":
        """Check and broadcast; arrays of shape (S,) are one layer.

        Raises
        ------
        VarError
            If a sequence has more decisions than `longest`, or a sum is not between 0 and its count.
        """
        above, below = np.broadcast_arrays(_columns(sums), _columns(counts))
        bad = ~((above >= 0) & (above <= below * (1 + 1e-12)))
        if bad.any():
            row, layer = (int(each) for each in np.argwhere(bad)[0])
            raise VarError(
                f"sequence {row}, layer {layer}: scores sum to {above[row, layer]:g} over {below[row, layer]:g} "
                "decisions; give sums of scores between 0 and 1"
            )
        if (below > longest).any():
            row, layer = (int(each) for each in np.argwhere(below > longest)[0])
            raise VarError(
                f"sequence {row}, layer {layer}: {below[row, layer]:g} decisions, more than the {longest:g} that a "
                "sequence was said to have at most; state the sequence length of the text as `longest`"
            )
        return cls(np.minimum(above, below), below, float(longest))

    @property
    def ratios(self) -> Floats:
        """Sum of scores over number of decisions, [L]; NaN where there are no decisions."""
        counts = self.counts.sum(axis=0)
        return np.divide(self.sums.sum(axis=0), counts, out=np.full(len(counts), np.nan), where=counts > 0)

    def means(self) -> "Clusters":
        """Give every sequence one vote: its mean score. Those without decisions at a layer have none there."""
        voting = self.counts > 0
        means = np.divide(self.sums, self.counts, out=np.zeros(self.sums.shape), where=voting)
        return Clusters(means, voting.astype(np.float64), 1.0)

    def complement(self) -> "Clusters":
        """Scores turned round, 1 minus each: its lower bounds are 1 minus the upper bounds of this."""
        return Clusters(self.counts - self.sums, self.counts, self.longest)


def lower_bounds(
    clusters: Clusters, delta: float, method: Method = "betting", calibration: Clusters | None = None
) -> Floats:
    """Lower confidence bound on each layer's ratio of sums.

    Guarantee: at each layer by itself, the bound is above the population's ratio with probability at most `delta`
    (under the conditions in ``GUARANTEES``). For all layers at once see :func:`simultaneous_lower_bounds`. The text
    must not have been used to make what is judged.

    Parameters
    ----------
    clusters : Clusters
    delta : float
        Probability of error, in (0, 1).
    method : {"betting", "empirical Bernstein", "Hoeffding", "Clopper-Pearson"}
        ``betting``: :func:`betting_log_capital`, adapts to the variance. ``Hoeffding`` (1963): wide, in closed form.
        ``empirical Bernstein``: Maurer and Pontil 2009, theorem 4; adapts with many sequences. ``Clopper-Pearson``
        (1934): only where every sequence has one decision that is right or wrong, else ValueError.
    calibration : Clusters, optional
        Scores of other sequences at the same layers, by which ``betting`` plans. Good ones make bounds narrower by a
        tenth to a quarter; with others they are wider, and as true.

    Returns
    -------
    float array, shape (L,)
        In [0, 1]; 0 where there is nothing to go by.
    """
    if not 0 < delta < 1:
        raise ValueError(f"delta must be between 0 and 1, not {delta}")
    bounds = _betting(clusters, delta, calibration) if method == "betting" else _CLOSED_FORMS[method](clusters, delta)
    return np.where(clusters.counts.sum(axis=0) > 0, np.clip(bounds, 0, 1), 0.0)


def upper_bounds(
    clusters: Clusters, delta: float, method: Method = "betting", calibration: Clusters | None = None
) -> Floats:
    """Upper confidence bound on each layer's ratio; guarantee and parameters as of :func:`lower_bounds`."""
    turned = None if calibration is None else calibration.complement()
    return 1 - lower_bounds(clusters.complement(), delta, method, turned)


def simultaneous_lower_bounds(
    clusters: Clusters, delta: float, method: Method = "betting", calibration: Clusters | None = None
) -> Floats:
    """Lower bounds that hold at all L layers at once with probability at least 1 - `delta`.

    Each is at `delta` / L (Bonferroni), whatever the dependence between layers, which see the same sequences.
    """
    return lower_bounds(clusters, delta / clusters.sums.shape[1], method, calibration)


def simultaneous_upper_bounds(
    clusters: Clusters, delta: float, method: Method = "betting", calibration: Clusters | None = None
) -> Floats:
    """Upper bounds that hold at all L layers at once with probability at least 1 - `delta` (Bonferroni)."""
    return upper_bounds(clusters, delta / clusters.sums.shape[1], method, calibration)


def betting_log_capital(clusters: Clusters, levels: ArrayLike, calibration: Clusters | None = None) -> Floats:
    """Log of what bets against "the ratio is at most `levels`" have made of a capital of 1.

    Betting a share b of the capital multiplies it by 1 + b (s / a - m) / M at each sequence, whose expectation is at
    most 1 if the ratio is at most a (Waudby-Smith and Ramdas 2023, "Estimating means of bounded random variables by
    betting"). The capital is the mean over a grid of bets that is fixed beforehand (:func:`bets`), so under the null
    its expectation is at most 1 and it reaches 1 / delta with probability at most delta (Markov).

    Bets that follow the data, as in that paper, are somewhat sharper, but the result then depends on the order of the
    sequences, and whoever may choose the order may choose the result. A product of fixed bets does not depend on it.
    (Averages over orders: those of final capitals are valid, since expectations add up; those of bounds are not, and
    neither are those of capitals that were stopped at their highest.) Fixed bets need no identical distributions
    either: the product of 1 + c_i with sum(c_i) <= 0 is at most 1. And sequences drawn without replacement are
    negatively associated (Joag-Dev and Proschan 1983), so the expectation of the product is no larger than for
    independent ones.

    Parameters
    ----------
    clusters : Clusters
    levels : float or float array, shape (L,)
        The ratio `a` of the null, in (0, 1].
    calibration : Clusters, optional
        Other sequences, for :func:`bets`.

    Returns
    -------
    float array, shape (L,)
    """
    scores = clusters.sums / (clusters.longest * np.asarray(levels, dtype=np.float64))
    gains = scores - clusters.counts / clusters.longest
    shares, weights = bets(len(gains), clusters.longest, calibration)
    with np.errstate(divide="ignore"):  # a bet of everything that is lost leaves nothing
        logs = [
            np.log(1 + bet * gains).sum(axis=0) + np.log(weight) for bet, weight in zip(shares, weights, strict=True)
        ]
    return np.asarray(np.logaddexp.reduce(np.stack(logs), axis=0))


def bets(sequences: int, longest: float = 1.0, calibration: Clusters | None = None) -> tuple[Floats, Floats]:
    """Shares of the capital that are bet on each of so many sequences, and how much of it follows each.

    The best bet is near a sqrt(2 ln(1/delta) / (n var)), var being the variance of (s - a m) / M. Unplanned, bets run
    from that for a = 1/2 and the largest variance to everything. Where there is a calibration text, four fifths of
    the capital follow its a and var. Bets depend on nothing else (and delta = 0.05 stands for all), so bounds are
    monotone in the confidence.

    Returns
    -------
    shares : float array, shape (K, 1) or (K, L)
    weights : float array, shape (K,)
        They sum to 1.
    """
    shares = np.geomspace(min(0.5, np.sqrt(1.5 / max(sequences, 1))), 1.0, _BETS)[:, None]
    weights = np.full(_BETS, 1 / _BETS)
    if calibration is None:
        return shares, weights
    ratios = np.nan_to_num(calibration.ratios, nan=1.0)
    variance = ((calibration.sums - ratios * calibration.counts) / longest).var(axis=0)
    floor = np.finfo(np.float64).tiny
    best = ratios * np.sqrt(2 * np.log(20) / (max(sequences, 1) * np.maximum(variance, floor)))
    planned = np.clip(np.outer(_AROUND_PLAN, best), shares[0], 1.0)
    weights = np.append(np.full(len(planned), _PLANNED / len(planned)), (1 - _PLANNED) * weights)
    return np.concatenate([planned, shares.repeat(len(ratios), axis=1)]), weights


def p_values(clusters: Clusters, levels: ArrayLike, calibration: Clusters | None = None) -> Floats:
    """P-value at each layer for "the ratio is at most `levels`", from the betting capital.

    Guarantee: at most u with probability at most u, for every u, if the ratio is at most the level. It is at most
    `delta` exactly where the level is at most the betting lower bound at `delta`.
    """
    return np.exp(-np.maximum(betting_log_capital(clusters, levels, calibration), 0.0))


def holm(p: ArrayLike, alpha: float) -> NDArray[np.bool_]:
    """Which of L null hypotheses are rejected (Holm 1979).

    Guarantee: any true one among them is rejected with probability at most `alpha`, whatever the dependence. It rejects
    all that Bonferroni does and more, but it is for tests at levels set beforehand and gives no bounds.
    """
    values = np.asarray(p, dtype=np.float64)
    order = np.argsort(values, kind="stable")
    passed = values[order] <= alpha / np.arange(len(values), 0, -1)
    rejected = np.zeros(len(values), dtype=np.bool_)
    rejected[order] = np.logical_and.accumulate(passed)
    return rejected


def sums_by(cluster: NDArray[np.integer], values: ArrayLike) -> Floats:
    """Sums of sequences' values, [S, ...], over those of each cluster, [C, ...]."""
    array = np.asarray(values, dtype=np.float64)
    names, place = np.unique(cluster, return_inverse=True)
    sums = np.zeros((len(names), *array.shape[1:]))
    np.add.at(sums, place, array)
    return sums


def _columns(values: ArrayLike) -> Floats:
    array = np.asarray(values, dtype=np.float64)
    return array[:, None] if array.ndim == 1 else array


def _betting(clusters: Clusters, delta: float, calibration: Clusters | None) -> Floats:
    """Largest level at which the capital is 1 / delta; it falls with the level, and is at most 1 at the estimate."""
    low, high = np.zeros(clusters.sums.shape[1]), np.nan_to_num(clusters.ratios, nan=1.0)
    for _ in range(_HALVINGS):
        middle = np.maximum((low + high) / 2, np.finfo(np.float64).tiny)
        rejected = betting_log_capital(clusters, middle, calibration) >= -np.log(delta)
        low, high = np.where(rejected, middle, low), np.where(rejected, high, middle)
    return low


def _hoeffding(clusters: Clusters, delta: float) -> Floats:
    counts = clusters.counts.sum(axis=0)
    slack = clusters.longest * np.sqrt(len(clusters.counts) * np.log(1 / delta) / 2)
    return np.divide(clusters.sums.sum(axis=0) - slack, counts, out=np.zeros(len(counts)), where=counts > 0)


def _empirical_bernstein(clusters: Clusters, delta: float) -> Floats:
    """Smallest level a with mean(d) <= sqrt(2 var(d) ln(2/delta) / S) + 7 ln(2/delta) / (3 (S - 1)), d = (s - a m) / M.

    Where 0 is not such a level, it is the one root of a quadratic between 0 and where the left side is 0.
    """
    sequences = len(clusters.counts)
    if sequences < 2:
        return np.zeros(clusters.counts.shape[1])
    above, below = clusters.sums / clusters.longest, clusters.counts / clusters.longest
    logs = np.log(2 / delta)
    excess = above.mean(axis=0) - 7 * logs / (3 * (sequences - 1))
    deviations = above - above.mean(axis=0), below - below.mean(axis=0)
    scale = 2 * logs / (sequences * (sequences - 1))
    square, mixed, constant = (
        (part * scale).sum(axis=0) for part in (deviations[1] ** 2, deviations[0] * deviations[1], deviations[0] ** 2)
    )
    A = below.mean(axis=0) ** 2 - square
    B = 2 * (mixed - excess * below.mean(axis=0))
    C = excess**2 - constant
    positive = (excess > 0) & (C > 0)
    divisor = np.sqrt(np.maximum(B**2 - 4 * A * C, 0)) - B
    return np.divide(2 * C, divisor, out=np.zeros(len(C)), where=positive)


def _clopper_pearson(clusters: Clusters, delta: float) -> Floats:
    single = (clusters.counts <= 1) & ((clusters.sums == 0) | (clusters.sums == 1)) & (clusters.counts % 1 == 0)
    if not single.all():
        raise ValueError("Clopper-Pearson is for sequences of one decision that is right or wrong")
    hits, trials = clusters.sums.sum(axis=0), clusters.counts.sum(axis=0)
    bounds: Any = stats.beta.ppf(delta, np.maximum(hits, 1), trials - hits + 1)
    return np.where(hits > 0, bounds, 0.0)


_CLOSED_FORMS = {
    "empirical Bernstein": _empirical_bernstein,
    "Hoeffding": _hoeffding,
    "Clopper-Pearson": _clopper_pearson,
}
