"""Named ranges around the parts of a running model, and of a policy in it.

Parts are found by the MoE layers that :func:`var_core.routing.sites.find_sites` finds, and by the names that decoder
layers of ``transformers`` give their other modules. While a :class:`Ranges` is entered, the forward of each is wrapped
on the instance; at all other times model and policy are what they were, and pay nothing.
"""

import functools
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Protocol

from torch import nn

from var_core.policy.runtime import RuntimePolicy
from var_core.routing.sites import Site
from var_core.systems.names import (
    ATTENTION,
    AUDIT,
    CACHE,
    DENSE,
    DISPATCH,
    EXPERTS,
    GATE,
    LM_HEAD,
    POLICY_DECISION,
    SHARED_EXPERTS,
    TOP_K,
)

_MIXERS = frozenset(
    {"self_attn", "self_attention", "attention", "attn", "linear_attn", "norm_attn_norm", "mamba", "conv", "mixer"}
)
"""What decoder layers call the module in which tokens meet each other."""
_DENSE = frozenset({"mlp", "mlps", "feed_forward", "ffn", "block_sparse_moe"})
_SEEN_BY_OBSERVERS = ("begins", "asks", "decided", "passed")
_OWN_TOP_K = "route_tokens_to_experts"


class Marker(Protocol):
    """Is told when a part begins and when it ends; parts may lie within each other."""

    def enter(self, part: str) -> None:
        """A part begins."""

    def leave(self) -> None:
        """The part that began last ends."""


@dataclass(frozen=True)
class Place:
    """Where a part is done.

    Attributes
    ----------
    part : str
        One of :data:`var_core.systems.names.PARTS`.
    module : torch.nn.Module
    method : str
        What is called of it.
    """

    part: str
    module: nn.Module
    method: str = "forward"


def find_places(model: nn.Module, sites: tuple[Site, ...]) -> tuple[Place, ...]:
    """Find where the parts of a model are done.

    Choosing the k best experts is a part of its own only where the block does it in a method of its own; in all other
    families the router does it, and it belongs to the gate. What is left of an MoE block is dispatch, unless experts
    and router lie in the decoder layer itself. A router that lies within the experts' module, or is that module, is a
    part only as far as it is a module of its own.

    Parameters
    ----------
    model : torch.nn.Module
    sites : tuple of Site
        Its MoE layers.
    """
    places: dict[tuple[nn.Module, str], Place] = {}

    def add(part: str, module: nn.Module, method: str = "forward") -> None:
        places.setdefault((module, method), Place(part, module, method))

    for site in sites:
        add(EXPERTS, site.experts)
        add(GATE, site.router)
        path = site.path.rpartition(".")[0]
        if path.rpartition(".")[2].isdigit():
            continue
        block = model.get_submodule(path)
        add(DISPATCH, block)
        for child in _shared(block):
            add(SHARED_EXPERTS, child)
        if hasattr(block, _OWN_TOP_K):
            add(TOP_K, block, _OWN_TOP_K)
    with_experts = {_layer_path(site.path) for site in sites}
    for path, layer in _decoder_layers(model, with_experts):
        for child in _shared(layer):
            add(SHARED_EXPERTS, child)
        for name, child in layer.named_children():
            if name in _MIXERS or (name in _DENSE and path not in with_experts):
                for module in child if isinstance(child, nn.ModuleList) else [child]:
                    add(ATTENTION if name in _MIXERS else DENSE, module)
    head = getattr(model, "get_output_embeddings", lambda: None)()
    if head is not None:
        add(LM_HEAD, head)
    return tuple(places.values())


def _shared(parent: nn.Module) -> Iterator[nn.Module]:
    for name, child in parent.named_children():
        if "shared" in name and "norm" not in name:
            yield child


def _layer_path(path: str) -> str:
    """Path of the decoder layer that a module lies in: down to the last number."""
    return re.sub(r"(.*\.\d+)(\..*)?$", r"\1", path)


def _decoder_layers(model: nn.Module, with_experts: set[str]) -> Iterator[tuple[str, nn.Module]]:
    """All layers of the lists that layers with experts lie in, those without experts too."""
    for parent in dict.fromkeys(path.rpartition(".")[0] for path in sorted(with_experts)):
        for name, layer in model.get_submodule(parent).named_children():
            yield f"{parent}.{name}", layer


class Ranges:
    """Context manager that tells a marker of every part of a model as it begins and ends.

    A policy is entered after its ranges. Under it, `policy_decision` is all that it does in the routers' place and
    before the experts run; `gate` is what of that is the router's own work, asked by an audit or not; `cache` looking
    contexts up and remembering what was decided in them; and `audit` what observers do.

    Parameters
    ----------
    model : torch.nn.Module
    sites : tuple of Site
        Its MoE layers.
    marker : Marker
    policy : RuntimePolicy or None, optional
        One for this model, to be entered within.

    Raises
    ------
    ValueError
        If the policy has been entered before.
    """

    def __init__(
        self, model: nn.Module, sites: tuple[Site, ...], marker: Marker, policy: RuntimePolicy | None = None
    ) -> None:
        self._places, self._marker, self._policy = find_places(model, sites), marker, policy
        self._wrapped: list[tuple[Any, str, Any]] = []

    def __enter__(self) -> "Ranges":
        if self._policy is not None and self._policy._handles:
            raise ValueError("enter the ranges first, then the policy: its own work could not be told apart")
        for place in self._places:
            self._replace(place.module, place.method, functools.partial(self._marked, place.part))
        if self._policy is not None:
            self._enter_policy(self._policy)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for owner, name, own in reversed(self._wrapped):
            if own is None:
                delattr(owner, name)
            else:
                setattr(owner, name, own)
        self._wrapped.clear()

    def _enter_policy(self, policy: RuntimePolicy) -> None:
        """Wrap what the policy will hook into the model, and what that calls."""
        decision = functools.partial(self._marked, POLICY_DECISION)
        self._replace(policy, "_begin", decision)
        self._replace(policy, "_experts_hook", lambda make: lambda site: decision(make(site)))
        for router in policy._routers:
            self._replace(router, "_forward", decision)
        decider = policy._decider
        if policy._settings.cache is not None:
            self._replace(decider, "remember", functools.partial(self._marked, CACHE))
            self._replace(decider, "begin", self._with_cache)
            self._mark_look_up()
        for observer in policy._observers:
            for name in _SEEN_BY_OBSERVERS:
                self._replace(observer, name, functools.partial(self._marked, AUDIT))

    def _with_cache(self, begin: Callable[..., None]) -> Callable[..., None]:
        """New sequences may begin with a new cache."""

        def call(*arguments: Any, **keywords: Any) -> None:
            begin(*arguments, **keywords)
            self._mark_look_up()

        return call

    def _mark_look_up(self) -> None:
        assert self._policy is not None
        cache = self._policy._decider._cache
        if cache is not None and "look_up" not in vars(cache):
            self._replace(cache, "look_up", functools.partial(self._marked, CACHE))

    def _marked(self, part: str, own: Callable[..., Any]) -> Callable[..., Any]:
        marker = self._marker

        @functools.wraps(own)
        def call(*arguments: Any, **keywords: Any) -> Any:
            marker.enter(part)
            try:
                return own(*arguments, **keywords)
            finally:
                marker.leave()

        return call

    def _replace(self, owner: Any, name: str, wrap: Callable[[Any], Any]) -> None:
        """Wrap a method on its instance, where accelerate may have put one already."""
        own = getattr(owner, name)
        self._wrapped.append((owner, name, own if name in vars(owner) else None))
        setattr(owner, name, wrap(own))
