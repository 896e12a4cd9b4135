"""The semantics of a cache of experts, said as plainly as can be: lists in order of use, and sets.

For tests only: what runs in the library (the offloaded model, the simulation) must count the same.
"""

from collections.abc import Sequence
from collections.abc import Set as AbstractSet


def replay_residency(
    needed: Sequence[Sequence[AbstractSet[int]]],
    predicted: Sequence[Sequence[AbstractSet[int]]],
    capacity: int,
    shared: bool,
) -> dict[str, int]:
    """Count what a cache does over some steps, from an empty one.

    Parameters
    ----------
    needed : sequence of sequence of set
        [step][layer]: the distinct experts of the layer's tokens.
    predicted : sequence of sequence of set
        [step][layer]: what is predicted for that layer in that step; for layer 0 it is issued when the step begins,
        for another when the demand loads of the layer before it are done.
    capacity : int
        Experts that fit: in all if `shared`, else of each layer.
    shared : bool
    """
    layers = len(needed[0]) if needed else 0
    # Oldest use first; with shared capacity every layer has the same list.
    orders: list[list[tuple[int, int]]] = [[]] * layers if shared else [[] for _ in range(layers)]
    idle: set[tuple[int, int]] = set()  # prefetched, not used yet
    counts = dict.fromkeys(("accesses", "hits", "demand_loads", "prefetch_loads", "useless"), 0)

    def touch(order: list[tuple[int, int]], expert: tuple[int, int]) -> None:
        order.remove(expert)
        order.append(expert)

    def evict(order: list[tuple[int, int]], victim: tuple[int, int]) -> None:
        order.remove(victim)
        if victim in idle:
            idle.remove(victim)
            counts["useless"] += 1

    def prefetch(layer: int, experts: AbstractSet[int], busy: set[tuple[int, int]]) -> None:
        order = orders[layer]
        wanted = sorted((layer, expert) for expert in experts)
        resident = [expert for expert in wanted if expert in order]
        for expert in resident:
            touch(order, expert)
        for expert in wanted:
            if expert in resident:
                continue
            if len(order) == capacity:
                free = [other for other in order if other not in busy and other not in wanted]
                if not free:
                    continue  # every place is needed now, or for the same layer: the prediction is dropped
                evict(order, free[0])
            order.append(expert)
            idle.add(expert)
            counts["prefetch_loads"] += 1

    for step_needs, step_predictions in zip(needed, predicted, strict=True):
        prefetch(0, step_predictions[0], set())
        for layer, experts in enumerate(step_needs):
            order, busy = orders[layer], {(layer, expert) for expert in experts}
            resident = sorted(busy & set(order))
            counts["accesses"] += len(busy)
            counts["hits"] += len(resident)
            for expert in resident:
                touch(order, expert)
                idle.discard(expert)
            for expert in sorted(busy - set(resident)):
                if len(order) == capacity:
                    # Where all are needed here, the first of them was computed first and gives way.
                    evict(order, ([other for other in order if other not in busy] or order)[0])
                order.append(expert)
                counts["demand_loads"] += 1
            if layer + 1 < layers:
                prefetch(layer + 1, step_predictions[layer + 1], busy)
    counts["useless"] += len(idle)
    return counts
