"""Decoding text with a model's experts resident and offloaded, arms side by side in interleaved rounds."""

import hashlib
import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from var_core.errors import VarError
from var_core.parquet import write_table
from var_core.routing.sites import Site
from var_core.systems.offload.arms import Arm, Text
from var_core.systems.offload.experts import OffloadCounts, Offloaded
from var_core.systems.offload.store import MappedStore, PinnedStore
from var_core.systems.offload.transfer import Link

PHASES = ("prefill", "decode")
_COUNTS = ("accesses", "hits", "late", "demand_loads", "prefetch_loads", "useless", "bytes_moved")

OFFLOADED = pa.schema(
    [
        pa.field("arm", pa.string(), nullable=False),
        pa.field("capacity", pa.int32()),  # null: all experts are resident
        pa.field("shared", pa.bool_()),
        pa.field("phase", pa.string(), nullable=False),
        pa.field("batch", pa.int32(), nullable=False),
        pa.field("sequences", pa.int32(), nullable=False),
        pa.field("prompt", pa.int32(), nullable=False),
        pa.field("steps", pa.int64(), nullable=False),
        pa.field("tokens", pa.int64(), nullable=False),
        *(pa.field(name, pa.int64()) for name in _COUNTS),
        pa.field("hit_rate", pa.float64()),
        pa.field("stall_seconds", pa.float64()),
        pa.field("seconds", pa.float64(), nullable=False),
        pa.field("tokens_per_second", pa.float64(), nullable=False),
        pa.field("tokens_per_second_low", pa.float64(), nullable=False),
        pa.field("tokens_per_second_high", pa.float64(), nullable=False),
        pa.field("rounds", pa.int32(), nullable=False),
        pa.field("identical", pa.bool_()),  # null: there is no resident arm to compare with
        pa.field("link_bandwidth", pa.float64()),  # null: not held back
        pa.field("link_latency", pa.float64()),
        pa.field("device", pa.string(), nullable=False),
    ]
)
"""A row an arm and phase. Times and what depends on them (late, stall) are medians over rounds; low and high are the
slowest and the fastest round. What is left unused at the end counts as useless in the last phase."""


@dataclass
class OffloadedRun:
    """What came of a run.

    Attributes
    ----------
    table : pyarrow.Table
        As :data:`OFFLOADED`.
    needed : dict
        Of each offloaded arm: [step][layer] the distinct experts that were needed, ascending.
    """

    table: pa.Table
    needed: dict[str, list[list[list[int]]]]


@dataclass
class _Phase:
    seconds: float = 0.0
    steps: int = 0
    tokens: int = 0
    counts: list[OffloadCounts] = field(default_factory=list)

    def total(self, name: str) -> Any:
        return sum(getattr(each, name) for each in self.counts)


@dataclass
class _Check:
    """What the first, untimed round of an arm notes down."""

    digest: Any = field(default_factory=hashlib.sha256)
    needed: list[list[list[int]]] = field(default_factory=list)

    def see(self, logits: torch.Tensor) -> None:
        self.digest.update(logits.contiguous().cpu().view(torch.uint8).numpy())

    def need(self, layer: int, experts: Sequence[int]) -> None:
        if layer == 0:
            self.needed.append([])
        self.needed[-1].append(list(experts))


class OffloadRunner:
    """Runs a model on a text with its experts held in several ways.

    Offloaded arms leave the model's own experts where they are while the places are in use: what is measured is time
    and traffic. Only a process without a resident arm, whose experts are on the meta device, has the small memory too.

    Parameters
    ----------
    model : transformers.PreTrainedModel
        Causal, in evaluation mode.
    sites : tuple of Site
        All its MoE layers.
    store : MappedStore or PinnedStore
        With their experts.
    top_k : int
        Experts of one token at a layer.
    text : Text
    link : Link or None, optional
        Hold transfers back to a slower link; only on a CPU.
    """

    def __init__(
        self,
        model: Any,
        sites: tuple[Site, ...],
        store: MappedStore | PinnedStore,
        top_k: int,
        text: Text,
        link: Link | None = None,
    ) -> None:
        self._model, self._sites, self._store = model, sites, store
        self._top_k, self._text, self._link = top_k, text, link
        self._device = model.get_input_embeddings().weight.device
        self._batches = text.ids.to(self._device).split(text.batch)

    def run(self, arms: Sequence[Arm], rounds: int = 3, seed: int = 0) -> OffloadedRun:
        """Run all arms once untimed, to compare what they compute, then once a round in random order.

        Parameters
        ----------
        arms : sequence of Arm
        rounds : int, optional
            Rounds that are timed.
        seed : int, optional
            Of the orders.

        Raises
        ------
        VarError
            If two arms have the same name, there is no round, or an arm's capacity does not hold a token's experts.
        """
        names = [arm.name for arm in arms]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice or not arms:
            raise VarError(f"arms: {twice[0]} is there twice; give each its own name" if twice else "arms: give one")
        if rounds < 1:
            raise VarError(f"rounds: {rounds}; give 1 or more")
        checks = {arm.name: _Check() for arm in arms}
        for arm in arms:
            self._play(arm, checks[arm.name])
        played: dict[str, list[dict[str, _Phase]]] = {name: [] for name in names}
        random = np.random.default_rng(seed)
        for _ in range(rounds):
            for place in random.permutation(len(arms)):
                played[names[place]].append(self._play(arms[place]))
        resident = next((checks[arm.name].digest.digest() for arm in arms if arm.capacity is None), None)
        rows = []
        for arm in arms:
            same = None if resident is None else checks[arm.name].digest.digest() == resident
            rows += [self._row(arm, phase, played[arm.name], same) for phase in played[arm.name][0]]
        needed = {arm.name: checks[arm.name].needed for arm in arms if arm.capacity is not None}
        return OffloadedRun(pa.Table.from_pylist(rows, OFFLOADED), needed)

    @torch.inference_mode()
    def _play(self, arm: Arm, check: _Check | None = None) -> dict[str, _Phase]:
        """One arm on the whole text, from empty fast memory."""
        phases: dict[str, _Phase] = {}
        with nullcontext() if arm.capacity is None else self._offloaded(arm, arm.capacity, check) as running:
            for ids in self._batches:
                self._decode(ids, phases, running, check)
            if running is not None:
                phases[list(phases)[-1]].counts.append(OffloadCounts(useless=running.counts.unused))
        return phases

    def _offloaded(self, arm: Arm, capacity: int, check: _Check | None) -> Offloaded:
        predictor = arm.predictor() if arm.predictor else None
        needed = check.need if check else None
        return Offloaded(
            *(self._model, self._sites, self._store, capacity, arm.shared, self._top_k), predictor, self._link, needed
        )

    def _decode(
        self, ids: torch.Tensor, phases: dict[str, _Phase], running: Offloaded | None, check: _Check | None
    ) -> None:
        """One batch of sequences."""
        text, see = self._text, check.see if check else lambda logits: None
        with self._timed(phases, "prefill", running) as phase:
            output = self._model(input_ids=ids[:, : text.prompt], use_cache=True)
            see(output.logits)
            phase.steps, phase.tokens = phase.steps + 1, phase.tokens + text.prompt * len(ids)
        if not text.steps_behind_prompt:
            return
        with self._timed(phases, "decode", running) as phase:
            for place in range(text.prompt, text.prompt + text.steps_behind_prompt):
                written = place < ids.shape[1]
                token = ids[:, place : place + 1] if written else output.logits[:, -1:].argmax(dim=-1)
                output = self._model(input_ids=token, past_key_values=output.past_key_values, use_cache=True)
                see(output.logits)
            phase.steps += text.steps_behind_prompt
            phase.tokens += text.steps_behind_prompt * len(ids)

    @contextmanager
    def _timed(self, phases: dict[str, _Phase], name: str, running: Offloaded | None) -> Iterator[_Phase]:
        phase = phases.setdefault(name, _Phase())
        before = running.counts if running else OffloadCounts()
        self._synchronize()
        start = time.perf_counter()
        yield phase
        self._synchronize()
        phase.seconds += time.perf_counter() - start
        if running:
            phase.counts.append(running.counts.since(before))

    def _synchronize(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)

    def _row(self, arm: Arm, phase: str, played: list[dict[str, _Phase]], same: bool | None) -> dict[str, Any]:
        rounds = [each[phase] for each in played]
        tokens, seconds = rounds[0].tokens, [each.seconds for each in rounds]
        row: dict[str, Any] = {"stall_seconds": None, **dict.fromkeys(("shared", "hit_rate", *_COUNTS))}
        if arm.capacity is not None:
            row = {name: statistics.median_low(each.total(name) for each in rounds) for name in _COUNTS}
            row["hit_rate"] = row["hits"] / row["accesses"]
            row["stall_seconds"] = statistics.median(each.total("stall_seconds") for each in rounds)
            row["shared"] = arm.shared
        return row | {
            "arm": arm.name,
            "capacity": arm.capacity,
            "phase": phase,
            "batch": self._text.batch,
            "sequences": len(self._text.ids),
            "prompt": self._text.prompt,
            "steps": rounds[0].steps,
            "tokens": tokens,
            "seconds": statistics.median(seconds),
            "tokens_per_second": tokens / statistics.median(seconds),
            "tokens_per_second_low": tokens / max(seconds),
            "tokens_per_second_high": tokens / min(seconds),
            "rounds": len(rounds),
            "identical": same,
            "link_bandwidth": self._link.bandwidth if self._link else None,
            "link_latency": self._link.latency if self._link else None,
            "device": self._device.type,
        }


def write_offloaded(table: pa.Table, path: Path, provenance: dict[str, Any]) -> None:
    """Write a run's table with what it was made from."""
    write_table(path, table, provenance)
