"""Small real MoE architectures with random weights, which run at once."""

from collections.abc import Callable

import torch
from transformers import (
    AutoModelForCausalLM,
    MixtralConfig,
    OlmoeConfig,
    PreTrainedConfig,
    PreTrainedModel,
    Qwen2MoeConfig,
    Qwen3MoeConfig,
)

VOCABULARY = 97
COMMON = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
}
MOE_CONFIGS: dict[str, Callable[[], PreTrainedConfig]] = {
    "mixtral": lambda: MixtralConfig(**COMMON, num_local_experts=8, num_experts_per_tok=2),
    "olmoe": lambda: OlmoeConfig(**COMMON, num_experts=16, num_experts_per_tok=4),
    "qwen2_moe": lambda: Qwen2MoeConfig(
        **COMMON, num_experts=8, num_experts_per_tok=3, moe_intermediate_size=24, shared_expert_intermediate_size=40
    ),
    "qwen3_moe": lambda: Qwen3MoeConfig(
        **COMMON, head_dim=8, num_experts=12, num_experts_per_tok=4, moe_intermediate_size=24, norm_topk_prob=True
    ),
}


def build_model(family: str, seed: int = 0) -> PreTrainedModel:
    """Build a small causal model of a family with random weights, routers far from uniform."""
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(MOE_CONFIGS[family]()).eval().requires_grad_(False)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("gate.weight") and parameter.shape[0] > 1:
                parameter.normal_(0, 1.0)
    return model
