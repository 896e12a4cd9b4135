"""Settings of models."""

import re
from typing import Annotated, Literal

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, ValidationInfo, field_validator, model_validator

from var_core.config.base import COMMIT_PATTERN, Block, Distinct, HubName, pinned

_MEMORY_OF = re.compile(r"\d+|cpu")
_MEMORY_SIZE = re.compile(r"\d+(\.\d+)?([KMG]iB|[KMG]B)")


class Expectation(Block):
    """What the model is believed to be; capture stops when the loaded model disagrees."""

    experts: PositiveInt | None = None
    """experts in every MoE layer"""
    top_k: PositiveInt | None = None
    """experts chosen for a token"""
    layers: PositiveInt | None = None
    """MoE layers"""


class ModelBase(Block):
    """What all models have."""

    dtype: Literal["float32", "bfloat16", "float16", "auto"] = "auto"
    """precision of the weights in memory; auto: as stored"""
    expect: Expectation = Expectation()
    """numbers to check against the loaded model"""


class PretrainedModel(ModelBase):
    """What models have that somebody else trained."""

    device_map: str | None = None
    """null: one device (the GPU when there is one); ``auto``: spread over devices by accelerate"""
    max_memory: dict[str, str] | None = None
    """most that weights may take of each device, for example ``{"0": "70GiB", "cpu": "200GiB"}``; needs device_map"""
    offload_folder: str | None = None
    """folder for weights that fit nowhere else, read again for every batch; each job makes, and removes, its own
    folder in it; needs device_map"""
    quantisation: Literal["none", "int8", "int4"] = "none"
    """precision of the experts' weights in memory; routers and all other weights keep ``dtype``, but decisions change
    with the experts before them"""
    exclude_sites: tuple[str, ...] = ()
    """patterns of module paths of MoE layers that text never reaches, for example ``vision_tower.*``"""
    trust_remote_code: bool = False
    """run Python code that comes with the model; leave false unless you have read it"""

    @field_validator("max_memory")
    @classmethod
    def _has_devices_and_sizes(cls, max_memory: dict[str, str] | None) -> dict[str, str] | None:
        for device, size in (max_memory or {}).items():
            if not _MEMORY_OF.fullmatch(device):
                raise ValueError(f"{device!r} is not a device; use the number of a GPU, as text, or cpu")
            if not _MEMORY_SIZE.fullmatch(size):
                raise ValueError(f"{size!r} of {device} is not a size; write it like 70GiB or 500MB")
        return max_memory

    @model_validator(mode="after")
    def _is_placed(self) -> "PretrainedModel":
        for key in ("max_memory", "offload_folder"):
            if getattr(self, key) is not None and self.device_map is None:
                raise ValueError(f"{key} is only used with device_map; add device_map: auto")
        return self


class HubModel(PretrainedModel):
    """A model from the Hugging Face hub, downloaded once at a pinned revision."""

    source: Literal["hub"]
    """the kind of source"""
    repo: HubName
    """repository of the model, for example ``allenai/OLMoE-1B-7B-0924``"""
    revision: str = Field(json_schema_extra={"pattern": COMMIT_PATTERN})
    """commit of the model's repository, all 40 digits (a branch name moves, and results with it)"""

    @field_validator("revision")
    @classmethod
    def _is_pinned(cls, revision: str, info: ValidationInfo) -> str:
        return pinned(revision, f"https://huggingface.co/{info.data.get('repo', 'OWNER/NAME')}")


class FolderModel(PretrainedModel):
    """A model in a local Hugging Face folder."""

    source: Literal["folder"]
    """the kind of source"""
    path: str = Field(min_length=1)
    """the folder with ``config.json``, safetensors weights and the tokenizer"""


class DemoModel(ModelBase):
    """A small Mixtral trained from scratch by the workflow itself, on a corpus's train split."""

    source: Literal["demo"]
    """the kind of source"""
    corpus: str
    """corpus whose train split trains tokenizer and model"""
    vocabulary: PositiveInt = Field(4096, ge=300)
    """tokens of the byte-level BPE tokenizer"""
    layers: PositiveInt = 4
    """transformer layers, each with an MoE block"""
    hidden: PositiveInt = 128
    """width of the residual stream"""
    intermediate: PositiveInt = 256
    """inner width of an expert"""
    heads: PositiveInt = 4
    """attention heads"""
    experts: PositiveInt = Field(8, ge=2)
    """experts a layer"""
    top_k: PositiveInt = 2
    """experts chosen for a token"""
    sequence_length: PositiveInt = Field(256, ge=8)
    """tokens a training sequence"""
    max_position: PositiveInt = Field(512, ge=8)
    """longest sequence that the model accepts"""
    batch_sequences: PositiveInt = 8
    """sequences a training step"""
    steps: PositiveInt = 700
    """training steps"""
    learning_rate: PositiveFloat = 3e-3
    """peak learning rate (linear warm-up over the first twentieth, then cosine to a tenth)"""
    load_balancing: float = Field(0.02, ge=0)
    """weight of the load-balancing loss"""
    evaluate_tokens: PositiveInt = 100_000
    """held-out tokens that model, unigram and bigram baselines are compared on"""
    seed: int = 0
    """seed of initial weights and data order"""

    @model_validator(mode="after")
    def _fits_together(self) -> "DemoModel":
        if self.top_k > self.experts:
            raise ValueError(f"top_k ({self.top_k}) must not exceed experts ({self.experts})")
        if self.hidden % self.heads or (self.hidden // self.heads) % 2:
            raise ValueError(f"hidden ({self.hidden}) must be an even multiple of heads ({self.heads})")
        if self.sequence_length > self.max_position:
            raise ValueError(
                f"sequence_length ({self.sequence_length}) must not exceed max_position ({self.max_position})"
            )
        return self


ModelConfig = Annotated[HubModel | FolderModel | DemoModel, Field(discriminator="source")]
"""Models that can be loaded and run."""


Architecture = Literal["mixtral-8x7b", "olmoe-1b-7b", "qwen3-30b-a3b", "deepseek-v3", "gpt-oss-120b"]
"""Known architectures, as :mod:`var_core.systems.published` builds them."""


class TraceModel(Block):
    """A model whose routing somebody else recorded: nothing is loaded or run. Goes with a corpus of the same source."""

    source: Literal["trace"]
    """the kind of source"""
    experts: PositiveInt = Field(ge=2)
    """experts that every MoE layer chooses from; a file that names another is refused"""
    top_k: PositiveInt
    """experts recorded for a token, which may be fewer than the model chooses"""
    layers: PositiveInt | None = None
    """MoE layers recorded; null: as many as the files hold (all files the same number)"""
    moe_layers: Annotated[tuple[NonNegativeInt, ...], Distinct] | None = None
    """sglang and vllm: which of the recorded layers have experts, where dense layers were recorded too; null: all"""
    vocabulary: PositiveInt | None = None
    """token ids that the model knows; null: as many as the tokenizer has, or up to the largest that was recorded"""
    tokenizer: str | None = None
    """folder of a Hugging Face tokenizer, to show tokens as text; null: token ids are shown as numbers"""
    expert_bytes: PositiveInt | tuple[PositiveInt, ...] | None = None
    """bytes of an expert, or of one of each layer, for caches of experts; null: those of `architecture`"""
    architecture: Architecture | None = None
    """the known architecture that was recorded, for what its parts cost; null: only loads are counted, no times"""

    @model_validator(mode="after")
    def _fits_together(self) -> "TraceModel":
        if self.top_k > self.experts:
            raise ValueError(f"top_k ({self.top_k}) must not exceed experts ({self.experts})")
        if self.moe_layers is not None and self.layers is not None and len(self.moe_layers) != self.layers:
            raise ValueError(f"moe_layers names {len(self.moe_layers)} layers, but layers is {self.layers}")
        if self.moe_layers is not None and list(self.moe_layers) != sorted(self.moe_layers):
            raise ValueError("moe_layers must be in the order in which the layers run")
        if isinstance(self.expert_bytes, tuple) and self.layers not in (None, len(self.expert_bytes)):
            raise ValueError(f"expert_bytes names {len(self.expert_bytes)} layers, but layers is {self.layers}")
        return self


AnyModelConfig = Annotated[HubModel | FolderModel | DemoModel | TraceModel, Field(discriminator="source")]
