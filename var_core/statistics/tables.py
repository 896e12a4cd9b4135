"""The Parquet tables that hold the statistics of a shard, and of many shards merged.

All three are sparse: only tokens and experts that occurred have rows. Rows are sorted by their key columns.
Moments are ``(n, mean, m2)`` with ``m2`` the sum of squared deviations, never a variance, so that they merge
by Chan's formula. ``layer`` counts the MoE layers from 0 in the order in which they run; the provenance record
of each file names their module paths under ``"sites"``.
"""

from collections.abc import Mapping

import numpy as np
import pyarrow as pa

QUANTITIES = ("router_entropy", "confidence", "margin")
"""Per-decision quantities whose moments are kept, as ``definitions`` names them."""

KEY_COLUMNS = {
    "token_stats": ("domain", "layer", "token_id"),
    "expert_counts": ("domain", "layer", "token_id", "expert"),
    "layer_stats": ("domain", "layer"),
}
"""Table name -> columns that identify a row (and that rows are sorted by)."""

TOKEN_STATS = pa.schema(
    [
        pa.field("domain", pa.string(), nullable=False),
        pa.field("layer", pa.int16(), nullable=False),
        pa.field("token_id", pa.int32(), nullable=False),
        pa.field("n", pa.int64(), nullable=False),
        *(pa.field(f"{quantity}_{moment}", pa.float64()) for quantity in QUANTITIES for moment in ("mean", "m2")),
    ]
)
"""A row a (domain, layer, token id): occurrences and moments (null where logits were not recorded)."""

EXPERT_COUNTS = pa.schema(
    [
        pa.field("domain", pa.string(), nullable=False),
        pa.field("layer", pa.int16(), nullable=False),
        pa.field("token_id", pa.int32(), nullable=False),
        pa.field("expert", pa.int16(), nullable=False),
        pa.field("chosen", pa.int64(), nullable=False),
        pa.field("first", pa.int64()),
        pa.field("weight_sum", pa.float64()),
    ]
)
"""A row a (domain, layer, token id, expert) with ``chosen`` > 0: times chosen, times first, sum of weights
(the last two null where weights were not recorded)."""

LAYER_COUNT_COLUMNS = ("tokens", "nonfinite", "dropped", "pairs", "first_repeats", "any_repeats", "slot_overlaps")
"""Whole-number columns of ``layer_stats``."""

_MAY_BE_UNKNOWN = ("nonfinite", "pairs", "first_repeats", "any_repeats", "slot_overlaps")

EXPERT_VECTOR_COLUMNS = ("chosen", "first")
"""Columns of ``layer_stats`` that hold E whole numbers."""

EXPERT_MATRIX_COLUMNS = ("coactivation", "next_chosen", "next_first", "next_first_shuffled")
"""Columns of ``layer_stats`` that hold E x E whole numbers, row by row."""

LAYER_STATS = pa.schema(
    [
        pa.field("domain", pa.string(), nullable=False),
        pa.field("layer", pa.int16(), nullable=False),
        *(pa.field(name, pa.int64(), nullable=name in _MAY_BE_UNKNOWN) for name in LAYER_COUNT_COLUMNS),
        pa.field("chosen", pa.list_(pa.int64()), nullable=False),
        pa.field("first", pa.list_(pa.int64())),
        pa.field("weight_sum", pa.list_(pa.float64())),
        *(pa.field(name, pa.list_(pa.int64())) for name in EXPERT_MATRIX_COLUMNS),
    ]
)
"""A row a (domain, layer).

``tokens`` decisions counted; ``nonfinite`` decisions left out because a logit or weight was NaN or infinite;
``dropped`` decisions that gave the token to no expert, left out too; ``pairs`` consecutive tokens of one document
within one sequence, and of these ``first_repeats``, ``any_repeats`` and the summed size of the intersections
``slot_overlaps``; ``coactivation[i * E + j]`` decisions that chose both i and j (the diagonal is ``chosen``; E is
the layer's own); ``next_*[i * E + j]`` decisions with i at this layer and j at the next one (E is the next one's),
for all chosen pairs, for the first choices, and for the first choices with the next layer's shuffled within the
sequence (null at the last layer). What needs logits, weights, order or text that was not recorded is null.
"""

SCHEMAS = {"token_stats": TOKEN_STATS, "expert_counts": EXPERT_COUNTS, "layer_stats": LAYER_STATS}


def statistics_table(schema: pa.Schema, domain: str, columns: Mapping[str, object], rows: int) -> pa.Table:
    """Make a statistics table of one domain.

    Parameters
    ----------
    schema : pyarrow.Schema
        One of :data:`SCHEMAS`.
    domain : str
        Of all rows.
    columns : mapping
        Values of every other column: an array or a list; a number that all rows have; or None, for null throughout.
    rows : int
        How many there are.
    """

    def array(field: pa.Field) -> pa.Array:
        values = domain if field.name == "domain" else columns[field.name]
        if values is None:
            return pa.nulls(rows, field.type)
        if isinstance(values, str):
            return _repeated(values, rows)
        if isinstance(values, int):
            values = np.full(rows, values, field.type.to_pandas_dtype())
        return pa.array(values, field.type)

    return pa.table([array(field) for field in schema], schema=schema)


def _repeated(text: str, rows: int) -> pa.Array:
    """One text in all rows, as :func:`pyarrow.repeat` gives it, several times as fast."""
    encoded = text.encode()
    ends = np.arange(rows + 1, dtype=np.int64) * len(encoded)
    if ends[-1] > np.iinfo(np.int32).max:
        return pa.repeat(text, rows)
    return pa.StringArray.from_buffers(rows, pa.py_buffer(ends.astype(np.int32)), pa.py_buffer(encoded * rows))
