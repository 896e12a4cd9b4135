"""Reading routing decisions from a running model, without changing what it computes."""

import inspect
from types import TracebackType
from typing import Any

import torch
from torch import nn

from var_core.errors import VarError
from var_core.routing.batch import RoutedBatch
from var_core.routing.sites import Site, logits_of


class Recorder:
    """Context manager that records what the experts of every site are given.

    The selection is taken where it is used, before the experts run, and never derived again from the logits: for
    many families the top k logits are not the selection.

    Parameters
    ----------
    sites : tuple of Site
        The layers to record, from :func:`var_core.routing.sites.find_sites`.
    """

    def __init__(self, sites: tuple[Site, ...]) -> None:
        self._sites = sites
        self._handles: list[Any] = []
        self._logits: dict[int, torch.Tensor] = {}
        self._decisions: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    def __enter__(self) -> "Recorder":
        for site in self._sites:
            self._handles.append(site.router.register_forward_hook(self._router_hook(site)))
            self._handles.append(site.experts.register_forward_pre_hook(self._experts_hook(site), with_kwargs=True))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def take(self) -> RoutedBatch:
        """Return the decisions of the forward pass since the last call, and forget them.

        Raises
        ------
        VarError
            If a site did not fire, or if layers differ in their numbers of tokens, experts or choices.
        """
        silent = [s.path for s in self._sites if s.layer not in self._decisions or s.layer not in self._logits]
        if silent:
            raise VarError(
                f"{len(silent)} of {len(self._sites)} MoE layers made no decision, first {silent[0]}: "
                "a compiled or kernel-replaced block bypasses its modules; load the model in its plain form"
            )
        order = range(len(self._sites))
        experts = [self._decisions[layer][0] for layer in order]
        logits = [self._logits[layer] for layer in order]
        if len({tuple(e.shape) for e in experts}) > 1 or len({tuple(x.shape) for x in logits}) > 1:
            raise VarError(
                "the MoE layers differ in tokens, experts or top-k (shapes "
                f"{sorted({tuple(e.shape) for e in experts})}); such models are not supported yet"
            )
        batch = RoutedBatch(
            logits=torch.stack([x.to(logits[0].device) for x in logits]),
            experts=torch.stack([e.to(logits[0].device) for e in experts]).long(),
            weights=torch.stack([self._decisions[layer][1].to(logits[0].device) for layer in order]),
        )
        self._logits.clear()
        self._decisions.clear()
        return batch

    def _router_hook(self, site: Site) -> Any:
        def hook(module: nn.Module, arguments: tuple[Any, ...], output: Any) -> None:
            self._logits[site.layer] = logits_of(output, site.logits_index).detach().flatten(0, -2)

        return hook

    def _experts_hook(self, site: Site) -> Any:
        signature = inspect.signature(type(site.experts).forward)

        def hook(module: nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> None:
            given = signature.bind(module, *arguments, **keywords).arguments
            index, weights = given[site.index_parameter], given[site.weight_parameter]
            self._decisions[site.layer] = (index.detach().flatten(0, -2), weights.detach().flatten(0, -2))

        return hook
