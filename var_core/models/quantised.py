"""Experts in 8 or 4 bits: packed while a model is loaded, and in full precision only while they run.

The quantisers that transformers knows convert ``nn.Linear``: they leave experts that are stored as one tensor a layer
as they are, and convert routers. Here it is the other way round: only weights inside experts modules are packed.
"""

import contextlib
import functools
import importlib.util
import inspect
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol, cast

import torch
from torch import nn

from var_core.errors import VarError

_RECORD = "_packed_weights"
_INDEX_LIKE = re.compile(r".*ind(ex|ices)|selected_experts")
_WEIGHT_LIKE = re.compile(r".+_weights")
_NOT_PACKED = re.compile(r"gate|router|wg|bias|.*_bias|.*norm")


class Codec(Protocol):
    """How a weight is packed.

    Attributes
    ----------
    bytes_per_weight : float
        Of the packed weight, without its scales.
    """

    bytes_per_weight: float

    def scale_shape(self, shape: torch.Size) -> tuple[int, ...]:
        """Shape of the scales of a weight; raises ``ValueError`` where such a weight cannot be packed."""

    def scale_dtype(self, dtype: torch.dtype) -> torch.dtype:
        """Precision of the scales of a weight."""

    def encode(self, weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Pack a weight; its first dimension stays, so that experts can still be told apart."""

    def decode(self, packed: torch.Tensor, scale: torch.Tensor, shape: torch.Size, dtype: torch.dtype) -> torch.Tensor:
        """Unpack a weight."""


class RowInt8:
    """Whole numbers from -127 to 127, with one scale for each row (the last dimension): absmax quantisation.

    Every weight comes back within half a step, which is the row's largest absolute weight / 254, and the rounding
    of its dtype.
    """

    bytes_per_weight = 1.0

    def scale_shape(self, shape: torch.Size) -> tuple[int, ...]:
        """One scale a row."""
        return (*shape[:-1], 1)

    def scale_dtype(self, dtype: torch.dtype) -> torch.dtype:
        """As the weight, so that unpacking takes no wider copy."""
        return dtype

    def encode(self, weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Pack one expert after another, so that only one of them has a float32 copy."""
        pieces = [self._encode_matrix(piece) for piece in (weight if weight.ndim == 3 else weight[None])]
        packed, scale = (torch.stack(parts) for parts in zip(*pieces, strict=True))
        return packed.view(weight.shape), scale.view(self.scale_shape(weight.shape))

    def _encode_matrix(self, weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        whole = weight.float()
        smallest = torch.finfo(weight.dtype).tiny
        scale = (whole.abs().amax(-1, keepdim=True) / 127).to(weight.dtype).clamp(min=smallest)
        return (whole / scale.float()).round().clamp(-127, 127).to(torch.int8), scale

    def decode(self, packed: torch.Tensor, scale: torch.Tensor, shape: torch.Size, dtype: torch.dtype) -> torch.Tensor:
        """Multiply by the rows' scales."""
        return packed.to(dtype).mul_(scale)


class BlockNf4:
    """The 4-bit NormalFloat of bitsandbytes (QLoRA, Dettmers et al. 2023), with one float32 scale for 64 weights."""

    bytes_per_weight = 0.5
    block = 64

    def scale_shape(self, shape: torch.Size) -> tuple[int, ...]:
        """One scale a block; blocks do not reach from one expert into the next."""
        if shape[-1] % 2 or math.prod(shape[1:]) % self.block:
            raise ValueError(
                f"expert weights of shape {tuple(shape)} do not divide into blocks of {self.block}; "
                "set quantisation to int8"
            )
        return (shape[0], math.prod(shape[1:]) // self.block, 1)

    def scale_dtype(self, dtype: torch.dtype) -> torch.dtype:
        """As bitsandbytes wants it."""
        return torch.float32

    def encode(self, weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Two weights a byte."""
        from bitsandbytes.functional import quantize_4bit

        packed, state = quantize_4bit(weight.contiguous(), blocksize=self.block, quant_type="nf4")
        return packed.view(*weight.shape[:-1], -1), state.absmax.view(self.scale_shape(weight.shape))

    def decode(self, packed: torch.Tensor, scale: torch.Tensor, shape: torch.Size, dtype: torch.dtype) -> torch.Tensor:
        """Look the codes up and multiply by the blocks' scales."""
        from bitsandbytes.functional import QuantState, dequantize_4bit

        state = QuantState(
            scale.view(-1), shape, _nf4_values(packed.device), blocksize=self.block, quant_type="nf4", dtype=dtype
        )
        return dequantize_4bit(packed.view(-1, 1), state)


@functools.cache
def _nf4_values(device: torch.device) -> torch.Tensor:
    from bitsandbytes.functional import get_4bit_type

    return get_4bit_type("nf4", device=device)


CODECS: dict[str, Codec] = {"int8": RowInt8(), "int4": BlockNf4()}
"""How experts are packed, by the value of ``quantisation``."""


def missing_package(quantisation: str) -> str | None:
    """What has to be installed for a kind of quantisation, if it is not there."""
    return "bitsandbytes" if quantisation == "int4" and not importlib.util.find_spec("bitsandbytes") else None


@dataclass(frozen=True)
class PackedWeight:
    """One weight of an experts module.

    Attributes
    ----------
    owner : str
        Path, from the experts module, of the module that has the weight.
    name : str
        The weight's name in it; its scales are in the parameter ``{name}_scale`` beside it.
    shape : torch.Size
        Shape of the unpacked weight.
    dtype : torch.dtype
        Precision of the unpacked weight.
    codec : Codec
        How it is packed.
    """

    owner: str
    name: str
    shape: torch.Size
    dtype: torch.dtype
    codec: Codec


def is_experts(module: nn.Module) -> bool:
    """Whether a module holds the routed experts of a layer.

    Either its forward has an index-like and a weight-like parameter, or (llama4, jetmoe: all experts run, on inputs
    that are weighted or sorted before) its class says so.
    """
    kind = type(module)
    names = list(inspect.signature(kind.forward).parameters)
    decided = any(map(_INDEX_LIKE.fullmatch, names)) and any(map(_WEIGHT_LIKE.fullmatch, names))
    return decided or ("Experts" in kind.__name__ and "Shared" not in kind.__name__)


def expert_weights(experts: nn.Module) -> Iterator[tuple[str, str, nn.Parameter]]:
    """Weights of an experts module: path of the owner, name and parameter; never biases, norms or routers."""
    for path, owner in experts.named_modules():
        for name, weight in owner.named_parameters(recurse=False):
            # A matrix directly in an experts module is a bias of all experts, or a scale.
            large = weight.ndim == 3 or (weight.ndim == 2 and path)
            if large and not any(map(_NOT_PACKED.fullmatch, (*path.split("."), name))):
                yield path, name, weight


def pack_experts(model: nn.Module, codec: Codec) -> set[str]:
    """Prepare a model without weights (on the meta device) for packed experts.

    The parameters keep their names; each gets one for its scales beside it. Classes of experts modules are replaced
    by subclasses whose forward has the weights unpacked while it runs.

    Returns
    -------
    set of str
        Full names of the parameters to pack.

    Raises
    ------
    ValueError
        If there are no experts' weights, or they cannot be packed.
    """
    names = set()
    for path, experts in list(model.named_modules()):
        if not is_experts(experts):
            continue
        weights = [
            PackedWeight(owner, name, weight.shape, weight.dtype, codec)
            for owner, name, weight in expert_weights(experts)
        ]
        for weight in weights:
            scale = torch.empty(codec.scale_shape(weight.shape), dtype=codec.scale_dtype(weight.dtype), device="meta")
            experts.get_submodule(weight.owner).register_parameter(
                f"{weight.name}_scale", nn.Parameter(scale, requires_grad=False)
            )
            names.add(".".join(filter(None, (path, weight.owner, weight.name))))
        if weights:
            setattr(experts, _RECORD, weights)
            experts.__class__ = _unpacking(type(experts))
    if not names:
        raise ValueError(
            f"{type(model).__name__} has no expert weights that can be quantised; set quantisation to none"
        )
    return names


def _unpacking(kind: type[nn.Module]) -> type[nn.Module]:
    """Subclass, of the same name, of an experts class whose forward runs on unpacked weights.

    A class, and not a hook or a parametrisation: the parameters stay where others look for them (accelerate moves
    them, sites read the number of experts off them), and hooks on the module work as always.
    """

    @functools.wraps(kind.forward)
    def forward(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        with _unpacked(self):
            return kind.forward(self, *args, **kwargs)

    return type(kind.__name__, (kind,), {"forward": forward, "__module__": kind.__module__})


@contextlib.contextmanager
def _unpacked(experts: nn.Module) -> Iterator[None]:
    places = []
    for weight in getattr(experts, _RECORD):
        owner = experts.get_submodule(weight.owner)
        packed, scale = (owner.get_parameter(name) for name in (weight.name, f"{weight.name}_scale"))
        if packed.is_meta:
            # Of an experts module accelerate brings in the own weights, not those of modules inside it.
            raise VarError(
                f"{type(experts).__name__}: experts of this kind cannot be both quantised and offloaded; "
                "set quantisation to none, or raise max_memory of the GPUs"
            )
        places.append((weight, owner._parameters, packed, scale))
    try:
        for weight, parameters, packed, scale in places:
            # The whole weight need not be a parameter: nothing but the experts' own forward sees it.
            parameters[weight.name] = cast(Any, weight.codec.decode(packed, scale, weight.shape, weight.dtype))
        yield
    finally:
        for weight, parameters, packed, _ in places:
            parameters[weight.name] = packed


def expert_bytes(model: nn.Module) -> tuple[int, int]:
    """Memory of the experts' weights of a quantised model in bytes: packed with their scales, and unpacked."""
    packed = unpacked = 0
    for experts in model.modules():
        for weight in getattr(experts, _RECORD, ()):
            owner = experts.get_submodule(weight.owner)
            packed += sum(owner.get_parameter(name).nbytes for name in (weight.name, f"{weight.name}_scale"))
            unpacked += weight.shape.numel() * weight.dtype.itemsize
    return packed, unpacked
