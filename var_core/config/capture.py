"""Settings of routing capture."""

from typing import Annotated

from pydantic import Field, NonNegativeInt, PositiveInt, field_validator, model_validator

from var_core.config.base import Block, Distinct
from var_core.config.corpus import CAPTURED_SPLITS, CapturedSplit

_NEEDED_TRACES: dict[CapturedSplit, str] = {
    "calibration": "a policy's tables are compared with",
    "tuning": "a policy's settings are compared on",
    "heldout": "the hypotheses are tested on",
}


class Shards(Block):
    """Number of shards, and so of capture jobs, for each split."""

    capture: PositiveInt = Field(8, ge=2)
    """shards of the capture split; intervals come from leaving one out, so at least 2, better 8 or more"""
    calibration: PositiveInt = 2
    """shards of the calibration split"""
    tuning: PositiveInt = 1
    """shards of the tuning split"""
    heldout: PositiveInt = 2
    """shards of the held-out split"""


class MicroShards(Block):
    """Number of micro-shards that each split's sequences are dealt into, whatever the number of jobs."""

    capture: PositiveInt = 48
    """micro-shards of the capture split; a multiple of its shards"""
    calibration: PositiveInt = 8
    """micro-shards of the calibration split; a multiple of its shards"""
    tuning: PositiveInt = 4
    """micro-shards of the tuning split; a multiple of its shards"""
    heldout: PositiveInt = 12
    """micro-shards of the held-out split; a multiple of its shards"""


class CaptureConfig(Block):
    """How routing decisions are captured."""

    shards: Shards = Shards()
    """number of shards, each one job"""
    micro_shards: MicroShards = MicroShards()
    """number of micro-shards, which jobs work through one after another; finished ones are kept, so that with another
    number of shards nothing is captured again"""
    batch_sequences: PositiveInt = 8
    """sequences a forward pass"""
    checkpoint_tokens: PositiveInt = 200_000
    """a checkpoint is written whenever this many tokens have passed since the last"""
    trace: Annotated[tuple[CapturedSplit, ...], Distinct] = CAPTURED_SPLITS
    """splits whose decisions are also written one by one, in order: ``heldout`` must be one for the hypotheses,
    ``calibration`` and ``tuning`` for policies, and ``capture`` for a policy's tables by pair of tokens and position"""
    max_nonfinite: NonNegativeInt = 0
    """decisions with NaN or infinite logits that a shard may hold; they are counted and never averaged in"""
    device: str = "auto"
    """auto: the GPU when there is one, else the CPU; or a torch device such as ``cuda:1``"""
    max_state_mb: PositiveInt | None = None
    """memory for the statistics under way, in MB, on the device; over it, rows seen so far go to disk and are merged at
    the end (the same counts; means may differ in their last digits); null: no limit"""
    lock_stale_s: PositiveInt = Field(120, ge=10)
    """seconds without a sign of life after which another process takes over a shard; on network file systems that keep
    file attributes for long, more than that"""
    lock_wait_s: NonNegativeInt = 300
    """seconds to wait for another process that captures the same shard, then fail; over ``lock_stale_s``, so that the
    lock of a process that died on another machine is waited out"""
    deadline_margin_s: NonNegativeInt = 300
    """seconds before the end of the job's time (``runtime``) at which it writes a checkpoint and ends, for a retry to
    continue; must hold the start of the job, a batch and a checkpoint"""
    seed: int = 0
    """seed of the within-sequence shuffle that cross-layer mutual information is compared with"""

    @field_validator("trace")
    @classmethod
    def _has_what_analyses_need(cls, trace: tuple[CapturedSplit, ...]) -> tuple[CapturedSplit, ...]:
        for split, need in _NEEDED_TRACES.items():
            if split not in trace:
                raise ValueError(f"must name {split}, whose decisions {need}")
        return tuple(split for split in CAPTURED_SPLITS if split in trace)

    @model_validator(mode="after")
    def _whole_micro_shards(self) -> "CaptureConfig":
        """Shards of equal numbers of micro-shards: intervals come from leaving one shard out."""
        shards, micro_shards = self.shards.model_dump(), self.micro_shards.model_dump()
        for split, number in shards.items():
            if micro_shards[split] % number:
                raise ValueError(
                    f"micro_shards.{split}: {micro_shards[split]} is not a multiple of the {number} shards of "
                    f"shards.{split}"
                )
        return self


def state_bytes(megabytes: int | None) -> int | None:
    """Turn ``capture.max_state_mb`` into bytes."""
    return None if megabytes is None else megabytes * 1_000_000
