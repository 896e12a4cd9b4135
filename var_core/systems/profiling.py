"""Profiles of a model on text: what its parts take in prefill and decoding, as it is and under a policy.

Every round decodes a few tokens behind a context, with a real key-value cache, once for each arm and instrument in a
random order, so that a machine that slows down slows all of them down. Instruments change what they measure; how much
is seen by the same passes without any.
"""

import gc
import gzip
import inspect
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch.profiler import ProfilerActivity
from torch.profiler import profile as torch_profile

from var_core.errors import VarError
from var_core.files import written_aside
from var_core.hypotheses.resampling import generator
from var_core.models.placement import input_device
from var_core.policy.runtime import RuntimePolicy
from var_core.routing.sites import Site
from var_core.systems.markers import Annotations, Stopwatch, recorded_seconds
from var_core.systems.names import DECODE, PREFILL
from var_core.systems.profiles import BARE, STOPWATCH, Key, Measured, Passes, Plan
from var_core.systems.ranges import Marker, Ranges


class Profiling:
    """Runs passes of a model under an arm's policy, watched by an instrument."""

    def __init__(self, model: Any, sites: tuple[Site, ...], policies: Mapping[str, RuntimePolicy | None]) -> None:
        self._model, self._sites, self._policies = model, sites, policies
        self.device = input_device(model)
        # Of the last token, as far as a model can be told so.
        some = "logits_to_keep" in inspect.signature(model.forward).parameters
        self._logits = {"logits_to_keep": 1} if some else {}

    def run(self, arm: str, instrument: str, token_ids: torch.Tensor, context: int) -> dict[str, Passes]:
        """Run a context and what is decoded behind it; seconds of one pass by phase."""
        if instrument == BARE:
            return self._timed(arm, None, token_ids, context, lambda phase: _ignored())
        if instrument == STOPWATCH:
            stopwatch, parts = Stopwatch(self.device), {}

            @contextmanager
            def watched(phase: str) -> Iterator[None]:
                stopwatch.start()
                yield
                parts[phase] = stopwatch.stop()

            passes = self._timed(arm, stopwatch, token_ids, context, watched)
            device: Mapping[str, dict[str, float]] = {}
        else:
            with profiler(self.device) as recorded:
                passes = self._annotated(arm, token_ids, context)
            parts, device = recorded_seconds(recorded)
        steps = {PREFILL: 1, DECODE: token_ids.shape[1] - context}
        for phase, own in passes.items():
            own.parts = {part: each / steps[phase] for part, each in parts[phase].items()}
            own.device = {part: each / steps[phase] for part, each in device.get(phase, {}).items()}
        return passes

    def trace(self, arms: Sequence[str], token_ids: torch.Tensor, context: int, output: Path) -> None:
        """Keep a Chrome trace of one run of each arm, compressed."""
        with profiler(self.device) as recorded:
            for arm in arms:
                annotations = Annotations(self.device)
                annotations.enter(f"arm {arm}")
                self._annotated(arm, token_ids, context)
                annotations.leave()
        with tempfile.TemporaryDirectory() as folder:
            plain = Path(folder) / "trace.json"
            recorded.export_chrome_trace(str(plain))
            with written_aside(output) as aside, plain.open("rb") as source, gzip.open(aside, "wb") as target:
                shutil.copyfileobj(source, target)

    def _annotated(self, arm: str, token_ids: torch.Tensor, context: int) -> dict[str, Passes]:
        annotations = Annotations(self.device)

        @contextmanager
        def watched(phase: str) -> Iterator[None]:
            annotations.enter(phase)
            yield
            annotations.leave()

        return self._timed(arm, annotations, token_ids, context, watched)

    def _timed(
        self, arm: str, marker: Marker | None, token_ids: torch.Tensor, context: int, watched: Callable[[str], Any]
    ) -> dict[str, Passes]:
        policy, passes = self._policies[arm], {}
        with ExitStack() as stack:
            if marker is not None:
                stack.enter_context(Ranges(self._model, self._sites, marker, policy))
            stack.enter_context(policy or nullcontext())
            stack.enter_context(torch.inference_mode())
            stack.enter_context(_no_garbage_collection())
            past = None
            starts = {PREFILL: [0], DECODE: range(context, token_ids.shape[1])}
            for phase, places in starts.items():
                length = context if phase == PREFILL else 1
                self._wait()
                begin = time.perf_counter()
                with watched(phase):
                    for place in places:
                        ids = token_ids[:, place : place + length]
                        more = {"past_key_values": past, "use_cache": True, **self._logits}
                        past = self._model(input_ids=ids, **more).past_key_values
                    self._wait()
                passes[phase] = Passes((time.perf_counter() - begin) / len(places), {}, {})
        return passes

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def profile(
    model: Any,
    sites: tuple[Site, ...],
    token_ids: NDArray[np.integer],
    policies: Mapping[str, RuntimePolicy | None],
    plan: Plan,
    trace: Path | None = None,
    advance: Callable[[int], None] | None = None,
) -> pa.Table:
    """Profile a model as it is and under policies.

    Logits are worked out of the last token of a prefill, as to generate, but by models that know no such limit.

    Parameters
    ----------
    model : transformers.PreTrainedModel
        Causal, in evaluation mode.
    sites : tuple of Site
        Its MoE layers.
    token_ids : int array, shape (S, T)
        Text, of which every round takes other sequences; at least as many as the largest batch, and as long as context
        and decoded tokens together.
    policies : mapping of str to RuntimePolicy or None
        Arm -> its policy; None for the model as it is.
    plan : Plan
    trace : Path, optional
        Where a Chrome trace of one run of each arm with the smallest batch is kept (``.json.gz``).
    advance : callable, optional
        Is told after each run, with 1.

    Returns
    -------
    pyarrow.Table
        Rows of :data:`var_core.systems.profiles.PROFILES`.

    Raises
    ------
    VarError
        If there is too little text.
    """
    length = plan.context + plan.steps
    if len(token_ids) < max(plan.batches) or token_ids.shape[1] < length:
        raise VarError(
            f"profile: {len(token_ids)} sequences of {token_ids.shape[1]} tokens are too little text for batches of "
            f"{max(plan.batches)} sequences of {length}; lower batches, context or steps"
        )
    profiling, measured = Profiling(model, sites, policies), Measured()
    text = torch.from_numpy(np.asarray(token_ids[:, :length], dtype=np.int64)).to(profiling.device)
    random = generator(plan.seed, "profile")
    for number in range(-plan.warmup, plan.rounds):
        for batch in plan.batches:
            instruments = plan.instruments(number, batch)
            rows = torch.from_numpy(random.permutation(len(text))[:batch]).to(profiling.device)
            keys = [Key(arm, batch, instrument) for arm in policies for instrument in instruments]
            for place in random.permutation(len(keys)):
                key = keys[place]
                passes = profiling.run(key.arm, key.instrument, text[rows], plan.context)
                if number >= 0:
                    measured.add(key, passes)
                if advance is not None:
                    advance(1)
    if trace is not None:
        profiling.trace(list(policies), text[: min(plan.batches)], plan.context, trace)
    return measured.table(plan)


@contextmanager
def profiler(device: torch.device) -> Iterator[Any]:
    """Torch's profiler of the host, and of a GPU where the model runs on one."""
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if device.type == "cuda" else [])]
    with torch_profile(activities=activities) as recorded:
        yield recorded


@contextmanager
def _ignored() -> Iterator[None]:
    yield


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """Collecting takes as long as what is timed, and would fall on whatever part runs."""
    gc.collect(0)
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()
