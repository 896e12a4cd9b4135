"""Checks on attaching to a model: that what is recorded means what the statistics take it to mean."""

import torch
from torch import nn

from var_core.config.models import Expectation
from var_core.errors import VarError
from var_core.routing.batch import RoutedBatch
from var_core.routing.sites import Site

_RELATIVE_ERROR = {torch.float32: 1e-4, torch.bfloat16: 2e-2, torch.float16: 4e-3}


def check_softmax_scoring(sites: tuple[Site, ...], batch: RoutedBatch) -> None:
    """Check that the weights are softmax(logits) of the chosen experts, up to a factor a token.

    Entropy, confidence and margin are defined on the router's own scores; for a router that does not score by
    softmax (sigmoid routers, for example) softmax(logits) would be another quantity.

    Raises
    ------
    VarError
        If a layer scores otherwise, naming it.
    """
    assert batch.logits is not None and batch.weights is not None
    probabilities = torch.softmax(batch.logits.double(), dim=-1).gather(-1, batch.experts)
    weights = batch.weights.double()
    expected = probabilities / probabilities.sum(-1, keepdim=True)
    given = weights / weights.sum(-1, keepdim=True)
    error = (given - expected).abs().amax(dim=(1, 2))
    tolerance = _RELATIVE_ERROR.get(batch.logits.dtype, 2e-2)
    for site in sites:
        if not error[site.layer] <= tolerance and bool(torch.isfinite(batch.logits[site.layer]).all()):
            raise VarError(
                f"router {site.router_path} does not weight experts by softmax of its logits (difference "
                f"{float(error[site.layer]):.2g}); only softmax routers (Mixtral, OLMoE, Qwen-MoE) are supported yet"
            )


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
        states = model(
            input_ids=tokens.to(device), position_ids=positions.to(device), use_cache=False
        ).last_hidden_state.float()
    leak = (states[0, half:] - states[1, half:]).abs().max()
    if leak > 1e-2 * states.abs().max():
        raise VarError(
            "sequences.isolate_documents: this model reads across documents in a packed sequence although positions "
            "restart; set it to false, so that documents are separated by a boundary token only"
        )


def check_expectation(sites: tuple[Site, ...], top_k: int, expect: Expectation, model: str) -> None:
    """Compare the loaded model with the numbers that the configuration states.

    Raises
    ------
    VarError
        On the first number that differs, naming its key.
    """
    found = {"experts": sites[0].number_of_experts, "top_k": top_k, "layers": len(sites)}
    for key, number in found.items():
        expected = getattr(expect, key)
        if expected is not None and expected != number:
            raise VarError(
                f"models.{model}.expect.{key}: the configuration says {expected}, the model has {number}; "
                "correct the number, or the model's name or revision"
            )
