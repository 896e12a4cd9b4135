"""Which sequences are kept under a token limit, and which shard each goes to: whole numbers only, no chance."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray


def quotas(available: Mapping[str, int], limit: int | None) -> dict[str, int]:
    """Share a limit among domains in proportion to what they have.

    Every domain gets the whole part of its share; what is left goes one by one to the domains with the
    largest remainders (Hamilton's method; ties in order of the names).

    Parameters
    ----------
    available : mapping
        Domain -> sequences it has.
    limit : int or None
        Sequences to keep over all domains; None for all.

    Returns
    -------
    dict
        Domain -> sequences to keep, at most what it has; they sum to the limit where there is enough.
    """
    total = sum(available.values())
    if limit is None or limit >= total:
        return dict(available)
    kept = {domain: count * limit // total for domain, count in available.items()}
    by_remainder = sorted(available, key=lambda domain: (-(available[domain] * limit % total), domain))
    for domain in by_remainder[: limit - sum(kept.values())]:
        kept[domain] += 1
    return kept


def evenly_spread(available: int, count: int) -> NDArray[np.int64]:
    """Choose `count` of `available` sequences at even distances: the middle of each of `count` equal parts.

    Returns
    -------
    ndarray of int64, shape (count,)
        Rising, without repetition, for ``count <= available``.
    """
    places = np.arange(count, dtype=np.int64)
    return (2 * places + 1) * available // (2 * max(count, 1))


def deal(counts: Mapping[str, int], shards: int) -> list[dict[str, range]]:
    """Deal every domain's sequences over the shards in contiguous blocks.

    A domain's blocks differ by at most one sequence, and so do the shards' totals: the shards that get one
    more of a domain follow those that got one more of the domain before.

    Parameters
    ----------
    counts : mapping
        Domain -> number of sequences.
    shards : int
        Number of shards.

    Returns
    -------
    list of dict
        For each shard, domain -> block of the domain's sequences (may be empty), domains sorted.
    """
    blocks: list[dict[str, range]] = [{} for _ in range(shards)]
    first_with_more = 0
    for domain, count in sorted(counts.items()):
        each, more = divmod(count, shards)
        start = 0
        for shard, block in enumerate(blocks):
            size = each + ((shard - first_with_more) % shards < more)
            block[domain] = range(start, start + size)
            start += size
        first_with_more = (first_with_more + more) % shards
    return blocks
