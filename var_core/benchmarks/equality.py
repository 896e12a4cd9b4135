"""Before anything is timed: do the contenders give the same statistics? A fast wrong answer is worth nothing."""

from collections.abc import Mapping

import numpy as np
import pyarrow as pa

from var_core.errors import VarError
from var_core.statistics.tables import KEY_COLUMNS

FLOAT32 = 1e-5
"""Tolerance where quantities come from float32 probabilities, summed in different orders."""
FLOAT64 = 1e-12
"""Tolerance where the same quantities are summed in different orders."""


def check_same_statistics(
    expected: Mapping[str, pa.Table], found: Mapping[str, pa.Table], name: str, tolerance: float = FLOAT32
) -> None:
    """Compare the tables of two contenders: keys and counts exactly, sums and moments up to rounding.

    Parameters
    ----------
    expected, found : mapping
        Tables by kind. Columns that the second does not have are not compared; rows may be in any order.
    name : str
        The contender's name, for messages.
    tolerance : float, optional
        Of floating-point columns, relative to the column's largest value.

    Raises
    ------
    VarError
        If they differ, naming table and column.
    """
    for kind, table in found.items():
        keys = [(key, "ascending") for key in KEY_COLUMNS[kind] if key in table.column_names]
        mine, theirs = expected[kind].sort_by(keys), table.sort_by(keys)
        if mine.num_rows != theirs.num_rows:
            raise VarError(f"benchmark {name}: {kind} has {theirs.num_rows} rows, not {mine.num_rows}")
        for column in table.column_names:
            if not _same(mine[column], theirs[column], tolerance):
                raise VarError(f"benchmark {name}: column {column} of {kind} is not what the accumulator gives")


def check_similar_load(expected: pa.Table, found: pa.Table, name: str, share: float = 0.02) -> None:
    """Compare how often each expert was chosen where two runs of a model need not agree in every bit.

    Half-precision sums on a GPU come in no fixed order, and near ties then fall to other experts.

    Parameters
    ----------
    expected, found : pyarrow.Table
        ``layer_stats`` of both.
    name : str
        The contender's name, for messages.
    share : float, optional
        Of the choices that may go to other experts.

    Raises
    ------
    VarError
        If more do.
    """
    a, b = (np.concatenate([np.array(row) for row in table["chosen"].to_pylist()]) for table in (expected, found))
    if a.sum() != b.sum() or np.abs(a - b).sum() > 2 * share * a.sum():
        raise VarError(f"benchmark {name}: experts are not chosen as often as capture says")


def _same(mine: pa.ChunkedArray, theirs: pa.ChunkedArray, tolerance: float) -> bool:
    if not mine.is_null().equals(theirs.is_null()):
        return False
    if pa.types.is_list(mine.type):
        mine, theirs = (pa.chunked_array([part.combine_chunks().flatten()]) for part in (mine, theirs))
    if not pa.types.is_floating(mine.type):
        return bool(mine.equals(theirs.cast(mine.type)))
    a, b = mine.drop_null().to_numpy(), theirs.drop_null().to_numpy()
    return bool(np.abs(a - b).max(initial=0) <= tolerance * max(1.0, float(np.abs(a).max(initial=0))))
