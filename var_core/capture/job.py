"""Capturing one shard: forward passes, statistics on the fly, checkpoints, and the final files."""

import importlib.metadata
import itertools
import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from var_core.capture.checkpoint import CheckpointFolder, Progress
from var_core.capture.outputs import CaptureOutputs, Parts
from var_core.capture.plan import CapturePlan, result_settings, site_records
from var_core.config.capture import CaptureConfig
from var_core.config.models import ModelConfig
from var_core.corpus.shards import TokenShard, position_ids, read_token_shard
from var_core.errors import VarError
from var_core.models.loading import LoadedModel, load_base_model
from var_core.progress import Progress as ProgressBar
from var_core.routing.batch import RoutedBatch
from var_core.routing.checks import check_attach, check_documents_are_isolated, check_expectation
from var_core.routing.inputs import probe_tokens, text_inputs
from var_core.routing.recorder import Recorder
from var_core.routing.scoring import IdentifiedLayout, identify_layout
from var_core.routing.sites import Site, find_sites
from var_core.statistics.accumulator import Accumulator, TokenBatch
from var_core.traces.batch import trace_rows

_LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True)
class Batch:
    """A run of sequences of one domain: rows ``start`` to ``stop`` of the shard."""

    index: int
    domain: str
    start: int
    stop: int
    ends_domain: bool


def plan_batches(domains: np.ndarray, batch_sequences: int) -> list[Batch]:
    """Cut a shard's rows into batches of at most `batch_sequences`, never across a domain's border.

    Parameters
    ----------
    domains : numpy.ndarray
        Domain of every sequence, [S], equal domains adjacent.
    batch_sequences : int
        Sequences a batch.
    """
    batches: list[Batch] = []
    starts = [0, *(np.flatnonzero(domains[1:] != domains[:-1]) + 1), len(domains)]
    for first, last in itertools.pairwise(starts):
        for start in range(first, last, batch_sequences):
            stop = min(start + batch_sequences, last)
            batches.append(Batch(len(batches), str(domains[first]), int(start), int(stop), stop == last))
    return batches


def capture_shard(
    shard: Path,
    shards: int,
    model_record: Path,
    model_config: ModelConfig,
    config: CaptureConfig,
    outputs: CaptureOutputs,
    code: str,
) -> None:
    """Capture the routing of one shard of sequences.

    Interrupted, it continues from its last checkpoint when called again with the same arguments: nothing is
    counted twice, and the files are byte for byte those of an undisturbed run (on the CPU, with the same number
    of threads).

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

    Raises
    ------
    VarError
        If the shard does not fit the model, the model is not supported, or more logits than allowed are not finite.
    """
    tokens = read_token_shard(shard)
    loaded = load_base_model(model_record, model_config, device=config.device)
    _check_lengths(tokens, loaded, shard)
    job = _Job(tokens, loaded, model_config, config, outputs, shards, code, shard)
    job.run()


def _check_lengths(tokens: TokenShard, loaded: LoadedModel, shard: Path) -> None:
    length = tokens.input_ids.shape[1]
    if loaded.max_positions is not None and length > loaded.max_positions:
        raise VarError(
            f"sequences.length: {length} tokens are more than the {loaded.max_positions} positions of model "
            f"{loaded.name}; lower it to at most {loaded.max_positions}"
        )
    largest, vocabulary = int(tokens.input_ids.max()), loaded.vocabulary
    if largest >= vocabulary:
        raise VarError(
            f"{shard}: token id {largest} is outside the {vocabulary} token ids of model {loaded.name}; "
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
        shard: Path,
    ) -> None:
        self._tokens, self._loaded, self._config, self._outputs = tokens, loaded, config, outputs
        self._shard = shard
        self._device = loaded.device
        self._positions = position_ids(tokens.document)
        self._isolated = bool(tokens.provenance["isolate_documents"])
        self._batches = plan_batches(np.asarray(tokens.domain), config.batch_sequences)
        self._sites = find_sites(loaded.model, tuple(getattr(model_config, "exclude_sites", ())))
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
            sequence_length=tokens.input_ids.shape[1],
            vocabulary=loaded.vocabulary,
            code=code,
            versions={name: importlib.metadata.version(name) for name in ("torch", "transformers")},
            content=tokens.provenance["content"],
        )
        self._accumulator = Accumulator(identified.layout, loaded.vocabulary, self._device, config.seed)

    def run(self) -> None:
        """Capture all batches that are left and write the final files."""
        state = CheckpointFolder(self._outputs.state_folder(self._plan.shard_digest), self._plan.shard_digest)
        for other in self._outputs.other_state_folders(self._plan.shard_digest):
            _LOGGER.warning("%s: a checkpoint of another plan; not used, removed when this shard is whole", other)
        progress = self._resume(state)
        self._refuse_nonfinite(progress)  # the limit may be lower than when the checkpoint was written
        parts = Parts(state, progress)
        tokens_done = sum(self._tokens_of(batch) for batch in self._batches[: progress.batches])
        since_checkpoint = 0
        title = f"capture {self._plan.run} {self._plan.split} {self._plan.shard}"
        with (
            Recorder(self._sites) as recorder,
            ProgressBar(self._tokens.input_ids.size, "token", title, tokens_done) as bar,
        ):
            for batch in self._batches[progress.batches :]:
                self._capture(batch, recorder, parts)
                self._refuse_nonfinite(progress)
                progress.batches = batch.index + 1
                since_checkpoint += self._tokens_of(batch)
                if batch.ends_domain:
                    parts.add_domain(batch.index, self._accumulator.tables(batch.domain))
                    progress.nonfinite = self._nonfinite(progress)
                    self._accumulator.reset()
                if since_checkpoint >= self._config.checkpoint_tokens:
                    parts.flush_trace()
                    state.save(progress, self._accumulator.state())
                    since_checkpoint = 0
                bar.advance(self._tokens_of(batch))
            parts.flush_trace()
        parts.assemble(self._outputs, {**self._plan.provenance(), "tokens": self._tokens.input_ids.size})
        state.remove()
        for other in self._outputs.other_state_folders(self._plan.shard_digest):
            CheckpointFolder(other, "").remove()

    def _resume(self, state: CheckpointFolder) -> Progress:
        saved = state.load()
        if saved is None:
            return Progress()
        progress, tensors = saved
        self._accumulator.load_state(tensors)
        _LOGGER.info("resuming at batch %d of %d", progress.batches, len(self._batches))
        return progress

    def _tokens_of(self, batch: Batch) -> int:
        return (batch.stop - batch.start) * self._tokens.input_ids.shape[1]

    def _forward(self, rows: slice, recorder: Recorder) -> tuple[torch.Tensor, RoutedBatch]:
        """Run the model over some sequences; no LM head, no cache of keys and values."""
        input_ids = torch.from_numpy(self._tokens.input_ids[rows].astype(np.int64)).to(self._device)
        positions = torch.from_numpy(self._positions[rows]).to(self._device) if self._isolated else None
        with torch.inference_mode():
            self._loaded.model(input_ids=input_ids, position_ids=positions, use_cache=False)
        return input_ids, recorder.take()

    def _probe(self, tokens: int) -> torch.Tensor:
        """Token ids to look at the model with: the same for all shards, so that they agree on what they see."""
        return probe_tokens(self._loaded.vocabulary, tokens, self._tokens.input_ids.shape[1]).to(self._device)

    def _check_model(self, recorder: Recorder, model_config: ModelConfig) -> IdentifiedLayout:
        """Run the checks on attach; return what the model's decisions look like."""
        with torch.inference_mode():
            self._loaded.model(**text_inputs(self._loaded.model, self._probe(256)))
        identified = identify_layout(self._sites, recorder.take())
        check_expectation(identified.layout, model_config.expect, self._loaded.name)
        if self._isolated:
            check_documents_are_isolated(self._loaded.model, self._loaded.vocabulary, self._device)
            recorder.take()
        return identified

    def _capture(self, batch: Batch, recorder: Recorder, parts: Parts) -> None:
        rows = slice(batch.start, batch.stop)
        input_ids, routed = self._forward(rows, recorder)
        document = torch.from_numpy(self._tokens.document[rows].astype(np.int64)).to(self._device)
        with torch.inference_mode():
            quantities = self._accumulator.update(TokenBatch.from_sequences(input_ids, document), routed, batch.index)
        if self._outputs.trace:
            parts.add_trace(
                trace_rows(
                    self._tokens.sequence[rows],
                    self._tokens.input_ids[rows],
                    self._tokens.document[rows],
                    batch.domain,
                    routed,
                    quantities,
                    self._accumulator.layout.experts,
                )
            )

    def _nonfinite(self, progress: Progress) -> list[int]:
        """Decisions left out at every layer so far: those of finished domains, and of the one under way."""
        counts = self._accumulator.nonfinite.tolist()
        return [sum(pair) for pair in zip(progress.nonfinite or [0] * len(counts), counts, strict=True)]

    def _refuse_nonfinite(self, progress: Progress) -> None:
        counts = self._nonfinite(progress)
        if sum(counts) > self._config.max_nonfinite:
            named = _named_counts(self._sites, counts)
            raise VarError(
                f"{self._shard}: decisions with NaN or infinite router logits: {named}; they are never averaged in. "
                "Load the model in a wider dtype (models.<name>.dtype), or allow them with capture.max_nonfinite "
                f"(now {self._config.max_nonfinite})"
            )


def _named_counts(sites: tuple[Site, ...], counts: list[int]) -> str:
    return ", ".join(f"{counts[s.layer]} at layer {s.layer} ({s.path})" for s in sites if counts[s.layer])
