"""A trace made shorter, of every so many sequences, and longer, of the same again under other numbers."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from var_core.parquet import read_table, write_table

PARTS = {"eighth": 1 / 8, "quarter": 1 / 4, "half": 1 / 2, "whole": 1, "twice": 2, "fourfold": 4}
"""Lengths that are tried, of the recorded trace."""


def write_part(traces: Sequence[Path], folder: Path, name: str) -> Path:
    """Write a part of a split's trace, or the whole several times over.

    Parameters
    ----------
    traces : sequence of Path
        Of the split.
    folder : Path
        Where to write it to.
    name : str
        Of :data:`PARTS`.
    """
    rows = pa.concat_tables([read_table(path).replace_schema_metadata() for path in traces])
    sequence, times = rows["sequence"].to_numpy(), PARTS[name]
    if times < 1:
        kept = np.isin(sequence, np.unique(sequence)[:: round(1 / times)])
        rows = rows.filter(pa.array(kept))
    else:
        rows = pa.concat_tables([_renumbered(rows, repeat * (int(sequence.max()) + 1)) for repeat in range(int(times))])
    path = folder / f"{name}.trace.parquet"
    write_table(path, rows, {})
    return path


def _renumbered(rows: pa.Table, by: int) -> pa.Table:
    place = rows.schema.get_field_index("sequence")
    field = rows.schema.field(place)
    return rows.set_column(place, field, pc.add(rows["sequence"], pa.scalar(by, field.type)))
