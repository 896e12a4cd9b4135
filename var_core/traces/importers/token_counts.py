"""Counts of token id and expert that were added up already: no order, weights, logits or single decisions.

Parquet with the columns ``domain``, ``layer``, ``token_id``, ``expert`` and ``count``: how often each token id was
sent to each expert, over all k slots; and ``model``, where a file holds several.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from var_core.errors import VarError
from var_core.statistics.tables import EXPERT_COUNTS, LAYER_STATS, TOKEN_STATS, statistics_table
from var_core.traces.importers.recording import Ints, Shape

Tables = dict[str, pa.Table]
_KEYS = ("layer", "token_id", "expert")


def read_token_counts(
    files: Sequence[tuple[Path, str]], domain: str, shape: Shape, recorded_model: str | None
) -> Iterator[tuple[str, Tables]]:
    """Yield domain and statistics tables, domains of each file in the order of their names.

    Parameters
    ----------
    files : sequence of (Path, str)
        Files of the domain with their short names.
    domain : str
        For files without a column ``domain``.
    shape : Shape
    recorded_model : str or None
        Value of column ``model`` whose rows are read.

    Raises
    ------
    VarError
        If a column is missing, a number is out of range, a row is there twice, or the counts of a token id at a layer
        are no multiple of k or cannot be of distinct experts.
    """
    for path, _ in files:
        rows = _rows(path, domain, recorded_model)
        for part in sorted(pc.unique(rows["domain"]).to_pylist()):
            yield part, counted_tables(rows.filter(pc.equal(rows["domain"], part)), part, path, shape)


def _rows(path: Path, domain: str, recorded_model: str | None) -> pa.Table:
    try:
        with pq.ParquetFile(path) as file:
            names = file.schema_arrow.names
            optional = [name for name in ("domain", "model") if name in names]
            for needed in (*_KEYS, "count", *(("model",) if recorded_model is not None else ())):
                if needed not in names:
                    raise VarError(f"{path}: has no column {needed!r}, only {', '.join(names)}")
            rows = file.read(columns=[*_KEYS, "count", *optional])
    except (pa.ArrowException, OSError) as error:
        raise VarError(f"{path}: not readable as Parquet ({str(error).splitlines()[0]})") from None
    for name in rows.column_names:
        if rows[name].null_count:
            missing = int(np.argmax(rows[name].is_null().to_numpy()))
            raise VarError(f"{path}: row {missing + 1}: has no {name}")
    for name in (*_KEYS, "count"):
        if not pa.types.is_integer(rows[name].type):
            raise VarError(f"{path}: column {name!r} holds {rows[name].type}, not whole numbers")
    rows = rows.append_column("row", pa.array(np.arange(1, len(rows) + 1)))
    if "domain" not in rows.column_names:
        rows = rows.append_column("domain", pa.array([domain] * len(rows), pa.string()))
    rows = rows.set_column(rows.column_names.index("domain"), "domain", rows["domain"].cast(pa.string()))
    if recorded_model is not None:
        rows = rows.filter(pc.equal(rows["model"].cast(pa.string()), recorded_model))
    elif "model" in rows.column_names and len(pc.unique(rows["model"])) > 1:
        raise VarError(f"{path}: holds {len(pc.unique(rows['model']))} models; name one in recorded_model")
    if not len(rows):
        which = "" if recorded_model is None else f" of model {recorded_model!r}"
        raise VarError(f"{path}: holds no rows{which}")
    return rows


def counted_tables(rows: pa.Table, domain: str, path: Path, shape: Shape) -> Tables:
    """Turn the rows of one domain into the three tables of the statistics."""
    ordered = rows.sort_by([(key, "ascending") for key in _KEYS])
    number, count = ordered["row"].to_numpy(), ordered["count"].to_numpy().astype(np.int64)
    layer, token, expert = (ordered[key].to_numpy().astype(np.int64) for key in _KEYS)
    faults = (
        (
            (expert < 0) | (expert >= shape.experts),
            lambda at: f"expert {expert[at]} is outside 0 to {shape.experts - 1}",
        ),
        (layer < 0, lambda at: f"layer {layer[at]} is negative"),
        (count < 1, lambda at: f"count {count[at]} is not positive"),
    )
    for wrong, say in faults:
        if wrong.any():
            raise VarError(
                f"{path}: row {number[wrong].min()}: {say(int(np.argmin(np.where(wrong, number, 1 << 62))))}"
            )
    fault = shape.fault_of_token_ids(token)
    if fault is not None:
        raise VarError(f"{path}: row {number[fault[0]]}: {fault[1]}")
    same = np.zeros(len(rows), dtype=bool)
    same[1:] = (np.diff(layer) == 0) & (np.diff(token) == 0) & (np.diff(expert) == 0)
    if same.any():
        raise VarError(f"{path}: row {number[int(np.argmax(same))]}: its layer, token_id and expert are there twice")
    starts = np.flatnonzero(np.append(True, (np.diff(layer) != 0) | (np.diff(token) != 0)))
    slots = np.add.reduceat(count, starts)
    n = slots // shape.top_k
    wrong = (slots % shape.top_k != 0) | (np.maximum.reduceat(count, starts) > n)
    if wrong.any():
        at = int(starts[int(np.argmax(wrong))])
        raise VarError(
            f"{path}: row {number[at]}: token id {token[at]} at layer {layer[at]} has {slots[wrong][0]} choices, which "
            f"are not {shape.top_k} distinct experts each time (models.{shape.model}.top_k is {shape.top_k})"
        )
    return {
        "token_stats": with_nulls({"layer": layer[starts], "token_id": token[starts], "n": n}, domain, TOKEN_STATS),
        "expert_counts": with_nulls(
            {"layer": layer, "token_id": token, "expert": expert, "chosen": count}, domain, EXPERT_COUNTS
        ),
        "layer_stats": layer_table(_loads(layer, expert, count, shape.experts), domain, shape.top_k),
    }


def _loads(layer: Ints, expert: Ints, count: Ints, experts: int) -> dict[int, Ints]:
    loads = {}
    for each in np.unique(layer).tolist():
        here = layer == each
        loads[each] = np.bincount(expert[here], weights=count[here], minlength=experts).astype(np.int64)
    return loads


def layer_table(loads: dict[int, Ints], domain: str, top_k: int) -> pa.Table:
    """Table ``layer_stats`` of which only the load is known: layer -> times each expert was chosen."""
    known = {
        "layer": list(loads),
        "tokens": np.array([load.sum() // top_k for load in loads.values()], dtype=np.int64),
        # Sums hold only what was given to an expert; their order, and what had no finite logits, nobody knows.
        "dropped": np.zeros(len(loads), dtype=np.int64),
        "chosen": list(loads.values()),
    }
    return with_nulls(known, domain, LAYER_STATS)


def with_nulls(known: dict[str, object], domain: str, schema: pa.Schema) -> pa.Table:
    """Make a table of the schema from the columns that are known; the others are null."""
    rows = len(known["layer"])  # type: ignore[arg-type]
    return statistics_table(schema, domain, {**dict.fromkeys(schema.names), **known}, rows)
