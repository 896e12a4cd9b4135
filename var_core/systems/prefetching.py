"""An LRU cache of experts that also loads what it is told will be needed, over a link that takes time.

At each layer of a pass the experts that are needed and there are used first, then the others are loaded. Then what is
predicted for the next layer is asked of the link too (for the first layer when the pass begins), so that it travels
while this layer's experts and the next one's attention are computed. A prefetch takes the place of the least recently
used expert that is neither needed now nor predicted for the same layer; where there is none, it is left out. The link
serves one load after another in the order in which they were asked for: a load that is needed waits for prefetches
before it. So a wrong prediction costs its bytes, the time that they take on the link, and whatever it pushed out.
"""

from dataclasses import dataclass

import numpy as np

from var_core.errors import VarError
from var_core.statistics.compiled import Doubles, Flags, Wholes, compiled
from var_core.systems.accesses import Accesses
from var_core.systems.heap import ABSENT, moved, push, take_out
from var_core.systems.replay import Capacity

HITS, LOADS, PREFETCHED, USELESS, MOVED = range(5)


@dataclass(frozen=True)
class Predicted:
    """Experts that are predicted for each layer of each pass: offsets and numbers as those of :class:`Accesses`."""

    offsets: Wholes
    experts: Wholes

    @classmethod
    def nothing(cls, accesses: Accesses) -> "Predicted":
        """No predictions at all: plain LRU."""
        return cls(np.zeros_like(accesses.offsets), np.zeros(0, np.int64))


@dataclass(frozen=True)
class Pace:
    """How fast a device computes and loads; D of them are followed at once.

    Attributes
    ----------
    before : numpy.ndarray
        float64 [D, L]: seconds of a pass before the experts of each layer run: attention, gate, what lies between.
    expert : numpy.ndarray
        float64 [D, L]: seconds of one expert.
    after : numpy.ndarray
        float64 [D]: seconds of a pass behind the last layer.
    load : numpy.ndarray
        float64 [D, L]: seconds of loading one expert.
    """

    before: Doubles
    expert: Doubles
    after: Doubles
    load: Doubles

    def __post_init__(self) -> None:
        for name in ("before", "expert", "after", "load"):
            values = getattr(self, name)
            if not (np.isfinite(values) & (values >= 0)).all():
                raise VarError(f"the pace of a device has {name} times that are negative or no numbers")


@dataclass(frozen=True)
class Timed:
    """What came of a replay, by unit.

    Attributes
    ----------
    hits : numpy.ndarray
        int64 [U]: accesses whose expert was there, or on its way, when it was needed.
    loads, prefetched, useless : numpy.ndarray
        int64 [U]: experts loaded when they were needed; loaded as predicted; and of these never used before they left.
    moved : numpy.ndarray
        int64 [U]: size of all loads.
    late : numpy.ndarray
        int64 [D, U]: of the hits, those still on their way.
    stall, seconds : numpy.ndarray
        float64 [D, U]: time spent waiting for the link; and all of it, computing too.
    """

    hits: Wholes
    loads: Wholes
    prefetched: Wholes
    useless: Wholes
    moved: Wholes
    late: Wholes
    stall: Doubles
    seconds: Doubles


def replay_prefetching(accesses: Accesses, predicted: Predicted, capacity: Capacity, cold: bool, pace: Pace) -> Timed:
    """Replay accesses through an LRU cache with prefetches.

    Parameters
    ----------
    accesses : Accesses
    predicted : Predicted
        For the same passes.
    capacity : Capacity
    cold : bool
        Whether the cache is empty when a unit begins; else only when the first one begins.
    pace : Pace

    Raises
    ------
    VarError
        If the predictions are for other passes.
    """
    if len(predicted.offsets) != len(accesses.offsets):
        raise VarError(
            f"predictions for {len(predicted.offsets) - 1} layers of passes, and accesses of "
            f"{len(accesses.offsets) - 1}; make both of the same trace"
        )
    items, devices = accesses.layers * accesses.experts_of_layer, len(pace.after)
    counts = np.zeros((5, accesses.units), np.int64)
    late, times = np.zeros((devices, accesses.units), np.int64), np.zeros((2, devices, accesses.units))
    _replay(
        accesses.offsets, accesses.experts, predicted.offsets, predicted.experts, accesses.unit,
        accesses.starts & cold, capacity.limits, capacity.shared, capacity.sizes, accesses.experts_of_layer,
        pace.before, pace.expert, pace.after, pace.load, np.zeros((2, items), np.int64), np.zeros(items, np.int64),
        np.zeros(items, np.bool_), np.zeros((2, accesses.layers), np.int64), np.zeros((devices, items)),
        np.zeros((2, devices)), counts, late, times,
    )  # fmt: skip
    return Timed(
        counts[HITS], counts[LOADS], counts[PREFETCHED], counts[USELESS], counts[MOVED], late, times[0], times[1]
    )


@compiled
def _replay(
    offsets: Wholes,
    experts: Wholes,
    predicted_offsets: Wholes,
    predicted: Wholes,
    unit: Wholes,
    restarts: Flags,
    limits: Wholes,
    shared: bool,
    sizes: Wholes,
    experts_of_layer: int,
    before: Doubles,
    expert: Doubles,
    after: Doubles,
    load: Doubles,
    heaps: Wholes,
    place: Wholes,
    unused: Flags,
    filled: Wholes,
    ready: Doubles,
    clocks: Doubles,
    counts: Wholes,
    late: Wholes,
    times: Doubles,
) -> None:
    layers, devices, now = len(sizes), len(after), 0
    heap, keys, length, used, clock, link = heaps[0], heaps[1], filled[0], filled[1], clocks[0], clocks[1]
    place[:] = ABSENT
    waiting, needed, own = np.zeros(experts_of_layer, np.int64), np.zeros(devices), 0
    for number in range(len(unit)):
        own = unit[number]
        if restarts[number]:
            for item in range(len(place)):
                counts[USELESS, unit[max(number - 1, 0)]] += unused[item]
            place[:], unused[:], length[:], used[:] = ABSENT, False, 0, 0
            for device in range(devices):
                link[device] = clock[device]
        now = _prefetch(
            number * layers, 0, now, now, own, predicted_offsets, predicted, limits, shared, sizes, experts_of_layer,
            load, heap, place, keys, unused, length, used, ready, clock, link, counts,
        )  # fmt: skip
        for layer in range(layers):
            step, size = number * layers + layer, sizes[layer]
            begin, end = offsets[step], offsets[step + 1]
            group, base = (0, 0) if shared else (layer, layer * experts_of_layer)
            for device in range(devices):
                clock[device] += before[device, layer]
                times[1, device, own] += before[device, layer] + expert[device, layer] * (end - begin)
            mark, missing = now, 0
            needed[:] = clock
            for at in range(begin, end):
                item = experts[at]
                if place[item] == ABSENT:
                    waiting[missing] = item
                    missing += 1
                    continue
                now += 1
                keys[item] = now
                moved(item, base, length[group], heap, place, keys)
                unused[item] = False
                counts[HITS, own] += 1
                for device in range(devices):
                    if ready[device, item] > clock[device]:
                        late[device, own] += 1
                        needed[device] = max(needed[device], ready[device, item])
            for at in range(missing):
                item = waiting[at]
                now += 1
                keys[item] = now
                counts[LOADS, own] += 1
                counts[MOVED, own] += size
                for device in range(devices):
                    link[device] = max(link[device], clock[device]) + load[device, layer]
                    ready[device, item] = link[device]
                    needed[device] = max(needed[device], link[device])
                _make_room(
                    size, own, base, group, limits[group], sizes, experts_of_layer, heap, place, keys, unused, length,
                    used, counts,
                )  # fmt: skip
                push(item, base, length[group], heap, place, keys)
                length[group] += 1
                used[group] += size
                unused[item] = False
            if layer + 1 < layers:
                now = _prefetch(
                    step + 1, layer + 1, now, mark, own, predicted_offsets, predicted, limits, shared, sizes,
                    experts_of_layer, load, heap, place, keys, unused, length, used, ready, clock, link, counts,
                )  # fmt: skip
            for device in range(devices):
                times[0, device, own] += needed[device] - clock[device]
                times[1, device, own] += needed[device] - clock[device]
                clock[device] = needed[device] + expert[device, layer] * (end - begin)
        for device in range(devices):
            clock[device] += after[device]
            times[1, device, own] += after[device]
    for item in range(len(place)):
        counts[USELESS, own] += unused[item]


@compiled
def _make_room(
    size: int,
    own: int,
    base: int,
    group: int,
    capacity: int,
    sizes: Wholes,
    experts_of_layer: int,
    heap: Wholes,
    place: Wholes,
    keys: Wholes,
    unused: Flags,
    length: Wholes,
    used: Wholes,
    counts: Wholes,
) -> None:
    """Take out the least recently used until another one fits."""
    while used[group] + size > capacity and length[group]:
        victim = heap[base]
        take_out(victim, base, length[group], heap, place, keys)
        length[group] -= 1
        used[group] -= sizes[victim // experts_of_layer]
        counts[USELESS, own] += unused[victim]
        unused[victim] = False


@compiled
def _prefetch(
    step: int,
    layer: int,
    now: int,
    mark: int,
    own: int,
    offsets: Wholes,
    predicted: Wholes,
    limits: Wholes,
    shared: bool,
    sizes: Wholes,
    experts_of_layer: int,
    load: Doubles,
    heap: Wholes,
    place: Wholes,
    keys: Wholes,
    unused: Flags,
    length: Wholes,
    used: Wholes,
    ready: Doubles,
    clock: Doubles,
    link: Doubles,
    counts: Wholes,
) -> int:
    """Touch what is predicted and there, and load the rest; return the time of the last use."""
    group, base, size = (0, 0, sizes[layer]) if shared else (layer, layer * experts_of_layer, sizes[layer])
    for at in range(offsets[step], offsets[step + 1]):
        item = predicted[at]
        if place[item] != ABSENT:
            now += 1
            keys[item] = now
            moved(item, base, length[group], heap, place, keys)
    for at in range(offsets[step], offsets[step + 1]):
        item = predicted[at]
        if place[item] != ABSENT:
            continue
        free = limits[group] - used[group]
        while free < size and length[group] and keys[heap[base]] <= mark:
            victim = heap[base]
            take_out(victim, base, length[group], heap, place, keys)
            length[group] -= 1
            used[group] -= sizes[victim // experts_of_layer]
            counts[USELESS, own] += unused[victim]
            unused[victim] = False
            free = limits[group] - used[group]
        if free < size:
            break
        now += 1
        keys[item] = now
        push(item, base, length[group], heap, place, keys)
        length[group] += 1
        used[group] += size
        unused[item] = True
        counts[PREFETCHED, own] += 1
        counts[MOVED, own] += size
        for device in range(len(clock)):
            link[device] = max(link[device], clock[device]) + load[device, layer]
            ready[device, item] = link[device]
    return now
