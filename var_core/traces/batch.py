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
    input_ids: np.ndarray,
    document: np.ndarray,
    domain: str,
    batch: RoutedBatch,
    quantities: Quantities,
) -> pa.RecordBatch:
    """Lay out a batch's decisions one a row, in order of sequence, position and layer.

    Decisions with non-finite logits are left out, as they are from the statistics.

    Parameters
    ----------
    sequence : numpy.ndarray
        Numbers of the S sequences, [S].
    input_ids, document : numpy.ndarray
        Token and document ids, [S, length].
    domain : str
        Domain of all S sequences.
    batch : RoutedBatch
        Decisions of the S * length tokens at L layers.
    quantities : Quantities
        Of the same decisions.
    """
    assert batch.weights is not None
    layers, _, k = batch.experts.shape
    length = input_ids.shape[1]
    kept = quantities.finite.T.reshape(-1).cpu().numpy()

    def per_token(values: np.ndarray) -> np.ndarray:
        return np.repeat(values, layers)[kept]

    def per_decision(values: torch.Tensor) -> np.ndarray:
        return values.transpose(0, 1).flatten(0, 1).cpu().numpy()[kept]

    def per_slot(values: torch.Tensor, kind: pa.DataType) -> pa.Array:
        rows = per_decision(values)
        offsets = pa.array(np.arange(0, rows.size + 1, k, dtype=np.int32))
        return pa.ListArray.from_arrays(offsets, pa.array(rows.reshape(-1), kind))

    rows = int(kept.sum())
    columns: dict[str, pa.Array] = {
        "sequence": per_token(np.repeat(sequence, length)),
        "position": per_token(np.tile(np.arange(length), len(sequence))),
        "layer": np.tile(np.arange(layers), input_ids.size)[kept],
        "document": per_token(document.reshape(-1)),
        "domain": pa.DictionaryArray.from_arrays(np.zeros(rows, np.int16), [domain]),
        "token_id": per_token(input_ids.reshape(-1)),
        "experts": per_slot(batch.experts.to(torch.int16), pa.int16()),
        "weights": per_slot(batch.weights.float(), pa.float32()),
        **{name: per_decision(getattr(quantities, name).float()) for name in QUANTITIES},
    }
    arrays = [
        column if isinstance(column, pa.Array) else pa.array(column, field.type)
        for field, column in ((field, columns[field.name]) for field in TRACE)
    ]
    return pa.RecordBatch.from_arrays(arrays, schema=TRACE)
