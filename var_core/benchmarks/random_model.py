"""A Qwen3-MoE-shaped model with random weights, as many layers of it as a device has memory for."""

import copy
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM, PreTrainedConfig, Qwen3MoeConfig

from var_core.benchmarks.subject import LENGTH, SEQUENCES, Input, Subject
from var_core.errors import VarError

STATE_BYTES = 2 << 30
"""Limit of the statistics' memory on the device."""
_WORKING_BYTES = 4 << 30
_BATCHES = 4


def qwen3_shape() -> Qwen3MoeConfig:
    """The shape of Qwen3-30B-A3B."""
    return Qwen3MoeConfig(
        vocab_size=151_936,
        hidden_size=2048,
        intermediate_size=6144,
        moe_intermediate_size=768,
        num_hidden_layers=48,
        num_attention_heads=32,
        num_key_value_heads=4,
        head_dim=128,
        num_experts=128,
        num_experts_per_tok=8,
        norm_topk_prob=True,
        max_position_embeddings=4096,
    )


def _with_layers(config: PreTrainedConfig, layers: int) -> PreTrainedConfig:
    cut = copy.deepcopy(config)
    cut.num_hidden_layers = layers
    if getattr(cut, "layer_types", None):
        cut.layer_types = cut.layer_types[:layers]
    return cut


def _bytes(config: PreTrainedConfig, layers: int, dtype: torch.dtype) -> int:
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(_with_layers(config, layers), dtype=dtype)
    return sum(parameter.nbytes for parameter in model.parameters())


def largest_that_fits(config: PreTrainedConfig, free_bytes: int, dtype: torch.dtype) -> PreTrainedConfig:
    """Cut a model down to as many layers as fit.

    Parameters
    ----------
    config : transformers.PreTrainedConfig
        The whole shape.
    free_bytes : int
        Memory for the weights.
    dtype : torch.dtype
        Of the weights.

    Raises
    ------
    VarError
        If not even one layer fits.
    """
    one, two = (_bytes(config, layers, dtype) for layers in (1, 2))
    layers = min(config.num_hidden_layers, 1 + (free_bytes - one) // (two - one))
    if layers < 1:
        raise VarError(
            f"benchmark capture --device: {free_bytes >> 20} MB for weights do not hold one layer ({one >> 20} MB); "
            "free memory on the device"
        )
    return _with_layers(config, layers)


def random_subject(config: PreTrainedConfig, device: torch.device, dtype: torch.dtype, seed: int = 0) -> Subject:
    """A model of that shape with random weights, and random token ids as frequent as words are."""
    torch.manual_seed(seed)
    with torch.device(device):
        causal: Any = AutoModelForCausalLM.from_config(config, dtype=dtype).eval().requires_grad_(False)
    random = np.random.default_rng(seed)
    inputs = []
    for _ in range(_BATCHES):
        size = (SEQUENCES, LENGTH)
        ids = (config.vocab_size ** random.random(size)).astype(np.int64) - 1  # as good as Zipf's law
        document = np.cumsum(random.random(size) < 1 / 100, axis=1)
        inputs.append(Input.of(ids, document, device))
    about = {
        "model": f"{config.model_type} with random weights",
        "parameters": causal.num_parameters(),
        "layers": config.num_hidden_layers,
        "dtype": str(dtype).removeprefix("torch."),
        "sequences": SEQUENCES,
        "length": LENGTH,
        "batches": _BATCHES,
        "text": "random token ids by Zipf's law",
    }
    return Subject(causal, tuple(inputs), about)


def device_subject(device: torch.device) -> Subject:
    """The largest model that fits into what is free on a GPU now, in bfloat16."""
    free, _ = torch.cuda.mem_get_info(device)
    room = free - STATE_BYTES - _WORKING_BYTES
    return random_subject(largest_that_fits(qwen3_shape(), room, torch.bfloat16), device, torch.bfloat16)
