import pyarrow as pa
import pyarrow.compute as pc
import pytest
import torch

from var_core.benchmarks.alternatives import by_duckdb, by_polars
from var_core.benchmarks.decisions import Shape, synthetic_batches
from var_core.benchmarks.equality import FLOAT64, check_same_statistics, check_similar_load
from var_core.benchmarks.plain_python import by_python, moments_by_python
from var_core.errors import VarError
from var_core.statistics.accumulator import Accumulator

SHAPE = Shape(layers=2, vocabulary=50, experts=6, top_k=2, sequences=3, length=20)


@pytest.fixture(scope="module")
def batches():
    return synthetic_batches(SHAPE, 3)


@pytest.fixture(scope="module")
def tables(batches):
    accumulator = Accumulator(SHAPE.layout, SHAPE.vocabulary, torch.device("cpu"))
    for index, batch in enumerate(batches):
        accumulator.update(batch.tokens, batch.routed, index)
    return accumulator.tables("d")


@pytest.mark.parametrize("way", [by_python, moments_by_python, by_duckdb, by_polars])
def test_all_ways_give_what_the_accumulator_gives(way, batches, tables):
    if way is by_polars:
        pytest.importorskip("polars", reason="polars comes with the extra bench")
    found = way(batches)
    check_same_statistics(tables, found, way.__name__)
    columns = {kind: set(tables[kind].column_names) - {"domain"} for kind in found}
    assert {kind: set(table.column_names) for kind, table in found.items()} == columns


def changed(tables, kind, column, change):
    table = tables[kind]
    values = table[column].to_pylist()
    values[3] = change(values[3])
    place = table.column_names.index(column)
    return {**tables, kind: table.set_column(place, table.schema.field(column), pa.array(values, table[column].type))}


@pytest.mark.parametrize(
    ("kind", "column", "change"),
    [
        ("token_stats", "n", lambda n: n + 1),
        ("token_stats", "margin_m2", lambda m2: m2 + 1e-3),
        ("expert_counts", "first", lambda n: n + 1),
        ("expert_counts", "weight_sum", lambda weight: weight * 1.001),
    ],
)
def test_one_wrong_cell_is_found(tables, kind, column, change):
    with pytest.raises(VarError, match=f"column {column} of {kind}"):
        check_same_statistics(tables, changed(tables, kind, column, change), "wrong")


def test_a_wrong_entry_of_a_layer_s_list_and_a_missing_row_are_found(tables):
    def one_more(row):
        return [row[0] + 1, *row[1:]]

    layers = tables["layer_stats"]
    wrong = [one_more(row) if place else row for place, row in enumerate(layers["coactivation"].to_pylist())]
    place = layers.column_names.index("coactivation")
    broken = layers.set_column(place, layers.schema.field("coactivation"), pa.array(wrong, pa.list_(pa.int64())))
    with pytest.raises(VarError, match="coactivation"):
        check_same_statistics(tables, {"layer_stats": broken}, "wrong")
    with pytest.raises(VarError, match="rows, not"):
        check_same_statistics(tables, {"token_stats": tables["token_stats"].slice(1)}, "wrong")


def test_rows_may_be_in_any_order_and_rounding_is_no_difference(tables):
    stats = tables["token_stats"]
    turned = stats.take(pa.array(range(len(stats) - 1, -1, -1)))
    check_same_statistics(tables, {"token_stats": turned}, "turned", FLOAT64)
    nudged = turned.set_column(
        turned.column_names.index("margin_mean"),
        stats.schema.field("margin_mean"),
        pc.multiply(turned["margin_mean"], 1 + 1e-9),
    )
    check_same_statistics(tables, {"token_stats": nudged}, "nudged")
    with pytest.raises(VarError, match="margin_mean"):
        check_same_statistics(tables, {"token_stats": nudged}, "nudged", FLOAT64)


def test_loads_may_differ_a_little_but_not_much(tables):
    layers = tables["layer_stats"]

    def moved(share):
        rows = [[int(row[0] * (1 - share)), row[1] + row[0] - int(row[0] * (1 - share)), *row[2:]] for row in
                layers["chosen"].to_pylist()]  # fmt: skip
        place = layers.column_names.index("chosen")
        return layers.set_column(place, layers.schema.field("chosen"), pa.array(rows, pa.list_(pa.int64())))

    check_similar_load(layers, moved(0.05), "a little")
    with pytest.raises(VarError, match="not chosen as often"):
        check_similar_load(layers, moved(0.5), "much")
