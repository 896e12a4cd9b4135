"""Reading from a layer's modules how it mixes tokens: widths of attention, what it caches, its window or state."""

import re
from collections.abc import Iterator
from typing import Any

from torch import nn

from var_core.systems.shape import Mixing

_CLASS = re.compile(r"(Attention|MLA|DeltaNet|Mixer|MambaLayer|ShortConv)$")
_RECURRENT = re.compile(r"(DeltaNet|DeltaAttention|LinearAttention|LightningAttention|Mixer|MambaLayer|ShortConv)$")
_HEADS = ("num_attention_heads", "num_heads", "n_heads")
_KEY_VALUE_HEADS = ("num_key_value_heads", "num_kv_heads", "n_kv_heads", "kv_n_heads", *_HEADS)
_OUTPUTS = ("o_proj", "out_proj", "o", "dense")
_STATES = (
    ("num_v_heads", "head_k_dim", "head_v_dim"),
    ("num_heads", "head_dim", "ssm_state_size"),
    ("intermediate_size", "ssm_state_size"),
    ("num_attention_heads", "head_dim", "head_dim"),
    ("num_heads", "head_dim", "head_dim"),
    ("hidden_size", "conv_kernel_size"),
)
"""Attributes whose product is the size of a recurrent state, tried in turn."""


def mixing_modules(layer: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Paths and modules of a layer in which tokens meet: the outermost ones."""
    found: list[str] = []
    for path, module in layer.named_modules():
        inside = any(path.startswith(f"{outer}.") for outer in found)
        if path and not inside and _CLASS.search(type(module).__name__):
            found.append(path)
            yield path, module


def mixing_of(module: nn.Module, config: Any) -> Mixing:
    """Read the widths of one attention module, or the size of its recurrent state.

    Parameters
    ----------
    module : torch.nn.Module
        One of :func:`mixing_modules`.
    config : transformers.PreTrainedConfig
        Of the model that it is part of.
    """
    if isinstance(getattr(module, "kv_lora_rank", None), int):
        return _latent(module, config)
    if _RECURRENT.search(type(module).__name__):
        return Mixing(state_width=_state(module, config))
    heads = _number(module, config, _HEADS)
    width = _number(module, config, ("head_dim", "d_kv", "key_value_proj_dim")) or (
        _number(module, config, ("hidden_size", "d_model")) // max(heads, 1)
    )
    value = _number(module, config, ("v_head_dim",), width) if hasattr(module, "v_head_dim") else width
    output = next((getattr(module, name) for name in _OUTPUTS if hasattr(module, name)), None)
    if isinstance(output, nn.Linear) and output.in_features % value == 0:
        heads = output.in_features // value  # heads may differ from layer to layer
    return Mixing(
        score_width=heads * width,
        value_width=heads * value,
        decode_score_width=heads * width,
        decode_value_width=heads * value,
        key_value_width=_key_values(module, config, width, value),
        window=_window(module, config),
    )


def _latent(module: nn.Module, config: Any) -> Mixing:
    """Multi-head latent attention: expanded while reading a prompt, absorbed into the latent while decoding."""
    heads = _number(module, config, _HEADS)
    rank, rotary = (_number(module, config, (name,)) for name in ("kv_lora_rank", "qk_rope_head_dim"))
    plain, value = (_number(module, config, (name,)) for name in ("qk_nope_head_dim", "v_head_dim"))
    return Mixing(
        score_width=heads * (plain + rotary),
        value_width=heads * value,
        decode_score_width=heads * (rank + rotary),
        decode_value_width=heads * rank,
        key_value_width=rank + rotary,
        window=_window(module, config),
    )


def _key_values(module: nn.Module, config: Any, width: int, value: int) -> float:
    projections = [getattr(module, name, None) for name in ("k_proj", "v_proj")]
    outputs = [one.out_features for one in projections if isinstance(one, nn.Linear)]
    if len(outputs) == 2:
        return float(sum(outputs))
    return float(_number(module, config, _KEY_VALUE_HEADS) * (width + value))


def _window(module: nn.Module, config: Any) -> int | None:
    """Most tokens that one attends to: a sliding window, a chunk, or the choice of an indexer (sparse attention)."""
    if hasattr(module, "indexer") and isinstance(getattr(config, "index_topk", None), int):
        return int(config.index_topk)
    own = getattr(module, "sliding_window", None)
    if isinstance(own, int):
        return own
    kinds, place = getattr(config, "layer_types", None), getattr(module, "layer_idx", None)
    kind = kinds[place] if kinds and isinstance(place, int) and place < len(kinds) else None
    if kind == "chunked_attention":
        return int(config.attention_chunk_size)
    if not hasattr(module, "sliding_window") and kind in (None, "sliding_attention"):
        window = getattr(config, "sliding_window", None)
        return int(window) if isinstance(window, int) else None
    return None


def _state(module: nn.Module, config: Any) -> float:
    for names in _STATES:
        sizes = [getattr(module, name, getattr(config, name, None)) for name in names]
        if all(isinstance(size, int) for size in sizes) and any(hasattr(module, name) for name in names):
            product = 1
            for size in sizes:
                product *= int(size or 0)
            return float(product)
    return 0.0


def _number(module: nn.Module, config: Any, names: tuple[str, ...], default: int = 0) -> int:
    """First whole number of these names that a module or its configuration has."""
    for holder in (module, config, getattr(config, "attn_config", None)):
        for name in names:
            found = getattr(holder, name, None)
            if isinstance(found, int):
                return found
    return default
