"""What the measures would be if there were nothing to find: routing without regard to the token, labels at random."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from var_core.hypotheses.data import ExpertCounts, Floats, Ints

OCCURRENCES_DRAWN = 10_000
"""Occurrences drawn of a type at most. Beyond, the plug-in bias that the null is there to show,
about (E - 1) / (2 k n) nats, is too small to see."""

_SETS = 1 << 14
"""Sets of experts drawn to draw from; new ones for every draw of the null."""


def draw_sets(inclusion: Floats, size: int, random: np.random.Generator) -> NDArray[np.int32]:
    """Draw sets of k distinct experts so that each expert is in a set with exactly the probability asked for.

    Systematic sampling in random order (Madow 1949; Hartley and Rao 1962): lay the probabilities end to end in a
    random order, and take the experts on which u, u + 1, ..., u + k - 1 fall for one uniform u.

    Parameters
    ----------
    inclusion : float array, shape (E,)
        Probability of each expert, each at most 1, that sum to k.
    size : int
    random : numpy.random.Generator

    Returns
    -------
    int array, shape (size, k)
    """
    top_k = round(float(inclusion.sum()))
    order = random.permuted(np.tile(np.arange(len(inclusion), dtype=np.int32), (size, 1)), axis=1)
    ends = np.cumsum(inclusion[order], axis=1)
    ends[:, -1] = np.inf  # rounding must not leave the last mark without an expert
    marks = random.random(size)[:, None]
    places = np.stack([(ends > marks + step).argmax(axis=1) for step in range(top_k)], axis=1)
    return np.take_along_axis(order, places, axis=1)


def load_only_counts(
    counts: ExpertCounts, draws: int, random: np.random.Generator, wanted: Ints | None = None
) -> Iterator[ExpertCounts]:
    """Draw counts that have the occurrences of each type and the load of each expert, but no tie between the two.

    Every occurrence draws k distinct experts by the load and, apart from them, a first expert by the load of first
    choices; the marginal-matched null of measures that are biased in the number of occurrences. Types with more
    than ``OCCURRENCES_DRAWN`` occurrences draw that many.

    Parameters
    ----------
    counts : ExpertCounts
        The layer's real counts.
    draws : int
    random : numpy.random.Generator
    wanted : int array, optional
        Types to draw for (the load is still that of all types); all types when left out.

    Yields
    ------
    ExpertCounts
        One for each draw, with a row for each wanted type.
    """
    drawn = np.minimum(counts.n if wanted is None else counts.n[wanted], OCCURRENCES_DRAWN)
    types, experts = len(drawn), counts.chosen.shape[1]
    rows = np.repeat(np.arange(types) * experts, drawn)
    inclusion = counts.chosen.sum(axis=0) / counts.n.sum()
    firsts = counts.first.sum(axis=0)
    for _ in range(draws):
        sets = draw_sets(inclusion, _SETS, random)
        picked = random.integers(_SETS, size=len(rows), dtype=np.uint16)
        chosen = np.zeros(types * experts, dtype=np.int64)
        for slot in sets.T.astype(np.int64):
            # One slot at a time and in place: the same counts in a third of the time and memory.
            cells = slot.take(picked)
            cells += rows
            chosen += np.bincount(cells, minlength=types * experts)
        # Without weights nobody knows first choices, and nobody draws them.
        first = random.multinomial(drawn, firsts / firsts.sum()) if firsts.any() else np.zeros((types, experts), int)
        yield ExpertCounts(drawn, chosen.reshape(types, experts), first)


def spearman(x: Floats, y: Floats) -> float:
    """Spearman's rank correlation, ties ranked by their average; NaN for fewer than 3 pairs or a constant."""
    if len(x) < 3:
        return float("nan")
    return float(_standard_ranks(x) @ _standard_ranks(y))


def permuted_spearman(x: Floats, y: Floats, draws: int, random: np.random.Generator) -> Floats:
    """Spearman's correlations after shuffling which x belongs to which y; shape (draws,)."""
    ranks_x, ranks_y = _standard_ranks(x), _standard_ranks(y)
    return np.array([random.permutation(ranks_x) @ ranks_y for _ in range(draws)])


def _standard_ranks(values: Floats) -> Floats:
    """Ranks, centred and of length 1, so that the scalar product of two is their correlation."""
    ranks = rankdata(values)
    ranks -= (len(ranks) + 1) / 2
    length = np.sqrt(ranks @ ranks)
    return ranks / length if length > 0 else np.full(len(ranks), np.nan)
