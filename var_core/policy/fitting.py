"""Fitting tables of experts to decisions: which experts tokens of one kind get, with which weights."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Wholes = NDArray[np.int64]
Floats = NDArray[np.float64]

_ROUNDING = 1e-9


@dataclass(frozen=True)
class ExpertSums:
    """What the decisions of each key come to at one layer: a row a (key, expert) that occurred, sorted by both.

    Attributes
    ----------
    key : numpy.ndarray
        int64 [N]: token id, pair, class, or whatever decisions are grouped by.
    expert : numpy.ndarray
        int64 [N].
    chosen : numpy.ndarray
        float64 [N]: how often; not a whole number where decisions were made up (:func:`like_parents`).
    weight_sum : numpy.ndarray
        float64 [N]: the weights it was given, summed.
    """

    key: Wholes
    expert: Wholes
    chosen: Floats
    weight_sum: Floats

    @classmethod
    def of(cls, key: Wholes, expert: Wholes, chosen: Floats, weight_sum: Floats) -> "ExpertSums":
        """Add up rows of the same key and expert.

        Parameters
        ----------
        key, expert, chosen, weight_sum : numpy.ndarray
            [M], in any order.
        """
        width = int(expert.max(initial=0)) + 1
        cells, place = np.unique(key * width + expert, return_inverse=True)
        sums = (np.bincount(place, values, len(cells)).astype(np.float64) for values in (chosen, weight_sum))
        return cls(cells // width, cells % width, *sums)

    @classmethod
    def of_decisions(cls, key: Wholes, experts: Wholes, weights: Floats, width: int) -> "ExpertSums":
        """Add up decisions.

        Parameters
        ----------
        key : numpy.ndarray
            int64 [T].
        experts, weights : numpy.ndarray
            [T, k]; `width` where a slot is empty.
        width : int
            E.
        """
        filled = experts < width
        each = np.repeat(key, filled.sum(axis=1))
        return cls.of(each, experts[filled].astype(np.int64), np.ones(len(each)), weights[filled])

    def plus(self, other: "ExpertSums") -> "ExpertSums":
        """Both together."""
        return ExpertSums.of(*(np.concatenate([getattr(part, name) for part in (self, other)]) for name in vars(self)))


@dataclass(frozen=True)
class Entries:
    """One table at one layer.

    Attributes
    ----------
    key : numpy.ndarray
        int64 [R], ascending.
    n : numpy.ndarray
        int64 [R]: decisions it was fitted on; where some left slots empty, as many as would fill them.
    experts : numpy.ndarray
        int64 [R, k]: the k experts chosen most often, ties to the lower id; E where fewer were ever chosen.
    weights : numpy.ndarray
        float64 [R, k]: their mean weights when chosen; 0 in empty slots.
    """

    key: Wholes
    n: Wholes
    experts: Wholes
    weights: Floats


@dataclass(frozen=True)
class _Most:
    """The k experts that each of R keys chose most often, ties to the lower id; E where fewer were ever chosen."""

    key: Wholes
    experts: Wholes
    chosen: Floats
    weight_sum: Floats

    @classmethod
    def of(cls, sums: ExpertSums, width: int, top_k: int) -> "_Most":
        key, start = np.unique(sums.key, return_index=True)
        row = np.searchsorted(key, sums.key)
        order = np.lexsort((sums.expert, -sums.chosen, row))
        rank = np.arange(len(order)) - start[row]
        best, slot = order[rank < top_k], rank[rank < top_k]
        experts = np.full((len(key), top_k), width, np.int64)
        chosen, weight_sum = np.zeros((2, len(key), top_k))
        for array, values in ((experts, sums.expert), (chosen, sums.chosen), (weight_sum, sums.weight_sum)):
            array[row[best], slot] = values[best]
        return cls(key, experts, chosen, weight_sum)


def _decisions(sums: ExpertSums, top_k: int) -> tuple[Wholes, Wholes]:
    """Each key, and its decisions; rounded up, as a decision may have left slots empty."""
    key, row = np.unique(sums.key, return_inverse=True)
    return key, np.ceil(np.bincount(row, sums.chosen, len(key)) / top_k - _ROUNDING).astype(np.int64)


def like_parents(key: Wholes, parent: Wholes, parents: ExpertSums, top_k: int, decisions: float) -> ExpertSums:
    """Make up decisions of keys that are as their parents' are, on the k experts that those choose most.

    Counted with a key's own decisions, they draw its entry towards its parent's where its own are few.

    Parameters
    ----------
    key, parent : numpy.ndarray
        int64 [R]: keys and the keys of their parents; nothing is made up for parents without sums.
    parents : ExpertSums
    top_k : int
        k.
    decisions : float
        How many to make up for each key.
    """
    width = int(parents.expert.max(initial=0)) + 1
    most, (known, n) = _Most.of(parents, width, top_k), _decisions(parents, top_k)
    row = np.searchsorted(known, parent).clip(max=len(known) - 1)
    own = known[row] == parent
    key, row = key[own], row[own]
    filled = most.experts[row] < width
    share = np.broadcast_to((decisions / n[row])[:, None], filled.shape)[filled]
    return ExpertSums.of(
        np.repeat(key, filled.sum(axis=1)), most.experts[row][filled], share * most.chosen[row][filled],
        share * most.weight_sum[row][filled],
    )  # fmt: skip


def fit_entries(
    sums: ExpertSums,
    width: int,
    top_k: int,
    weight_sum: float | None,
    minimum: int = 1,
    made_up: ExpertSums | None = None,
) -> Entries:
    """Take for each key its most chosen experts, and their mean weights.

    Parameters
    ----------
    sums : ExpertSums
    width : int
        E.
    top_k : int
        k.
    weight_sum : float or None
        What the weights of every decision add up to at this layer, and those of an entry are made to; None where that
        differs from token to token.
    minimum : int, optional
        Decisions below which a key has no entry.
    made_up : ExpertSums or None, optional
        From :func:`like_parents`, for some of the same keys: counted with the rest, but not as decisions.
    """
    most = _Most.of(sums if made_up is None else sums.plus(made_up), width, top_k)
    weights = np.divide(most.weight_sum, most.chosen, out=np.zeros_like(most.chosen), where=most.chosen > 0)
    if weight_sum is not None:
        total = weights.sum(axis=1, keepdims=True)
        weights = np.divide(weights * weight_sum, total, out=np.zeros_like(weights), where=total > 0)
    key, n = _decisions(sums, top_k)
    kept = n >= minimum
    return Entries(key[kept], n[kept], most.experts[kept], weights[kept])
