"""The batches that a shard is captured in."""

import itertools
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Batch:
    """A run of sequences of one domain: rows ``start`` to ``stop`` of the shard."""

    index: int
    domain: str
    start: int
    stop: int
    ends_domain: bool


def plan_batches(domains: np.ndarray, batch_sequences: int) -> list[Batch]:
    """Cut a shard's rows into batches of at most `batch_sequences`, never across a domain's border.

    Parameters
    ----------
    domains : numpy.ndarray
        Domain of every sequence, [S], equal domains adjacent.
    batch_sequences : int
        Sequences a batch.
    """
    batches: list[Batch] = []
    starts = [0, *(np.flatnonzero(domains[1:] != domains[:-1]) + 1), len(domains)]
    for first, last in itertools.pairwise(starts):
        for start in range(first, last, batch_sequences):
            stop = min(start + batch_sequences, last)
            batches.append(Batch(len(batches), str(domains[first]), int(start), int(stop), stop == last))
    return batches
