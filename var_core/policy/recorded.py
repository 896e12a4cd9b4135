"""Recorded decisions of one layer, as tables are fitted on and measured by: with what was before each token."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray

from var_core.errors import VarError

_COLUMNS = ["sequence", "position", "layer", "document", "token_id", "experts", "weights", "confidence"]


@dataclass(frozen=True)
class RecordedDecisions:
    """Decisions of one layer, in order of sequence and position.

    Attributes
    ----------
    token_id, previous, position : numpy.ndarray
        int64 [N]: the token, the one before it that the model could see (-1 for none), and the position that the
        model gave it; both start anew with every document where documents are isolated.
    sequence, place : numpy.ndarray
        int64 [N]: which sequence, and the place in it.
    experts : numpy.ndarray
        int64 [N, k]; E where a slot is empty.
    weights : numpy.ndarray or None
        float32 [N, k]; None where they were not recorded.
    confidence : numpy.ndarray or None
        float32 [N]: the router's; None where logits were not recorded.
    """

    token_id: NDArray[np.int64]
    previous: NDArray[np.int64]
    position: NDArray[np.int64]
    sequence: NDArray[np.int64]
    place: NDArray[np.int64]
    experts: NDArray[np.int64]
    weights: NDArray[np.float32] | None
    confidence: NDArray[np.float32] | None

    def __len__(self) -> int:
        return len(self.token_id)

    def tokens(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """The token, the one before it and the position of each decision, as tables are asked."""
        return torch.from_numpy(self.token_id), torch.from_numpy(self.previous), torch.from_numpy(self.position)


def read_decisions(
    traces: Sequence[Path],
    layer: int,
    width: int,
    top_k: int,
    isolate_documents: bool,
    domains: Collection[str] | None = None,
) -> RecordedDecisions:
    """Read one layer of a split's trace.

    Parameters
    ----------
    traces : sequence of Path
        Files of a split, in order.
    layer : int
    width, top_k : int
        E and k.
    isolate_documents : bool
        Whether positions restarted where a document starts; False: they went on through the sequence.
    domains : collection of str, optional
        Only text of these domains.

    Raises
    ------
    VarError
        If there are no such decisions, or token ids were not recorded.
    """
    wanted: list[tuple[str, str, Any]] = [("layer", "=", layer)]
    if domains is not None:
        wanted.append(("domain", "in", list(domains)))
    parts = [pq.read_table(path, columns=_COLUMNS, filters=wanted) for path in traces]
    rows = pa.concat_tables(parts)
    if not len(rows):
        raise VarError(f"{traces[0].parent}: the trace has no decisions of layer {layer}; capture it again")
    if rows["token_id"].null_count:
        raise VarError(f"{traces[0].parent}: the trace has no token ids; tables by token need them")
    numbers = {
        name: rows[name].to_numpy().astype(np.int64) for name in ("sequence", "position", "document", "token_id")
    }
    order = np.lexsort((numbers["position"], numbers["sequence"]))
    sequence, place, document, token_id = (values[order] for values in numbers.values())
    previous, position = what_was_before(sequence, place, document, token_id, isolate_documents)
    experts, weights = _slots(rows, width, top_k)
    return RecordedDecisions(
        token_id=token_id,
        previous=previous,
        position=position,
        sequence=sequence,
        place=place,
        experts=experts[order],
        weights=None if weights is None else weights[order],
        confidence=None if rows["confidence"].null_count else rows["confidence"].to_numpy()[order],
    )


def what_was_before(
    sequence: NDArray[np.int64],
    place: NDArray[np.int64],
    document: NDArray[np.int64],
    token_id: NDArray[np.int64],
    isolate_documents: bool,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The token before each that the model could see, -1 for none, and the position that the model gave it.

    Parameters
    ----------
    sequence, place, document, token_id : numpy.ndarray
        int64 [N], in order of sequence and place.
    isolate_documents : bool
        Whether positions restarted where a document starts.
    """
    continued = (sequence[1:] == sequence[:-1]) & (place[1:] == place[:-1] + 1)
    if isolate_documents:
        continued &= document[1:] == document[:-1]
    starts = np.concatenate([[True], ~continued])
    previous = np.where(starts, -1, np.concatenate([[-1], token_id[:-1]]))
    # The place of each document's first token is taken off where positions restart with every document.
    begun = np.maximum.accumulate(np.where(starts, np.arange(len(place)), 0))
    return previous, np.arange(len(place)) - begun if isolate_documents else place


def _slots(rows: pa.Table, width: int, top_k: int) -> tuple[NDArray[np.int64], NDArray[np.float32] | None]:
    """Lists of experts and weights as arrays with empty slots."""
    lists = rows["experts"].combine_chunks()
    lengths = pc.list_value_length(lists).to_numpy()
    if lengths.max() > top_k:
        raise VarError(f"the trace has decisions of {lengths.max()} experts, the model chooses {top_k}")
    filled = np.arange(top_k) < lengths[:, None]
    experts = np.full((len(rows), top_k), width, np.int64)
    experts[filled] = lists.flatten().to_numpy()
    if rows["weights"].null_count:
        return experts, None
    weights = np.zeros((len(rows), top_k), np.float32)
    weights[filled] = rows["weights"].combine_chunks().flatten().to_numpy()
    return experts, weights


def set_agreement(given: NDArray[np.int64], learned: NDArray[np.int64]) -> NDArray[np.float64]:
    """Whether two sets of experts are the same, 0 or 1, [N]; the order within them is of no account."""
    return np.asarray((np.sort(given, axis=1) == np.sort(learned, axis=1)).all(axis=1), dtype=np.float64)


def recall_at_k(given: NDArray[np.int64], learned: NDArray[np.int64], width: int) -> NDArray[np.float64]:
    """Share of the learned experts that are among those given, [N]; empty slots (E) are of no account."""
    filled = learned < width
    found = (learned[:, :, None] == given[:, None, :]).any(axis=2) & filled
    return found.sum(axis=1) / np.maximum(filled.sum(axis=1), 1)
