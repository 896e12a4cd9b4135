"""Sequences that depend on each other, such as parts of one document, as one outcome of an audit."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from var_core.policy.audit import Floats, sequence_means

Outcomes = tuple[Floats, NDArray[np.bool_]]
ClusterKeys = Callable[[NDArray[np.int64]], NDArray[np.int64]]


class ClusterMeans:
    """Makes one outcome of the means of sequences that depend on each other: of those in a row that have one key.

    Parameters
    ----------
    keys : callable
        Of numbers of sequences, int64 [S], the keys of their clusters, int64 [S].
    layers : int
        L.
    """

    def __init__(self, keys: ClusterKeys, layers: int) -> None:
        self._keys = keys
        self._open = _nothing(layers)

    def add(self, numbers: NDArray[np.int64], means: Floats, present: NDArray[np.bool_]) -> Outcomes:
        """Take in sequences in their order; give the outcomes of the clusters that they end.

        Parameters
        ----------
        numbers : int64 array, shape (S,)
        means, present : arrays, shape (S, L)
            As :func:`sequence_means` gives them.

        Returns
        -------
        means, present : arrays, shape (C, L)
            What :meth:`AuditMonitor.update` takes; the last cluster is kept, as there may be more of it.
        """
        seen = present.any(axis=1)
        own = np.asarray(self._keys(numbers), np.int64)[seen], means[seen], present[seen]
        keys, means, present = (np.concatenate(pair) for pair in zip(self._open, own, strict=True))
        others = np.flatnonzero(keys != keys[-1]) if len(keys) else keys
        ended = others[-1] + 1 if len(others) else 0
        cluster = np.cumsum(np.diff(keys[:ended], prepend=keys[:1]) != 0)
        self._open = keys[ended:], means[ended:], present[ended:]
        return sequence_means(means[:ended], present[:ended], cluster)

    def end(self) -> Outcomes:
        """Give the outcome of the last cluster, if there is one."""
        keys, means, present = self._open
        self._open = _nothing(means.shape[1])
        return sequence_means(means, present, np.zeros(len(keys), np.int64))


def _nothing(layers: int) -> tuple[NDArray[np.int64], Floats, NDArray[np.bool_]]:
    """Keys, means, and where there are any, of no sequence."""
    return np.zeros(0, np.int64), np.zeros((0, layers)), np.zeros((0, layers), np.bool_)
