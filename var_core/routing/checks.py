"""Checks on attaching to a model: that what is recorded is what its layers compute with, and what was expected."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from var_core.config.models import Expectation
from var_core.errors import VarError
from var_core.routing.batch import RouterLayout
from var_core.routing.inputs import text_inputs
from var_core.routing.readers import Call
from var_core.routing.sites import Site

_RELATIVE_ERROR = {torch.float32: 1e-5, torch.float16: 1e-2, torch.bfloat16: 5e-2}


def check_attach(model: nn.Module, sites: tuple[Site, ...], sample: Mapping[str, Any]) -> list[float]:
    """Check that every site's output is the weighted sum of the experts that are recorded, run one at a time.

    Takes one forward pass over the sample; of each layer only an error is kept.

    Parameters
    ----------
    model : torch.nn.Module
        The model.
    sites : tuple of Site
        Its layers.
    sample : mapping
        Keyword arguments of a forward pass over a few tokens, see :func:`var_core.routing.inputs.text_inputs`.

    Returns
    -------
    list of float
        Largest difference at each site, relative to its largest output; NaN where the site did not run (which
        :meth:`var_core.routing.recorder.Recorder.take` refuses).

    Raises
    ------
    VarError
        If a site computes something else, naming it and the error.
    """
    errors: dict[int, torch.Tensor] = {}
    handles = []
    for site in sites:
        router_hook, checked_hook = _recombination_hooks(site, errors)
        handles.append(site.router.register_forward_hook(router_hook, with_kwargs=True))
        checked = site.experts if site.reader.checked == "experts" else site.router
        handles.append(checked.register_forward_hook(checked_hook, with_kwargs=True))
    try:
        with torch.inference_mode():
            model(**sample)
    finally:
        for handle in handles:
            handle.remove()
    dtype = next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)
    tolerance = _RELATIVE_ERROR.get(dtype, 5e-2)
    found = [float(errors[site.layer]) if site.layer in errors else float("nan") for site in sites]
    for site, error in zip(sites, found, strict=True):
        if site.layer in errors and not error <= tolerance:
            raise VarError(
                f"MoE layer {site.path} does not compute the weighted sum of the experts it was given (relative error "
                f"{error:.2g}, at most {tolerance:.0e} in {str(dtype).removeprefix('torch.')} is rounding), so that "
                "recorded decisions would not be its own; load the model without kernels or other changes to its "
                "blocks, or leave the layer out with models.<name>.exclude_sites"
            )
    return found


def _recombination_hooks(
    site: Site, errors: dict[int, torch.Tensor]
) -> tuple[Callable[..., None], Callable[..., None]]:
    routed: list[Call] = []
    running = False

    def on_router(module: nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any], output: Any) -> None:
        if not running:
            routed.append(Call(arguments, keywords, output))

    def on_checked(module: nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any], output: Any) -> None:
        nonlocal running
        if running or not routed:
            return
        router, checked = routed.pop(), Call(arguments, keywords, output)
        given = tuple(parameter.read(arguments, keywords) for parameter in site.reader.given)
        decision = site.reader.decode(site, given, router.output)
        if not decision.experts.shape[0]:
            return
        running = True  # recombining may run the router, and this hook with it, again
        actual, expected = site.reader.recombine(site, decision, router, checked)
        running = False
        errors[site.layer] = _relative_error(actual.float(), expected.float())

    return on_router, on_checked


def _relative_error(actual: torch.Tensor, expected: torch.Tensor) -> torch.Tensor:
    """Largest difference over the largest value, where the layer computed numbers at all."""
    finite = actual.isfinite()
    scale = actual.where(finite, 0).abs().max().clamp_min(torch.finfo(torch.float32).tiny)
    return (actual - expected).where(finite, 0).abs().max() / scale


def check_documents_are_isolated(model: nn.Module, vocabulary: int, device: torch.device) -> None:
    """Check that restarting positions keep one document from reading another within a packed sequence.

    Two sequences that differ in their first document only must agree in what the second one sees.

    Raises
    ------
    VarError
        If they do not.
    """
    half = 8
    first = torch.arange(half).remainder(vocabulary)
    tokens = torch.stack([torch.cat([first, first]), torch.cat([(first + 1).remainder(vocabulary), first])])
    positions = torch.arange(half).repeat(2).expand(2, -1)
    with torch.inference_mode():
        states = model(**text_inputs(model, tokens.to(device), positions.to(device)))[0].float()
    leak = (states[0, half:] - states[1, half:]).abs().max()
    if leak > 1e-2 * states.abs().max():
        raise VarError(
            "sequences.isolate_documents: this model reads across documents in a packed sequence although positions "
            "restart; set it to false, so that documents are separated by a boundary token only"
        )


def check_expectation(layout: RouterLayout, expect: Expectation, model: str) -> None:
    """Compare the loaded model with the numbers that the configuration states.

    Where layers differ, experts and k are those of the layer that has most.

    Raises
    ------
    VarError
        On the first number that differs, naming its key.
    """
    found = {"experts": layout.experts, "top_k": layout.top_k, "layers": len(layout)}
    for key, number in found.items():
        expected = getattr(expect, key)
        if expected is not None and expected != number:
            raise VarError(
                f"models.{model}.expect.{key}: the configuration says {expected}, the model has {number}; "
                "correct the number, or the model's name or revision"
            )
