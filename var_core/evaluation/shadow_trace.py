"""A trace of what the router would have decided in a model that a policy runs in: the evidence of a certificate."""

from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from var_core.evaluation.text import Text
from var_core.parquet import batch_writer
from var_core.policy.runtime import DecisionRecord, Observer, RuntimePolicy
from var_core.policy.sequences import Tokens
from var_core.routing.batch import RouterLayout
from var_core.traces.schema import TRACE


class ShadowTrace(Observer):
    """Context manager that writes the router's decisions on the states that the policy's own decisions led to.

    They are rows as of any trace (of sliding windows all tokens, those of the context too), so that the policy can be
    replayed on them: the same code, given the same confidence, decides the same. Weights, entropy and margin are left
    out.

    Parameters
    ----------
    path : Path
        File to write.
    text : Text
        What the model is run on, in this order from the policy's first pass on.
    layout : RouterLayout
    provenance : dict
    """

    def __init__(self, path: Path, text: Text, layout: RouterLayout, provenance: dict[str, Any]) -> None:
        self._text, self._layout = text, layout
        self._file = batch_writer(path, TRACE, provenance)
        self._layers: list[tuple[NDArray[np.int64], NDArray[np.float32]]] = []
        self._done = 0

    def __enter__(self) -> "ShadowTrace":
        self._write = self._file.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.__exit__(kind, error, trace)

    def asks(self, layer: int, tokens: Tokens) -> torch.Tensor:
        """All that is not padding."""
        return tokens.counts.flatten()

    def decided(self, record: DecisionRecord) -> None:
        """Keep what the router said."""
        self._layers.append((record.learned_experts.cpu().numpy(), record.confidence.cpu().numpy()))

    def passed(self, policy: RuntimePolicy) -> None:
        """Write the rows of a pass."""
        length = self._text.input_ids.shape[1]
        sequences = len(self._layers[0][0]) // length
        rows = self._text.rows(slice(self._done, self._done + sequences))
        for number in range(sequences):
            self._write(self._rows(rows, number, slice(number * length, (number + 1) * length)))
        self._done += sequences
        self._layers.clear()

    def _rows(self, text: Text, number: int, own: slice) -> pa.RecordBatch:
        """Rows of one sequence, in order of position and layer."""
        layers, length = len(self._layers), text.input_ids.shape[1]
        width, k = self._layout.experts, self._layout.top_k
        experts = np.full((length, layers, k), width, np.int64)
        for layer, (learned, _) in enumerate(self._layers):
            shape = self._layout.layers[layer]
            given = learned[own, : shape.top_k]
            experts[:, layer, : shape.top_k] = np.where(given >= shape.experts, width, given)
        confidence = np.stack([part[own] for _, part in self._layers], axis=1)
        filled = experts < width
        offsets = np.concatenate([[0], np.cumsum(filled.sum(axis=2).ravel())]).astype(np.int32)

        def per_token(values: NDArray[np.generic]) -> NDArray[np.generic]:
            return np.repeat(values, layers)

        rows = length * layers
        columns = {
            "sequence": np.full(rows, text.sequence[number]),
            "position": per_token(np.arange(length)),
            "layer": np.tile(np.arange(layers), length),
            "document": per_token(text.document[number]),
            "domain": pa.DictionaryArray.from_arrays(np.zeros(rows, np.int16), [str(text.domain[number])]),
            "token_id": per_token(text.input_ids[number]),
            "experts": pa.ListArray.from_arrays(pa.array(offsets), pa.array(experts[filled], pa.int16())),
            "confidence": confidence.ravel(),
        }
        arrays = [_array(columns.get(field.name), field.type, rows) for field in TRACE]
        return pa.RecordBatch.from_arrays(arrays, schema=TRACE)


def _array(column: Any, kind: pa.DataType, rows: int) -> pa.Array:
    if column is None:
        return pa.nulls(rows, kind)
    return column if isinstance(column, pa.Array) else pa.array(column, kind)
