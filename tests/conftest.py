"""Models and data that many tests share: real architectures with random weights, small enough to run at once."""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from collections.abc import Callable
from pathlib import Path

import pytest
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


@pytest.fixture(params=sorted(MOE_CONFIGS))
def family(request: pytest.FixtureRequest) -> str:
    """Name of each supported family in turn."""
    return request.param


@pytest.fixture
def moe_model(family: str) -> PreTrainedModel:
    """A small causal model of each supported family."""
    return build_model(family)


@pytest.fixture
def save_model() -> Callable[[PreTrainedModel, Path], Path]:
    """A function that saves a model with a real tokenizer as a Hugging Face folder and returns its ``model.json``."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast
    from var_core.models.fetch import fetch_model

    from var_core.config.models import FolderModel

    def save(model: PreTrainedModel, folder: Path) -> Path:
        model.save_pretrained(folder)
        vocabulary = {chr(33 + token): token for token in range(VOCABULARY - 1)} | {"<|endoftext|>": VOCABULARY - 1}
        tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="!"))
        tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
        PreTrainedTokenizerFast(
            tokenizer_object=tokenizer, bos_token="<|endoftext|>", eos_token="<|endoftext|>"
        ).save_pretrained(folder)
        record = folder / "model.json"
        fetch_model("mine", FolderModel(source="folder", path=str(folder)), record, "code")
        return record

    return save
