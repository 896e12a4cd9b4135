"""Capture with all statistics against plain forward passes and other ways to the same statistics."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch

from var_core.benchmarks.document import Section, not_run
from var_core.benchmarks.environment import environment
from var_core.benchmarks.equality import check_same_statistics, check_similar_load
from var_core.benchmarks.subject import LENGTH, SEQUENCES, Input, Subject, demo_subject
from var_core.benchmarks.timing import Contender, Figure, time_rounds
from var_core.benchmarks.tracing import same_weights, tracer
from var_core.routing.batch import RoutedBatch, RouterLayout
from var_core.routing.recorder import Recorder
from var_core.routing.sites import find_sites
from var_core.statistics.accumulator import Accumulator, TokenBatch

CAUSAL, BASE, AGAIN = "causal_lm_forward", "base_forward", "base_forward_again"
CAPTURE, ROUTER_LOGITS, NNSIGHT, NNSIGHT_BASE = "capture", "router_logits", "nnsight", "nnsight_base"
_BATCHES = 4
_ROUNDS_OF_ONE = 3
"""A round here takes a second, and the difference to be seen is a few hundredths."""

CONTENDERS = {
    CAUSAL: "AutoModelForCausalLM forward with its defaults: language-model head, cache, token ids only",
    BASE: "base model forward as capture runs it: no head, no cache, positions that restart with every document",
    AGAIN: "the same once more: what its ratio is off 1 by is noise",
    CAPTURE: "a capture job's work on a batch: hooks, base model forward, all statistics",
    ROUTER_LOGITS: "causal model without cache, output_router_logits=True, top k derived again, the same statistics",
    NNSIGHT: "nnsight tracing every router of the causal model without cache, the same statistics",
    NNSIGHT_BASE: "nnsight tracing every router of the base model without cache, the same statistics",
}


class Contenders:
    """All ways of running the subject, each with statistics of its own where it makes any.

    Parameters
    ----------
    subject : Subject
        Model and text.
    max_state_bytes : int or None
        Limit of each way's statistics; None: none.

    Attributes
    ----------
    missing : dict
        Contender -> why it cannot run.
    """

    def __init__(self, subject: Subject, max_state_bytes: int | None = None) -> None:
        self._subject, self._limit = subject, max_state_bytes
        self._causal = subject.causal
        # Asked for router logits, transformers puts hooks into a model and leaves them there.
        self._hooked = same_weights(subject.causal)
        self._sites = find_sites(self._causal.model)
        recorded = self._record(subject.inputs[0])
        assert recorded.weights is not None
        self._top_k, self._weights_dtype = recorded.experts.shape[-1], recorded.weights.dtype
        self.missing: dict[str, str] = {}
        self._ways: dict[str, Callable[[Input], RoutedBatch]] = {CAPTURE: self._record, ROUTER_LOGITS: self._derive}
        self._add_tracers()
        self.accumulators = {name: self._accumulator() for name in self._ways}

    def _accumulator(self) -> Accumulator:
        layout = RouterLayout.uniform(len(self._sites), self._sites[0].number_of_experts, self._top_k)
        return Accumulator(layout, self._subject.vocabulary, self._causal.device, max_state_bytes=self._limit)

    def _add_tracers(self) -> None:
        try:
            self._ways[NNSIGHT] = tracer(same_weights(self._causal), self._sites, "model.", use_cache=False)
            self._ways[NNSIGHT_BASE] = tracer(same_weights(self._causal).model, self._sites, "", use_cache=False)
            for name in (NNSIGHT, NNSIGHT_BASE):
                with torch.inference_mode():
                    self._ways[name](self._subject.inputs[0])
        except Exception as error:  # a tracer that fails, however it does, must not stop the other measurements
            reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
            for name in (NNSIGHT, NNSIGHT_BASE):
                self.missing[name] = reason
                self._ways.pop(name, None)

    def check(self) -> None:
        """Run every way over all inputs and check that the statistics are the same (on a GPU: nearly).

        Raises
        ------
        VarError
            If two ways differ.
        """
        expected: dict[str, pa.Table] = {}
        with torch.inference_mode():
            for name, accumulator in self.accumulators.items():
                for index in range(len(self._subject.inputs)):
                    self._step(name)(index)
                tables = accumulator.tables("text")
                expected = tables if name == CAPTURE else expected
                if self._causal.device.type == "cpu":
                    check_same_statistics(expected, tables, name)
                else:
                    check_similar_load(expected["layer_stats"], tables["layer_stats"], name)
                accumulator.reset()

    def runs(self) -> dict[str, Contender]:
        """The work of a round by contender."""
        inputs, causal = self._subject.inputs, self._causal
        plain: dict[str, Contender] = {
            CAUSAL: lambda round_: causal(input_ids=inputs[round_ % len(inputs)].token_ids),
            **dict.fromkeys((BASE, AGAIN), lambda round_: self._base_forward(inputs[round_ % len(inputs)])),
        }
        return plain | {name: self._step(name) for name in self._ways}

    def _step(self, name: str) -> Contender:
        way, accumulator, inputs = self._ways[name], self.accumulators[name], self._subject.inputs

        def step(round_: int) -> None:
            index = round_ % len(inputs)
            given = inputs[index]
            tokens = TokenBatch.from_sequences(given.token_ids, given.document)
            if not accumulator.has_room(given.token_ids.flatten()):
                accumulator.reset()
            accumulator.update(tokens, way(given), index)

        return step

    def _base_forward(self, given: Input) -> object:
        return self._causal.model(input_ids=given.token_ids, position_ids=given.positions, use_cache=False)

    def _record(self, given: Input) -> RoutedBatch:
        with torch.inference_mode(), Recorder(self._sites) as recorder:  # attached anew: no other contender has hooks
            self._base_forward(given)
            return recorder.take()

    def _derive(self, given: Input) -> RoutedBatch:
        # With a cache the model would not see from the positions that documents are apart, and route otherwise.
        outputs = self._hooked(
            input_ids=given.token_ids, position_ids=given.positions, use_cache=False, output_router_logits=True
        )
        # Layer by layer, as the model does it: in half precision ties are common, and this way fall alike.
        chosen = [torch.softmax(logits.float(), dim=-1).topk(self._top_k) for logits in outputs.router_logits]
        weights, experts = (torch.stack(part) for part in zip(*chosen, strict=True))
        weights = (weights / weights.sum(-1, keepdim=True)).to(self._weights_dtype)
        return RoutedBatch(torch.stack(outputs.router_logits), experts, weights)


def measure(subject: Subject, rounds: int, prefix: str = "", max_state_bytes: int | None = None) -> Section:
    """Time all contenders on a subject, after checking that they give the same statistics.

    Parameters
    ----------
    subject : Subject
        Model and text.
    rounds : int
        Rounds that count.
    prefix : str, optional
        Put before every key.
    max_state_bytes : int or None, optional
        Limit of the statistics' memory.
    """
    device = subject.causal.device
    contenders = Contenders(subject, max_state_bytes)
    contenders.check()
    with torch.inference_mode():
        times = time_rounds(contenders.runs(), rounds, device)
    figures: dict[str, Figure | str] = {}
    for of, against in _pairs():
        key = f"{prefix}{of}_over_{against}"
        if of in contenders.missing:
            figures[key] = not_run(contenders.missing[of])
        else:
            figures[key] = times.ratio(of, against)
    tokens = subject.inputs[0].token_ids.numel()
    for name in (CAUSAL, BASE, CAPTURE):
        figures[f"{prefix}{name}_rate"] = times.rate(name, tokens, "tokens a second")
    about = {**subject.about, "contenders": CONTENDERS, "rounds": rounds}
    return Section(f"{prefix}capture", environment(device), about, figures)


def _pairs() -> Sequence[tuple[str, str]]:
    return [(CAPTURE, CAUSAL), (CAPTURE, BASE), (AGAIN, BASE), (BASE, CAUSAL)] + [
        (name, CAUSAL) for name in (ROUTER_LOGITS, NNSIGHT, NNSIGHT_BASE)
    ]


def capture_section(results: Path, rounds: int) -> Section:
    """The demo model on the CPU, three times as many rounds as asked for."""
    return measure(demo_subject(results, _BATCHES, torch.device("cpu")), rounds * _ROUNDS_OF_ONE)


def not_run_section(prefix: str, reason: str, about: dict[str, Any]) -> Section:
    """What is written where the measurement cannot be made."""
    keys = [f"{prefix}{of}_over_{against}" for of, against in _pairs()]
    keys += [f"{prefix}{name}_rate" for name in (CAUSAL, BASE, CAPTURE)]
    about = {**about, "sequences": SEQUENCES, "length": LENGTH}
    return Section(f"{prefix}capture", environment(torch.device("cpu")), about, dict.fromkeys(keys, not_run(reason)))
