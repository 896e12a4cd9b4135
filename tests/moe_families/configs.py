"""A tiny configuration of every MoE family of transformers: usual sizes by the names of the fields, and exceptions."""

from typing import Any

import transformers
from transformers import PreTrainedConfig

VOCABULARY = 97
E, K = 8, 2
_LAYERS = 4

SIZES: dict[str, int] = {
    **dict.fromkeys(("vocab_size", "vocab_size_per_layer_input"), VOCABULARY),
    **dict.fromkeys(("hidden_size", "d_model"), 32),
    **dict.fromkeys(("num_hidden_layers", "num_layers", "num_decoder_layers", "n_layers"), _LAYERS),
    **dict.fromkeys(("encoder_layers", "decoder_layers"), _LAYERS),
    **dict.fromkeys(("intermediate_size", "intermediate_size_mlp", "dense_intermediate_size", "ffn_hidden_size"), 48),
    **dict.fromkeys(("ffn_dim", "d_ff", "encoder_ffn_dim", "decoder_ffn_dim"), 48),
    **dict.fromkeys(("moe_intermediate_size", "moe_hidden_size", "expert_ffn_hidden_size", "share_expert_dim"), 24),
    **dict.fromkeys(("shared_expert_intermediate_size", "shared_intermediate_size"), 24),
    **dict.fromkeys(("moe_shared_expert_intermediate_size",), 24),
    **dict.fromkeys(("num_attention_heads", "num_heads", "n_heads", "num_key_value_heads"), 4),
    **dict.fromkeys(("swa_num_attention_heads", "swa_num_key_value_heads", "num_sliding_attention_heads"), 4),
    **dict.fromkeys(("encoder_attention_heads", "decoder_attention_heads"), 4),
    **dict.fromkeys(("head_dim", "swa_head_dim", "v_head_dim", "qk_rope_head_dim", "qk_nope_head_dim"), 8),
    **dict.fromkeys(("kv_channels", "d_kv", "d_rel", "hidden_size_per_layer_input", "o_lora_rank"), 8),
    **dict.fromkeys(("q_lora_rank", "kv_lora_rank", "router_hidden_size", "rel_extent", "sliding_window"), 16),
    **dict.fromkeys(("linear_head_dim", "linear_key_head_dim", "linear_value_head_dim"), 8),
    **dict.fromkeys(("linear_num_heads", "linear_num_value_heads", "mamba_n_heads", "mamba_num_heads"), 4),
    **dict.fromkeys(("mamba_d_head", "mamba_head_dim"), 16),
    **dict.fromkeys(("mamba_d_state", "ssm_state_size", "mamba_chunk_size", "chunk_size", "mamba_dt_rank"), 8),
    **dict.fromkeys(("index_head_dim", "indexer_head_dim"), 8),
    **dict.fromkeys(("linear_num_key_heads", "index_n_heads", "indexer_n_heads", "o_groups"), 2),
    **dict.fromkeys(("index_topk", "indexer_budget"), 16),
    **dict.fromkeys(("max_position_embeddings", "max_seq_len", "model_max_length"), 128),
    **dict.fromkeys(("num_experts", "n_routed_experts", "num_local_experts", "moe_num_experts"), E),
    **dict.fromkeys(("num_experts_per_tok", "num_experts_per_token", "moe_topk", "moe_k", "top_k_experts"), K),
    **dict.fromkeys(("n_group", "num_expert_group"), 4),
    "topk_group": 2,
    **dict.fromkeys(("n_shared_experts", "first_k_dense_replace", "n_groups"), 1),
    "zero_expert_num": 4,
    "num_nextn_predict_layers": 0,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
"""Value of a configuration field of this name, wherever a family has such a field."""

_MIXED = ["linear_attention", "full_attention", "linear_attention", "full_attention"]
_SPARSE = ["dense", "sparse", "sparse", "sparse"]

FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "afmoe": ("AfmoeConfig", {}),
    "aria": ("AriaTextConfig", {}),
    "axk1": ("AXK1Config", {}),
    "axk2": ("AXK2Config", {}),
    "bailing_hybrid": ("BailingHybridConfig", {"layer_types": _MIXED}),
    "beam": ("BeamConfig", {"mlp_layer_types": _SPARSE}),
    "cohere2_moe": ("Cohere2MoeConfig", {}),
    "dbrx": (
        "DbrxConfig",
        {
            "attn_config": {"kv_n_heads": 2, "rope_theta": 10000.0, "clip_qkv": 8.0},
            "ffn_config": {"hidden_size": 32, "ffn_hidden_size": 24, "moe_num_experts": E, "moe_top_k": K},
        },
    ),
    "deepseek_ocr2": ("DeepseekOcr2TextConfig", {"mlp_layer_types": _SPARSE}),
    "deepseek_v2": ("DeepseekV2Config", {"topk_method": "group_limited_greedy", "n_group": 2, "topk_group": 1}),
    "deepseek_v3": ("DeepseekV3Config", {}),
    "deepseek_v32": ("DeepseekV32Config", {}),
    "deepseek_v4": ("DeepseekV4Config", {}),
    "diffusion_gemma": ("DiffusionGemmaTextConfig", {}),
    "doge": ("DogeConfig", {"is_moe": True, "num_experts": 16}),
    "dots1": ("Dots1Config", {"n_shared_experts": 1}),
    "dots3_note": ("Dots3NoteTextConfig", {}),
    "ernie4_5_moe": ("Ernie4_5_MoeConfig", {}),
    "ernie4_5_vl_moe": (
        "Ernie4_5_VLMoeTextConfig",
        {
            "moe_intermediate_size": [24, 16],
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [1, 1, 2]},
        },
    ),
    "exaone_moe": ("ExaoneMoeConfig", {}),
    "flex_olmo": ("FlexOlmoConfig", {}),
    "flint": ("FlintConfig", {}),
    "gemma4": ("Gemma4TextConfig", {"enable_moe_block": True}),
    "glm4_moe": ("Glm4MoeConfig", {}),
    "glm4_moe_lite": ("Glm4MoeLiteConfig", {}),
    "glm4v_moe": (
        "Glm4vMoeTextConfig",
        {
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 10000.0,
                "partial_rotary_factor": 1.0,
                "mrope_section": [1, 1, 2],
            }
        },
    ),
    "glm5_next": ("Glm5NextTextConfig", {"qk_rope_head_dim": 0, "mlp_layer_types": _SPARSE}),
    "glm_moe_dsa": ("GlmMoeDsaConfig", {}),
    "gpt_oss": ("GptOssConfig", {}),
    "granitemoe": ("GraniteMoeConfig", {}),
    "granitemoe_swa": ("GraniteMoeSWAConfig", {}),
    "granitemoehybrid": ("GraniteMoeHybridConfig", {"layer_types": _MIXED}),
    "granitemoeshared": ("GraniteMoeSharedConfig", {}),
    "hunyuan_v1_moe": ("HunYuanMoEV1Config", {"moe_topk": [K, 1, K, K + 1]}),
    "hy_v3": ("HYV3Config", {}),
    "hy_v4": ("HYV4Config", {}),
    "inkling": ("InklingTextConfig", {}),
    "inkling2": ("Inkling2TextConfig", {}),
    "jamba": ("JambaConfig", {"attn_layer_period": 2, "attn_layer_offset": 1, "use_mamba_kernels": False}),
    "jetmoe": ("JetMoeConfig", {}),
    "kimi_linear": ("KimiLinearConfig", {"layer_types": _MIXED}),
    "kolibri1": ("Kolibri1Config", {}),
    "laguna": ("LagunaConfig", {}),
    "lfm2_moe": ("Lfm2MoeConfig", {"layer_types": ["conv", "full_attention"] * 2, "num_dense_layers": 1}),
    "llama4": ("Llama4TextConfig", {}),
    "longcat_flash": ("LongcatFlashConfig", {}),
    "mellum": ("MellumConfig", {}),
    "mimo_v2_flash": ("MiMoV2FlashConfig", {"head_dim": 16, "num_key_value_heads": 2}),
    "minimax": ("MiniMaxConfig", {}),
    "minimax_m2": ("MiniMaxM2Config", {}),
    "minimax_m3_vl": ("MiniMaxM3VLTextConfig", {}),
    "mistral4": ("Mistral4Config", {"head_dim": 16}),
    "mistral_large4": ("MistralLarge4TextConfig", {}),
    "mixtral": ("MixtralConfig", {}),
    "muse_spark": ("MuseSparkTextConfig", {}),
    "nemotron_h": ("NemotronHConfig", {"layers_block_type": ["linear_attention", "moe", "full_attention", "moe"]}),
    "nllb_moe": ("NllbMoeConfig", {"encoder_sparse_step": 2, "decoder_sparse_step": 2}),
    "olmoe": ("OlmoeConfig", {}),
    "openai_privacy_filter": ("OpenAIPrivacyFilterConfig", {}),
    "phimoe": ("PhimoeConfig", {}),
    "qwen2_moe": ("Qwen2MoeConfig", {}),
    "qwen3_5_moe": ("Qwen3_5MoeTextConfig", {"layer_types": _MIXED}),
    "qwen3_moe": ("Qwen3MoeConfig", {"mlp_only_layers": [1]}),
    "qwen3_next": ("Qwen3NextConfig", {"layer_types": _MIXED}),
    "qwen3_omni_moe": ("Qwen3OmniMoeTextConfig", {}),
    "qwen3_vl_moe": ("Qwen3VLMoeTextConfig", {}),
    "qwen4_exp": (
        "Qwen4ExpTextConfig",
        {"indexer_kv_heads": 1, "indexer_compress_ratio": 4},
    ),
    "solar_open": ("SolarOpenConfig", {}),
    "step3p7": ("Step3p7TextConfig", {"sliding_window": 16, "mlp_layer_types": _SPARSE}),
    "switch_transformers": ("SwitchTransformersConfig", {}),
    "unlimited_ocr": ("UnlimitedOcrTextConfig", {"mlp_layer_types": _SPARSE}),
    "zaya": ("ZayaConfig", {"num_experts_per_tok": 1}),
}
"""Configuration class of each family, and the fields of which it wants something else."""


def tiny_config(family: str) -> PreTrainedConfig:
    """Build a family's configuration with tiny sizes."""
    name, own = FAMILIES[family]
    kind = getattr(transformers, name)
    fields = kind().to_dict()
    return kind(**{key: value for key, value in SIZES.items() if key in fields} | own)


_ONE_LAYER_IS_DENSE = (
    "afmoe", "axk1", "axk2", "bailing_hybrid", "beam", "deepseek_ocr2", "deepseek_v2", "deepseek_v3", "deepseek_v32",
    "dots1", "dots3_note", "ernie4_5_moe", "ernie4_5_vl_moe", "exaone_moe", "glm4_moe", "glm4_moe_lite", "glm4v_moe",
    "glm5_next", "glm_moe_dsa", "hy_v3", "hy_v4", "kimi_linear", "laguna", "lfm2_moe", "mimo_v2_flash", "mistral4",
    "mistral_large4", "qwen3_moe", "step3p7", "unlimited_ocr",
)  # fmt: skip
SITES = {
    **dict.fromkeys(FAMILIES, _LAYERS),
    **dict.fromkeys(_ONE_LAYER_IS_DENSE, _LAYERS - 1),
    **dict.fromkeys(("nemotron_h", "jamba", "flint"), _LAYERS // 2),
    **dict.fromkeys(("switch_transformers", "jetmoe"), 2 * _LAYERS),
}
"""MoE layers that the tiny configurations ask for."""

EXCLUDED = {"ernie4_5_vl_moe": ("*.vision_moe.experts",)}
"""Layers that text does not reach, of the families that keep them beside those for text."""

_SIGMOID = (
    "afmoe", "axk1", "axk2", "bailing_hybrid", "beam", "deepseek_v3", "deepseek_v32", "dots1", "dots3_note",
    "exaone_moe", "flint", "glm4_moe", "glm4_moe_lite", "glm4v_moe", "glm5_next", "glm_moe_dsa", "hy_v3", "hy_v4",
    "inkling", "inkling2", "kimi_linear", "kolibri1", "laguna", "lfm2_moe", "llama4", "mimo_v2_flash", "minimax_m2",
    "minimax_m3_vl", "muse_spark", "nemotron_h", "solar_open", "step3p7",
)  # fmt: skip
SCORINGS = {
    **dict.fromkeys(FAMILIES, "softmax"),
    **dict.fromkeys(_SIGMOID, "sigmoid"),
    **dict.fromkeys(("diffusion_gemma", "gemma4"), "probabilities"),
    "deepseek_v4": "sqrtsoftplus",
}
"""What each family's modelling code applies to its router's logits, at the tiny configuration."""

BASES = {**dict.fromkeys(FAMILIES, "fitted"), "phimoe": "assumed", "hunyuan_v1_moe": "fitted/assumed"}
"""Whether the weights can tell the scoring: not where they are no function of it, or always 1."""
