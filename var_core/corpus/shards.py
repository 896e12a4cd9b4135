"""One shard of token sequences: writing it, reading it, and the positions of its tokens."""

import hashlib
import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from var_core.corpus.schema import token_shard_schema
from var_core.errors import VarError
from var_core.parquet import opened, read_provenance, write_batches


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


@dataclass(frozen=True)
class MicroShard:
    """A run of a shard's sequences that is captured, and kept, by itself.

    Attributes
    ----------
    start, stop : int
        Its rows in the shard.
    first : int
        Number of its first sequence within the split.
    content : str
        Digest of its rows.
    """

    start: int
    stop: int
    first: int
    content: str


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


class TokenShard:
    """A shard of S sequences of T tokens, in order of micro-shard, domain and sequence; its tokens stay in the file.

    In memory are the row groups (of about a million tokens, see :func:`write_token_shard`) that were asked for last.

    Parameters
    ----------
    path : Path
        Written by the corpus stage. Read once from end to end, and checked against its digest.

    Attributes
    ----------
    path : Path
    provenance : dict
        What the shard was made from.
    length : int
        T.
    domain : ndarray of str objects, shape (S,)
    largest_token : int
        Largest token id.

    Raises
    ------
    VarError
        If the file is missing, is not a shard of token sequences, or its rows are not those that were written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.provenance = read_provenance(path)
        if self.provenance.get("stage") != "corpus" or "content" not in self.provenance:
            raise VarError(f"{path}: is not a shard of token sequences; run the corpus stage")
        self.length = int(self.provenance["sequence_length"])
        digest = ContentDigest()
        self.largest_token = -1
        domains: list[NDArray[np.object_]] = []
        starts = [0]
        with opened(path) as file:
            if not file.schema_arrow.equals(token_shard_schema(self.length)):
                raise VarError(f"{path}: has other columns than a shard of token sequences; run the corpus stage again")
            for group in range(file.num_row_groups):
                table = file.read_row_group(group)
                starts.append(starts[-1] + len(table))
                for rows in _by_domain(table, self.length):
                    digest.add(rows)
                    domains.append(np.full(len(rows.sequence), rows.domain, dtype=object))
                    self.largest_token = max(self.largest_token, int(rows.input_ids.max()))
        if digest.hexdigest() != self.provenance["content"]:
            raise VarError(f"{path}: its rows do not match its digest; delete it and run the corpus stage again")
        self.domain = np.concatenate([np.empty(0, dtype=object), *domains])
        self._starts = np.array(starts)
        self._first, self._held = 0, token_shard_schema(self.length).empty_table()

    @property
    def micro_shards(self) -> list[MicroShard]:
        """The shard's micro-shards, in order; they cover its rows."""
        found, start = [], 0
        for record in self.provenance["micro_shards"]:
            stop = start + record["sequences"]
            found.append(MicroShard(start, stop, record["first"], record["content"]))
            start = stop
        return found

    @property
    def tokens(self) -> int:
        """S * T."""
        return len(self.domain) * self.length

    def rows(self, start: int, stop: int) -> TokenRows:
        """Read some sequences of one domain.

        Parameters
        ----------
        start, stop : int
            Places in the shard, from 0; at least one sequence.

        Raises
        ------
        VarError
            If the file is no longer the one that was checked.
        """
        if start < self._first or stop > self._first + len(self._held):
            self._hold(start, stop)
        (rows,) = _by_domain(self._held.slice(start - self._first, stop - start), self.length)
        return rows

    def _hold(self, start: int, stop: int) -> None:
        """Read the row groups that some rows are in, in place of those that are held."""
        self._held = self._held.schema.empty_table()
        first, last = np.searchsorted(self._starts, [start, stop - 1], side="right") - 1
        with opened(self.path) as file:
            # A job may run for days, and the corpus stage meanwhile.
            if read_provenance(self.path)["content"] != self.provenance["content"]:
                raise VarError(f"{self.path}: was written anew while it was in use; run this job again")
            self._held = file.read_row_groups(range(first, last + 1))
        self._first = int(self._starts[first])


def _by_domain(table: pa.Table, length: int) -> Iterator[TokenRows]:
    """Cut rows into runs of one domain."""
    domains = table["domain"].combine_chunks().dictionary_encode()
    codes = domains.indices.to_numpy()
    sequence = table["sequence"].to_numpy()
    input_ids, document = (_matrix(table[name], length) for name in ("input_ids", "document"))
    borders = [0, *(np.flatnonzero(codes[1:] != codes[:-1]) + 1), len(codes)]
    for start, stop in itertools.pairwise(borders):
        if start < stop:
            run = slice(start, stop)
            yield TokenRows(domains.dictionary[codes[start]].as_py(), sequence[run], input_ids[run], document[run])


def _matrix(column: pa.ChunkedArray, length: int) -> NDArray[np.int32]:
    values: NDArray[np.int32] = column.combine_chunks().flatten().to_numpy()
    return values.reshape(-1, length)


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
