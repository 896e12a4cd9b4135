"""Models for several kinds of input around the tiny text models: real wrappers, with towers that text never enters."""

import importlib
from typing import Any

import torch
import transformers
from transformers import PreTrainedModel

from moe_families.build import build_family
from moe_families.configs import tiny_config

_DOTS = {"vision_config": {"adapter_out_dim": 32}, "audio_config": {"adapter_out_dim": 32}}
_MUSE = {"audio_config": {"out_hidden_size": 32}}

WHOLES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "aria": ("AriaConfig", "AriaModel", {}),
    "deepseek_ocr2": ("DeepseekOcr2Config", "DeepseekOcr2Model", {}),
    "dots3_note": ("Dots3NoteConfig", "Dots3NoteModel", _DOTS),
    "ernie4_5_vl_moe": ("Ernie4_5_VLMoeConfig", "Ernie4_5_VLMoeModel", {}),
    "gemma4": ("Gemma4Config", "Gemma4Model", {}),
    "glm4v_moe": ("Glm4vMoeConfig", "Glm4vMoeModel", {}),
    "glm5_next": ("Glm5NextConfig", "Glm5NextModel", {}),
    "inkling": ("InklingConfig", "InklingModel", {}),
    "inkling2": ("Inkling2Config", "Inkling2Model", {"vision_config": {"text_hidden_size": 32}}),
    "llama4": ("Llama4Config", "Llama4ForConditionalGeneration", {}),
    "minimax_m3_vl": ("MiniMaxM3VLConfig", "MiniMaxM3VLModel", {}),
    "mistral_large4": ("MistralLarge4Config", "MistralLarge4Model", {}),
    "muse_spark": ("MuseSparkConfig", "MuseSparkModel", _MUSE),
    "qwen3_5_moe": ("Qwen3_5MoeConfig", "Qwen3_5MoeModel", {}),
    "qwen3_omni_moe": ("Qwen3OmniMoeThinkerConfig", "Qwen3OmniMoeThinkerModel", {}),
    "qwen3_vl_moe": ("Qwen3VLMoeConfig", "Qwen3VLMoeModel", {}),
    "qwen4_exp": ("Qwen4ExpConfig", "Qwen4ExpModel", {}),
    "step3p7": ("Step3p7Config", "Step3p7Model", {}),
    "unlimited_ocr": ("UnlimitedOcrConfig", "UnlimitedOcrModel", {}),
}
"""Configuration and model class of the wrapper of each such family, and fields that must fit the tiny text model."""


def build_whole(family: str) -> PreTrainedModel:
    """Build a family's wrapper around its tiny text model; everything else stays without memory (meta tensors)."""
    config_name, model_name, fields = WHOLES[family]
    module = importlib.import_module(f"transformers.models.{family}.modeling_{family}")
    config = getattr(transformers, config_name)(text_config=tiny_config(family), **fields)
    with torch.device("meta"):
        model = getattr(module, model_name)(config).eval()
    if family == "llama4":
        model.language_model.model = build_family(family)
        model.language_model.lm_head = torch.nn.Identity()
    else:
        model.language_model = build_family(family)
    return model
