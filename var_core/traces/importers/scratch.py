"""Sorting recordings into splits, shards and domains on disk, so that memory does not grow with the recording."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from var_core.config.corpus import SplitName
from var_core.corpus.splits import place_of
from var_core.traces.importers.recording import Ints, Recording

LEAST_TOKENS = 256
"""Short documents are put together until a sequence has so many tokens, for one update of the statistics a sequence."""
_MOST_TOKENS = 8192
_STATE_VALUES = 1 << 24


def longest_sequence(layers: int, experts: int) -> int:
    """Tokens from which on a recording is cut, so that the choices of a sequence fit into some 64 MB."""
    return int(np.clip(_STATE_VALUES // (layers * experts), LEAST_TOKENS, _MOST_TOKENS))


class Sequence(NamedTuple):
    """Some documents of one domain, one after another; arrays as in :class:`Recording`, over all their tokens.

    ``position`` counts from 0 and leaves one out where a token does not follow the one before it.
    """

    document: Ints
    position: Ints
    token_ids: Ints | None
    experts: Ints
    weights: np.ndarray | None

    @property
    def continues(self) -> np.ndarray:
        """True where the next token follows in the same document, bool [T]; the last is False."""
        continues = np.zeros(len(self.position), dtype=bool)
        continues[:-1] = (np.diff(self.position) == 1) & (np.diff(self.document) == 0)
        return continues


@dataclass
class Cell:
    """What is gathered for one domain of one shard."""

    path: Path
    waiting: list[Sequence] = field(default_factory=list)
    writer: Any = None
    tokens: int = 0
    sequences: int = 0

    @property
    def waiting_tokens(self) -> int:
        """Tokens that are not on disk yet."""
        return sum(len(part.position) for part in self.waiting)


@dataclass
class ShardContent:
    """One shard: its cells by domain, and the digest of what went in."""

    cells: dict[str, Cell] = field(default_factory=dict)
    digest: Any = field(default_factory=hashlib.sha256)

    @property
    def tokens(self) -> int:
        """All its tokens."""
        return sum(cell.tokens for cell in self.cells.values())

    def sequences(self) -> Iterator[tuple[str, Sequence]]:
        """Yield domain and sequence, domains sorted, sequences in the order in which they were recorded."""
        for domain, cell in sorted(self.cells.items()):
            with pa.OSFile(str(cell.path), "rb") as source, pa.ipc.open_stream(source) as batches:
                shape = tuple(int(n) for n in batches.schema.metadata[b"shape"].split())
                for batch in batches:
                    yield domain, _from_batch(batch, shape)


class Scratch:
    """Takes recordings in any order and gives them back shard by shard.

    Parameters
    ----------
    folder : Path
        Temporary folder on a disk that holds the whole recording once more.
    shards : dict
        Split -> number of shards.
    heldout : float
        Share of the groups that is held out.
    experts : int
        E.
    """

    def __init__(self, folder: Path, shards: dict[SplitName, int], heldout: float, experts: int) -> None:
        self._folder, self._experts = folder, experts
        self._heldout = heldout
        self.shards = {split: [ShardContent() for _ in range(count)] for split, count in shards.items()}
        self._shard_of: dict[str, int] = {}
        self._dealt = dict.fromkeys(shards, 0)

    def split_of(self, group: str) -> SplitName:
        """Split of a group, by the hash of its name."""
        return "heldout" if place_of(group) >= 1 - self._heldout else "capture"

    def add(self, recording: Recording, document: int) -> None:
        """Keep a recording; groups are dealt to the shards of their split in turn."""
        split = self.split_of(recording.group)
        if recording.group not in self._shard_of:
            self._shard_of[recording.group] = self._dealt[split] % len(self.shards[split])
            self._dealt[split] += 1
        number = self._shard_of[recording.group]
        shard = self.shards[split][number]
        path = self._folder / f"{split}-{number:05d}-{len(shard.cells):05d}.arrow"
        cell = shard.cells.setdefault(recording.domain, Cell(path))
        _update(shard.digest, recording)
        limit = longest_sequence(recording.experts.shape[1], self._experts)
        for start in range(0, len(recording.experts), limit):
            part = _part(recording, document, slice(start, start + limit))
            if cell.waiting_tokens + len(part.position) > limit:
                _flush(cell)
            cell.waiting.append(part)
            if cell.waiting_tokens >= LEAST_TOKENS:
                _flush(cell)

    def finish(self) -> None:
        """Put everything on disk."""
        for shards in self.shards.values():
            for shard in shards:
                for cell in shard.cells.values():
                    _flush(cell)
                    if cell.writer is not None:
                        cell.writer.close()


def _update(digest: Any, recording: Recording) -> None:
    for name in (recording.name, recording.group, recording.domain):
        data = name.encode()
        digest.update(len(data).to_bytes(8, "big") + data)
    for array in (recording.experts, recording.weights, recording.token_ids):
        digest.update(b"none" if array is None else str(array.shape).encode() + np.ascontiguousarray(array).tobytes())


def _part(recording: Recording, document: int, tokens: slice) -> Sequence:
    experts = recording.experts[tokens]
    position = np.arange(len(experts)) * (1 if recording.ordered else 2)
    return Sequence(
        document=np.full(len(experts), document),
        position=position,
        token_ids=None if recording.token_ids is None else recording.token_ids[tokens],
        experts=experts,
        weights=None if recording.weights is None else recording.weights[tokens],
    )


def _flush(cell: Cell) -> None:
    """Write what is waiting as one sequence."""
    parts, cell.waiting = cell.waiting, []
    if not parts:
        return
    offset, positions = 0, []
    for part in parts:
        positions.append(part.position + offset)
        offset += int(part.position[-1]) + 1
    first = parts[0]
    whole = Sequence(
        document=np.concatenate([part.document for part in parts]),
        position=np.concatenate(positions),
        token_ids=None if first.token_ids is None else np.concatenate([part.token_ids for part in parts]),
        experts=np.concatenate([part.experts for part in parts]),
        weights=None if first.weights is None else np.concatenate([part.weights for part in parts]),
    )
    batch = _to_batch(whole)
    if cell.writer is None:
        options = pa.ipc.IpcWriteOptions(compression="zstd")
        cell.writer = pa.ipc.new_stream(str(cell.path), batch.schema, options=options)
    cell.writer.write_batch(batch)
    cell.tokens += len(whole.position)
    cell.sequences += 1


def _to_batch(sequence: Sequence) -> pa.RecordBatch:
    _, layers, top_k = sequence.experts.shape
    columns = {
        "document": pa.array(sequence.document, pa.int32()),
        "position": pa.array(sequence.position, pa.int32()),
        "experts": _fixed(sequence.experts, pa.int16()),
    }
    if sequence.token_ids is not None:
        columns["token_ids"] = pa.array(sequence.token_ids, pa.int32())
    if sequence.weights is not None:
        columns["weights"] = _fixed(sequence.weights, pa.float32())
    batch = pa.RecordBatch.from_pydict(columns)
    return batch.replace_schema_metadata({"shape": f"{layers} {top_k}"})


def _fixed(values: np.ndarray, kind: pa.DataType) -> pa.FixedSizeListArray:
    flat = pa.array(values.reshape(-1), kind)
    return pa.FixedSizeListArray.from_arrays(flat, values.shape[1] * values.shape[2])


def _from_batch(batch: pa.RecordBatch, shape: tuple[int, ...]) -> Sequence:
    def column(name: str, kind: type[np.generic], slots: bool = False) -> np.ndarray | None:
        if name not in batch.schema.names:
            return None
        values = batch[name].flatten() if slots else batch[name]
        array = values.to_numpy().astype(kind)
        return array.reshape(len(batch), *shape) if slots else array

    document, position = column("document", np.int64), column("position", np.int64)
    experts = column("experts", np.int64, slots=True)
    assert document is not None and position is not None and experts is not None
    weights = column("weights", np.float32, slots=True)
    return Sequence(document, position, column("token_ids", np.int64), experts, weights)
