"""Other ways to per-token moments and expert counts: DuckDB and polars.

Each takes all batches and gives two tables with the columns of :mod:`var_core.statistics.tables`, but without domain.
The quantities of every decision are computed a batch at a time by tensor operations, within their time; they store and
group rows. Neither computes the accumulator's co-activation, next-layer and repetition counts.
"""

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import torch

from var_core.benchmarks.decisions import Decisions
from var_core.statistics.tables import QUANTITIES

Tables = dict[str, pa.Table]


def decision_rows(batch: Decisions) -> pa.Table:
    """A row a token and layer: layer, token id and the quantities."""
    layers, tokens, _ = batch.routed.experts.shape
    return pa.table(
        {
            "layer": np.repeat(np.arange(layers, dtype=np.int16), tokens),
            "token_id": np.tile(batch.token_ids.numpy().astype(np.int32), layers),
            **dict(zip(QUANTITIES, _all_quantities(batch), strict=True)),
        }
    )


def _all_quantities(batch: Decisions) -> Iterator[np.ndarray]:
    """Router entropy, confidence and margin of all decisions; the selection is the top k of the probabilities."""
    assert batch.routed.logits is not None
    k = batch.routed.experts.shape[-1]
    p = torch.softmax(batch.routed.logits, dim=-1)
    largest = p.topk(k + 1).values
    entropy = torch.special.entr(p).sum(dim=-1, dtype=torch.float64)
    for values in (entropy, largest[..., 0], largest[..., k - 1] - largest[..., k]):
        yield values.flatten().double().numpy()


def choice_rows(batch: Decisions) -> pa.Table:
    """A row a token, layer and chosen expert: whether it is the first, and its weight."""
    layers, tokens, k = batch.routed.experts.shape
    assert batch.routed.weights is not None
    first = torch.zeros_like(batch.routed.experts, dtype=torch.int8)
    first.scatter_(-1, batch.routed.weights.argmax(dim=-1, keepdim=True), 1)
    return pa.table(
        {
            "layer": np.repeat(np.arange(layers, dtype=np.int16), tokens * k),
            "token_id": np.tile(np.repeat(batch.token_ids.numpy().astype(np.int32), k), layers),
            "expert": batch.routed.experts.flatten().numpy().astype(np.int16),
            "first": first.flatten().numpy(),
            "weight": batch.routed.weights.flatten().double().numpy(),
        }
    )


def _all_rows(batches: Sequence[Decisions]) -> Iterator[tuple[pa.Table, pa.Table]]:
    return ((decision_rows(batch), choice_rows(batch)) for batch in batches)


def by_duckdb(batches: Sequence[Decisions]) -> Tables:
    """Rows into a database file, batch by batch, and GROUP BY at the end."""
    with tempfile.TemporaryDirectory() as folder, duckdb.connect(Path(folder, "rows.duckdb")) as database:
        for number, (decisions, choices) in enumerate(_all_rows(batches)):
            for name, rows in (("decisions", decisions), ("choices", choices)):
                database.register("rows", rows)
                database.execute(f"INSERT INTO {name} FROM rows" if number else f"CREATE TABLE {name} AS FROM rows")
                database.unregister("rows")
        moments = ", ".join(f"avg({q}) AS {q}_mean, var_pop({q}) * count(*) AS {q}_m2" for q in QUANTITIES)
        token_stats = database.sql(
            f"SELECT layer, token_id, count(*) AS n, {moments} FROM decisions GROUP BY layer, token_id"
        ).to_arrow_table()
        expert_counts = database.sql(
            "SELECT layer, token_id, expert, count(*) AS chosen, sum(first)::BIGINT AS first, "
            "sum(weight) AS weight_sum FROM choices GROUP BY layer, token_id, expert"
        ).to_arrow_table()
    return {"token_stats": token_stats, "expert_counts": expert_counts}


def by_polars(batches: Sequence[Decisions]) -> Tables:
    """All rows in memory, then group-by.

    Raises
    ------
    ImportError
        If polars is not installed.
    """
    import polars

    rows = [pa.concat_tables(parts) for parts in zip(*_all_rows(batches), strict=True)]
    decisions, choices = (polars.from_arrow(each).lazy() for each in rows)
    moments = [
        each
        for q in QUANTITIES
        for each in (
            polars.col(q).mean().alias(f"{q}_mean"),
            (polars.col(q).var(ddof=0) * polars.len()).alias(f"{q}_m2"),
        )
    ]
    token_stats = decisions.group_by("layer", "token_id").agg(polars.len().cast(polars.Int64).alias("n"), *moments)
    expert_counts = choices.group_by("layer", "token_id", "expert").agg(
        polars.len().cast(polars.Int64).alias("chosen"),
        polars.col("first").cast(polars.Int64).sum(),
        polars.col("weight").sum().alias("weight_sum"),
    )
    return {"token_stats": token_stats.collect().to_arrow(), "expert_counts": expert_counts.collect().to_arrow()}
