"""Fitting tables of experts to decisions: which experts tokens of one kind get, with which weights."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Wholes = NDArray[np.int64]
Floats = NDArray[np.float64]


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
        int64 [N]: how often.
    weight_sum : numpy.ndarray
        float64 [N]: the weights it was given, summed.
    """

    key: Wholes
    expert: Wholes
    chosen: Wholes
    weight_sum: Floats

    @classmethod
    def of(cls, key: Wholes, expert: Wholes, chosen: Wholes, weight_sum: Floats) -> "ExpertSums":
        """Add up rows of the same key and expert.

        Parameters
        ----------
        key, expert, chosen, weight_sum : numpy.ndarray
            [M], in any order.
        """
        width = int(expert.max(initial=0)) + 1
        cells, place = np.unique(key * width + expert, return_inverse=True)
        total = np.zeros(len(cells), np.int64)
        np.add.at(total, place, chosen)
        weights = np.bincount(place, weight_sum, minlength=len(cells)).astype(np.float64)
        return cls(cells // width, cells % width, total, weights)

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
        return cls.of(each, experts[filled].astype(np.int64), np.ones(len(each), np.int64), weights[filled])


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


def fit_entries(sums: ExpertSums, width: int, top_k: int, weight_sum: float | None, minimum: int = 1) -> Entries:
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
    """
    key, start = np.unique(sums.key, return_index=True)
    row = np.searchsorted(key, sums.key)
    order = np.lexsort((sums.expert, -sums.chosen, row))
    rank = np.arange(len(order)) - start[row]
    best = order[rank < top_k]
    at = (row[best], rank[rank < top_k])
    experts = np.full((len(key), top_k), width, np.int64)
    weights = np.zeros((len(key), top_k))
    experts[at] = sums.expert[best]
    weights[at] = sums.weight_sum[best] / sums.chosen[best]
    if weight_sum is not None:
        total = weights.sum(axis=1, keepdims=True)
        weights = np.divide(weights * weight_sum, total, out=np.zeros_like(weights), where=total > 0)
    # Rounded up: a decision may have left slots empty.
    n = -(-np.bincount(row, sums.chosen, minlength=len(key)).astype(np.int64) // top_k)
    kept = n >= minimum
    return Entries(key[kept], n[kept], experts[kept], weights[kept])
