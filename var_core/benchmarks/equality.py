"""Before anything is timed: do the contenders give the same statistics? A fast wrong answer is worth nothing."""

from collections.abc import Mapping

import numpy as np
import pyarrow as pa

from var_core.errors import VarError
from var_core.statistics.tables import KEY_COLUMNS

_RELATIVE = 1e-5
"""Quantities are computed from float32 probabilities, in different orders of summation."""


def check_same_statistics(expected: Mapping[str, pa.Table], found: Mapping[str, pa.Table], name: str) -> None:
    """Compare the tables of two contenders: keys and counts exactly, sums and moments up to float32's rounding.

    Columns that the second does not have are not compared; rows may be in any order.

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
            if not _same(mine[column], theirs[column]):
                raise VarError(f"benchmark {name}: column {column} of {kind} is not what the accumulator gives")


def _same(mine: pa.ChunkedArray, theirs: pa.ChunkedArray) -> bool:
    if not mine.is_null().equals(theirs.is_null()):
        return False
    if pa.types.is_list(mine.type):
        mine, theirs = (pa.chunked_array([part.combine_chunks().flatten()]) for part in (mine, theirs))
    if not pa.types.is_floating(mine.type):
        return bool(mine.equals(theirs.cast(mine.type)))
    a, b = mine.drop_null().to_numpy(), theirs.drop_null().to_numpy()
    return bool(np.allclose(a, b, rtol=_RELATIVE, atol=_RELATIVE * max(1.0, float(np.abs(a).max(initial=0)))))
