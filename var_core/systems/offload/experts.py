"""A model that runs with only some of its experts in fast memory."""

import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from types import TracebackType
from typing import Any

import torch
from torch import nn

from var_core.errors import VarError
from var_core.policy.sequences import Endings, Sequences
from var_core.routing.hooks import Hooked
from var_core.routing.sites import Site
from var_core.systems.offload.combine import ExpertsInPlaces, Group
from var_core.systems.offload.prefetch import Predicted, Predictor
from var_core.systems.offload.residency import Demand, Residency, Slot
from var_core.systems.offload.slots import Slots
from var_core.systems.offload.store import Fused, MappedStore, PinnedStore, Store, fused_parameters
from var_core.systems.offload.transfer import Link, StreamTransfers, ThreadTransfers, Transfers


@dataclass(frozen=True)
class OffloadCounts:
    """What has been counted since an offloaded model was entered.

    Attributes
    ----------
    accesses, hits, demand_loads, prefetch_loads, useless : int
        As :class:`var_core.systems.offload.residency.Counts`.
    unused : int
        Experts that are resident because they were predicted, and have not been needed.
    late : int
        Hits that were still on their way.
    bytes_moved : int
        Of all loads.
    stall_seconds : float
        That layers waited for experts.
    """

    accesses: int = 0
    hits: int = 0
    demand_loads: int = 0
    prefetch_loads: int = 0
    useless: int = 0
    unused: int = 0
    late: int = 0
    bytes_moved: int = 0
    stall_seconds: float = 0.0

    def since(self, before: "OffloadCounts") -> "OffloadCounts":
        """What came on top of earlier counts; of what is unused, what is now."""
        mine, theirs = asdict(self), asdict(before)
        return OffloadCounts(**{**{name: mine[name] - theirs[name] for name in mine}, "unused": self.unused})


class Offloaded(Hooked):
    """Context manager in which a model's experts are taken out of it, and streamed into a few places when needed.

    A layer's forward waits until the experts that its tokens are given are in fast memory, and runs the model's own
    forward on them; it computes what the model computes, to the bit where the kernels do not depend on the number of
    experts. The experts' own parameters, which may be on the meta device, are put back at the end; every entering
    begins with empty fast memory.

    Parameters
    ----------
    model : transformers.PreTrainedModel
        Causal, in evaluation mode, on one device.
    sites : tuple of Site
        All its MoE layers.
    store : MappedStore or PinnedStore
        With the experts of these layers; for a GPU in pinned memory.
    capacity : int
        Experts that fit: in all if `shared`, else of each layer.
    shared : bool
    top_k : int
        Experts of one token at a layer.
    predictor : Predictor or None, optional
        Says what to load beforehand; None: nothing.
    link : Link or None, optional
        Hold transfers back to a slower link; only on a CPU.
    needed : callable or None, optional
        Called with layer and distinct experts (ascending) whenever a layer needs them.

    Raises
    ------
    VarError
        If the experts cannot be offloaded, the store holds others, or a token's experts do not fit.
    """

    def __init__(
        self,
        model: nn.Module,
        sites: tuple[Site, ...],
        store: MappedStore | PinnedStore,
        capacity: int,
        shared: bool,
        top_k: int,
        predictor: Predictor | None = None,
        link: Link | None = None,
        needed: Callable[[int, Sequence[int]], None] | None = None,
    ) -> None:
        super().__init__()
        for site in sites:
            _check_store(site, store)
        self._model, self._sites, self._store = model, sites, store
        self._capacity, self._shared, self._top_k = capacity, shared, top_k
        self._predictor, self._link, self._needed = predictor, link, needed
        self._residency = Residency(len(sites), capacity, shared, top_k)
        self._device = next(model.get_input_embeddings().parameters()).device  # type: ignore[operator]
        if self._device.type == "cuda" and (link is not None or not isinstance(store, PinnedStore)):
            raise VarError("offloading from a GPU copies from pinned memory over its own link; give no other link")
        self._own: list[tuple[Any, dict[str, nn.Parameter], int]] = []
        self._sequences = Sequences(endings=Endings.of(model))
        self._transfers: Transfers | None = None
        self._predicted: Predicted = ()
        self._late = self._bytes = 0
        self._stall = 0.0

    @property
    def counts(self) -> OffloadCounts:
        """Since the model was entered."""
        own = asdict(self._residency.counts)
        return OffloadCounts(
            **own,
            unused=self._residency.unused,
            late=self._late,
            bytes_moved=self._bytes,
            stall_seconds=self._stall,
        )

    def __enter__(self) -> "Offloaded":
        layers = len(self._sites)
        self._residency = Residency(layers, self._capacity, self._shared, self._top_k)
        self._slots = Slots(self._store, layers, self._capacity, self._shared, self._device)
        self._late, self._bytes, self._stall = 0, 0, 0.0
        self._transfers = self._new_transfers().__enter__()
        base = getattr(self._model, "base_model", self._model)
        self._handles.append(base.register_forward_pre_hook(self._begin, with_kwargs=True))
        for site in self._sites:
            self._take_out(site)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        super().__exit__(kind, error, trace)
        if self._transfers is not None:
            self._transfers.__exit__(kind, error, trace)
        for module, parameters, experts in self._own:
            del module.forward  # the instance's; the class has its own
            module.num_experts = experts
            for name, parameter in parameters.items():
                setattr(module, name, parameter)
        self._own.clear()

    def _new_transfers(self) -> Transfers:
        if self._device.type == "cuda":
            return StreamTransfers(self._store, self._slots)
        return ThreadTransfers(self._store, self._slots, self._link)

    def _take_out(self, site: Site) -> None:
        """Give the places to a site's experts for weights, and wrap their forward."""
        module: Any = site.experts
        self._own.append((module, fused_parameters(site), module.num_experts))
        runner = ExpertsInPlaces(site)
        for name, rows in self._slots.of(site.layer).items():
            setattr(module, name, nn.Parameter(rows, requires_grad=False))
        module.num_experts = self._slots.capacity

        def forward(*arguments: Any, **keywords: Any) -> torch.Tensor:
            return self._run(site.layer, runner, arguments, keywords)

        module.forward = forward

    def _begin(self, module: nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> None:
        self._residency.begin()
        if self._predictor is None:
            return
        given = {**dict(zip(("input_ids", "attention_mask", "position_ids"), arguments, strict=False)), **keywords}
        tokens, _ = self._sequences.read(given)
        self._predicted = self._predictor.begins(
            tokens.ids[tokens.counts], tokens.previous[tokens.counts], tokens.position[tokens.counts]
        )
        self._prefetch(0, self._predicted[0])

    def _prefetch(self, layer: int, experts: Collection[int]) -> None:
        loads = self._residency.predict(layer, experts)
        if loads:
            self._bytes += len(loads) * self._slots.expert_bytes(layer)
            self._running.prefetch(loads)

    def _prefetch_behind(self, layer: int, experts: Sequence[int]) -> None:
        if self._predictor is None or layer + 1 == len(self._sites):
            return
        self._prefetch(layer + 1, {*self._predicted[layer + 1], *self._predictor.decided(layer, experts)})

    @property
    def _running(self) -> Transfers:
        assert self._transfers is not None
        return self._transfers

    def _run(
        self, layer: int, runner: ExpertsInPlaces, arguments: tuple[Any, ...], keywords: dict[str, Any]
    ) -> torch.Tensor:
        experts = runner.needed(arguments, keywords)
        if self._needed is not None:
            self._needed(layer, experts)
        demand = self._residency.need(layer, experts)
        self._bytes += len(demand.loads) * self._slots.expert_bytes(layer)
        self._late += sum(self._running.in_flight(slot) for slot in demand.hits)
        groups = self._groups(layer, experts, demand)
        if len(experts) <= self._slots.capacity:
            return runner.together(arguments, keywords, next(groups))
        return runner.by_groups(arguments, keywords, groups)

    def _groups(self, layer: int, experts: Sequence[int], demand: Demand) -> Iterator[Group]:
        """Groups of experts that are in fast memory together; asked for the next, it takes the last one's places.

        Before the last of them predictions for the next layer are issued.
        """
        group = {slot.expert: slot.place for slot in demand.hits}
        with self._stalled():
            for slot in demand.hits:
                self._running.wait(slot)
        waiting: list[Slot] = []
        taken = set(group.values())
        for slot in demand.loads:
            if slot.place in taken:
                self._load(waiting)
                yield group
                group, taken, waiting = {}, set(), []
            group[slot.expert] = slot.place
            taken.add(slot.place)
            waiting.append(slot)
        self._load(waiting)
        self._prefetch_behind(layer, experts)
        yield group

    def _load(self, slots: Sequence[Slot]) -> None:
        if slots:
            with self._stalled():
                self._running.load(slots)

    @contextmanager
    def _stalled(self) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self._stall += time.perf_counter() - start


def _check_store(site: Site, store: Store) -> None:
    stored = store.layout(site.layer)
    own = {name: Fused(each.dtype, tuple(each.shape[1:])) for name, each in fused_parameters(site).items()}
    if dict(stored) != own or store.experts(site.layer) != site.number_of_experts:
        raise VarError(
            f"MoE layer {site.path}: the stored experts are not of this model's shape; write the model's experts anew"
        )
