"""The parts that a capture job leaves on the way, and the final files it puts together from them."""

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from var_core.capture.checkpoint import CheckpointFolder, Progress
from var_core.capture.lock import LOCKS
from var_core.files import file_digest, remove_asides
from var_core.parquet import opened, write_batches, write_table
from var_core.statistics.streaming import write_layers, write_merged
from var_core.statistics.tables import SCHEMAS
from var_core.traces.schema import TRACE

TRACE_KIND = "trace"
_FLUSH_ROWS = 1 << 20
"""Trace rows that are kept in memory before they go to disk, also between two checkpoints."""
_ROW_GROUP = 1 << 17
"""Rows of a trace's row groups."""
_KEPT = re.compile(r"(?P<stem>.+-(?P<first>\d{10})-[0-9a-f]{16})(\..+)?")


@dataclass(frozen=True)
class CaptureOutputs:
    """Files of one captured shard, or micro-shard: ``{stem}.{kind}.parquet`` in a folder."""

    folder: Path
    stem: str
    trace: bool

    def path(self, kind: str) -> Path:
        """Path of the file of a kind: a statistics table's name, or ``trace``."""
        return self.folder / f"{self.stem}.{kind}.parquet"

    @property
    def kinds(self) -> tuple[str, ...]:
        """Kinds of the files."""
        return (*SCHEMAS, TRACE_KIND) if self.trace else tuple(SCHEMAS)

    @property
    def paths(self) -> list[Path]:
        """Paths of all files."""
        return [self.path(kind) for kind in self.kinds]

    @property
    def state(self) -> Path:
        """Folder of what Snakemake does not know of, because it deletes declared outputs before a retry."""
        return self.folder / ".state"

    @property
    def lock(self) -> Path:
        """The lock that says who writes the shard's files; under whatever plan, since the files are the same."""
        return self.state / LOCKS / f"{self.stem}.lock"

    def remove_asides(self) -> None:
        """Remove what a killed job left of the files; only under the lock."""
        remove_asides(self.folder, f"{self.stem}.")

    def micro_shard(self, split: str, first: int, digest: str) -> "MicroShardOutputs":
        """Files of the micro-shard whose first sequence has a number, with a digest of all they depend on."""
        return MicroShardOutputs(self.state, f"{split}-{first:010d}-{digest[:16]}", self.trace)


class MicroShardOutputs(CaptureOutputs):
    """Files of a micro-shard, which are kept: named by what they depend on, and not by the shard that wanted them."""

    @property
    def state(self) -> Path:
        """Folder of the checkpoints."""
        return self.folder / self.stem

    @property
    def lock(self) -> Path:
        """The lock that says who captures it."""
        return self.folder / LOCKS / f"{self.stem}.lock"

    def are_whole(self) -> bool:
        """Whether all files are there; each is written aside and renamed."""
        return all(path.is_file() for path in self.paths)


def kept_under_other_plans(state: Path, split: str, sequences: range, own: Collection[str]) -> list[Path]:
    """What is kept of a shard's sequences but is not of its micro-shards: files, and folders of checkpoints.

    Parameters
    ----------
    state : Path
        Folder of the micro-shards' files.
    split : str
    sequences : range
        Numbers of the shard's sequences.
    own : collection of str
        Stems of its micro-shards.
    """
    found = []
    for path in state.glob(f"{split}-*"):
        kept = _KEPT.fullmatch(path.name)
        if kept and int(kept["first"]) in sequences and kept["stem"] not in own:
            found.append(path)
    return sorted(found)


class Parts:
    """Writes part files and remembers their digests in the job's progress.

    A part is named after the number of batches that are in it or in an earlier one, so the order of the names is
    that of the data.
    """

    def __init__(self, state: CheckpointFolder, progress: Progress) -> None:
        self._state, self._progress = state, progress
        self._rows: list[pa.RecordBatch] = []

    @property
    def hold_all(self) -> bool:
        """Whether the statistics of all batches so far are in parts."""
        return not self._progress.batches or self._name("layer_stats") in self._progress.parts

    def add_statistics(self, layers: Iterable[Mapping[str, pa.Table]]) -> None:
        """Put the statistics of the batches since the last part, one or more layers at a time, on disk."""
        names = {kind: self._name(kind) for kind in SCHEMAS}
        self._state.check()
        write_layers({kind: self._state.part(name) for kind, name in names.items()}, layers)
        for name in names.values():
            self._remember(name)

    def add_trace(self, rows: pa.RecordBatch) -> None:
        """Keep trace rows until the next flush."""
        self._rows.append(rows)

    def flush_large_trace(self) -> None:
        """Put the kept trace rows on disk if they are many."""
        if sum(map(len, self._rows)) >= _FLUSH_ROWS:
            self.flush_trace()

    def flush_trace(self) -> None:
        """Put the kept trace rows on disk."""
        if self._rows:
            name = self._name(TRACE_KIND)
            self._state.check()
            write_table(self._state.part(name), pa.Table.from_batches(self._rows), {})
            self._remember(name)
            self._rows = []

    def assemble(self, outputs: CaptureOutputs, provenance: dict[str, Any]) -> None:
        """Write the final files from the parts."""
        _write_all(outputs, {kind: self._paths(kind) for kind in outputs.kinds}, provenance, self._state.check)

    def _name(self, kind: str) -> str:
        return f"{kind}-{self._progress.batches:08d}.parquet"

    def _remember(self, name: str) -> None:
        self._progress.parts[name] = file_digest(self._state.part(name))

    def _paths(self, kind: str) -> list[Path]:
        return [self._state.part(name) for name in sorted(self._progress.parts) if name.startswith(f"{kind}-")]


def assemble(
    outputs: CaptureOutputs,
    micro_shards: Sequence[CaptureOutputs],
    provenance: dict[str, Any],
    check: Callable[[], None],
) -> None:
    """Write a shard's files from those of its micro-shards.

    Parameters
    ----------
    outputs : CaptureOutputs
        The shard's.
    micro_shards : sequence of CaptureOutputs
        In order, which decides on rounding.
    provenance : dict
        What they were made from.
    check : callable
        Called before a file is written; raises if another process has taken the shard over.
    """
    parts = {kind: [each.path(kind) for each in micro_shards] for kind in outputs.kinds}
    _write_all(outputs, parts, provenance, check)


def _write_all(
    outputs: CaptureOutputs, parts: Mapping[str, Sequence[Path]], provenance: dict[str, Any], check: Callable[[], None]
) -> None:
    for kind, paths in parts.items():
        check()
        if kind == TRACE_KIND:
            write_batches(outputs.path(kind), TRACE, _row_groups(paths), provenance)
        else:
            write_merged(kind, paths, outputs.path(kind), provenance)


def _row_groups(paths: Sequence[Path]) -> Iterator[pa.RecordBatch]:
    """Stream the rows of several files in groups of equal size, wherever one file ends and the next begins.

    Where parts end depends on when the job was interrupted; the final file must not.
    """
    held: list[pa.RecordBatch] = []
    rows = 0
    for path in paths:
        with opened(path) as file:
            for batch in file.iter_batches(batch_size=_ROW_GROUP):
                held.append(batch)
                rows += len(batch)
                if rows >= _ROW_GROUP:
                    whole = pa.Table.from_batches(held)
                    yield _one_batch(whole.slice(0, _ROW_GROUP))
                    held = whole.slice(_ROW_GROUP).to_batches()
                    rows -= _ROW_GROUP
    if rows:
        yield _one_batch(pa.Table.from_batches(held))


def _one_batch(table: pa.Table) -> pa.RecordBatch:
    """Rows in one batch, dictionaries in order of first appearance: the bytes depend on the rows alone."""
    columns = {}
    for field in TRACE:
        column = table[field.name]
        if pa.types.is_dictionary(field.type):
            encoded = column.cast(field.type.value_type).combine_chunks().dictionary_encode()
            indices = encoded.indices.cast(field.type.index_type)
            columns[field.name] = pa.DictionaryArray.from_arrays(indices, encoded.dictionary)
        else:
            columns[field.name] = column.combine_chunks()
    return pa.RecordBatch.from_arrays(list(columns.values()), schema=TRACE)
