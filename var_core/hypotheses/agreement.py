"""How well a token table agrees with the learned router on unseen text, and how much of it can be covered at a promise.

A table is fitted on the capture split. The held-out documents are halved: the calibration half says how well the
table does for each token type, and so which types to cover; the test half says what came of it. Nothing is measured
on what it was chosen on.
"""

from dataclasses import dataclass
from typing import get_args

import numpy as np
from numpy.typing import NDArray

from var_core.config.hypotheses import AgreementMeasure
from var_core.hypotheses.data import ExpertCounts, Floats, Heldout, Ints, expert_masks, weighted_sums
from var_core.statistics.measures import global_table, most_used, token_table

MEASURES: tuple[AgreementMeasure, ...] = get_args(AgreementMeasure)

CLUSTERS = 200
"""More groups of documents than this are resampled in this many clusters of groups, which bounds memory."""

BINS = 1000
"""Calibrated agreement is binned to 1/1000, so that layers can be pooled by adding histograms."""


_ROUNDING = 1e-9
"""Margin for sums of floating-point scores."""


@dataclass(frozen=True)
class Halving:
    """Held-out documents in two halves, whole groups of them together.

    A group is what the corpus split together (a package with its code and docstrings); its documents resemble each
    other, so they are calibrated on, tested and resampled together.
    """

    documents: NDArray[np.int32]
    """ascending, shape (D,)"""
    fold: Ints
    """of each document: 0 or 1 in the calibration half, -1 in the test half"""
    cluster: Ints
    """of each document: its group's cluster among all"""
    test_cluster: Ints
    """of each document: its group's cluster among those of the test half; -1 in the calibration half"""
    groups: int
    """groups of documents"""
    tested: int
    """groups in the test half"""

    @property
    def clusters(self) -> int:
        """Number of clusters of all groups."""
        return min(self.groups, CLUSTERS)

    @property
    def test_clusters(self) -> int:
        """Number of clusters of the test half."""
        return min(self.tested, CLUSTERS)

    def place(self, document: NDArray[np.integer]) -> Ints:
        """Index of each decision's document."""
        return np.searchsorted(self.documents, document)


def halve(documents: NDArray[np.int32], group: NDArray[np.uint64], seed: int, repeat: int = 0) -> Halving:
    """Put each group into a fold of the calibration half or into the test half.

    It depends on the group's own hash, the seed and the repeat, and not on which other groups there are.

    Parameters
    ----------
    documents : int array, shape (D,)
        Ascending.
    group : uint64 array, shape (D,)
        Hash of each document's group.
    seed, repeat : int
        Another seed or repeat gives another halving.
    """
    keys, number = np.unique(group, return_inverse=True)
    offset = np.uint64(((seed * 0x9E3779B97F4A7C15) ^ (repeat * 0xD1B54A32D192ED03)) % 2**64)
    mixed = _mix(keys + offset)
    fold = np.where(mixed & np.uint64(1), -1, (mixed >> np.uint64(1)) & np.uint64(1)).astype(np.int64)
    test_order = np.where(fold < 0, (np.cumsum(fold < 0) - 1) % CLUSTERS, -1)
    tested = int((fold < 0).sum())
    return Halving(documents, fold[number], number % CLUSTERS, test_order[number], len(keys), tested)


def _mix(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Scramble the bits of 64-bit numbers so that each depends on all (the finaliser of SplitMix64)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


@dataclass(frozen=True)
class Prediction:
    """What is predicted for each token type: the k experts as bits, and the first of them."""

    masks: NDArray[np.uint64]
    """shape (V, ceil(E / 64))"""
    first: NDArray[np.int64]
    """shape (V,)"""

    def shuffled(self, own: NDArray[np.bool_], random: np.random.Generator) -> "Prediction":
        """Shuffle the predictions among the types with an entry of their own: the shuffled-label null."""
        order = np.arange(len(own))
        order[own] = random.permutation(order[own])
        return Prediction(self.masks[order], self.first[order])


def fit_table(counts: ExpertCounts, top_k: int, minimum: int) -> Prediction:
    """Predict for each type its own most used experts, or those of all text if it was seen too seldom."""
    experts = counts.chosen.shape[1]
    table = token_table(counts.chosen, counts.n, top_k, minimum)
    first = token_table(counts.first, counts.n, 1, minimum)[:, 0]
    return Prediction(expert_masks(table, experts), first)


def fit_global(counts: ExpertCounts, top_k: int) -> Prediction:
    """Predict for every type the most used experts of all text."""
    types, experts = counts.chosen.shape
    masks = expert_masks(global_table(counts.chosen, top_k)[None], experts)
    first = most_used(counts.first.sum(axis=0), 1)
    return Prediction(np.broadcast_to(masks, (types, masks.shape[1])), np.broadcast_to(first, types))


def scores(heldout: Heldout, prediction: Prediction, top_k: int) -> dict[AgreementMeasure, Floats]:
    """Agreement of the prediction with each decision, 0 ... 1, by measure; each of shape (N,)."""
    predicted = prediction.masks[heldout.type_index]
    overlap = np.bitwise_count(heldout.masks & predicted).sum(axis=1)
    return {
        "recall_at_k": overlap / top_k,
        "top1_agreement": (heldout.first == prediction.first[heldout.type_index]).astype(np.float64),
        "set_agreement": (overlap == top_k).astype(np.float64),
    }


def credible_agreement(agreed: Floats, squares: Floats, n: Ints) -> Floats:
    """Estimate each type's agreement from few occurrences: its own mean, drawn towards the mean of all.

    Buehlmann's credibility estimate (Buehlmann and Straub 1970): with n occurrences, the own mean counts n / (n + K),
    where K is the variance within types over the variance between them, both by their usual unbiased estimates.
    Without it the types that did best by luck would be covered first.

    Parameters
    ----------
    agreed, squares : float array, shape (V,)
        Sums of each type's scores and of their squares in the calibration half.
    n : int array, shape (V,)
        Its occurrences there.

    Returns
    -------
    float array, shape (V,)
        The mean of all for types that did not occur.
    """
    total, seen = int(n.sum()), n > 0
    if not total:
        return np.zeros(len(n))
    mean = agreed.sum() / total
    own = np.divide(agreed, n, out=np.full(len(n), mean), where=seen)
    types = int(seen.sum())
    within = max(float((squares - n * own**2).sum()), 0.0) / max(total - types, 1)
    spread = total - (n.astype(np.float64) ** 2).sum() / total
    between = ((n * (own - mean) ** 2).sum() - (types - 1) * within) / spread if spread > 0 else 0.0
    if between <= 0:
        return np.full(len(n), mean)
    strength = within / between
    # Where occurrences of a type never differ, the strength is 0, and nothing at all is known of an unseen type.
    return np.divide(agreed + strength * mean, n + strength, out=np.full(len(n), mean), where=n + strength > 0)


@dataclass(frozen=True)
class Coverage:
    """Histograms over calibrated agreement (``BINS``): what was promised, and what came of it in each cluster.

    Adding two pools their layers: a common cut then covers (layer, type) pairs from the best down.
    """

    promised_n: Floats
    """calibration decisions by the agreement calibrated on the other fold, shape (BINS,)"""
    promised: Floats
    """their agreement, summed, shape (BINS,)"""
    calibrated_n: Floats
    """calibration decisions by the agreement calibrated on both folds, shape (BINS,)"""
    n: Floats
    """test decisions by the same, shape (D, BINS)"""
    agreed: Floats
    """their agreement, summed, shape (D, BINS)"""

    def __add__(self, other: "Coverage") -> "Coverage":
        return Coverage(
            self.promised_n + other.promised_n,
            self.promised + other.promised,
            self.calibrated_n + other.calibrated_n,
            self.n + other.n,
            self.agreed + other.agreed,
        )

    def cut(self, target: float) -> int:
        """Return the lowest bin to cover so that agreement is promised to be at least `target`.

        The largest share that the cross-fitted agreement allows is found first, and then the bin above which no more
        than that share of the calibration decisions lies when both folds calibrate. ``BINS`` when it is nothing.
        """
        n, promised = _from_the_top(self.promised_n), _from_the_top(self.promised)
        kept = np.flatnonzero((n > 0) & (promised >= target * n - _ROUNDING))
        if not len(kept):
            return BINS
        allowed = np.flatnonzero(_from_the_top(self.calibrated_n) <= n[kept[-1]] + _ROUNDING)
        return BINS - 1 - int(allowed[-1]) if len(allowed) else BINS

    def promise(self, cuts: Ints) -> Floats:
        """Cross-fitted agreement of as large a share as lies above each cut; NaN where that is nothing."""
        n, promised = _from_the_top(self.promised_n), _from_the_top(self.promised)
        wanted = np.append(_from_the_top(self.calibrated_n)[::-1], 0.0)[cuts]
        if not n[-1]:
            return np.full(len(cuts), np.nan)
        agreed = np.interp(wanted, np.append(0.0, n), np.append(0.0, promised))
        return np.divide(agreed, wanted, out=np.full(len(cuts), np.nan), where=wanted > 0)

    def covered(self, cut: int) -> tuple[Floats, Floats, Floats]:
        """Return covered decisions, their agreement, and all decisions of each cluster; each of shape (D,)."""
        return self.n[:, cut:].sum(axis=1), self.agreed[:, cut:].sum(axis=1), self.n.sum(axis=1)

    def share(self, cut: int) -> float:
        """Share of the test half's decisions that is covered."""
        covered, _, everything = self.covered(cut)
        return float(covered.sum() / everything.sum()) if everything.sum() else float("nan")


def measure_coverage(
    score: Floats,
    type_index: NDArray[np.integer],
    types: int,
    fold: Ints,
    cluster: Ints,
    clusters: int,
    tested: NDArray[np.bool_] | None = None,
) -> Coverage:
    """Calibrate each type on the calibration decisions, and gather the test decisions by calibrated agreement.

    The promise is cross-fitted: what was agreed in each fold is gathered by the agreement calibrated on the other
    fold, so that a type's luck in one set of documents does not count twice. The test decisions are gathered by the
    agreement calibrated on both folds.

    Parameters
    ----------
    score : float array, shape (N,)
        Agreement of each decision.
    type_index : int array, shape (N,)
    types : int
        Number of token types, V.
    fold : int array, shape (N,)
        0 and 1 for decisions to calibrate on, -1 for others.
    cluster : int array, shape (N,)
        Cluster of each test decision.
    clusters : int
    tested : bool array, shape (N,), optional
        Decisions to test on; all with fold -1 when left out.
    """
    n, agreed, squares = np.zeros((2, types), dtype=np.int64), np.zeros((2, types)), np.zeros((2, types))
    for part in (0, 1):
        inside = fold == part
        n[part] = np.bincount(type_index[inside], minlength=types)
        agreed[part] = weighted_sums(type_index[inside], score[inside], types)
        squares[part] = weighted_sums(type_index[inside], score[inside] ** 2, types)
    promised_n, promised = np.zeros(BINS), np.zeros(BINS)
    for part in (0, 1):
        place = _bin(credible_agreement(agreed[1 - part], squares[1 - part], n[1 - part]))
        promised_n += weighted_sums(place, n[part], BINS)
        promised += weighted_sums(place, agreed[part], BINS)
    place = _bin(credible_agreement(agreed.sum(axis=0), squares.sum(axis=0), n.sum(axis=0)))
    tested = fold < 0 if tested is None else tested
    cell = cluster[tested] * BINS + place[type_index[tested]]
    size = clusters * BINS
    return Coverage(
        promised_n,
        promised,
        weighted_sums(place, n.sum(axis=0), BINS),
        weighted_sums(cell, np.ones(len(cell)), size).reshape(clusters, BINS),
        weighted_sums(cell, score[tested], size).reshape(clusters, BINS),
    )


def _bin(agreement: Floats) -> Ints:
    return np.minimum((agreement * BINS).astype(np.int64), BINS - 1)


def _from_the_top(histogram: Floats) -> Floats:
    """Sum a histogram from its highest bin down."""
    return histogram[::-1].cumsum()
