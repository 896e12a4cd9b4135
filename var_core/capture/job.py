"""Capturing one shard: forward passes, statistics on the fly, checkpoints, and the final files."""

import importlib.metadata
import logging
from pathlib import Path

import numpy as np
import torch

from var_core.capture.batches import Batch, plan_batches
from var_core.capture.checkpoint import CheckpointFolder, Progress
from var_core.capture.counting import Counting
from var_core.capture.lock import ShardLock
from var_core.capture.memory import Halving, SpoiltStateError, joined, out_of_memory_in_one_line
from var_core.capture.outputs import CaptureOutputs, Parts
from var_core.capture.plan import CapturePlan, result_settings, site_records
from var_core.capture.stopping import StoppedError, StopRequest
from var_core.config.capture import CaptureConfig, state_bytes
from var_core.config.models import ModelConfig, PretrainedModel
from var_core.corpus.shards import TokenShard, position_ids
from var_core.errors import VarError
from var_core.models.loading import LoadedModel, load_base_model
from var_core.progress import Progress as ProgressBar
from var_core.routing.batch import RoutedBatch
from var_core.routing.checks import check_attach, check_documents_are_isolated, check_expectation
from var_core.routing.inputs import probe_tokens, text_inputs
from var_core.routing.recorder import Recorder
from var_core.routing.scoring import IdentifiedLayout, identify_layout
from var_core.routing.sites import find_sites
from var_core.statistics.accumulator import Accumulator

_LOGGER = logging.getLogger(__name__)


def capture_shard(
    shard: Path,
    shards: int,
    model_record: Path,
    model_config: ModelConfig,
    config: CaptureConfig,
    outputs: CaptureOutputs,
    code: str,
    seconds: float | None = None,
) -> None:
    """Capture the routing of one shard of sequences.

    Interrupted, it continues from its last checkpoint when called again with the same arguments: nothing is
    counted twice, and the files are byte for byte those of an undisturbed run (on the CPU, with the same number
    of threads, where memory did not run out: a batch that had to be halved may differ in the last digits of floats).

    Memory does not grow with the shard: its tokens are read a row group (about a million tokens) at a time. What a
    model's vocabulary and layers need for statistics comes on top, see ``capture.max_state_mb``; so do up to a million
    trace rows.

    Parameters
    ----------
    shard : Path
        Token shard written by the corpus stage.
    shards : int
        Number of shards of its split.
    model_record : Path
        The model's ``model.json``.
    model_config : ModelConfig
        How to load it, and what it is expected to be.
    config : CaptureConfig
        How to capture.
    outputs : CaptureOutputs
        Where the files go.
    code : str
        Digest of the stage's code.
    seconds : float, optional
        Time that the job has, from now; it ends ``capture.deadline_margin_s`` before, with a checkpoint.

    Raises
    ------
    VarError
        If the shard does not fit the model, the model is not supported, more logits than allowed are not finite,
        memory does not suffice for one sequence, the disk is full, another process captures the shard, or the job
        was stopped by its deadline, SIGTERM or SIGUSR1 before it was done.
    """
    stop = StopRequest(seconds, config.deadline_margin_s)
    # Before the model is loaded, so that a process that has to wait holds no memory meanwhile.
    with ShardLock(outputs.lock, config.lock_stale_s, config.lock_wait_s) as lock:
        outputs.remove_asides()
        tokens = TokenShard(shard)
        with out_of_memory_in_one_line("loading the model and trying it on 1 sequence"):
            loaded = load_base_model(model_record, model_config, device=config.device)
            _check_lengths(tokens, loaded)
            job = _Job(tokens, loaded, model_config, config, outputs, shards, code)
        with stop, out_of_memory_in_one_line("keeping the statistics or putting them on disk"):
            job.run(lock, stop)


def _check_lengths(tokens: TokenShard, loaded: LoadedModel) -> None:
    length = tokens.length
    if loaded.max_positions is not None and length > loaded.max_positions:
        raise VarError(
            f"sequences.length: {length} tokens are more than the {loaded.max_positions} positions of model "
            f"{loaded.name}; lower it to at most {loaded.max_positions}"
        )
    largest, vocabulary = tokens.largest_token, loaded.vocabulary
    if largest >= vocabulary:
        raise VarError(
            f"{tokens.path}: token id {largest} is outside the {vocabulary} token ids of model {loaded.name}; "
            "the shard was made with another tokenizer, run the corpus stage again"
        )


class _Job:
    """The state of one running capture."""

    def __init__(
        self,
        tokens: TokenShard,
        loaded: LoadedModel,
        model_config: ModelConfig,
        config: CaptureConfig,
        outputs: CaptureOutputs,
        shards: int,
        code: str,
    ) -> None:
        self._tokens, self._loaded, self._config, self._outputs = tokens, loaded, config, outputs
        self._device = loaded.device
        self._isolated = bool(tokens.provenance["isolate_documents"])
        self._batches = plan_batches(tokens.domain, config.batch_sequences)
        self._sites = find_sites(
            loaded.model, model_config.exclude_sites if isinstance(model_config, PretrainedModel) else ()
        )
        check_attach(loaded.model, self._sites, text_inputs(loaded.model, self._probe(16)))
        with Recorder(self._sites) as recorder:
            identified = self._check_model(recorder, model_config)
        self._plan = CapturePlan(
            run=tokens.provenance["run"],
            split=tokens.provenance["split"],
            shard=tokens.provenance["shard"],
            shards=shards,
            model={"name": loaded.name, "revision": loaded.revision, "digest": loaded.digest},
            corpus=tokens.provenance["corpus"],
            config=result_settings(config, loaded.dtype, loaded.quantisation, self._isolated),
            sites=site_records(self._sites, identified),
            sequence_length=tokens.length,
            vocabulary=loaded.vocabulary,
            code=code,
            versions={name: importlib.metadata.version(name) for name in ("torch", "transformers")},
            content=tokens.provenance["content"],
            trace=outputs.trace,
        )
        limit = state_bytes(config.max_state_mb)
        accumulator = Accumulator(identified.layout, loaded.vocabulary, self._device, config.seed, limit)
        self._counting = Counting(accumulator, tokens, len(self._batches), config, outputs.trace)
        self._forwards = Halving(config.batch_sequences, tokens.length, self._device)

    def run(self, lock: ShardLock, stop: StopRequest) -> None:
        """Capture all batches that are left and write the final files."""
        digest = self._plan.shard_digest
        state = CheckpointFolder(self._outputs.state_folder(digest), digest, lock.check)
        for other in self._outputs.other_state_folders(digest):
            _LOGGER.warning("%s: a checkpoint of another plan; not used, removed when this shard is whole", other)
        parts = None
        while parts is None:
            try:
                parts = self._capture_rest(state, stop)
            except SpoiltStateError as spoilt:
                _LOGGER.warning("%s: back to the last checkpoint", spoilt)
        parts.assemble(self._outputs, {**self._plan.provenance(), "tokens": self._tokens.tokens})
        state.remove()
        for other in self._outputs.other_state_folders(digest):
            CheckpointFolder(other, "").remove()

    def _capture_rest(self, state: CheckpointFolder, stop: StopRequest) -> Parts:
        """Capture the batches that the last checkpoint does not hold; return the parts of the whole shard."""
        progress = self._resume(state)
        self._refuse_nonfinite(progress)  # the limit may be lower than when the checkpoint was written
        parts = Parts(state, progress)
        tokens_done = sum(self._tokens_of(batch) for batch in self._batches[: progress.batches])
        unsaved = 0

        def save() -> None:
            nonlocal unsaved
            if unsaved:
                parts.flush_trace()
                state.save(progress, self._counting.accumulator.state())
                unsaved = 0

        def stop_if_asked() -> None:
            if reason := stop.reason():
                save()
                raise StoppedError(
                    f"stopped at {bar.done} of {bar.total} tokens: {reason}; run again to continue ({title})"
                )

        title = f"capture {self._plan.run} {self._plan.split} {self._plan.shard}"
        with (
            Recorder(self._sites) as recorder,
            ProgressBar(self._tokens.tokens, "token", title, tokens_done) as bar,
        ):
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

    def _resume(self, state: CheckpointFolder) -> Progress:
        saved = state.load()
        if saved is None:
            self._counting.accumulator.reset()
            _LOGGER.info("beginning with the first batch of %d", len(self._batches))
            return Progress()
        progress, tensors = saved
        self._counting.accumulator.load_state(tensors)
        _LOGGER.info("resuming at batch %d of %d", progress.batches, len(self._batches))
        return progress

    def _refuse_nonfinite(self, progress: Progress) -> None:
        counts = self._counting.nonfinite(progress)
        if sum(counts) > self._config.max_nonfinite:
            named = ", ".join(
                f"{counts[s.layer]} at layer {s.layer} ({s.path})" for s in self._sites if counts[s.layer]
            )
            raise VarError(
                f"{self._tokens.path}: decisions with NaN or infinite router logits: {named}; they are never averaged "
                "in. Load the model in a wider dtype (models.<name>.dtype), or allow them with capture.max_nonfinite "
                f"(now {self._config.max_nonfinite})"
            )

    def _tokens_of(self, batch: Batch) -> int:
        return (batch.stop - batch.start) * self._tokens.length

    def _forward(self, rows: slice, recorder: Recorder) -> RoutedBatch:
        """Run the model over some sequences; no LM head, no cache of keys and values."""
        read = self._tokens.rows(rows.start, rows.stop)
        input_ids = torch.from_numpy(read.input_ids.astype(np.int64)).to(self._device)
        positions = torch.from_numpy(position_ids(read.document)).to(self._device) if self._isolated else None
        recorder.forget()  # what a pass that failed has left
        with torch.inference_mode():
            self._loaded.model(**text_inputs(self._loaded.model, input_ids, positions))
        return recorder.take()

    def _probe(self, tokens: int) -> torch.Tensor:
        """Token ids to look at the model with: the same for all shards, so that they agree on what they see."""
        return probe_tokens(self._loaded.vocabulary, tokens, self._tokens.length).to(self._device)

    def _check_model(self, recorder: Recorder, model_config: ModelConfig) -> IdentifiedLayout:
        """Run the checks on attach; return what the model's decisions look like."""
        pieces = []
        for sequence in self._probe(256):  # one at a time: memory need not hold more
            with torch.inference_mode():
                self._loaded.model(**text_inputs(self._loaded.model, sequence[None]))
            pieces.append(recorder.take())
        identified = identify_layout(self._sites, joined(pieces))
        check_expectation(identified.layout, model_config.expect, self._loaded.name)
        if self._isolated:
            check_documents_are_isolated(self._loaded.model, self._loaded.vocabulary, self._device)
            recorder.take()
        return identified

    def _capture(self, batch: Batch, recorder: Recorder, parts: Parts) -> None:
        """Decide first, then count: what fails before the first count has changed nothing, and is simply repeated."""
        rows = slice(batch.start, batch.stop)
        pieces = self._forwards.map(lambda piece: self._forward(piece, recorder), rows, "the forward pass")
        self._counting.count(batch, pieces, parts)
