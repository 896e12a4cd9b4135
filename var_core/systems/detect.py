"""Reading the shape of a model from its modules: any model whose MoE layers are found; meta tensors are enough."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn

from var_core.errors import VarError
from var_core.models.folder import read_model_config
from var_core.routing.sites import Site, find_sites
from var_core.systems.mixing import mixing_modules, mixing_of
from var_core.systems.shape import Experts, LayerShape, Mixing, ModelShape, Weights

_TOP_K = (
    *("top_k", "num_experts_per_tok", "moe_topk", "moe_k", "top_k_experts", "moe_top_k", "num_experts_per_token"),
    "num_selected_experts",
)
_MLP = re.compile(r"(^|\.)(mlps?|feed_forward|ffn|DenseReluDense)(\.|$)", re.IGNORECASE)


def shape_of(model: nn.Module, sites: Sequence[Site], name: str) -> ModelShape:
    """Read the shape of a model.

    Parameters go to parts by where they are: under a router to the gate, under experts to those, beside experts in
    their block (or called shared) to the shared experts, in a module that mixes tokens to attention, in an MLP to
    dense, and all else in a layer to other. What is assumed of attention: multi-head latent attention caches its
    latent and decodes with the projections absorbed; sparse attention with an indexer attends to ``index_topk`` tokens
    and its scoring of the others is left out; linear attention, Mamba and short convolutions keep a state whose size
    is the product of the module's own sizes (the last inputs of convolutions beside it are left out); cross-attention
    is taken for self-attention. Identity experts are counted like the others.

    Parameters
    ----------
    model : torch.nn.Module
        The model; its parameters may be on the meta device.
    sites : sequence of Site
        Its MoE layers (:func:`var_core.routing.sites.find_sites`).
    name : str
        Its name.

    Raises
    ------
    VarError
        If experts are packed (a quantised model is to be read from its folder), or k cannot be read.
    """
    stacks = _stacks(model, sites)
    parts = [_layers(model, stack, sites) for stack in stacks]
    embedding = model.get_input_embeddings().weight  # type: ignore[operator]
    head = _head(model)
    tied = head is not None and head is embedding
    rest, elsewhere = _outside(model, stacks, (embedding, head))
    return ModelShape(
        name=name,
        dtype_bytes=float(embedding.element_size()),
        hidden=embedding.shape[1],
        vocabulary=embedding.shape[0],
        embedding=Weights(parameters=embedding.numel()),
        head=None if head is None else _measure("weight", head),
        tied=tied,
        rest=rest,
        elsewhere=elsewhere,
        layers=tuple(layer for stack in parts for layer in stack),
    )


def shape_of_config(
    config: Any, name: str, dtype: torch.dtype | None = None, exclude: tuple[str, ...] = ()
) -> ModelShape:
    """Build a model of a configuration on the meta device, which takes no memory, and read its shape.

    It has its language-model head where transformers knows one for text alone.

    Parameters
    ----------
    config : transformers.PreTrainedConfig
        The configuration.
    name : str
        The model's name.
    dtype : torch.dtype or None, optional
        Of the weights; None: what the configuration says.
    """
    causal = type(config) in transformers.MODEL_FOR_CAUSAL_LM_MAPPING
    kind = transformers.AutoModelForCausalLM if causal else transformers.AutoModel
    with torch.device("meta"):
        model = kind.from_config(config, dtype=dtype or getattr(config, "dtype", None) or torch.float32)
    return shape_of(model, find_sites(model, exclude), name)


def shape_of_folder(
    folder: Path,
    name: str,
    dtype: str = "auto",
    expert_bytes_a_parameter: float | None = None,
    exclude: tuple[str, ...] = (),
) -> ModelShape:
    """Read the shape of the model in a folder from its ``config.json``; its weights are not read.

    Parameters
    ----------
    folder : Path
        A Hugging Face model folder.
    name : str
        The model's name.
    dtype : str, optional
        ``"float32"``, ``"bfloat16"``, ``"float16"``, or ``"auto"``: as stored.
    expert_bytes_a_parameter : float or None, optional
        Memory of the experts where they are quantised; None: as the other weights.
    exclude : tuple of str, optional
        Patterns of module paths that are no MoE layers of the run, as its configuration has them.

    Raises
    ------
    VarError
        If the folder holds no configuration of a known architecture, or no model with experts.
    """
    read_model_config(folder)
    try:
        config = transformers.AutoConfig.from_pretrained(str(folder), local_files_only=True)
    except (OSError, ValueError) as error:
        raise VarError(f"{folder}: its config.json cannot be used ({' '.join(str(error).split())[:200]})") from None
    shape = shape_of_config(config, name, None if dtype == "auto" else getattr(torch, dtype), exclude)
    return shape if expert_bytes_a_parameter is None else shape.with_expert_bytes(expert_bytes_a_parameter)


def _stacks(model: nn.Module, sites: Sequence[Site]) -> list[str]:
    """Paths of the lists of layers that the sites are in, in order."""
    found: list[str] = []
    for site in sites:
        match = re.match(r"(.*?)\.\d+\.", site.path)
        if match is None or not isinstance(model.get_submodule(match[1]), nn.ModuleList):
            raise VarError(f"{type(model).__name__}: the MoE layer {site.path} is in no list of layers; not supported")
        if match[1] not in found:
            found.append(match[1])
    return found


def _outside(model: nn.Module, stacks: list[str], counted: tuple[Any, ...]) -> tuple[Weights, Weights]:
    """What lies outside the layers and beside what is counted already: of the models of text, and of others."""
    of_text = {id(model), *(id(_inner_model(model, stack)) for stack in stacks)}
    rest, elsewhere = Weights(), Weights()
    for path, parameter in model.named_parameters():
        if any(path.startswith(f"{stack}.") for stack in stacks) or any(parameter is one for one in counted):
            continue
        if id(_inner_model(model, path.rpartition(".")[0])) in of_text:
            rest += Weights(parameters=parameter.numel())
        else:
            elsewhere += Weights(parameters=parameter.numel())
    return rest, elsewhere


def _head(model: nn.Module) -> nn.Parameter | None:
    getter: Any = getattr(model, "get_output_embeddings", None)
    head = None if getter is None else getter()
    return None if head is None else head.weight


def _layers(model: nn.Module, stack: str, sites: Sequence[Site]) -> Iterator[LayerShape]:
    config = _inner_model(model, stack).config
    layers = model.get_submodule(stack)
    assert isinstance(layers, nn.ModuleList)
    for place, layer in enumerate(layers):
        path = f"{stack}.{place}"
        mine = [site for site in sites if site.path.startswith(f"{path}.")]
        parts = _parts(model, path, layer, mine)
        mixing = tuple(_mixings(layer, config))
        first = mine[0] if mine else None
        yield LayerShape(
            path=path if first is None else first.path,
            attention=parts.get("attention"),
            mixing=mixing,
            gate=None if first is None else parts.get(f"gate {first.path}"),
            experts=None if first is None else _experts(model, first, config),
            shared_experts=parts.get("shared_experts"),
            dense=parts.get("dense"),
            other=parts.get("other"),
        )
        for site in mine[1:]:
            yield LayerShape(path=site.path, gate=parts.get(f"gate {site.path}"), experts=_experts(model, site, config))


def _mixings(layer: nn.Module, config: Any) -> Iterator[Mixing]:
    for _, module in mixing_modules(layer):
        yield mixing_of(module, config)


def _inner_model(model: nn.Module, path: str) -> Any:
    """Innermost model of transformers that a module is part of."""
    inner = found = model
    for part in path.split("."):
        inner = inner.get_submodule(part)
        if isinstance(inner, transformers.PreTrainedModel):
            found = inner
    return found


def _parts(model: nn.Module, path: str, layer: nn.Module, sites: list[Site]) -> dict[str, Weights]:
    """Weights of each part of a layer but the experts."""
    mixing = [f"{path}.{inner}" for inner, _ in mixing_modules(layer)]
    found: dict[str, Weights] = {}
    for inner, parameter in layer.named_parameters():
        whole = f"{path}.{inner}"
        part = _part(whole, sites, mixing, path)
        if part is not None:
            embedded = isinstance(model.get_submodule(whole.rpartition(".")[0]), nn.Embedding)
            weights = Weights(parameters=parameter.numel()) if embedded else _measure(inner, parameter)
            found[part] = found.get(part, Weights()) + weights
    return found


def _part(path: str, sites: list[Site], mixing: list[str], layer: str) -> str | None:
    """Name of the part that a parameter belongs to; None for experts."""
    for site in sites:
        if site.router_path != site.path and path.startswith(f"{site.router_path}."):
            return f"gate {site.path}"
    for site in sites:
        if path.startswith(f"{site.path}."):
            return None
    blocks = [block for block in (site.path.rpartition(".")[0] for site in sites) if block != layer]
    if any(path.startswith(f"{outer}.") for outer in mixing):
        return "attention"
    if "shared" in path or any(path.startswith(f"{block}.") for block in blocks):
        return "shared_experts"
    return "dense" if _MLP.search(path.removeprefix(layer)) else "other"


def _measure(path: str, parameter: torch.Tensor) -> Weights:
    """Weights of one parameter outside the experts."""
    if parameter.ndim < 2 or "bias" in path.rpartition(".")[2]:
        return Weights(parameters=parameter.numel())
    rows = parameter.shape[0]
    return Weights(parameter.numel(), parameter.numel(), rows + parameter.numel() / rows)


def _experts(model: nn.Module, site: Site, config: Any) -> Experts:
    """Experts of a site: all parameters of the module but a router's, an equal share for each."""
    each, size = Weights(), 0.0
    inner_router = site.router_path.removeprefix(f"{site.path}.")
    listed = isinstance(site.experts, nn.ModuleList | nn.ModuleDict)
    for path, parameter in site.experts.named_parameters():
        if site.router_path != site.path and path.startswith(f"{inner_router}."):
            continue
        if not parameter.is_floating_point():
            raise VarError(f"{site.path}: its experts are packed; read the shape from the model's folder instead")
        stored = parameter.shape[0] if parameter.ndim == 3 else site.number_of_experts
        each += _measure_expert(path, parameter, stored, listed)
        size += parameter.nbytes / stored
    return Experts(site.number_of_experts, _top_k(model, site, config), each, size)


def _measure_expert(path: str, parameter: torch.Tensor, stored: int, listed: bool) -> Weights:
    """One expert's share of one parameter: fused [E, in, out], flat [E x in, out], or a module of its own."""
    share = parameter.numel() / stored
    if parameter.ndim < 2 or "bias" in path.rpartition(".")[2]:
        return Weights(parameters=share)
    first, second = parameter.shape[-2:]
    widths = first + second if parameter.ndim == 3 else (first + second) / stored if listed else first / stored + second
    return Weights(share, share, widths)


def _top_k(model: nn.Module, site: Site, config: Any) -> int:
    block = model.get_submodule(site.path.rpartition(".")[0])
    for holder in (site.router, site.experts, block, config, getattr(config, "ffn_config", None)):
        for name in _TOP_K:
            found = getattr(holder, name, None)
            if isinstance(found, int):
                return found
    if type(site.experts).__name__ == "SwitchTransformersExperts":
        return 1
    raise VarError(f"{site.path}: how many experts a token is given cannot be read; not supported")
