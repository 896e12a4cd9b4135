"""One shard of token sequences: writing it, reading it, and the positions of its tokens."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from var_core.corpus.schema import token_shard_schema
from var_core.errors import VarError
from var_core.parquet import read_provenance, read_table, write_batches


@dataclass(frozen=True, eq=False)
class TokenRows:
    """Some sequences of one domain: S of T tokens.

    Attributes
    ----------
    domain : str
    sequence : ndarray of int32, shape (S,)
        Numbers of the sequences within the split, over all shards.
    input_ids, document : ndarray of int32, shape (S, T)
        Tokens, and for every token the number of its document.
    """

    domain: str
    sequence: NDArray[np.int32]
    input_ids: NDArray[np.int32]
    document: NDArray[np.int32]


@dataclass(frozen=True, eq=False)
class TokenShard:
    """A shard of S sequences of T tokens, in order of domain and sequence.

    Attributes
    ----------
    input_ids : ndarray of int32, shape (S, T)
    document : ndarray of int32, shape (S, T)
        For every token the number of its document in ``documents.parquet``.
    sequence : ndarray of int32, shape (S,)
        Numbers of the sequences within the split, over all shards.
    domain : ndarray of str objects, shape (S,)
    provenance : dict
        What the shard was made from.
    """

    input_ids: NDArray[np.int32]
    document: NDArray[np.int32]
    sequence: NDArray[np.int32]
    domain: NDArray[np.object_]
    provenance: dict[str, Any]


class ContentDigest:
    """SHA-256 of a shard's rows, column by column, the same however the rows are cut into pieces."""

    def __init__(self) -> None:
        self._columns = {name: hashlib.sha256() for name in ("sequence", "domain", "input_ids", "document")}

    def add(self, rows: TokenRows) -> None:
        """Take in the next rows."""
        for name in ("sequence", "input_ids", "document"):
            values = np.ascontiguousarray(getattr(rows, name), dtype="<i4")
            self._columns[name].update(values.tobytes())
        self._columns["domain"].update((rows.domain + "\0").encode() * len(rows.sequence))

    def hexdigest(self) -> str:
        """Return the digest of all rows so far, as 64 hexadecimal digits."""
        whole = hashlib.sha256()
        for digest in self._columns.values():
            whole.update(digest.digest())
        return whole.hexdigest()


def write_token_shard(path: Path, length: int, rows: Iterable[TokenRows], provenance: dict[str, Any]) -> None:
    """Write a shard, a row group for each piece of `rows`, whole or not at all."""
    schema = token_shard_schema(length)
    write_batches(path, schema, (_record_batch(piece, schema) for piece in rows), provenance)


def _record_batch(rows: TokenRows, schema: pa.Schema) -> pa.RecordBatch:
    vectors = [
        pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1), pa.int32()), values.shape[1])
        for values in (rows.input_ids, rows.document)
    ]
    domain = pa.array([rows.domain] * len(rows.sequence), pa.string())
    return pa.RecordBatch.from_arrays([pa.array(rows.sequence, pa.int32()), domain, *vectors], schema=schema)


def read_token_shard(path: Path) -> TokenShard:
    """Read a shard of token sequences and check it against its digest.

    Raises
    ------
    VarError
        If the file is missing, is not a shard of token sequences, or its rows are not those that were written.
    """
    provenance = read_provenance(path)
    if provenance.get("stage") != "corpus" or "content" not in provenance:
        raise VarError(f"{path}: is not a shard of token sequences; run the corpus stage")
    table = read_table(path).combine_chunks()
    length = int(provenance["sequence_length"])
    if not table.schema.equals(token_shard_schema(length)):
        raise VarError(f"{path}: has other columns than a shard of token sequences; run the corpus stage again")
    shard = TokenShard(
        input_ids=_matrix(table["input_ids"], length),
        document=_matrix(table["document"], length),
        sequence=table["sequence"].to_numpy(),
        domain=np.asarray(table["domain"].to_pylist(), dtype=object),
        provenance=provenance,
    )
    if _content(shard) != provenance["content"]:
        raise VarError(f"{path}: its rows do not match its digest; delete it and run the corpus stage again")
    return shard


def _matrix(column: pa.ChunkedArray, length: int) -> NDArray[np.int32]:
    values: NDArray[np.int32] = column.combine_chunks().flatten().to_numpy()
    return values.reshape(-1, length)


def _content(shard: TokenShard) -> str:
    digest = ContentDigest()
    borders = np.flatnonzero(shard.domain[1:] != shard.domain[:-1]) + 1
    for part in np.split(np.arange(len(shard.domain)), borders):
        if len(part):
            rows = slice(int(part[0]), int(part[-1]) + 1)
            digest.add(
                TokenRows(shard.domain[rows.start], shard.sequence[rows], shard.input_ids[rows], shard.document[rows])
            )
    return digest.hexdigest()


def position_ids(document: NDArray[np.integer[Any]]) -> NDArray[np.int64]:
    """Return the positions of tokens when every document starts anew.

    Parameters
    ----------
    document : ndarray of int, shape (S, T)
        For every token the number of its document.

    Returns
    -------
    ndarray of int64, shape (S, T)
        Position within the document's part of the sequence: 0 at the start of the sequence and wherever the
        document changes.
    """
    places = np.broadcast_to(np.arange(document.shape[1], dtype=np.int64), document.shape)
    starts = np.zeros(document.shape, dtype=np.int64)
    starts[:, 1:] = np.where(document[:, 1:] != document[:, :-1], places[:, 1:], 0)
    return places - np.maximum.accumulate(starts, axis=1)
