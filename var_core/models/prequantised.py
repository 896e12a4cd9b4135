"""Checkpoints that come quantised: which are loaded, in which form, and why the others are not.

A method is loaded only if the experts afterwards run as modules that are given their decisions, and the routers decide
in full precision.
"""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import safe_open
from transformers import Mxfp4Config

from var_core.errors import VarError
from var_core.models.folder import read_model_config, weight_files

_LOGGER = logging.getLogger(__name__)
_NO_FUSED_EXPERTS = "its experts are stored as quantised linear layers, which transformers' fused experts cannot take"
_ROUTERS_TOO = "it may have quantised routers of nn.Linear too, and then decisions are not the model's"


@dataclass(frozen=True)
class Treatment:
    """What is done with a checkpoint.

    Attributes
    ----------
    action : str
        ``load`` as it is, ``dequantise``, or ``refuse``.
    reason : str
        Why.
    """

    action: Literal["load", "dequantise", "refuse"]
    reason: str


_KEEPS_DECISIONS = Treatment("load", "its experts are given their decisions, and routers are not converted")
METHODS = {
    "fp8": _KEEPS_DECISIONS,
    "mxfp8": _KEEPS_DECISIONS,
    "mxfp4": Treatment("dequantise", "its kernels run router and experts in one piece and show no decisions"),
    "bitsandbytes": Treatment("refuse", _ROUTERS_TOO),
    "torchao": Treatment("refuse", _ROUTERS_TOO),
    "quanto": Treatment("refuse", _ROUTERS_TOO),
    "hqq": Treatment("refuse", _ROUTERS_TOO),
    "gptq": Treatment("refuse", _NO_FUSED_EXPERTS),
    "awq": Treatment("refuse", _NO_FUSED_EXPERTS),
    "auto-round": Treatment("refuse", _NO_FUSED_EXPERTS),
    "compressed-tensors": Treatment("refuse", _NO_FUSED_EXPERTS),
}
"""By ``quantization_config.quant_method`` of ``config.json``; methods that are not here are refused as not tried."""
_NOT_TRIED = Treatment("refuse", "this method has not been tried")


def quantised_as(folder: Path) -> str | None:
    """Method by which the weights of a folder are quantised; None if they are not.

    Models of text and images may say it under ``text_config``.
    """
    config = read_model_config(folder)
    for values in (config, config.get("text_config")):
        quantisation = values.get("quantization_config") if isinstance(values, dict) else None
        if isinstance(quantisation, dict):
            if quantisation.get("load_in_4bit") or quantisation.get("load_in_8bit"):
                return "bitsandbytes"
            return str(quantisation.get("quant_method"))
    return None


def prequantised_options(name: str, folder: Path, quantisation: str, dtype: str) -> dict[str, Any]:
    """Options for ``from_pretrained`` that load a quantised checkpoint; empty for one that is not quantised.

    Parameters
    ----------
    name : str
        The model's name in the configuration.
    folder : Path
        Its folder.
    quantisation : str
        What the configuration asks for; a quantised checkpoint is not quantised again.
    dtype : str
        Precision that a dequantised model will have; ``"auto"`` counts as bfloat16.

    Raises
    ------
    VarError
        If the checkpoint cannot be used, with the reason and what to use instead.
    """
    method = quantised_as(folder)
    if method is None:
        return {}
    treatment = METHODS.get(method, _NOT_TRIED)
    if treatment.action == "refuse":
        raise VarError(
            f"models.{name}: {folder} is quantised by {method}, and {treatment.reason}; use the unquantised model "
            "(with quantisation: int8 or int4 if it is too large)"
        )
    if quantisation != "none":
        raise VarError(f"models.{name}.quantisation: {folder} is quantised already ({method}); set it to none")
    if treatment.action == "load":
        return {}
    gigabytes = _unpacked_bytes(folder, torch.bfloat16 if dtype == "auto" else getattr(torch, dtype)) / 1e9
    _LOGGER.warning(
        "models.%s: %s weights are dequantised, since %s; they will take about %.3g GB of memory",
        *(name, method, treatment.reason, gigabytes),
    )
    return {"quantization_config": Mxfp4Config(dequantize=True)}


def _unpacked_bytes(folder: Path, dtype: torch.dtype) -> int:
    """Bytes of a model whose blocks hold two 4-bit weights a byte; their scales vanish."""
    weights = 0
    for path in weight_files(folder):
        with safe_open(path, framework="pt") as tensors:
            for key in tensors.keys():  # noqa: SIM118  (not a dictionary)
                if not key.endswith("_scales"):
                    count = torch.Size(tensors.get_slice(key).get_shape()).numel()
                    weights += 2 * count if key.endswith("_blocks") else count
    return weights * dtype.itemsize
