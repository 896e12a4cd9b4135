"""Finding the MoE layers of a model: where experts run, and which router feeds them.

Detection goes by the contract that families of ``transformers`` share, ``experts(hidden, index, weights)``, not by a
list of architectures: an experts module is one whose class has a forward with an index-like and a weight-like
parameter; its router is the sibling of the class that the model itself names as the source of ``router_logits``, else
a sibling called gate, router or wg. Four families that break the contract have a reader of their own
(:mod:`var_core.routing.adapters`).
"""

import fnmatch
import inspect
import logging
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace

from torch import nn
from transformers import PreTrainedModel
from transformers.utils.output_capturing import OutputRecorder

from var_core.errors import VarError
from var_core.routing.adapters import DogeReader, JetMoeReader, Llama4Reader, SwitchReader
from var_core.routing.readers import ContractReader, Reader

_LOGGER = logging.getLogger(__name__)

_INDEX_NAMES = frozenset({"top_k_index", "top_k_indices", "router_indices", "selected_experts", "expert_indices"})
_WEIGHT_NAMES = frozenset({"top_k_weights", "routing_weights", "router_weights", "expert_weights"})
_ROUTER_NAMES = ("gate", "router", "wg")
_COUNT_NAMES = ("total_experts", "num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")

_ADAPTERS: dict[str, tuple[type[Reader], str]] = {
    "SwitchTransformersExperts": (SwitchReader, "router"),
    "Llama4TextExperts": (Llama4Reader, "router"),
    "JetMoeMoE": (JetMoeReader, "."),
    "JetMoeMoA": (JetMoeReader, "."),
    "DogeCDMoE": (DogeReader, ""),
}
"""Classes of the families that break the contract: their reader, and where the router is: a sibling's name, ``"."`` for
the child called router, ``""`` for the module itself."""

_REFUSED = {
    "NllbMoeExperts": (
        "the block of nllb_moe hands one-hot masks to experts that expect indices, so that only experts 0 and 1 ever "
        "run, whatever the router decides; there is no routing to capture"
    )
}


@dataclass(frozen=True)
class Site:
    """One MoE layer of a loaded model.

    Attributes
    ----------
    layer : int
        Place among the MoE layers, from 0, in the order in which they run.
    path : str
        Module path of the experts, which names the site for good.
    router_path : str
        Module path of the router.
    experts, router : torch.nn.Module
        The modules.
    number_of_experts : int
        Experts that the experts module can be given: its parameters', and identity experts where it has them. The
        outcomes that the router can choose, E, are the width of its logits, which may be one more (a skip).
    reader : Reader
        How a decision is read from what the modules are given and return.
    """

    layer: int
    path: str
    router_path: str
    experts: nn.Module
    router: nn.Module
    number_of_experts: int
    reader: Reader

    @property
    def forceable(self) -> bool:
        """Whether a decision can be put in the place of the router's."""
        return self.reader.unforceable is None


def find_sites(model: nn.Module, exclude: tuple[str, ...] = ()) -> tuple[Site, ...]:
    """Find all MoE layers of a model that text can reach.

    Layers inside a part of the model whose main input is not token ids (a vision tower, an audio encoder) are left
    out, and logged.

    Parameters
    ----------
    model : torch.nn.Module
        A loaded model; meta tensors are enough.
    exclude : tuple of str, optional
        Patterns (:mod:`fnmatch`) of module paths to leave out too.

    Raises
    ------
    VarError
        If there is none, if the router of one cannot be found, if a pattern fits nothing, or if the family is one
        whose routing has no effect.
    """
    recorders = list(_router_recorders(model))
    sites: list[Site] = []
    unused = set(exclude)
    for path, module in model.named_modules():
        kind = _experts_kind(type(module))
        if kind is None:
            continue
        fitting = {pattern for pattern in exclude if fnmatch.fnmatchcase(path, pattern)}
        unused -= fitting
        if fitting:
            continue
        modality = _main_input(model, path)
        if modality != "input_ids":
            _LOGGER.info("MoE layer %s routes %s, not text: left out", path, modality)
            continue
        sites.append(_site(model, len(sites), path, module, kind, recorders))
    if unused:
        raise VarError(
            f"exclude_sites: {sorted(unused)[0]!r} fits no MoE layer of model {type(model).__name__} "
            f"(the first of {len(sites)} is {sites[0].path if sites else 'none'}); correct or remove it"
        )
    if not sites:
        raise VarError(
            f"model {type(model).__name__} has no MoE layers that text reaches: no module takes (hidden, indices, "
            "weights); a dense model has no routing to capture, choose a Mixture-of-Experts model; one whose blocks "
            "kernels have replaced must be loaded without use_kernels, and MXFP4 with Mxfp4Config(dequantize=True)"
        )
    return _in_order(sites)


def _in_order(sites: list[Site]) -> tuple[Site, ...]:
    """Number the sites in the order in which they run: that of registration, but for readers that know better."""
    blocks: dict[str, int] = {}
    keys = []
    for site in sites:
        block = re.sub(r"(.*\.\d+)\..*", r"\1", site.path)
        keys.append((blocks.setdefault(block, len(blocks)), not site.reader.runs_first))
    order = sorted(range(len(sites)), key=lambda place: (*keys[place], place))
    return tuple(replace(sites[place], layer=layer) for layer, place in enumerate(order))


def _experts_kind(module_class: type[nn.Module]) -> str | None:
    """Name of the adapter's class that a class is or derives from; ``"contract"``; or None if it holds no experts."""
    for name in (base.__name__ for base in module_class.__mro__):
        if name in _REFUSED:
            raise VarError(f"{name}: not supported: {_REFUSED[name]}")
        if name in _ADAPTERS:
            return name
    return "contract" if _decision_parameters(module_class) else None


def _decision_parameters(module_class: type[nn.Module]) -> tuple[str, str] | None:
    """Names of the index-like and weight-like parameters of a class's forward, or None."""
    names = list(inspect.signature(module_class.forward).parameters)
    index = next((name for name in names if name in _INDEX_NAMES), None)
    weight = next((name for name in names if name in _WEIGHT_NAMES), None)
    return (index, weight) if index and weight else None


def _main_input(model: nn.Module, path: str) -> str:
    """Name of the main input of the innermost model of transformers that a module is part of."""
    name, inner = "input_ids", model
    for part in ["", *path.split(".")]:
        inner = inner.get_submodule(part)
        if isinstance(inner, PreTrainedModel):
            name = inner.main_input_name
    return name


def _router_recorders(model: nn.Module) -> Iterator[tuple[type[nn.Module], int]]:
    """Classes (and output items) that the model or a part of it records as the source of ``router_logits``."""
    for module in model.modules():
        recorded = (getattr(module, "_can_record_outputs", None) or {}).get("router_logits", ())
        for recorder in recorded if isinstance(recorded, list | tuple) else (recorded,):
            if isinstance(recorder, OutputRecorder):
                yield recorder.target_class, recorder.index
            else:
                yield recorder, 0


def _site(
    model: nn.Module,
    layer: int,
    path: str,
    module: nn.Module,
    kind: str,
    recorders: list[tuple[type[nn.Module], int]],
) -> Site:
    if kind == "contract":
        router_path, router, logits_index = _find_router(model, path, recorders)
        index, weight = _decision_parameters(type(module)) or ("", "")
        reader: Reader = ContractReader.of(module, index, weight, logits_index)
    else:
        make, where = _ADAPTERS[kind]
        parent = path.rpartition(".")[0]
        router_path = path if where == "" else _join(path, "router") if where == "." else _join(parent, where)
        router, reader = model.get_submodule(router_path), make.for_class(kind)
    return Site(
        layer=layer,
        path=path,
        router_path=router_path,
        experts=module,
        router=router,
        number_of_experts=_number_of_experts(path, module),
        reader=reader,
    )


def _find_router(
    model: nn.Module, experts_path: str, recorders: list[tuple[type[nn.Module], int]]
) -> tuple[str, nn.Module, int]:
    parent_path = experts_path.rpartition(".")[0]
    siblings = dict(model.get_submodule(parent_path).named_children())
    for name, module in siblings.items():
        for target, logits_index in recorders:
            if isinstance(module, target):
                return _join(parent_path, name), module, logits_index
    for name in _ROUTER_NAMES:
        if name in siblings:
            return _join(parent_path, name), siblings[name], 0
    raise VarError(
        f"model {type(model).__name__}: no router found beside the experts at {experts_path} "
        f"(its neighbours are {', '.join(sorted(siblings))}); this family is not supported"
    )


def _join(parent: str, name: str) -> str:
    return f"{parent}.{name}" if parent else name


def _number_of_experts(path: str, experts: nn.Module) -> int:
    """Read E from the fused parameters' leading dimension, else count a list, else take the module's own number.

    The last is for experts whose parameters are quantised (and so flat) or stored flat.
    """
    fused = [parameter for parameter in experts.parameters() if parameter.ndim == 3]
    if fused:
        return max(int(parameter.shape[0]) for parameter in fused)
    if isinstance(experts, nn.ModuleList | nn.ModuleDict):
        return len(experts)
    for module in (experts, *experts.children()):
        for name in _COUNT_NAMES:
            if isinstance(getattr(module, name, None), int):
                return int(getattr(module, name))
    raise VarError(f"experts at {path} ({type(experts).__name__}): cannot read the number of experts; not supported")
