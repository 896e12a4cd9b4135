"""Parquet with provenance: every table this project writes carries a JSON record of what it was made from."""

import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from var_core.errors import VarError
from var_core.files import canonical_json, written_aside

PROVENANCE_KEY = b"var.provenance"


def with_provenance(schema: pa.Schema, provenance: dict[str, Any]) -> pa.Schema:
    """Return `schema` with the provenance record in its metadata (kept beside what is there)."""
    metadata = dict(schema.metadata or {})
    metadata[PROVENANCE_KEY] = canonical_json(provenance).encode()
    return schema.with_metadata(metadata)


def write_table(path: Path, table: pa.Table, provenance: dict[str, Any]) -> None:
    """Write a table as zstd Parquet with its provenance, whole or not at all.

    The bytes depend only on the rows, the schema and the provenance: there is no time stamp in them.
    """
    write_batches(path, table.schema, table.to_batches(max_chunksize=1 << 17), provenance)


def write_batches(path: Path, schema: pa.Schema, batches: Iterable[pa.RecordBatch], provenance: dict[str, Any]) -> None:
    """Stream record batches into one Parquet file, a row group each, whole or not at all."""
    with batch_writer(path, schema, provenance) as write:
        for batch in batches:
            write(batch)


@contextmanager
def batch_writer(
    path: Path, schema: pa.Schema, provenance: dict[str, Any]
) -> Iterator[Callable[[pa.RecordBatch], None]]:
    """Give a function that adds a row group to a Parquet file, which is there when the block has ended well."""
    full = with_provenance(schema, provenance)
    with written_aside(path) as aside, pq.ParquetWriter(aside, full, compression="zstd") as writer:
        yield lambda batch: writer.write_batch(batch.replace_schema_metadata(full.metadata))


def read_table(path: Path, columns: list[str] | None = None) -> pa.Table:
    """Read a whole Parquet file.

    Raises
    ------
    VarError
        If the file is missing or damaged, is not Parquet, or lacks one of the columns.
    """
    with _readable(path):
        return pq.read_table(path, columns=columns)


@contextmanager
def opened(path: Path, metadata: pq.FileMetaData | None = None) -> Iterator[pq.ParquetFile]:
    """Open a Parquet file to read parts of it; with its `metadata`, if they were read before.

    Raises
    ------
    VarError
        If the file is missing or damaged, or is not Parquet.
    """
    with _readable(path), pq.ParquetFile(path, metadata=metadata) as file:
        yield file


def read_provenance(path: Path) -> dict[str, Any]:
    """Return the provenance record of a Parquet file written by this project.

    Raises
    ------
    VarError
        If the file is missing, is not Parquet, or carries no record.
    """
    with _readable(path):
        metadata = pq.read_schema(path).metadata or {}
    if PROVENANCE_KEY not in metadata:
        raise VarError(f"{path}: carries no provenance record, so it was not written by this workflow")
    record: dict[str, Any] = json.loads(metadata[PROVENANCE_KEY])
    return record


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Turn what pyarrow says about a file that is missing or damaged into one line."""
    try:
        yield
    except FileNotFoundError:
        raise VarError(f"{path}: no such file; run the stage that makes it") from None
    except MemoryError:  # of Arrow too: the file need not be at fault
        raise
    except (pa.ArrowException, OSError) as error:
        reason = str(error).strip().splitlines()[0]
        raise VarError(
            f"{path}: not readable as Parquet ({reason}); if a stage wrote it, run that stage again"
        ) from None
