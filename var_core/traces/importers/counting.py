"""Counting recorded decisions: what all recordings have in common, and the statistics of one shard."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch

from var_core.errors import VarError
from var_core.progress import Progress
from var_core.routing.batch import RoutedBatch, RouterLayout
from var_core.statistics.accumulator import Accumulator, TokenBatch
from var_core.statistics.streaming import write_layers
from var_core.statistics.tables import SCHEMAS
from var_core.traces.batch import trace_rows
from var_core.traces.importers.outputs import ImportTask
from var_core.traces.importers.recording import Recording
from var_core.traces.importers.scratch import Sequence, ShardContent


@dataclass
class Found:
    """What all recordings of a run have in common."""

    tokens: int = 0
    layers: int = 0
    weights: bool = False
    has_token_ids: bool = False
    largest: int = -1

    def add(self, recording: Recording) -> None:
        """Take note of a recording; refuse one that has other parts than those before it."""
        parts = (recording.experts.shape[1], recording.weights is not None, recording.token_ids is not None)
        if not self.tokens:
            self.layers, self.weights, self.has_token_ids = parts
        names = ("layers", "weights", "token ids")
        for name, have, had in zip(names, parts, (self.layers, self.weights, self.has_token_ids), strict=True):
            if have != had:
                words = f"{have} {name}, but {had}" if name == "layers" else f"{'' if have else 'no '}{name}, unlike"
                raise VarError(f"{recording.place(0, 0)}: has {words} before it; give them a corpus of their own")
        self.tokens += len(recording.experts)
        if recording.token_ids is not None:
            self.largest = max(self.largest, int(recording.token_ids.max()))

    @property
    def vocabulary(self) -> int:
        """Token ids up to the largest; 0 where none were recorded."""
        return self.largest + 1

    @property
    def token_ids(self) -> range:
        """All of them."""
        return range(self.vocabulary)


class ShardCount:
    """Statistics of one shard; its trace rows are a by-product.

    Attributes
    ----------
    parts : dict
        Kind of table -> files that together hold the statistics of the sequences so far, in order.
    """

    def __init__(
        self,
        task: ImportTask,
        found: Found,
        content: ShardContent,
        first_sequence: int,
        folder: Path,
        progress: Progress,
    ) -> None:
        self._task, self._content, self._progress = task, content, progress
        self._first, self._folder = first_sequence, folder
        layout = RouterLayout.uniform(found.layers, task.model.experts, task.model.top_k)
        self._accumulator = Accumulator(
            layout,
            found.vocabulary,
            torch.device("cpu"),
            task.seed,
            max_state_bytes=task.max_state_bytes,
            logits=False,
            weights=found.weights,
        )
        self.parts: dict[str, list[Path]] = {kind: [] for kind in SCHEMAS}

    def rows(self, traced: bool) -> Iterator[pa.RecordBatch]:
        """Count sequence after sequence, and yield the rows of each where they are wanted."""
        current: str | None = None
        for index, (domain, sequence) in enumerate(self._content.sequences()):
            token_ids = None if sequence.token_ids is None else torch.from_numpy(sequence.token_ids)
            counted = torch.from_numpy(sequence.position) if token_ids is None else token_ids
            if current is not None and (domain != current or not self._accumulator.has_room(counted)):
                self._put_aside(current)
            current = domain
            batch = RoutedBatch(
                logits=None,
                experts=torch.from_numpy(sequence.experts).transpose(0, 1),
                weights=None if sequence.weights is None else torch.from_numpy(sequence.weights).transpose(0, 1),
            )
            tokens = TokenBatch(token_ids=token_ids, continues=torch.from_numpy(sequence.continues), sequences=1)
            self._accumulator.update(tokens, batch, index)
            self._progress.advance(len(sequence.position))
            if traced:
                yield self._trace(index, domain, sequence, batch)
        if current is not None:
            self._put_aside(current)

    def _trace(self, index: int, domain: str, sequence: Sequence, batch: RoutedBatch) -> pa.RecordBatch:
        """Lay out a sequence as rows; their positions leave one out where a token does not follow the one before."""
        ids = None if sequence.token_ids is None else sequence.token_ids[None]
        number = np.array([self._first + index])
        rows = trace_rows(number, ids, sequence.document[None], domain, batch, None, self._task.model.experts)
        place = rows.schema.get_field_index("position")
        position = pa.array(sequence.position[rows["position"].to_numpy()], rows.schema.field(place).type)
        return rows.set_column(place, rows.schema.field(place), position)

    def _put_aside(self, domain: str) -> None:
        """Put the statistics since the last time, all of one domain, on disk, and begin anew."""
        number = len(self.parts["layer_stats"])
        paths = {kind: self._folder / f"{number:05d}.{kind}.parquet" for kind in SCHEMAS}
        write_layers(paths, self._accumulator.tables_by_layer(domain))
        for kind, path in paths.items():
            self.parts[kind].append(path)
        self._accumulator.reset()
