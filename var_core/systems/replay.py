"""Replaying accesses through caches that load what is needed and not there: LRU, LFU, FIFO, static hottest, Belady.

The experts of one layer of a pass are needed together: those that are there are used first, then the others are loaded,
each in the place of the one with the smallest key that is not needed now. A rule is nothing but its keys. Where more
experts are needed at once than fit, they stream through, and those with the largest keys stay.

Belady's rule (Belady 1966) loads least of all where all experts have one size. Among experts of several sizes the
furthest next use is still what goes first; that is what published replays do, and no bound.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from var_core.errors import VarError
from var_core.statistics.compiled import Flags, Wholes, compiled
from var_core.systems.accesses import Accesses
from var_core.systems.heap import ABSENT, HELD, moved, push, take_out

Rule = Literal["lru", "lfu", "fifo", "static", "belady"]
RULES: tuple[Rule, ...] = ("lru", "lfu", "fifo", "static", "belady")

_LRU, _LFU, _FIFO, _STATIC, _BELADY = range(len(RULES))
_USES = 1 << 40
"""An LFU key is so many times the uses, and the time of the last use."""


@dataclass(frozen=True)
class Capacity:
    """How much a cache holds.

    Attributes
    ----------
    limits : numpy.ndarray
        int64 [L]: size of each layer's cache; of one that all layers share, [1].
    sizes : numpy.ndarray
        int64 [L]: size of an expert of each layer, in bytes, or 1 where all count alike.
    """

    limits: Wholes
    sizes: Wholes

    @classmethod
    def per_layer(cls, number: int, sizes: Wholes) -> "Capacity":
        """So many experts of each layer."""
        return cls(number * sizes, sizes)

    @classmethod
    def of_all(cls, size: int, sizes: Wholes) -> "Capacity":
        """So much of all layers together."""
        return cls(np.array([size], np.int64), sizes)

    @property
    def shared(self) -> bool:
        """Whether all layers share one cache."""
        return len(self.limits) < len(self.sizes) or len(self.sizes) == 1

    @property
    def total(self) -> int:
        """Size of all caches."""
        return int(self.limits.sum())

    def check(self, top_k: int) -> None:
        """Refuse a cache that cannot hold the experts of one token.

        Raises
        ------
        VarError
        """
        short = np.flatnonzero(self.limits < top_k * (self.sizes.max() if self.shared else self.sizes))
        if len(short):
            least = int(top_k * self.sizes.max())
            unit = "experts" if self.sizes.max() == 1 else "bytes"
            raise VarError(
                f"a cache of {self.limits[short[0]]} {unit} is smaller than the {top_k} experts of one token "
                f"({least} {unit}); make systems.caches.sizes_mib larger"
            )


@dataclass(frozen=True)
class Replayed:
    """What came of a replay, by unit.

    Attributes
    ----------
    hits : numpy.ndarray
        int64 [U]: accesses whose expert was there.
    loads_by_layer : numpy.ndarray
        int64 [U, L]: the others.
    moved : numpy.ndarray
        int64 [U]: their size.
    """

    hits: Wholes
    loads_by_layer: Wholes
    moved: Wholes

    @property
    def loads(self) -> Wholes:
        """Their number by unit, int64 [U]."""
        return np.asarray(self.loads_by_layer.sum(axis=1))


def replay(
    accesses: Accesses,
    rule: Rule,
    capacity: Capacity,
    cold: bool,
    heat: Wholes | None = None,
    next_uses: Wholes | None = None,
) -> Replayed:
    """Replay accesses through a cache.

    Parameters
    ----------
    accesses : Accesses
    rule : str
    capacity : Capacity
    cold : bool
        Whether the cache is empty when a unit begins; else only when the first one begins.
    heat : numpy.ndarray, optional
        int64 [L * E]: uses of each expert in other text; `static` needs them.
    next_uses : numpy.ndarray, optional
        As :meth:`Accesses.next_uses` gives them for `cold`, to work them out once for caches of many sizes.

    Raises
    ------
    VarError
        If `static` has no uses to go by.
    """
    values = np.zeros(0, np.int64)
    if rule == "static":
        if heat is None:
            raise VarError("a static cache needs counts of experts' uses in other text, and there are none")
        values = heat
    elif rule == "belady":
        values = -(accesses.next_uses(cold) if next_uses is None else next_uses)
    items = accesses.layers * accesses.experts_of_layer
    heap, place, keys = np.zeros((3, items), np.int64)
    hits, loads = np.zeros(accesses.units, np.int64), np.zeros((accesses.units, accesses.layers), np.int64)
    _replay(
        accesses.offsets, accesses.experts, accesses.unit, accesses.starts & cold, RULES.index(rule), values,
        capacity.limits, capacity.shared, capacity.sizes, accesses.experts_of_layer, heap, place, keys,
        np.zeros((2, accesses.layers), np.int64), hits, loads,
    )  # fmt: skip
    return Replayed(hits, loads, loads @ capacity.sizes)


@compiled
def _replay(
    offsets: Wholes,
    experts: Wholes,
    unit: Wholes,
    restarts: Flags,
    rule: int,
    values: Wholes,
    limits: Wholes,
    shared: bool,
    sizes: Wholes,
    experts_of_layer: int,
    heap: Wholes,
    place: Wholes,
    keys: Wholes,
    filled: Wholes,
    hits: Wholes,
    loads: Wholes,
) -> None:
    layers, time = len(sizes), 0
    length, used = filled[0], filled[1]
    place[:] = ABSENT
    uses, waiting = np.zeros(len(place), np.int64), np.zeros(experts_of_layer, np.int64)
    for number in range(len(unit)):
        if restarts[number]:
            place[:], length[:], used[:], uses[:] = ABSENT, 0, 0, 0
        own = unit[number]
        for layer in range(layers):
            step = number * layers + layer
            begin, end, size = offsets[step], offsets[step + 1], sizes[layer]
            group = 0 if shared else layer
            base = 0 if shared else layer * experts_of_layer
            capacity = limits[group]
            fits = (end - begin) * size <= capacity
            missing = 0
            # Those that are there; they are out of the heap while others look for a place, so that nobody takes theirs.
            for at in range(begin, end):
                item = experts[at]
                uses[item] += 1
                if place[item] == ABSENT:
                    waiting[missing] = at
                    missing += 1
                    continue
                time += 1
                if rule != _FIFO:
                    keys[item] = _key(rule, at, item, time, uses, values)
                    moved(item, base, length[group], heap, place, keys)
            hits[own] += end - begin - missing
            loads[own, layer] += missing
            if not missing:
                continue
            held = fits and rule != _LRU
            if held:
                for at in range(begin, end):
                    item = experts[at]
                    if place[item] != ABSENT:
                        take_out(item, base, length[group], heap, place, keys)
                        length[group] -= 1
                        place[item] = HELD
            for waits in range(missing):
                at = waiting[waits]
                item = experts[at]
                time += 1
                keys[item] = _key(rule, at, item, time, uses, values)
                stays = size <= capacity
                while used[group] + size > capacity and stays:
                    victim = heap[base]
                    if not fits and keys[victim] > keys[item]:
                        stays = False
                    else:
                        take_out(victim, base, length[group], heap, place, keys)
                        length[group] -= 1
                        used[group] -= sizes[victim // experts_of_layer]
                if stays:
                    used[group] += size
                    if held:
                        place[item] = HELD
                    else:
                        push(item, base, length[group], heap, place, keys)
                        length[group] += 1
            if held:
                for at in range(begin, end):
                    item = experts[at]
                    if place[item] == HELD:
                        push(item, base, length[group], heap, place, keys)
                        length[group] += 1


@compiled
def _key(rule: int, at: int, item: int, time: int, uses: Wholes, values: Wholes) -> int:
    """What decides how long an expert stays."""
    if rule == _LFU:
        return int(uses[item] * _USES + time)
    if rule == _STATIC:
        return int(values[item])
    if rule == _BELADY:
        return int(values[at])
    return time
