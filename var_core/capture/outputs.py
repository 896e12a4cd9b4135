"""The parts that a capture job leaves on the way, and the final files it puts together from them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from var_core.capture.checkpoint import CheckpointFolder, Progress
from var_core.files import file_digest
from var_core.parquet import write_batches, write_table
from var_core.statistics.merge import merge_tables
from var_core.statistics.tables import SCHEMAS
from var_core.traces.schema import TRACE

TRACE_KIND = "trace"


@dataclass(frozen=True)
class CaptureOutputs:
    """Files of one captured shard: ``{stem}.{kind}.parquet`` in a folder."""

    folder: Path
    stem: str
    trace: bool

    def path(self, kind: str) -> Path:
        """Path of the file of a kind: a statistics table's name, or ``trace``."""
        return self.folder / f"{self.stem}.{kind}.parquet"

    def state_folder(self, shard_digest: str) -> Path:
        """Folder of the checkpoints for a plan."""
        return self.folder / ".state" / f"{self.stem}-{shard_digest[:16]}"

    def other_state_folders(self, shard_digest: str) -> list[Path]:
        """Folders of checkpoints that other plans left for this shard."""
        mine = self.state_folder(shard_digest)
        return sorted(path for path in mine.parent.glob(f"{self.stem}-*") if path != mine)


class Parts:
    """Writes part files and remembers their digests in the job's progress."""

    def __init__(self, state: CheckpointFolder, progress: Progress) -> None:
        self._state, self._progress = state, progress
        self._rows: list[pa.RecordBatch] = []

    def add_domain(self, index: int, tables: dict[str, pa.Table]) -> None:
        """Put the statistics of a finished domain on disk."""
        for kind, table in tables.items():
            self._write(f"{kind}-{index:05d}.parquet", table)

    def add_trace(self, rows: pa.RecordBatch) -> None:
        """Keep trace rows until the next flush."""
        self._rows.append(rows)

    def flush_trace(self) -> None:
        """Put the kept trace rows on disk."""
        if self._rows:
            self._write(f"{TRACE_KIND}-{self._progress.batches:08d}.parquet", pa.Table.from_batches(self._rows))
            self._rows = []

    def assemble(self, outputs: CaptureOutputs, provenance: dict[str, Any]) -> None:
        """Write the final files from the parts."""
        for kind, schema in SCHEMAS.items():
            tables = [pq.read_table(path, schema=schema) for path in self._paths(kind)]
            write_table(outputs.path(kind), merge_tables(kind, tables), provenance)
        if outputs.trace:
            write_batches(outputs.path(TRACE_KIND), TRACE, _row_groups(self._paths(TRACE_KIND)), provenance)

    def _write(self, name: str, table: pa.Table) -> None:
        write_table(self._state.part(name), table, {})
        self._progress.parts[name] = file_digest(self._state.part(name))

    def _paths(self, kind: str) -> list[Path]:
        return [self._state.part(name) for name in sorted(self._progress.parts) if name.startswith(f"{kind}-")]


def _row_groups(paths: Sequence[Path]) -> Iterator[pa.RecordBatch]:
    """Stream the rows of several files, so that a trace need not fit in memory."""
    for path in paths:
        for batch in pq.ParquetFile(path).iter_batches(batch_size=1 << 17):
            yield pa.RecordBatch.from_arrays(batch.columns, schema=TRACE)
