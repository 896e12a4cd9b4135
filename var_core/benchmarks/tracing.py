"""Reading the routers with nnsight, a general tracer of what happens inside a model."""

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from var_core.benchmarks.subject import Input
from var_core.routing.batch import RoutedBatch
from var_core.routing.sites import Site


def same_weights(model: Any) -> Any:
    """A copy of a model that shares all its weights: what changes modules for good must not slow down the others.

    nnsight replaces the forward of every module that it wraps.
    """
    shared = [*model.parameters(), *model.buffers()]
    return copy.deepcopy(model, {id(tensor): tensor for tensor in shared})


def tracer(model: nn.Module, sites: tuple[Site, ...], prefix: str, **arguments: Any) -> Callable[[Input], RoutedBatch]:
    """Return a function that traces the router outputs of every layer.

    Parameters
    ----------
    model : torch.nn.Module
        Base or causal model; it is wrapped for good.
    sites : tuple of Site
        Sites of the base model.
    prefix : str
        What comes before their paths in `model`.
    **arguments
        Further arguments of its forward.

    Raises
    ------
    ImportError
        If nnsight is not installed.
    """
    import nnsight

    wrapped: Any = nnsight.NNsight(model)
    routers = [wrapped.get(f"{prefix}{site.router_path}") for site in sites]

    def trace(given: Input) -> RoutedBatch:
        outputs: list[Any] = []
        with wrapped.trace(input_ids=given.token_ids, position_ids=given.positions, **arguments):
            for router in routers:  # nnsight reads this block's statements and runs them inside the model
                outputs.append(router.output.save())
        logits, weights, experts = (torch.stack(part) for part in zip(*outputs, strict=True))
        return RoutedBatch(logits, experts, weights)

    return trace
