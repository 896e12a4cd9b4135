"""Which tokens come in a context that was met before: the bookkeeping of the context cache.

An entry is written when a context is met for the first time, or again after it was forgotten: pushed out by others
(least recently used first) or older than its time to live. All of this follows from the token ids alone, so it is the
same for every layer, and known before the first router runs. Whether an entry may be used at a layer depends on what
the router decided there when it was written; that is not decided here.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from var_core.errors import VarError
from var_core.statistics.compiled import Flags, Wholes, compiled

_NONE = -1
_MULTIPLIER = 0x9E3779B97F4A7C15 - (1 << 64)
"""An odd number whose multiples spread over all bits (2**64 over the golden ratio)."""


_NOTHING = np.array([0, _NONE, _NONE, 0], np.int64)
"""Entries, newest and oldest slot, tokens met: of a memory before the first token."""


@dataclass(frozen=True)
class CacheLimits:
    """How much a cache remembers.

    Attributes
    ----------
    context_window : int
        Token ids that make a context, the token's own included; at the start of a document there are fewer.
    capacity : int
        Entries.
    time_to_live : int
        Tokens of the sequence after which an entry is forgotten.
    """

    context_window: int
    capacity: int
    time_to_live: int

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value < 1:
                raise VarError(f"policy.cache.{name} is {value}; it must be at least 1, or leave the cache out")


@dataclass(frozen=True)
class Lookups:
    """What the cache says of S x T tokens.

    Attributes
    ----------
    origin : numpy.ndarray
        int64 [S, T]: the place in this step (s * T + t) of the token that wrote the entry of each token's context, its
        own place if it writes it itself; -1 if the entry is from an earlier step, or the token does not count.
    slot : numpy.ndarray
        int64 [S, T]: the entry's slot; -1 for tokens that do not count.
    hit : numpy.ndarray
        bool [S, T]: whether there was an entry.
    """

    origin: Wholes
    slot: Wholes
    hit: Flags


class ContextCache:
    """The contexts that are remembered, for each sequence of a batch or for all of them.

    Parameters
    ----------
    limits : CacheLimits
    sequences : int
        S, rows of the batch.
    shared : bool, optional
        One memory for all sequences, which meet it one after another.
    """

    def __init__(self, limits: CacheLimits, sequences: int, shared: bool = False) -> None:
        memories, capacity, window = 1 if shared else sequences, limits.capacity, limits.context_window
        self.limits, self.shared = limits, shared
        buckets = 1 << (2 * capacity - 1).bit_length()
        self._heads = np.full((memories, buckets), _NONE, np.int64)
        self._contexts = np.full((memories, capacity, window), _NONE, np.int64)
        # Next in the bucket, newer, older, time written, origin in this step; by slot.
        self._links = np.full((memories, capacity, 5), _NONE, np.int64)
        self._ends = np.tile(_NOTHING, (memories, 1))
        self._recent = np.full((sequences, max(window - 1, 0)), _NONE, np.int64)

    def look_up(self, token_ids: Wholes, starts: Flags, counts: Flags) -> Lookups:
        """Look all tokens up, one after another, and remember their contexts.

        Parameters
        ----------
        token_ids : numpy.ndarray
            int64 [S, T].
        starts : numpy.ndarray
            bool [S, T]: where a document starts, before which no context reaches.
        counts : numpy.ndarray
            bool [S, T]: False for padding, which is as if it were not there.
        """
        shape = token_ids.shape
        origin, slot = np.full(shape, _NONE, np.int64), np.full(shape, _NONE, np.int64)
        hit = np.zeros(shape, np.bool_)
        self._links[:, :, 4] = _NONE
        _look_up(
            token_ids, starts, counts, self._heads, self._contexts, self._links, self._ends, self._recent,
            self.shared, self.limits.time_to_live, origin, slot, hit,
        )  # fmt: skip
        return Lookups(origin, slot, hit)

    def begin(self, sequences: int) -> None:
        """Go on with new sequences; what a shared memory holds stays."""
        self._recent = np.full((sequences, self._recent.shape[1]), _NONE, np.int64)

    def forget(self) -> None:
        """Go back to before the first token."""
        for array in (self._heads, self._links, self._recent):
            array.fill(_NONE)
        self._ends[:] = _NOTHING

    @property
    def recent(self) -> Wholes:
        """Token ids that the next context of each sequence begins with, int64 [S, window - 1]; -1 for none."""
        return self._recent

    @property
    def writers(self) -> Wholes:
        """Place in the last step of the token that wrote each slot last, int64 [memories, capacity]; -1 for none."""
        return self._links[:, :, 4]


@compiled
def _look_up(
    token_ids: Wholes,
    starts: Flags,
    counts: Flags,
    all_heads: Wholes,
    all_contexts: NDArray[np.int64],
    all_links: NDArray[np.int64],
    all_ends: Wholes,
    recent: Wholes,
    shared: bool,
    time_to_live: int,
    origin: Wholes,
    slots: Wholes,
    hits: Flags,
) -> None:
    sequences, length = token_ids.shape
    window = all_contexts.shape[2]
    context = np.empty(window, np.int64)
    for sequence in range(sequences):
        memory = 0 if shared else sequence
        heads, contexts, links, ends = all_heads[memory], all_contexts[memory], all_links[memory], all_ends[memory]
        before = recent[sequence]
        for place in range(length):
            if not counts[sequence, place]:
                continue
            if starts[sequence, place]:
                before[:] = -1
            context[: window - 1] = before
            context[window - 1] = token_ids[sequence, place]
            for at in range(window - 1):
                before[at] = context[at + 1]
            now, here = ends[3], sequence * length + place
            ends[3] = now + 1
            bucket = _bucket(context, len(heads))
            slot = _find(context, heads[bucket], contexts, links)
            if slot >= 0:
                _take_out(slot, links, ends)
                hit = now - links[slot, 3] < time_to_live
            else:
                hit = False
                slot = ends[0]
                if slot < len(contexts):
                    ends[0] = slot + 1
                else:
                    slot = ends[2]
                    _take_out(slot, links, ends)
                    _leave_bucket(slot, _bucket(contexts[slot], len(heads)), heads, links)
                contexts[slot] = context
                links[slot, 0] = heads[bucket]
                heads[bucket] = slot
            _make_newest(slot, links, ends)
            if not hit:
                links[slot, 3] = now
                links[slot, 4] = here
            hits[sequence, place] = hit
            slots[sequence, place] = slot
            origin[sequence, place] = links[slot, 4]


@compiled
def _bucket(context: Wholes, buckets: int) -> int:
    mixed = np.int64(0)
    for token in context:
        mixed = (mixed ^ (token + 1)) * np.int64(_MULTIPLIER)
        mixed ^= mixed >> 29
    return int(mixed & (buckets - 1))


@compiled
def _find(context: Wholes, slot: int, contexts: Wholes, links: Wholes) -> int:
    """The slot of a context in the chain that begins at a slot, or -1."""
    while slot >= 0:
        same = True
        for at in range(len(context)):
            if contexts[slot, at] != context[at]:
                same = False
                break
        if same:
            return slot
        slot = links[slot, 0]
    return -1


@compiled
def _take_out(slot: int, links: Wholes, ends: Wholes) -> None:
    """Take a slot out of the order of use."""
    newer, older = links[slot, 1], links[slot, 2]
    if newer >= 0:
        links[newer, 2] = older
    else:
        ends[1] = older
    if older >= 0:
        links[older, 1] = newer
    else:
        ends[2] = newer


@compiled
def _make_newest(slot: int, links: Wholes, ends: Wholes) -> None:
    newest = ends[1]
    links[slot, 1], links[slot, 2] = -1, newest
    if newest >= 0:
        links[newest, 1] = slot
    else:
        ends[2] = slot
    ends[1] = slot


@compiled
def _leave_bucket(slot: int, bucket: int, heads: Wholes, links: Wholes) -> None:
    if heads[bucket] == slot:
        heads[bucket] = links[slot, 0]
        return
    at = heads[bucket]
    while links[at, 0] != slot:
        at = links[at, 0]
    links[at, 0] = links[slot, 0]
