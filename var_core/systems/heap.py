"""Binary heaps of items with keys that change: the next to leave a cache is at the top.

Several heaps of one length lie in one array, and an item is in at most one of them; so the caches of all layers, or the
one that they share, are the same code.
"""

from var_core.statistics.compiled import Wholes, compiled

ABSENT, HELD = -1, -2
"""Places of items that are in no cache, and of those that are in one but not to leave it now."""


@compiled
def push(item: int, base: int, length: int, heap: Wholes, place: Wholes, keys: Wholes) -> None:
    """Put an item into the heap of `length` items that begins at `base`; the caller counts one more.

    Parameters
    ----------
    item : int
    base, length : int
    heap : numpy.ndarray
        int64: items.
    place : numpy.ndarray
        int64 [items]: where an item is, counted from its heap's base; -1 for nowhere.
    keys : numpy.ndarray
        int64 [items]; the smallest is at the top.
    """
    heap[base + length] = item
    place[item] = length
    _up(length, base, heap, place, keys)


@compiled
def take_out(item: int, base: int, length: int, heap: Wholes, place: Wholes, keys: Wholes) -> None:
    """Take an item out of the heap of `length` items; the caller counts one less."""
    at, last = place[item], length - 1
    place[item] = ABSENT
    if at == last:
        return
    moved = heap[base + last]
    heap[base + at] = moved
    place[moved] = at
    _up(at, base, heap, place, keys)
    _down(place[moved], base, last, heap, place, keys)


@compiled
def moved(item: int, base: int, length: int, heap: Wholes, place: Wholes, keys: Wholes) -> None:
    """Put an item, whose key has changed, in its place."""
    _up(place[item], base, heap, place, keys)
    _down(place[item], base, length, heap, place, keys)


@compiled
def _up(at: int, base: int, heap: Wholes, place: Wholes, keys: Wholes) -> None:
    item = heap[base + at]
    key = keys[item]
    while at > 0:
        above = (at - 1) >> 1
        other = heap[base + above]
        if keys[other] <= key:
            break
        heap[base + at] = other
        place[other] = at
        at = above
    heap[base + at] = item
    place[item] = at


@compiled
def _down(at: int, base: int, length: int, heap: Wholes, place: Wholes, keys: Wholes) -> None:
    item = heap[base + at]
    key = keys[item]
    while True:
        below = 2 * at + 1
        if below >= length:
            break
        if below + 1 < length and keys[heap[base + below + 1]] < keys[heap[base + below]]:
            below += 1
        other = heap[base + below]
        if keys[other] >= key:
            break
        heap[base + at] = other
        place[other] = at
        at = below
    heap[base + at] = item
    place[item] = at
