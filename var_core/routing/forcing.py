"""Putting decisions in the place of the router's."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from var_core.errors import VarError
from var_core.routing.hooks import Hooked
from var_core.routing.sites import Site

Chosen = tuple[torch.Tensor, torch.Tensor]
"""Experts, int64 [T, k], and their weights, [T, k]."""


class Forcer(Hooked):
    """Context manager that replaces what the experts of some sites are given.

    A slot with index E (as recorded batches have for skips and empty slots) or with weight 0 drops its expert; E itself
    never reaches the experts. A recorder that is entered later records what was forced.

    Parameters
    ----------
    sites : tuple of Site
        The model's layers, from :func:`var_core.routing.sites.find_sites`.
    decisions : mapping of int to tensors or function
        What to force at which layer (:attr:`Site.layer`): experts and weights for the T tokens of the next passes,
        or a function that makes them from the router's. k may differ from the router's.

    Raises
    ------
    VarError
        If a layer is not there or cannot be forced, or tensors do not fit it.
    """

    def __init__(
        self, sites: tuple[Site, ...], decisions: Mapping[int, Chosen | Callable[[torch.Tensor, torch.Tensor], Chosen]]
    ) -> None:
        super().__init__()
        self._forced: list[tuple[Site, Chosen | Callable[[torch.Tensor, torch.Tensor], Chosen]]] = []
        known = {site.layer: site for site in sites}
        for layer, decision in decisions.items():
            if layer not in known:
                raise VarError(f"there is no MoE layer {layer} to force a decision at; there are {sorted(known)}")
            site = known[layer]
            if not site.forceable:
                raise VarError(f"MoE layer {site.path}: a decision cannot be forced: {site.reader.unforceable}")
            if not callable(decision):
                _check_chosen(site, decision)
            self._forced.append((site, decision))

    def __enter__(self) -> "Forcer":
        for site, decision in self._forced:
            hook = _hook(site, decision)
            self._handles.append(site.experts.register_forward_pre_hook(hook, with_kwargs=True))
        return self


def _check_chosen(site: Site, chosen: Chosen) -> None:
    experts, weights = chosen
    if experts.shape != weights.shape or experts.ndim != 2:
        raise VarError(
            f"MoE layer {site.path}: forced experts {tuple(experts.shape)} and weights {tuple(weights.shape)} are not "
            "both of shape (tokens, slots)"
        )
    low, high = int(experts.min()), int(experts.max())
    if low < 0 or high > site.number_of_experts:
        raise VarError(
            f"MoE layer {site.path}: forced experts go from {low} to {high}, the layer has 0 to "
            f"{site.number_of_experts - 1} (and {site.number_of_experts} for none)"
        )


def replaced_decision(
    site: Site, arguments: tuple[Any, ...], keywords: dict[str, Any], experts: torch.Tensor, weights: torch.Tensor
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """A call's arguments of a site's experts with another decision, [T, k] each, in the place of its own.

    Raises
    ------
    VarError
        If it is for another number of tokens.
    """
    index, weight = site.reader.given
    own_experts, own_weights = index.read(arguments, keywords), weight.read(arguments, keywords)
    shape = own_experts.shape[:-1]
    if experts.shape[0] != shape.numel():
        raise VarError(f"MoE layer {site.path}: {experts.shape[0]} forced decisions for {shape.numel()} tokens")
    experts = experts.to(own_experts.device).view(*shape, -1)
    weights = weights.to(own_weights).view(*shape, -1)
    none = experts >= site.number_of_experts
    experts = experts.masked_fill(none, 0).to(own_experts.dtype)
    arguments, keywords = index.replaced(arguments, keywords, experts)
    return weight.replaced(arguments, keywords, weights.masked_fill(none, 0))


def _hook(site: Site, decision: Chosen | Callable[[torch.Tensor, torch.Tensor], Chosen]) -> Callable[..., Any]:
    index, weight = site.reader.given

    def hook(module: nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> Any:
        if callable(decision):
            own = (index.read(arguments, keywords), weight.read(arguments, keywords))
            experts, weights = decision(own[0].flatten(0, -2), own[1].flatten(0, -2))
        else:
            experts, weights = decision
        return replaced_decision(site, arguments, keywords, experts, weights)

    return hook
