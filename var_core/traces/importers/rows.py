"""Rows of the trace for recorded decisions: what was not recorded is null."""

import numpy as np
import pyarrow as pa

from var_core.traces.importers.scratch import Sequence
from var_core.traces.schema import TRACE


def recorded_rows(number: int, domain: str, sequence: Sequence, experts: int) -> pa.RecordBatch:
    """Lay out the decisions of a sequence one a row, in order of position and layer.

    Decisions that gave the token to no expert have no row, as they are not counted either.

    Parameters
    ----------
    number : int
        Number of the sequence within its split.
    domain : str
    sequence : Sequence
    experts : int
        E, which stands in empty slots.
    """
    _, layers, top_k = sequence.experts.shape
    decisions = sequence.experts.reshape(-1, top_k)
    kept = decisions[:, 0] < experts
    rows = int(kept.sum())

    def per_token(values: np.ndarray) -> np.ndarray:
        return np.repeat(values, layers)[kept]

    def per_slot(values: np.ndarray, kind: pa.DataType) -> pa.Array:
        offsets = pa.array(np.arange(0, rows * top_k + 1, top_k, dtype=np.int32))
        return pa.ListArray.from_arrays(offsets, pa.array(values.reshape(-1, top_k)[kept].reshape(-1), kind))

    columns: dict[str, object] = {
        "sequence": np.full(rows, number),
        "position": per_token(sequence.position),
        "layer": np.tile(np.arange(layers), len(sequence.position))[kept],
        "document": per_token(sequence.document),
        "domain": pa.DictionaryArray.from_arrays(np.zeros(rows, np.int16), [domain]),
        "experts": per_slot(sequence.experts, pa.int16()),
    }
    if sequence.token_ids is not None:
        columns["token_id"] = per_token(sequence.token_ids)
    if sequence.weights is not None:
        columns["weights"] = per_slot(sequence.weights, pa.float32())
    arrays = []
    for field in TRACE:
        column = columns.get(field.name)
        arrays.append(
            pa.nulls(rows, field.type)
            if column is None
            else column
            if isinstance(column, pa.Array)
            else pa.array(column, field.type)
        )
    return pa.RecordBatch.from_arrays(arrays, schema=TRACE)
