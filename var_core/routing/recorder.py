"""Reading routing decisions from a running model, without changing what it computes."""

from collections.abc import Callable
from types import TracebackType
from typing import Any

import torch
from torch import nn

from var_core.errors import VarError
from var_core.routing.batch import RoutedBatch
from var_core.routing.hooks import Hooked
from var_core.routing.readers import Decision, Reader
from var_core.routing.sites import Site


class Recorder(Hooked):
    """Context manager that records what the experts of every site are given.

    The selection is taken where it is used, before the experts run, and never derived again from the logits: for
    many families the top k logits are not the selection. The hooks only keep references; nothing is computed, and no
    device waited for, before :meth:`take`.

    Parameters
    ----------
    sites : tuple of Site
        The layers to record, from :func:`var_core.routing.sites.find_sites`.
    """

    def __init__(self, sites: tuple[Site, ...]) -> None:
        super().__init__()
        self._sites = sites
        self._outputs: dict[int, Any] = {}
        self._given: dict[int, tuple[torch.Tensor, ...]] = {}

    def __enter__(self) -> "Recorder":
        for site in self._sites:
            self._handles.append(site.router.register_forward_hook(self._router_hook(site)))
            if site.reader.given:
                hook = self._experts_hook(site, site.reader)
                self._handles.append(site.experts.register_forward_pre_hook(hook, with_kwargs=True))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        super().__exit__(kind, error, trace)
        self.forget()

    def forget(self) -> None:
        """Drop what has been decided since the last :meth:`take`: a forward pass that failed leaves some of it."""
        self._outputs.clear()
        self._given.clear()

    def take(self) -> RoutedBatch:
        """Return the decisions of the forward pass since the last call, and forget them.

        Layers with fewer experts or choices than others are padded as :class:`RoutedBatch` says.

        Raises
        ------
        VarError
            If a site did not decide about any token, or if layers saw different numbers of tokens.
        """
        decisions = [self._decode(site) for site in self._sites]
        self.forget()
        silent = [s for s, d in zip(self._sites, decisions, strict=True) if d is None or not d.logits.shape[0]]
        if silent:
            raise VarError(_silence(silent, len(self._sites)))
        return _stack(self._sites, [d for d in decisions if d is not None])

    def _decode(self, site: Site) -> Decision | None:
        given = self._given.get(site.layer, ())
        if site.layer not in self._outputs or (site.reader.given and not given):
            return None
        return site.reader.decode(site, given, self._outputs[site.layer])

    def _router_hook(self, site: Site) -> Callable[..., None]:
        layer, outputs = site.layer, self._outputs

        def hook(module: nn.Module, arguments: tuple[Any, ...], output: Any) -> None:
            if layer in outputs:
                raise VarError(_TWICE.format(path=site.path))
            outputs[layer] = output

        return hook

    def _experts_hook(self, site: Site, reader: Reader) -> Callable[..., None]:
        layer, given = site.layer, self._given
        index, weight = reader.given

        def hook(module: nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> None:
            if layer in given:
                raise VarError(_TWICE.format(path=site.path))
            given[layer] = (index.read(arguments, keywords), weight.read(arguments, keywords))

        return hook


_TWICE = (
    "MoE layer {path} decided twice before its decisions were taken: run one forward pass at a time, and switch "
    "gradient checkpointing off (model.gradient_checkpointing_disable())"
)


def _silence(silent: list[Site], sites: int) -> str:
    if len(silent) == sites:
        return (
            f"none of the {sites} MoE layers has made a decision (the first is {silent[0].path}): if a forward pass "
            "has run since the last decisions were taken, it bypassed their modules; load MXFP4 models with "
            "Mxfp4Config(dequantize=True), load without use_kernels, and attach before torch.compile"
        )
    return (
        f"{len(silent)} of {sites} MoE layers made no decision, first {silent[0].path}: if text does not reach it (it "
        "is for images or sound), leave it out with models.<name>.exclude_sites; if a kernel replaces it, load the "
        "model without use_kernels"
    )


def _stack(sites: tuple[Site, ...], decisions: list[Decision]) -> RoutedBatch:
    """Put all layers' decisions into one batch on the first layer's device."""
    tokens = [d.logits.shape[0] for d in decisions]
    for site, count in zip(sites, tokens, strict=True):
        if count != tokens[0]:
            raise VarError(
                f"MoE layer {site.path} decided about {count} tokens, {sites[0].path} about {tokens[0]}; give encoder "
                "and decoder the same tokens, or leave one of them out with models.<name>.exclude_sites"
            )
    device = decisions[0].logits.device
    experts = max(d.logits.shape[1] for d in decisions)
    top_k = max(d.experts.shape[1] for d in decisions)
    logits, chosen, weights = [], [], []
    for decision in decisions:
        width, slots = decision.logits.shape[1], decision.experts.shape[1]
        index = decision.experts.to(device, torch.int64)
        if width < experts:
            # A dropped token's empty slot says E of its own layer.
            index = index.masked_fill(index == width, experts)
        logits.append(_widened(decision.logits.to(device), experts - width, float("-inf")))
        chosen.append(_widened(index, top_k - slots, experts))
        weights.append(_widened(decision.weights.to(device), top_k - slots, 0))
    return RoutedBatch(logits=torch.stack(logits), experts=torch.stack(chosen), weights=torch.stack(weights))


def _widened(tensor: torch.Tensor, columns: int, value: float) -> torch.Tensor:
    return torch.nn.functional.pad(tensor, (0, columns), value=value) if columns else tensor
