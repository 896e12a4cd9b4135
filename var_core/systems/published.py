"""Shapes of known models from their published dimensions: no weights are needed, and none are fetched."""

import torch
from transformers import (
    DeepseekV3Config,
    GptOssConfig,
    MixtralConfig,
    OlmoeConfig,
    PreTrainedConfig,
    Qwen3MoeConfig,
)

from var_core.errors import VarError
from var_core.systems.detect import shape_of_config
from var_core.systems.shape import ModelShape


def _mixtral() -> PreTrainedConfig:
    return MixtralConfig(
        vocab_size=32_000,
        hidden_size=4096,
        intermediate_size=14_336,
        num_hidden_layers=32,
        num_attention_heads=32,
        num_key_value_heads=8,
        num_local_experts=8,
        num_experts_per_tok=2,
        sliding_window=None,
        tie_word_embeddings=False,
    )


def _olmoe() -> PreTrainedConfig:
    return OlmoeConfig(
        vocab_size=50_304,
        hidden_size=2048,
        intermediate_size=1024,
        num_hidden_layers=16,
        num_attention_heads=16,
        num_key_value_heads=16,
        num_experts=64,
        num_experts_per_tok=8,
        tie_word_embeddings=False,
    )


def _qwen3() -> PreTrainedConfig:
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
        tie_word_embeddings=False,
    )


def _deepseek_v3() -> PreTrainedConfig:
    return DeepseekV3Config(
        vocab_size=129_280,
        hidden_size=7168,
        intermediate_size=18_432,
        moe_intermediate_size=2048,
        num_hidden_layers=61,
        first_k_dense_replace=3,
        num_attention_heads=128,
        num_key_value_heads=128,
        q_lora_rank=1536,
        kv_lora_rank=512,
        qk_nope_head_dim=128,
        qk_rope_head_dim=64,
        v_head_dim=128,
        n_routed_experts=256,
        n_shared_experts=1,
        num_experts_per_tok=8,
        n_group=8,
        topk_group=4,
        tie_word_embeddings=False,
    )


def _gpt_oss_120b() -> PreTrainedConfig:
    return GptOssConfig(
        vocab_size=201_088,
        hidden_size=2880,
        intermediate_size=2880,
        num_hidden_layers=36,
        num_attention_heads=64,
        num_key_value_heads=8,
        head_dim=64,
        num_local_experts=128,
        num_experts_per_tok=4,
        sliding_window=128,
        layer_types=["sliding_attention", "full_attention"] * 18,
        tie_word_embeddings=False,
    )


_MXFP4_BYTES = 4.25 / 8  # 32 numbers of 4 bits share a scale of 8 bits

_MODELS = {
    "mixtral-8x7b": (_mixtral, None),
    "olmoe-1b-7b": (_olmoe, None),
    "qwen3-30b-a3b": (_qwen3, None),
    "deepseek-v3": (_deepseek_v3, 1.0),
    "gpt-oss-120b": (_gpt_oss_120b, _MXFP4_BYTES),
}
"""Configuration, and bytes of a parameter of an expert as the checkpoint was published; None: bfloat16.

The other weights are counted in bfloat16, though DeepSeek-V3 was published with those of attention in FP8 too.
"""

PUBLISHED = tuple(_MODELS)
"""Names of the models that are known."""


def published_shape(name: str) -> ModelShape:
    """Build a known model on the meta device, which takes no memory, and read its shape.

    Parameters
    ----------
    name : str
        One of :data:`PUBLISHED`.

    Raises
    ------
    VarError
        If it is not.
    """
    if name not in _MODELS:
        raise VarError(f"published model {name}: is not known; choose one of {', '.join(PUBLISHED)}")
    config, expert_bytes = _MODELS[name]
    shape = shape_of_config(config(), name, torch.bfloat16)
    return shape if expert_bytes is None else shape.with_expert_bytes(expert_bytes)
