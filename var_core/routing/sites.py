"""Finding the MoE layers of a model: where experts run, and which router feeds them.

Detection goes by the contract that families of ``transformers`` share, ``experts(hidden, index, weights)``, not by a
list of architectures: an experts module is one whose class has a forward with an index-like and a weight-like
parameter; its router is the sibling of the class that the model itself names as the source of ``router_logits``.
"""

import inspect
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import nn

from var_core.errors import VarError

_INDEX_NAMES = frozenset({"top_k_index", "top_k_indices", "router_indices", "selected_experts", "expert_indices"})
_WEIGHT_NAMES = frozenset({"top_k_weights", "routing_weights", "router_weights", "expert_weights"})
_ROUTER_NAMES = ("gate", "router", "wg")


@dataclass(frozen=True)
class Site:
    """One MoE layer of a loaded model.

    Attributes
    ----------
    layer : int
        Place among the MoE layers, from 0, in the order in which modules are registered.
    path : str
        Module path of the experts, which names the site for good.
    router_path : str
        Module path of the router.
    experts, router : torch.nn.Module
        The modules.
    number_of_experts : int
        E, read from the shape of the experts' parameters.
    index_parameter, weight_parameter : str
        Names of the experts' forward parameters that carry the decision.
    logits_index : int
        Which item of the router's output holds the logits, if the output is a tuple.
    """

    layer: int
    path: str
    router_path: str
    experts: nn.Module
    router: nn.Module
    number_of_experts: int
    index_parameter: str
    weight_parameter: str
    logits_index: int


def find_sites(model: nn.Module) -> tuple[Site, ...]:
    """Find all MoE layers of a model.

    Raises
    ------
    VarError
        If there is none, or if the router of one cannot be found.
    """
    recorders = list(_router_recorders(model))
    sites: list[Site] = []
    for path, module in model.named_modules():
        decision = _decision_parameters(type(module))
        if decision is None:
            continue
        router_path, router, logits_index = _find_router(model, path, recorders)
        sites.append(
            Site(
                layer=len(sites),
                path=path,
                router_path=router_path,
                experts=module,
                router=router,
                number_of_experts=_number_of_experts(path, module),
                index_parameter=decision[0],
                weight_parameter=decision[1],
                logits_index=logits_index,
            )
        )
    if not sites:
        raise VarError(
            f"model {type(model).__name__} has no MoE layers: no module takes (hidden, indices, weights); "
            "a dense model has no routing to capture, choose a Mixture-of-Experts model"
        )
    return tuple(sites)


def _decision_parameters(module_class: type[nn.Module]) -> tuple[str, str] | None:
    """Names of the index-like and weight-like parameters of a class's forward, or None."""
    names = list(inspect.signature(module_class.forward).parameters)
    index = next((name for name in names if name in _INDEX_NAMES), None)
    weight = next((name for name in names if name in _WEIGHT_NAMES), None)
    return (index, weight) if index and weight else None


def _router_recorders(model: nn.Module) -> Iterator[tuple[type[nn.Module], int]]:
    """Classes (and output items) that the model or a part of it records as the source of ``router_logits``."""
    for module in model.modules():
        recorder = (getattr(module, "_can_record_outputs", None) or {}).get("router_logits")
        if recorder is not None:
            target = getattr(recorder, "target_class", recorder)
            yield target, int(getattr(recorder, "index", 0) or 0)


def _find_router(
    model: nn.Module, experts_path: str, recorders: list[tuple[type[nn.Module], int]]
) -> tuple[str, nn.Module, int]:
    parent_path = experts_path.rpartition(".")[0]
    siblings = dict(model.get_submodule(parent_path).named_children())
    for name, module in siblings.items():
        for target, logits_index in recorders:
            if isinstance(module, target):
                return f"{parent_path}.{name}", module, logits_index
    for name in _ROUTER_NAMES:
        if name in siblings:
            return f"{parent_path}.{name}", siblings[name], 0
    raise VarError(
        f"model {type(model).__name__}: no router found beside the experts at {experts_path} "
        f"(its neighbours are {', '.join(sorted(siblings))}); this family is not supported"
    )


def _number_of_experts(path: str, experts: nn.Module) -> int:
    """Read E from the fused parameters' leading dimension, or count the experts of a list."""
    fused = [parameter for parameter in experts.parameters(recurse=False) if parameter.ndim == 3]
    if fused:
        return int(fused[0].shape[0])
    if isinstance(experts, nn.ModuleList | nn.ModuleDict):
        return len(experts)
    raise VarError(f"experts at {path} ({type(experts).__name__}): cannot read the number of experts; not supported")


def logits_of(output: object, logits_index: int) -> torch.Tensor:
    """Take the logits out of what a router returned."""
    logits = output[logits_index] if isinstance(output, tuple | list) else output
    if not isinstance(logits, torch.Tensor):
        raise VarError(f"a router returned {type(logits).__name__} where logits were expected; not supported")
    return logits
