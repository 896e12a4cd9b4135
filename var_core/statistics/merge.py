"""Merging statistics: counts add, moments merge by Chan's formula, rows are matched by their keys.

The result depends on the order of the inputs only by rounding (within 1e-12 relative); callers fix the order, so
it does not depend on it at all.
"""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from var_core.statistics.tables import (
    EXPERT_MATRIX_COLUMNS,
    EXPERT_VECTOR_COLUMNS,
    KEY_COLUMNS,
    LAYER_COUNT_COLUMNS,
    QUANTITIES,
    SCHEMAS,
)


def merge_tables(name: str, tables: Sequence[pa.Table]) -> pa.Table:
    """Merge statistics tables of one kind.

    Parameters
    ----------
    name : {"token_stats", "expert_counts", "layer_stats"}
        The kind.
    tables : sequence of pyarrow.Table
        At least one, each with the schema of its kind.

    Returns
    -------
    pyarrow.Table
        A row a key that is in any of them, sorted by key.

    Notes
    -----
    With groups i of n_i values: n = sum n_i, mean = sum n_i mean_i / n,
    m2 = sum m2_i + sum n_i (mean_i - mean)^2 (Chan, Golub, LeVeque 1979, for many groups at once).
    """
    rows = pa.concat_tables(tables).combine_chunks()
    keys = KEY_COLUMNS[name]
    order = pc.sort_indices(rows, sort_keys=[(key, "ascending") for key in keys])  # stable: inputs keep their order
    rows = rows.take(order)
    if not len(rows):
        return rows
    group = _group_numbers(rows, keys)
    starts = np.flatnonzero(np.diff(group, prepend=-1))
    merged: dict[str, pa.Array] = {key: rows[key].take(pa.array(starts)) for key in keys}
    if name == "token_stats":
        merged |= _merge_moments(rows, group, len(starts))
    elif name == "expert_counts":
        merged |= {column: _sum(rows[column], group) for column in ("chosen", "first", "weight_sum")}
    else:
        merged |= {column: _sum(rows[column], group) for column in LAYER_COUNT_COLUMNS}
        lists = (*EXPERT_VECTOR_COLUMNS, "weight_sum", *EXPERT_MATRIX_COLUMNS)
        merged |= {column: _sum_lists(rows[column], group, len(starts)) for column in lists}
    schema = SCHEMAS[name]
    return pa.table([_flat(merged[field.name]).cast(field.type) for field in schema], schema=schema)


def _flat(column: pa.Array | pa.ChunkedArray) -> pa.Array:
    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column


def _group_numbers(rows: pa.Table, keys: Sequence[str]) -> np.ndarray:
    """Number the runs of equal keys in sorted rows, from 0."""
    changes = np.zeros(len(rows), dtype=bool)
    for key in keys:
        column = rows[key].combine_chunks()
        if pa.types.is_string(column.type):
            column = column.dictionary_encode().indices
        values = column.to_numpy(zero_copy_only=False)
        changes[1:] |= values[1:] != values[:-1]
    return np.cumsum(changes)


def _sum(column: pa.ChunkedArray, group: np.ndarray) -> pa.Array:
    """Add up a column by group; null where something was not recorded."""
    values = column.fill_null(0).to_numpy()
    if np.issubdtype(values.dtype, np.integer):
        # bincount would go through float64, which is not exact above 2**53.
        starts = np.flatnonzero(np.diff(group, prepend=-1))
        sums = np.add.reduceat(values, starts)
    else:
        sums = np.bincount(group, weights=values)
    return pa.array(sums, mask=_unknown(column, group, len(sums)))


def _unknown(column: pa.ChunkedArray, group: np.ndarray, groups: int) -> np.ndarray | None:
    """Groups with a null; None where there is none."""
    if not column.null_count:
        return None
    return np.bincount(group, weights=column.is_null().to_numpy(), minlength=groups) > 0


def _merge_moments(rows: pa.Table, group: np.ndarray, groups: int) -> dict[str, pa.Array]:
    n = rows["n"].to_numpy()
    total = _sum(rows["n"], group)
    merged = {"n": total}
    for quantity in QUANTITIES:
        mean_i, m2_i = (rows[f"{quantity}_{moment}"].fill_null(0.0).to_numpy() for moment in ("mean", "m2"))
        mean = np.bincount(group, weights=n * mean_i, minlength=groups) / total.to_numpy()
        within = np.bincount(group, weights=m2_i, minlength=groups)
        between = np.bincount(group, weights=n * (mean_i - mean[group]) ** 2, minlength=groups)
        unknown = _unknown(rows[f"{quantity}_mean"], group, groups)
        merged[f"{quantity}_mean"] = pa.array(mean, mask=unknown)
        merged[f"{quantity}_m2"] = pa.array(within + between, mask=unknown)
    return merged


def _sum_lists(column: pa.ChunkedArray, group: np.ndarray, groups: int) -> pa.Array:
    """Add up the lists of each group, which are of one length; null where every list of a group is null."""
    lists = column.combine_chunks()
    length = pc.list_value_length(lists).fill_null(-1).to_numpy(zero_copy_only=False)
    sums: list[np.ndarray | None] = [None] * groups
    for width in np.unique(length[length >= 0]):
        these = np.flatnonzero(length == width)
        values = lists.take(pa.array(these)).flatten().to_numpy().reshape(len(these), width)
        members, place = np.unique(group[these], return_inverse=True)
        total = np.zeros((len(members), width), dtype=values.dtype)
        np.add.at(total, place, values)
        for member, row in zip(members, total, strict=True):
            sums[member] = row
    return pa.array(sums, column.type)
