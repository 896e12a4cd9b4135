"""The project's own schema for recorded routing: Parquet, one row a decision.

=============  ======================  ================================================================
column         type                    meaning
=============  ======================  ================================================================
``document``   string                  what was recorded together: a request, a conversation, a text
``position``   whole number            place of the token in the document, from 0
``layer``      whole number            MoE layer, from 0, without dense layers
``experts``    list of whole numbers   the k experts that the token was given to; empty: none
``weights``    list of numbers         optional: their weights, in the same order
``token_id``   whole number            optional
``domain``     string                  optional: part of the corpus; else the domain of the configuration
``phase``      string                  optional: ``prefill`` or ``decode``, which becomes part of the domain
``group``      string                  optional: documents of a group stay in one split
``model``      string                  optional: rows of other models are passed over, see ``recorded_model``
=============  ======================  ================================================================

Rows are in order of document, position and layer; every position has all layers.
"""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from var_core.errors import VarError
from var_core.traces.importers.recording import Ints, Recording, Shape

_KINDS = {
    "document": pa.string(),
    "position": pa.int64(),
    "layer": pa.int64(),
    "experts": pa.list_(pa.int64()),
    "weights": pa.list_(pa.float32()),
    "token_id": pa.int64(),
    "domain": pa.string(),
    "phase": pa.string(),
    "group": pa.string(),
    "model": pa.string(),
}
_REQUIRED = ("document", "position", "layer", "experts")
_LABELS = ("document", "domain", "phase", "group")
_ROWS = 1 << 16


def read_parquet(
    files: Sequence[tuple[Path, str]], domain: str, shape: Shape, recorded_model: str | None = None
) -> Iterator[Recording]:
    """Yield a recording a document (and phase), in the order of the files.

    Parameters
    ----------
    files : sequence of (Path, str)
        Files of the domain with their short names.
    domain : str
        For files without a column ``domain``.
    shape : Shape
    recorded_model : str, optional
        Value of column ``model`` whose rows are read.

    Raises
    ------
    VarError
        If a column is missing or of another kind, or rows are not in order, incomplete or ragged.
    """
    for path, name in files:
        waiting: list[pa.Table] = []
        for rows, share_read in _batches(path, recorded_model):
            changes = np.zeros(len(rows), dtype=bool)
            for label in _LABELS:
                if label in rows.column_names:
                    codes = pc.dictionary_encode(
                        rows[label].combine_chunks(), null_encoding="encode"
                    ).indices.to_numpy()
                    changes[1:] |= codes[1:] != codes[:-1]
            starts = [0, *np.flatnonzero(changes).tolist(), len(rows)]
            for start, stop in pairwise(starts):
                piece = rows.slice(start, stop - start)
                if waiting and not _same(waiting[0], piece):
                    yield _recording(pa.concat_tables(waiting), path, name, domain, shape, share_read)
                    waiting = []
                waiting.append(piece)
        if not waiting:
            which = "" if recorded_model is None else f" of model {recorded_model!r}"
            raise VarError(f"{path}: holds no rows{which}")
        yield _recording(pa.concat_tables(waiting), path, name, domain, shape, 1.0)


def _batches(path: Path, recorded_model: str | None) -> Iterator[tuple[pa.Table, float]]:
    """Yield tables with a column ``row``, from 1, and how much of the file has been read."""
    try:
        with pq.ParquetFile(path) as file:
            columns = [name for name in _KINDS if name in file.schema_arrow.names]
            for needed in (*_REQUIRED, *(("model",) if recorded_model is not None else ())):
                if needed not in columns:
                    raise VarError(f"{path}: has no column {needed!r}, only {', '.join(file.schema_arrow.names)}")
            read, total = 0, max(file.metadata.num_rows, 1)
            for batch in file.iter_batches(batch_size=_ROWS, columns=columns):
                rows = _cast(pa.Table.from_batches([batch]), path)
                rows = rows.append_column("row", pa.array(np.arange(read + 1, read + len(rows) + 1)))
                read += len(rows)
                if recorded_model is not None:
                    rows = rows.filter(pc.equal(rows["model"], recorded_model))
                if len(rows):
                    yield rows, read / total
    except (pa.ArrowException, OSError) as error:
        raise VarError(f"{path}: not readable as Parquet ({str(error).splitlines()[0]})") from None


def _cast(rows: pa.Table, path: Path) -> pa.Table:
    columns: dict[str, Any] = {}
    for name in rows.column_names:
        try:
            columns[name] = rows[name].cast(_KINDS[name])
        except pa.ArrowException:
            raise VarError(f"{path}: column {name!r} holds {rows[name].type}, not {_KINDS[name]}") from None
    return pa.table(columns)


def _same(one: pa.Table, other: pa.Table) -> bool:
    return all(one[label][0] == other[label][0] for label in _LABELS if label in one.column_names)


def _recording(rows: pa.Table, path: Path, name: str, domain: str, shape: Shape, share_read: float) -> Recording:
    """Arrange the rows of one document as tokens by layers."""
    numbers = rows["row"].to_numpy()
    for column in rows.column_names:
        if column not in ("weights", "token_id") and rows[column].null_count:
            missing = int(np.argmax(rows[column].is_null().to_numpy()))
            raise VarError(f"{path}: row {numbers[missing]}: has no {column}")
    position, layer = rows["position"].to_numpy(), rows["layer"].to_numpy()
    layers = shape.layers or int(layer[: np.argmax(position != position[0]) or None].max()) + 1
    count = len(rows) // layers
    expected = np.tile(np.arange(layers), count + 1)[: len(rows)]
    wrong = (layer != expected) | (position != position[0] + np.arange(len(rows)) // layers)
    if wrong.any() or len(rows) % layers:
        at = int(np.argmax(wrong)) if wrong.any() else len(rows) - 1
        raise VarError(
            f"{path}: row {numbers[at]}: position {position[at]}, layer {layer[at]} is not the next one; every "
            f"position must have its {layers} layers, in order"
        )

    def place(token: int, of_layer: int) -> str:
        return f"{path}: row {numbers[token * layers + of_layer]}"

    experts = _slots(rows["experts"], shape.experts, numbers, path, shape)
    weights = None
    if "weights" in rows.column_names and rows["weights"].null_count < len(rows):
        lengths = pc.list_value_length(rows["weights"]).fill_null(0).to_numpy()
        unlike = lengths != pc.list_value_length(rows["experts"]).to_numpy()
        if unlike.any():
            at = int(np.argmax(unlike))
            experts = pc.list_value_length(rows["experts"])[at].as_py()
            raise VarError(f"{path}: row {numbers[at]}: {lengths[at]} weights for {experts} experts")
        weights = _slots(rows["weights"], 0, numbers, path, shape).astype(np.float32)
    label = {name: str(rows[name][0].as_py()) for name in _LABELS if name in rows.column_names}
    part = label.get("domain", domain)
    if "phase" in label:
        if label["phase"] not in ("prefill", "decode"):
            raise VarError(f"{place(0, 0)}: phase {label['phase']!r} is neither prefill nor decode")
        part = f"{part}:{label['phase']}"
    title = f"{part}/{name}:{label['document']}"
    return Recording(
        name=title,
        group=label.get("group", f"{domain}/{name}:{label['document']}"),
        domain=part,
        experts=experts.reshape(count, layers, shape.top_k),
        weights=None if weights is None else weights.reshape(count, layers, shape.top_k),
        token_ids=_token_ids(rows, layers, numbers, path),
        place=place,
        share_read=share_read,
    )


def _slots(lists: pa.ChunkedArray, empty: int, numbers: Ints, path: Path, shape: Shape) -> np.ndarray:
    """Values of lists of k or none, shape (rows, k); `empty` where there are none."""
    lengths = pc.list_value_length(lists).fill_null(0).to_numpy()
    ragged = (lengths != shape.top_k) & (lengths != 0)
    if ragged.any():
        at = int(np.argmax(ragged))
        raise VarError(
            f"{path}: row {numbers[at]}: {lengths[at]} experts or weights where models.{shape.model}.top_k is "
            f"{shape.top_k}"
        )
    flat = pc.list_flatten(lists)
    if flat.null_count:
        at = int(np.argmax(flat.is_null().to_numpy()))
        row = numbers[np.flatnonzero(lengths)[at // shape.top_k]]
        raise VarError(
            f"{path}: row {row}: an expert or weight is null; leave the list empty where there was no decision"
        )
    values = flat.to_numpy()
    if empty and len(values) and values.max() >= empty:
        # E itself would pass for an empty slot.
        at = int(np.argmax(values >= empty))
        row = numbers[np.flatnonzero(lengths)[at // shape.top_k]]
        raise VarError(
            f"{path}: row {row}: expert {values[at]} is outside 0 to {empty - 1} (models.{shape.model}.experts is "
            f"{empty})"
        )
    slots = np.full((len(lengths), shape.top_k), empty, dtype=values.dtype)
    slots[lengths > 0] = values.reshape(-1, shape.top_k)
    return slots


def _token_ids(rows: pa.Table, layers: int, numbers: Ints, path: Path) -> Ints | None:
    if "token_id" not in rows.column_names or rows["token_id"].null_count == len(rows):
        return None
    if rows["token_id"].null_count:
        missing = int(np.argmax(rows["token_id"].is_null().to_numpy()))
        raise VarError(f"{path}: row {numbers[missing]}: has no token_id, while other rows have one")
    token_ids = rows["token_id"].to_numpy().reshape(-1, layers)
    unlike = (token_ids != token_ids[:, :1]).any(axis=1)
    if unlike.any():
        at = int(np.argmax(unlike)) * layers
        raise VarError(f"{path}: row {numbers[at]}: the layers of one position have different token ids")
    return np.ascontiguousarray(token_ids[:, 0], dtype=np.int64)
