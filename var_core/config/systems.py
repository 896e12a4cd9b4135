"""Settings of what predictable routing is worth: devices, profile, expert caches, break-even."""

from typing import Annotated, Literal

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from var_core.config.base import Block, Distinct

CachePolicy = Literal[
    "lru", "lfu", "fifo", "static", "belady",
    "previous_token", "next_layer", "token_table", "context_cache", "oracle", "random",
]  # fmt: skip
AtLeastOne = Field(min_length=1)


class DeviceConfig(Block):
    """A device of one's own, for the roofline."""

    flops: PositiveFloat
    """floating-point operations a second of matrix products in the model's precision"""
    memory_bandwidth: PositiveFloat
    """bytes a second between the device and its memory"""
    link_bandwidth: PositiveFloat
    """bytes a second between its memory and where offloaded experts lie"""
    link_latency: Annotated[float, Field(ge=0)] = 0.0
    """seconds until the first byte of a load arrives"""
    launch: Annotated[float, Field(ge=0)] = 0.0
    """seconds that every part of a layer costs however small it is"""
    memory_bytes: PositiveFloat | None = None
    """bytes of memory; null: not limited"""


class ProfileConfig(Block):
    """What the model's parts cost on this machine."""

    batches: Annotated[tuple[PositiveInt, ...], Distinct, AtLeastOne] = (1, 4, 16)
    """sequences of a batch, in prefill and in decode"""
    heldout_batches: Annotated[tuple[PositiveInt, ...], Distinct, AtLeastOne] = (2, 8)
    """further ones, on which the calibrated cost model is held against what was measured"""
    rounds: int = Field(9, ge=5)
    """measured forward passes of each batch, all of them in turn"""
    prompt: PositiveInt = 64
    """tokens of a sequence that are prefilled; decode goes on from there"""


class CachesConfig(Block):
    """Caches of experts, replayed on recorded routing."""

    policies: Annotated[tuple[CachePolicy, ...], Distinct, AtLeastOne] | None = None
    """which are replayed; null: all that the trace has the fields for"""
    batches: Annotated[tuple[PositiveInt, ...], Distinct, AtLeastOne] = (1, 8)
    """sequences that are decoded together"""
    most_sizes: int = Field(16, ge=2)
    """sizes of caches, from k experts a layer to all of them; so many at most, evenly spread"""
    sizes_mib: Annotated[tuple[PositiveFloat, ...], Distinct] = ()
    """further sizes of the cache that all layers share, in MiB"""
    max_sequences: PositiveInt | None = 64
    """held-out sequences, drawn at random, that are replayed; null: all, as of what was recorded by phases"""
    least_agreement: float = Field(0.0, ge=0, le=1)
    """token_table: entries that promise less agreement than this are not prefetched"""
    bootstrap: int = Field(1000, ge=50)
    """resamples of clusters, for the intervals of hit rates"""
    confidence: float = Field(0.95, gt=0.5, lt=1)
    """confidence of these intervals"""
    seed: int = 0
    """seed of resamples and of random predictions"""


class OffloadConfig(Block):
    """The model run with experts that are not in memory, to hold the simulation against."""

    enabled: bool = True
    """false: no such run, as for models whose experts are not fused parameters"""
    share: float = Field(0.5, gt=0, le=1)
    """share of all experts that is in memory, at least k experts a layer"""
    sequences: PositiveInt = 2
    """held-out sequences that are decoded, one after another"""
    tokens: int = Field(64, ge=2)
    """tokens of each"""
    rounds: int = Field(6, ge=1)
    """runs of each arm, in turn; fewer than 6 give no intervals"""


class CostsConfig(Block):
    """What the parts of a forward pass cost, counted from shapes and modelled for devices."""

    batches: Annotated[tuple[PositiveInt, ...], Distinct, AtLeastOne] = (1, 8, 64)
    """sequences of a batch"""
    contexts: Annotated[tuple[PositiveInt, ...], Distinct, AtLeastOne] = (1024, 8192)
    """tokens of context"""
    published: bool = True
    """also of five known architectures, from their published dimensions"""


class SystemsConfig(Block):
    """What predictable routing is worth, on which hardware."""

    enabled: bool = True
    """false: nothing is profiled, simulated and run offloaded"""
    devices: Annotated[tuple[str, ...], Distinct] = ("h100-sxm", "rtx-4090", "laptop-nvme", "phone-ufs")
    """presets, or names under own_devices; this machine is measured and always there"""
    own_devices: dict[str, DeviceConfig] = Field({})
    """devices of one's own by name"""
    profile: ProfileConfig = ProfileConfig()
    """what the model's parts cost on this machine"""
    costs: CostsConfig = CostsConfig()
    """what they cost by count, and on other devices by a model"""
    caches: CachesConfig = CachesConfig()
    """caches of experts, replayed on recorded routing"""
    offload: OffloadConfig = OffloadConfig()
    """the model run with experts that are not in memory"""

    @model_validator(mode="after")
    def _batches_are_held_out(self) -> "SystemsConfig":
        both = sorted(set(self.profile.batches) & set(self.profile.heldout_batches))
        if both:
            raise ValueError(f"profile.heldout_batches: {both[0]} is among profile.batches, and so not held out")
        return self
