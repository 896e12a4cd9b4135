"""What capturing and forcing make of each MoE family, found out on a tiny model of it."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from moe_families.build import build_family, tokens
from moe_families.configs import EXCLUDED, SITES, VOCABULARY
from moe_families.wholes import WHOLES, build_whole
from var_core.errors import VarError
from var_core.routing.batch import RoutedBatch
from var_core.routing.checks import check_attach, check_documents_are_isolated
from var_core.routing.forcing import Chosen, Forcer
from var_core.routing.inputs import text_inputs
from var_core.routing.readers import ContractReader
from var_core.routing.recorder import Recorder
from var_core.routing.scoring import IdentifiedLayout, identify_layout
from var_core.routing.sites import Site, find_sites


@dataclass(frozen=True)
class Row:
    """One family's results.

    Attributes
    ----------
    family : str
        Its name in transformers.
    refused : str or None
        Why it is refused; then nothing else is known.
    sites, expected_sites : int
        MoE layers found, and how many the configuration asks for.
    experts, top_k, scoring, basis : str
        As found; values of different layers are joined with ``/``.
    recombination : float
        Largest relative difference between a layer's output and the sum of the single experts that were recorded.
    top_k_of_logits : bool
        Whether picking the top k of the logits would have given the selection.
    unforceable : str or None
        Why it cannot be forced; None if it can.
    permuted, unforced : float
        Relative change of the model's output after its experts were permuted: with permuted decisions forced, and
        without (the control).
    isolates : bool
        Whether restarting positions keep packed documents apart.
    in_order : bool
        Whether the layers are numbered in the order in which they run.
    wrapped : bool or None
        Whether the family's model for images or sound, given text, decides as its text model; None if it has none.
    reader : str
        ``"contract"``, or the adapter.
    """

    family: str
    refused: str | None = None
    sites: int = 0
    expected_sites: int = 0
    experts: str = ""
    top_k: str = ""
    scoring: str = ""
    basis: str = ""
    recombination: float = float("nan")
    top_k_of_logits: bool = False
    unforceable: str | None = None
    permuted: float = float("nan")
    unforced: float = float("nan")
    isolates: bool = False
    in_order: bool = False
    wrapped: bool | None = None
    reader: str = "contract"


def examine(family: str) -> Row:
    """Build a tiny model of a family, and capture and force it."""
    model = build_family(family)
    try:
        sites = find_sites(model, EXCLUDED.get(family, ()))
    except VarError as error:
        return Row(family, refused=str(error))
    inputs = text_inputs(model, tokens())
    with _order_of(sites) as order:
        output, batch = run(model, sites, inputs)
    identified = identify_layout(sites, batch)
    errors = check_attach(model, sites, text_inputs(model, tokens(1, 8)))
    unforceable = next((site.reader.unforceable for site in sites if not site.forceable), None)
    isolates = _isolates(model)
    permuted, unforced = (float("nan"),) * 2 if unforceable else permute_and_force(model, sites, inputs, output)
    return Row(
        family=family,
        sites=len(sites),
        expected_sites=SITES[family],
        experts=_joined(layer.experts for layer in identified.layout.layers),
        top_k=_joined(layer.top_k for layer in identified.layout.layers),
        scoring=_joined(layer.scoring for layer in identified.layout.layers),
        basis=_joined(identified.basis),
        recombination=max(errors),
        top_k_of_logits=_is_top_k(identified, batch),
        unforceable=unforceable,
        permuted=permuted,
        unforced=unforced,
        isolates=isolates,
        in_order=order == sorted(order),
        wrapped=_decides_alike(family, batch) if family in WHOLES else None,
        reader="contract" if isinstance(sites[0].reader, ContractReader) else "adapter",
    )


def run(
    model: PreTrainedModel, sites: tuple[Site, ...], inputs: dict[str, Any], forcer: Forcer | None = None
) -> tuple[torch.Tensor, RoutedBatch]:
    """Run a model; return its last hidden states and what its experts were given."""
    with torch.inference_mode(), forcer or Forcer(sites, {}), Recorder(sites) as recorder:
        output = model(**inputs).last_hidden_state
        return output, recorder.take()


@contextlib.contextmanager
def _order_of(sites: tuple[Site, ...]) -> Iterator[list[int]]:
    """Collect the layers' numbers in the order in which their routers run."""
    order: list[int] = []
    handles = [
        site.router.register_forward_hook(lambda module, given, output, layer=site.layer: order.append(layer))
        for site in sites
    ]
    yield order
    for handle in handles:
        handle.remove()


def permute_and_force(
    model: PreTrainedModel, sites: tuple[Site, ...], inputs: dict[str, Any], output: torch.Tensor
) -> tuple[float, float]:
    """Permute all experts; return the output's relative change with permuted decisions forced, and without."""
    decisions = {}
    for site in sites:
        place = permute_experts(site)

        def moved(experts: torch.Tensor, weights: torch.Tensor, place: torch.Tensor = place) -> Chosen:
            return place[experts], weights

        decisions[site.layer] = moved
    forced, _ = run(model, sites, inputs, Forcer(sites, decisions))
    unforced, _ = run(model, sites, inputs)
    return relative_change(forced, output), relative_change(unforced, output)


def permute_experts(site: Site) -> torch.Tensor:
    """Permute a layer's experts in place; return where each went, identity experts (without parameters) staying."""
    parameters = [_a_row_an_expert(site, parameter) for parameter in site.experts.parameters()]
    parameters = [parameter for parameter in parameters if parameter is not None]
    count = min(len(parameter) for parameter in parameters)
    order = torch.randperm(count, generator=torch.Generator().manual_seed(site.layer)).roll(1)
    for parameter in parameters:
        parameter[:count] = parameter[:count][order]
    place = torch.arange(site.number_of_experts)
    place[order] = torch.arange(count)
    return place


def _a_row_an_expert(site: Site, parameter: nn.Parameter) -> torch.Tensor | None:
    """View a parameter with experts as its first dimension; None if experts share it."""
    if parameter.ndim == 2 and not any(each.ndim == 3 for each in site.experts.parameters()):
        return parameter.data.view(
            site.number_of_experts, -1, parameter.shape[-1]
        )  # dbrx stores them one below another
    return parameter.data if parameter.ndim > 1 else None


def relative_change(changed: torch.Tensor, original: torch.Tensor) -> float:
    """Largest difference over the largest value."""
    return float((changed - original).abs().max() / original.abs().max())


def _is_top_k(identified: IdentifiedLayout, batch: RoutedBatch) -> bool:
    for layer, router in enumerate(identified.layout.layers):
        top = batch.logits[layer].topk(router.top_k, dim=1).indices.sort(1).values
        if not torch.equal(top, batch.experts[layer, :, : router.top_k].sort(1).values):
            return False
    return True


def _decides_alike(family: str, batch: RoutedBatch) -> bool:
    whole = build_whole(family)
    sites = find_sites(whole, EXCLUDED.get(family, ()))
    with torch.inference_mode(), Recorder(sites) as recorder:
        whole(**text_inputs(whole, tokens()))
        return torch.equal(recorder.take().experts, batch.experts)


def _isolates(model: PreTrainedModel) -> bool:
    try:
        check_documents_are_isolated(model, VOCABULARY, torch.device("cpu"))
    except VarError:
        return False
    return True


def _joined(values: Any) -> str:
    return "/".join(dict.fromkeys(map(str, values)))
