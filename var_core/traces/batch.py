"""Turning the decisions of a batch into rows of the trace."""

import numpy as np
import pyarrow as pa
import torch

from var_core.routing.batch import RoutedBatch
from var_core.statistics.quantities import Quantities
from var_core.statistics.tables import QUANTITIES
from var_core.traces.schema import TRACE


def trace_rows(
    sequence: np.ndarray,
    input_ids: np.ndarray | None,
    document: np.ndarray,
    domain: str,
    batch: RoutedBatch,
    quantities: Quantities | None,
    experts: int,
) -> pa.RecordBatch:
    """Lay out a batch's decisions one a row, in order of sequence, position and layer.

    Decisions with non-finite logits, and those that gave a token to no expert, are left out, as they are from the
    statistics.

    Parameters
    ----------
    sequence : numpy.ndarray
        Numbers of the S sequences, [S].
    input_ids : numpy.ndarray or None
        Token ids, [S, length]; None where they were not recorded.
    document : numpy.ndarray
        Document ids, [S, length].
    domain : str
        Domain of all S sequences.
    batch : RoutedBatch
        Decisions of the S * length tokens at L layers.
    quantities : Quantities or None
        Of the same decisions; None where logits were not recorded.
    experts : int
        E of the layout: what an empty slot holds.
    """
    layers, length = len(batch.experts), document.shape[1]
    filled = _by_token(batch.experts < experts)
    kept = filled.any(axis=1)
    if quantities is not None:
        kept &= _by_token(quantities.finite)
    filled = filled[kept]

    def per_token(values: np.ndarray) -> np.ndarray:
        return np.repeat(values, layers)[kept]

    def per_slot(values: torch.Tensor, kind: pa.DataType) -> pa.Array:
        offsets = np.concatenate([[0], np.cumsum(filled.sum(axis=1))]).astype(np.int32)
        return pa.ListArray.from_arrays(pa.array(offsets), pa.array(_by_token(values)[kept][filled], kind))

    rows = int(kept.sum())
    columns: dict[str, pa.Array | np.ndarray | None] = {
        "sequence": per_token(np.repeat(sequence, length)),
        "position": per_token(np.tile(np.arange(length), len(sequence))),
        "layer": np.tile(np.arange(layers), document.size)[kept],
        "document": per_token(document.reshape(-1)),
        "domain": pa.DictionaryArray.from_arrays(np.zeros(rows, np.int16), [domain]),
        "token_id": None if input_ids is None else per_token(input_ids.reshape(-1)),
        "experts": per_slot(batch.experts.to(torch.int16), pa.int16()),
        "weights": None if batch.weights is None else per_slot(batch.weights.float(), pa.float32()),
    }
    for name in QUANTITIES:
        columns[name] = None if quantities is None else _by_token(getattr(quantities, name).float())[kept]
    return pa.RecordBatch.from_arrays([_array(columns[field.name], field.type, rows) for field in TRACE], schema=TRACE)


def _by_token(values: torch.Tensor) -> np.ndarray:
    """Rows of [L, T] or [L, T, k] in the order of tokens, and of layers within them."""
    return np.asarray(values.transpose(0, 1).flatten(0, 1).cpu().numpy())


def _array(column: pa.Array | np.ndarray | None, kind: pa.DataType, rows: int) -> pa.Array:
    if column is None:
        return pa.nulls(rows, kind)
    return column if isinstance(column, pa.Array) else pa.array(column, kind)
