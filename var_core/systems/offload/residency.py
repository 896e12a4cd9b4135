"""Which experts are in fast memory: the decisions of a cache of experts, without the weights themselves.

A step is a forward pass. At each MoE layer the distinct experts of all its tokens are needed together: those that are
resident are touched, in ascending id, then the missing are loaded, in ascending id, each in the place of the least
recently used expert that this layer does not need. If a layer needs more than fit, the missing go on through the
places of experts that it has already used.

What is predicted for the layer behind is touched or loaded likewise, when this layer's loads are done: resident ones
first, and nothing in the place of an expert that this layer needs; where there is no other place, the prediction is
dropped.
"""

from collections import OrderedDict
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from var_core.errors import VarError

Expert = tuple[int, int]
"""A layer and the number of an expert in it."""


@dataclass(frozen=True)
class Slot:
    """An expert and its place in fast memory.

    Attributes
    ----------
    layer, expert : int
    place : int
        Number of the place: of all if capacity is shared, else of the layer's own.
    """

    layer: int
    expert: int
    place: int


@dataclass(frozen=True)
class Demand:
    """What a layer needs in a step.

    Attributes
    ----------
    hits : tuple of Slot
        Resident, in ascending id.
    loads : tuple of Slot
        To be loaded, in this order. A place may be that of a hit, or of an earlier load: then that expert has to be
        used before.
    """

    hits: tuple[Slot, ...]
    loads: tuple[Slot, ...]


@dataclass
class Counts:
    """What a cache of experts counts.

    Attributes
    ----------
    accesses : int
        Distinct experts that a layer needed in a step, over all of both.
    hits : int
        Those that were resident then, or on their way.
    demand_loads, prefetch_loads : int
        Loads of needed experts that were not resident, and of predicted ones.
    useless : int
        Prefetch loads whose expert was evicted without having been needed; with :meth:`Residency.unused`, which are
        resident still, all that were in vain.
    """

    accesses: int = 0
    hits: int = 0
    demand_loads: int = 0
    prefetch_loads: int = 0
    useless: int = 0


class _Places:
    """Places for experts with one order of use; the numbers of free places are given out from 0."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._place: OrderedDict[Expert, int] = OrderedDict()

    def __contains__(self, expert: Expert) -> bool:
        return expert in self._place

    def touch(self, expert: Expert) -> int:
        self._place.move_to_end(expert)
        return self._place[expert]

    def put(self, expert: Expert, needed: Collection[Expert], force: bool) -> tuple[int, Expert | None] | None:
        """Make room for an expert, and say where, and whom it replaces; None if all places are needed.

        With `force` the least recently used of the needed gives way then.
        """
        if len(self._place) < self._capacity:
            place, victim = len(self._place), None
        else:
            victim = next((other for other in self._place if other not in needed), None)
            if victim is None:
                if not force:
                    return None
                victim = next(iter(self._place))
            place = self._place.pop(victim)
        self._place[expert] = place
        return place, victim


class Residency:
    """The experts in fast memory, and what is loaded in whose place.

    Parameters
    ----------
    layers : int
        MoE layers.
    capacity : int
        Experts that fit: in all if `shared`, else of each layer.
    shared : bool
        One order of use over the experts of all layers, or one for each layer.
    top_k : int
        Experts that a token needs at a layer.

    Attributes
    ----------
    counts : Counts

    Raises
    ------
    VarError
        If the experts of one token do not fit.
    """

    def __init__(self, layers: int, capacity: int, shared: bool, top_k: int) -> None:
        if capacity < top_k:
            raise VarError(
                f"capacity: {capacity} experts{'' if shared else ' of each layer'} do not hold the {top_k} that one "
                f"token needs at a layer; set it to {top_k} or more"
            )
        self._places = [_Places(capacity)] * layers if shared else [_Places(capacity) for _ in range(layers)]
        self._needed: frozenset[Expert] = frozenset()
        self._unused: set[Expert] = set()
        self.counts = Counts()

    @property
    def unused(self) -> int:
        """Experts that are resident because they were predicted, and have not been needed yet."""
        return len(self._unused)

    def begin(self) -> None:
        """A step begins: nothing is needed yet."""
        self._needed = frozenset()

    def need(self, layer: int, experts: Collection[int]) -> Demand:
        """A layer needs its distinct experts."""
        wanted = [(layer, expert) for expert in sorted(set(experts))]
        self._needed = frozenset(wanted)
        places = self._places[layer]
        resident = [key for key in wanted if key in places]
        missing = [key for key in wanted if key not in places]
        hits = tuple(Slot(*key, places.touch(key)) for key in resident)
        self._unused.difference_update(resident)
        self.counts.accesses += len(wanted)
        self.counts.hits += len(hits)
        self.counts.demand_loads += len(missing)
        return Demand(hits, self._load(missing, self._needed, force=True))

    def predict(self, layer: int, experts: Collection[int]) -> tuple[Slot, ...]:
        """Experts are predicted for a layer; what is to be loaded, in this order."""
        wanted = [(layer, expert) for expert in sorted(set(experts))]
        places = self._places[layer]
        missing = [key for key in wanted if key not in places]
        for key in wanted:
            if key in places:
                places.touch(key)
        # One prediction does not push out another for the same layer.
        loads = self._load(missing, self._needed.union(wanted), force=False)
        self.counts.prefetch_loads += len(loads)
        return loads

    def _load(self, experts: Sequence[Expert], kept: Collection[Expert], force: bool) -> tuple[Slot, ...]:
        loads = []
        for key in experts:
            found = self._places[key[0]].put(key, kept, force)
            if found is None:
                continue
            place, victim = found
            if victim in self._unused:
                self._unused.discard(victim)
                self.counts.useless += 1
            if not force:
                self._unused.add(key)
            loads.append(Slot(*key, place))
        return tuple(loads)
