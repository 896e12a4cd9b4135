"""Capturing one micro-shard: forward passes, statistics on the fly, checkpoints, and its files."""

import logging
from collections.abc import Sequence

import pyarrow.compute as pc

from var_core.capture.batches import Batch, plan_batches
from var_core.capture.checkpoint import CheckpointFolder, Progress
from var_core.capture.counting import Counting
from var_core.capture.lock import ShardLock
from var_core.capture.memory import SpoiltStateError
from var_core.capture.outputs import MicroShardOutputs, Parts
from var_core.capture.stopping import StopRequest
from var_core.capture.subject import Subject
from var_core.config.capture import CaptureConfig
from var_core.corpus.shards import MicroShard, TokenShard
from var_core.errors import VarError
from var_core.parquet import opened
from var_core.progress import Progress as ProgressBar
from var_core.routing.recorder import Recorder

_LOGGER = logging.getLogger(__name__)


class MicroShardCapture:
    """The capture of one micro-shard, under its lock.

    Parameters
    ----------
    tokens : TokenShard
        The shard that it is part of.
    micro_shard : MicroShard
        Which part.
    subject : Subject
        The model.
    config : CaptureConfig
        How to capture.
    outputs : MicroShardOutputs
        Where its files go.
    lock : ShardLock
        Held.
    nonfinite : sequence of int
        Decisions at every layer with NaN or infinite logits in the shard's other micro-shards.
    """

    def __init__(
        self,
        tokens: TokenShard,
        micro_shard: MicroShard,
        subject: Subject,
        config: CaptureConfig,
        outputs: MicroShardOutputs,
        lock: ShardLock,
        nonfinite: Sequence[int],
    ) -> None:
        self._tokens, self._micro_shard, self._subject = tokens, micro_shard, subject
        self._config, self._outputs, self._elsewhere = config, outputs, nonfinite
        self._batches = plan_batches(tokens.domain, config.batch_sequences, micro_shard.start, micro_shard.stop)
        self._counting = Counting(subject.accumulator, tokens, len(self._batches), config, outputs.trace)
        self._state = CheckpointFolder(outputs.state, outputs.stem, lock.check)

    def run(self, bar: ProgressBar, stop: StopRequest) -> None:
        """Capture all batches that are left, and write the files.

        Raises
        ------
        StoppedError
            If the job was asked to end; all that was done is in a checkpoint.
        VarError
            If more logits than allowed are not finite, memory does not suffice for one sequence, the disk is full, or
            another process has taken the micro-shard over.
        """
        self._outputs.remove_asides()
        parts = None
        while parts is None:
            done = bar.done
            try:
                parts = self._capture_rest(bar, stop)
            except SpoiltStateError as spoilt:
                _LOGGER.warning("%s: back to the last checkpoint", spoilt)
                bar.set_back(done)
        tokens = (self._micro_shard.stop - self._micro_shard.start) * self._tokens.length
        content = {"first": self._micro_shard.first, "content": self._micro_shard.content, "tokens": tokens}
        parts.assemble(self._outputs, {**self._subject.plan.provenance(), **content})
        self._state.remove()

    def _capture_rest(self, bar: ProgressBar, stop: StopRequest) -> Parts:
        """Capture the batches that the last checkpoint does not hold; return the parts of the whole micro-shard."""
        progress = self._resume()
        self._refuse_nonfinite(progress)  # the limit may be lower than when the checkpoint was written
        parts = Parts(self._state, progress)
        bar.found_done(sum(self._tokens_of(batch) for batch in self._batches[: progress.batches]))
        unsaved = 0

        def save() -> None:
            nonlocal unsaved
            if unsaved:
                parts.flush_trace()
                self._state.save(progress, self._counting.accumulator.state())
                unsaved = 0

        def stop_if_asked() -> None:
            if stop.reason():
                save()
                stop.check(bar.done, bar.total, bar.description)

        with Recorder(self._subject.sites) as recorder:
            for batch in self._batches[progress.batches :]:
                self._counting.make_room(batch, progress, parts)
                self._capture(batch, recorder, parts)
                self._refuse_nonfinite(progress)
                progress.batches = batch.index + 1
                unsaved += self._tokens_of(batch)
                if batch.ends_domain:
                    self._counting.put_away(batch.domain, progress, parts)
                parts.flush_large_trace()
                if unsaved >= self._config.checkpoint_tokens:
                    save()
                bar.advance(self._tokens_of(batch))
                # Behind the batch and not before it: every attempt gets on, however short its time.
                stop_if_asked()
            save()
        return parts

    def _resume(self) -> Progress:
        saved = self._state.load()
        if saved is None:
            self._counting.accumulator.reset()
            _LOGGER.info("beginning with the first batch of %d", len(self._batches))
            return Progress()
        progress, tensors = saved
        self._counting.accumulator.load_state(tensors)
        _LOGGER.info("resuming at batch %d of %d", progress.batches, len(self._batches))
        return progress

    def _refuse_nonfinite(self, progress: Progress) -> None:
        own = self._counting.nonfinite(progress)
        counts = [sum(pair) for pair in zip(own, self._elsewhere or [0] * len(own), strict=True)]
        check_nonfinite(counts, [site.path for site in self._subject.sites], self._tokens, self._config)

    def _tokens_of(self, batch: Batch) -> int:
        return (batch.stop - batch.start) * self._tokens.length

    def _capture(self, batch: Batch, recorder: Recorder, parts: Parts) -> None:
        """Decide first, then count: what fails before the first count has changed nothing, and is simply repeated."""
        pieces = self._subject.decide(slice(batch.start, batch.stop), recorder)
        self._counting.count(batch, pieces, parts)


def check_nonfinite(counts: Sequence[int], paths: Sequence[str], tokens: TokenShard, config: CaptureConfig) -> None:
    """Refuse a shard with more NaN or infinite router logits than allowed.

    Parameters
    ----------
    counts : sequence of int
        Decisions with such logits, by layer.
    paths : sequence of str
        Modules of the layers.
    tokens : TokenShard
    config : CaptureConfig

    Raises
    ------
    VarError
        If there are more.
    """
    if sum(counts) > config.max_nonfinite:
        named = ", ".join(f"{n} at layer {layer} ({paths[layer]})" for layer, n in enumerate(counts) if n)
        raise VarError(
            f"{tokens.path}: decisions with NaN or infinite router logits: {named}; they are never averaged in. Load "
            "the model in a wider dtype (models.<name>.dtype), or allow them with capture.max_nonfinite (now "
            f"{config.max_nonfinite})"
        )


def nonfinite_of(outputs: MicroShardOutputs) -> list[int]:
    """Decisions of a whole micro-shard that were left out as not finite, by layer."""
    with opened(outputs.path("layer_stats")) as file:
        rows = file.read(columns=["layer", "nonfinite"])
    counts = [0] * (pc.max(rows["layer"]).as_py() + 1)
    for layer, count in zip(rows["layer"].to_pylist(), rows["nonfinite"].to_pylist(), strict=True):
        counts[layer] += count
    return counts
