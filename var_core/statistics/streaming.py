"""Merging statistics files that together are larger than memory: one domain and layer after another."""

import itertools
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from var_core.parquet import batch_writer, opened, write_batches
from var_core.statistics.merge import merge_tables
from var_core.statistics.tables import SCHEMAS

Key = tuple[str, int]
"""Domain and layer."""

_ROWS_AT_ONCE = 1 << 20
"""Rows that are read before they are merged; some hundred MB."""


@dataclass(frozen=True)
class _Run:
    """Rows of one domain and layer in a row group of a file."""

    path: Path
    metadata: pq.FileMetaData
    row_group: int
    start: int
    rows: int

    def read(self, kind: str) -> pa.Table:
        with opened(self.path, self.metadata) as file:
            return file.read_row_group(self.row_group).slice(self.start, self.rows).cast(SCHEMAS[kind])


def write_layers(paths: Mapping[str, Path], layers: Iterable[Mapping[str, pa.Table]]) -> None:
    """Write statistics as Parquet files with a row group a domain and layer, as :func:`write_merged` reads best.

    Parameters
    ----------
    paths : mapping
        The file of each kind of table.
    layers : iterable of mapping
        Tables of each kind, sorted by key, one layer or several at a time.
    """
    with ExitStack() as stack:
        writers = {kind: stack.enter_context(batch_writer(path, SCHEMAS[kind], {})) for kind, path in paths.items()}
        for layer in layers:
            for kind, write in writers.items():
                for _, start, stop in _runs_of_keys(layer[kind]):
                    write(_one_batch(layer[kind].slice(start, stop - start)))


def write_merged(kind: str, paths: Sequence[Path], output: Path, provenance: dict[str, Any]) -> None:
    """Merge sorted statistics files of one kind into one, with the rows of one domain and layer in memory at a time.

    Parameters
    ----------
    kind : {"token_stats", "expert_counts", "layer_stats"}
        The kind.
    paths : sequence of Path
        Files of that kind, each sorted by key; their order decides on rounding, as in
        :func:`var_core.statistics.merge.merge_tables`.
    output : Path
        The file to write, with a row group a domain and layer.
    provenance : dict
        What it was made from.

    Raises
    ------
    VarError
        If a file is missing or not readable.
    """
    write_batches(output, SCHEMAS[kind], _merged(kind, paths), provenance)


def _merged(kind: str, paths: Sequence[Path]) -> Iterator[pa.RecordBatch]:
    index = _index(paths)
    for key in sorted(index):
        # Merged whenever as many rows wait as are merged already: each row is then merged few times.
        tables: list[pa.Table] = []
        limit = _ROWS_AT_ONCE
        for run in index[key]:
            tables.append(run.read(kind))
            if len(tables) > 1 and sum(map(len, tables)) >= limit:
                tables = [merge_tables(kind, tables)]
                limit = max(_ROWS_AT_ONCE, 2 * len(tables[0]))
        yield _one_batch(merge_tables(kind, tables))


def _index(paths: Sequence[Path]) -> dict[Key, list[_Run]]:
    """Where the rows of every domain and layer are, from the files' metadata, or else from the key columns."""
    index: dict[Key, list[_Run]] = defaultdict(list)
    for path in paths:
        with opened(path) as file:
            for row_group in range(file.num_row_groups):
                only = _only_key(file.metadata.row_group(row_group))
                runs = [only] if only else _runs_of_keys(file.read_row_group(row_group, columns=["domain", "layer"]))
                for key, start, stop in runs:
                    index[key].append(_Run(path, file.metadata, row_group, start, stop - start))
    return index


def _only_key(row_group: pq.RowGroupMetaData) -> tuple[Key, int, int] | None:
    """The key of all rows of a row group, as a run; None if there are several, or the file does not say."""
    key = []
    for name, column in zip(("domain", "layer"), map(row_group.column, range(2)), strict=True):
        found = column.statistics
        if column.path_in_schema != name or found is None or not found.has_min_max or found.min != found.max:
            return None
        key.append(found.min)
    return (key[0], key[1]), 0, row_group.num_rows


def _runs_of_keys(table: pa.Table) -> Iterator[tuple[Key, int, int]]:
    """The runs of equal domain and layer in a table: key, first row, row behind the last."""
    if not len(table):
        return
    domain = pc.dictionary_encode(table["domain"]).combine_chunks()
    domain, layer = domain.indices.to_numpy(), table["layer"].to_numpy()
    changes = (domain[1:] != domain[:-1]) | (layer[1:] != layer[:-1])
    borders = [0, *(np.flatnonzero(changes) + 1).tolist(), len(table)]
    for start, stop in itertools.pairwise(borders):
        yield (table["domain"][start].as_py(), int(layer[start])), start, stop


def _one_batch(table: pa.Table) -> pa.RecordBatch:
    (batch,) = table.combine_chunks().to_batches()
    return batch
