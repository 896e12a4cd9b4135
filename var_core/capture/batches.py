"""The batches that a micro-shard is captured in."""

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


def plan_batches(domains: np.ndarray, batch_sequences: int, begin: int, end: int) -> list[Batch]:
    """Cut rows of a shard into batches of at most `batch_sequences`, never across a domain's border.

    Parameters
    ----------
    domains : numpy.ndarray
        Domain of every sequence of the shard, [S]; equal domains are adjacent among the rows.
    batch_sequences : int
        Sequences a batch.
    begin, end : int
        The rows.
    """
    batches: list[Batch] = []
    borders = begin + 1 + np.flatnonzero(domains[begin + 1 : end] != domains[begin : end - 1])
    starts = [begin, *borders, end]
    for first, last in itertools.pairwise(starts):
        for start in range(first, last, batch_sequences):
            stop = min(start + batch_sequences, last)
            batches.append(Batch(len(batches), str(domains[first]), int(start), int(stop), stop == last))
    return batches
