"""Counting the decisions of a shard's batches: into the accumulator, and from it into parts on disk."""

import logging

import numpy as np
import torch

from var_core.capture.batches import Batch
from var_core.capture.checkpoint import Progress
from var_core.capture.memory import Halving, SpoiltStateError, is_out_of_memory, joined_if_it_fits, of_tokens
from var_core.capture.outputs import Parts
from var_core.config.capture import CaptureConfig
from var_core.corpus.shards import TokenShard
from var_core.routing.batch import RoutedBatch
from var_core.statistics.accumulator import Accumulator, TokenBatch
from var_core.traces.batch import trace_rows

_LOGGER = logging.getLogger(__name__)


class Counting:
    """The statistics, and the trace where one is wanted, of the batches of one shard.

    Parameters
    ----------
    accumulator : Accumulator
        Holds the statistics since they were last put on disk.
    tokens : TokenShard
        What the batches are rows of.
    batches : int
        Number of batches of the shard.
    config : CaptureConfig
        How to capture.
    trace : bool
        Whether decisions are also kept one by one.
    """

    def __init__(
        self, accumulator: Accumulator, tokens: TokenShard, batches: int, config: CaptureConfig, trace: bool
    ) -> None:
        self.accumulator = accumulator
        self._tokens, self._batches, self._config, self._trace = tokens, batches, config, trace
        self._length = tokens.length
        self._at_once = Halving(config.batch_sequences, self._length, accumulator.device)

    def count(self, batch: Batch, decided: list[RoutedBatch], parts: Parts) -> None:
        """Count a batch's decisions.

        Parameters
        ----------
        batch : Batch
            Whose they are.
        decided : list of RoutedBatch
            The decisions, in one piece or, where memory has run out over the batch, in several, in order.
        parts : Parts
            Take the trace.

        Raises
        ------
        SpoiltStateError
            If memory ran out on the way. What was counted by then is not known, the last checkpoint is: the caller
            goes back to it, and the next try counts fewer sequences at once.
        VarError
            If that was over a single sequence, or the batch alone is over ``capture.max_state_mb``.
        """
        tried = 0
        try:
            stop = batch.start
            for routed in joined_if_it_fits(decided):
                start, stop = stop, stop + routed.experts.shape[1] // self._length
                for rows in self._at_once.pieces(slice(start, stop)):
                    tried = rows.stop - rows.start
                    self._count_rows(batch, rows, of_tokens(routed, self._tokens_of(rows, start)), parts)
            return
        except Exception as error:
            if not is_out_of_memory(error):
                raise
        self._at_once.halve(tried, "counting")
        raise SpoiltStateError(f"batch {batch.index} was counted in part when memory ran out")

    def make_room(self, batch: Batch, progress: Progress, parts: Parts) -> None:
        """Put statistics on disk if a batch's would not fit beside them; a matter of the tokens alone."""
        token_ids = self._on_device(self._tokens.rows(batch.start, batch.stop).input_ids).flatten()
        if not parts.hold_all and not self.accumulator.has_room(token_ids):
            _LOGGER.info("statistics before batch %d put on disk, to stay under capture.max_state_mb", batch.index)
            self.put_away(batch.domain, progress, parts)

    def put_away(self, domain: str, progress: Progress, parts: Parts) -> None:
        """Put the statistics since the last time, all of one domain, on disk, and begin anew."""
        parts.add_statistics(self.accumulator.tables_by_layer(domain))
        progress.nonfinite = self.nonfinite(progress)
        self.accumulator.reset()

    def nonfinite(self, progress: Progress) -> list[int]:
        """Decisions left out at every layer so far: those put on disk, and those under way."""
        counts = self.accumulator.nonfinite.tolist()
        return [sum(pair) for pair in zip(progress.nonfinite or [0] * len(counts), counts, strict=True)]

    def _count_rows(self, batch: Batch, rows: slice, routed: RoutedBatch, parts: Parts) -> None:
        """Count the decisions about some rows; pairs are within sequences, so cutting between these loses none."""
        read = self._tokens.rows(rows.start, rows.stop)
        tokens = TokenBatch.from_sequences(self._on_device(read.input_ids), self._on_device(read.document))
        # A batch that is counted whole has its own number; further pieces have numbers that no batch has.
        shuffle_index = batch.index + (rows.start - batch.start) * self._batches
        with torch.inference_mode():
            quantities = self.accumulator.update(tokens, routed, shuffle_index)
        if self._trace:
            parts.add_trace(
                trace_rows(
                    read.sequence,
                    read.input_ids,
                    read.document,
                    batch.domain,
                    routed,
                    quantities,
                    self.accumulator.layout.experts,
                )
            )

    def _tokens_of(self, rows: slice, first: int) -> slice:
        """Places of the rows' tokens among those of the rows from `first` on."""
        return slice((rows.start - first) * self._length, (rows.stop - first) * self._length)

    def _on_device(self, array: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(array.astype(np.int64)).to(self.accumulator.device)
