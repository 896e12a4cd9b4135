"""The model whose routing is captured: loaded, looked at and checked once a job."""

from pathlib import Path

import numpy as np
import torch

from var_core.capture.memory import Halving, joined
from var_core.capture.plan import CapturePlan, result_settings, site_records, versions
from var_core.config.capture import CaptureConfig, state_bytes
from var_core.config.models import ModelConfig, PretrainedModel
from var_core.corpus.shards import TokenShard, position_ids
from var_core.errors import VarError
from var_core.models.loading import LoadedModel, load_base_model
from var_core.routing.batch import RoutedBatch
from var_core.routing.checks import check_attach, check_documents_are_isolated, check_expectation
from var_core.routing.inputs import probe_tokens, text_inputs
from var_core.routing.recorder import Recorder
from var_core.routing.scoring import IdentifiedLayout, identify_layout
from var_core.routing.sites import find_sites
from var_core.statistics.accumulator import Accumulator


class Subject:
    """A model, ready to decide about a shard's sequences.

    Parameters
    ----------
    tokens : TokenShard
        The shard.
    model_record : Path
        The model's ``model.json``.
    model_config : ModelConfig
        How to load it, and what it is expected to be.
    config : CaptureConfig
        How to capture.
    code : str
        Digest of the stage's code.

    Attributes
    ----------
    plan : CapturePlan
        What its decisions depend on.
    sites : tuple of Site
        Its MoE layers.
    accumulator : Accumulator
        Of the right shape for its decisions.

    Raises
    ------
    VarError
        If the shard does not fit the model, or the model is not supported.
    """

    def __init__(
        self, tokens: TokenShard, model_record: Path, model_config: ModelConfig, config: CaptureConfig, code: str
    ) -> None:
        self._tokens, self._isolated = tokens, bool(tokens.provenance["isolate_documents"])
        self._loaded = load_base_model(model_record, model_config, device=config.device)
        _check_lengths(tokens, self._loaded)
        self._device = self._loaded.device
        self.sites = find_sites(
            self._loaded.model, model_config.exclude_sites if isinstance(model_config, PretrainedModel) else ()
        )
        check_attach(self._loaded.model, self.sites, text_inputs(self._loaded.model, self._probe(16)))
        with Recorder(self.sites) as recorder:
            identified = self._check_model(recorder, model_config)
        self.plan = CapturePlan(
            run=tokens.provenance["run"],
            split=tokens.provenance["split"],
            model={"name": self._loaded.name, "revision": self._loaded.revision, "digest": self._loaded.digest},
            corpus=tokens.provenance["corpus"],
            config=result_settings(config, self._loaded.dtype, self._loaded.quantisation, self._isolated),
            sites=site_records(self.sites, identified),
            sequence_length=tokens.length,
            vocabulary=self._loaded.vocabulary,
            code=code,
            versions=versions(),
        )
        limit = state_bytes(config.max_state_mb)
        self.accumulator = Accumulator(identified.layout, self._loaded.vocabulary, self._device, config.seed, limit)
        self._forwards = Halving(config.batch_sequences, tokens.length, self._device)

    def decide(self, rows: slice, recorder: Recorder) -> list[RoutedBatch]:
        """Run the model over some rows of the shard; in pieces, in order, where memory has run out."""
        return self._forwards.map(lambda piece: self._forward(piece, recorder), rows, "the forward pass")

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
        identified = identify_layout(self.sites, joined(pieces))
        check_expectation(identified.layout, model_config.expect, self._loaded.name)
        if self._isolated:
            check_documents_are_isolated(self._loaded.model, self._loaded.vocabulary, self._device)
            recorder.take()
        return identified


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
