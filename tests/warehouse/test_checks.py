"""Tables that disagree are refused, naming run and table."""

import dataclasses

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from var_core.errors import VarError
from var_core.parquet import read_provenance, write_table
from var_core.warehouse.build import build_warehouse
from var_core.warehouse.checks import check_run
from var_core.warehouse.load import create_parquet_views, load_large, load_small
from var_core.warehouse.provenance import check_provenance
from var_core.warehouse.schema import create_tables


@pytest.fixture(scope="module")
def sound(simulated_run, tmp_path_factory):
    run = simulated_run(layers=2, vocabulary=20, sequences={"capture": 12, "heldout": 6})
    return run.write(tmp_path_factory.mktemp("results"))


def load_and_check(files):
    """What building a database does with a run, in memory."""
    with duckdb.connect() as connection:
        create_tables(connection)
        create_parquet_views(connection, [files])
        load_large(connection, files)
        load_small(connection, files, check_provenance(files), "c0de")
        check_run(connection, files.run, files.traced_splits)


@pytest.fixture
def build(sound):
    """Load a run with changed tables, and check it; the files are put back afterwards."""
    before = {}

    def with_changes(changes):
        for path, change in changes.items():
            before[path] = path.read_bytes()
            table = pq.read_table(path).replace_schema_metadata(None)
            write_table(path, change(table), read_provenance(path))
        load_and_check(sound)

    yield with_changes
    for path, content in before.items():
        path.write_bytes(content)


def edit(column, amount, rows=slice(0, 1)):
    """Add `amount` to some rows of a column (in lists: to the cells that `amount` names)."""

    def change(table):
        values = table[column].to_pylist()
        for row in range(len(values))[rows]:
            if isinstance(values[row], list):
                values[row] = [value + amount.get(cell, 0) for cell, value in enumerate(values[row])]
            else:
                values[row] += amount
        index = table.column_names.index(column)
        return table.set_column(index, table.schema.field(column), pa.array(values, table.schema.field(column).type))

    return change


def test_a_sound_run_passes(build):
    build({})


def test_building_a_database_checks_it(sound, tmp_path, monkeypatch):
    def refuse(connection, run, traced):
        raise VarError(f"run {run} was checked")

    monkeypatch.setattr("var_core.warehouse.build.check_run", refuse)
    with pytest.raises(VarError, match="run sim-a/text was checked"):
        build_warehouse([sound], tmp_path / "var.duckdb", 300, "c0de")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("kind", "change", "message"),
    [
        ("token_stats", edit("n", 1), "table token_stats: the sum of n is"),
        ("expert_counts", edit("chosen", 1), "table expert_counts: the sums of chosen and first"),
        ("expert_counts", edit("first", 1), "table expert_counts: the sums of chosen and first"),
        ("expert_counts", edit("weight_sum", 1e-3), "table domain_counts: .* other weights"),
        ("expert_counts", edit("expert", 100), "table domain_counts: .* expert 0 was chosen"),
        ("layer_stats", edit("chosen", {0: 1, 1: -1}), "table domain_counts: .* expert 0 was chosen"),
        ("layer_stats", edit("coactivation", {1: 1}), "table coactivation: .* expert 0 is in"),
        ("layer_stats", edit("coactivation", {0: 1, 1: -1}), "table coactivation: .* on the diagonal"),
        ("layer_stats", edit("next_chosen", {5: 3}), "table crosslayer: .* layer 0 has"),
        ("token_stats", lambda t: pa.concat_tables([t, t.slice(0, 1)]), "table token_stats: more than one row for .*"),
        ("expert_counts", lambda t: pa.concat_tables([t, t.slice(3, 1)]), "table expert_counts: more than one row"),
        ("layer_stats", lambda t: pa.concat_tables([t, t.slice(0, 1)]), "table decisions: more than one row"),
        ("expert_counts", lambda t: t.slice(0, 0), "table expert_counts: the sums of chosen and first are 0 and 0"),
    ],
)
def test_a_table_that_disagrees_is_named(build, sound, kind, change, message):
    with pytest.raises(VarError, match=f"run sim-a/text, {message}") as error:
        build({sound.statistics_file("capture", kind): change})
    assert "\n" not in str(error.value) and "run its stages again" in str(error.value)


def test_a_duplicate_key_is_told_in_full(build, sound):
    with pytest.raises(VarError, match=r"for run sim-a/text, split capture, domain code, layer 0, token_id \d+;"):
        build({sound.statistics_file("capture", "token_stats"): lambda t: pa.concat_tables([t, t.slice(0, 1)])})


def test_layers_with_other_numbers_of_experts_than_the_provenance_says(sound):
    sites = [{"layer": layer, "path": "p", "experts": 9, "top_k": 2} for layer in range(2)]
    kept = {path: path.read_bytes() for _, _, path in sound.captured()}
    try:
        for path in kept:
            table = pq.read_table(path).replace_schema_metadata(None)
            write_table(path, table, {**read_provenance(path), "sites": sites})
        # The policy was made from other statistics than these, which is found before.
        with pytest.raises(VarError, match=r"table layers: layer 0 has 9 experts, but layer_stats of split .* has 8"):
            load_and_check(dataclasses.replace(sound, evaluation={}, tuning={}, systems={}))
    finally:
        for path, content in kept.items():
            path.write_bytes(content)


def test_shards_that_do_not_sum_to_the_merged_statistics(build, sound):
    with pytest.raises(VarError, match="table shard_token_stats: the shards of split heldout, layer 0 sum to n ="):
        build({sound.shard_token_stats["heldout"][1]: edit("n", 2)})


def test_a_trace_that_is_cut_short(build, sound):
    with pytest.raises(VarError, match="table traces: split heldout has 95 rows, but 192 decisions"):
        build(
            {
                sound.traces["heldout"][0]: lambda table: table.slice(0, 0),
                sound.traces["heldout"][1]: lambda table: table.slice(1),
            }
        )


def test_a_trace_without_any_row(build, sound):
    empty = {path: lambda table: table.slice(0, 0) for path in sound.traces["heldout"]}
    with pytest.raises(VarError, match="table traces: split heldout has 0 rows, but 192 decisions"):
        build(empty)


def test_a_split_that_was_not_traced_needs_no_rows(sound):
    load_and_check(dataclasses.replace(sound, traces={"heldout": sound.traces["heldout"], "capture": ()}))


def test_sums_without_an_order_need_no_trace(build, sound):
    def unordered(table):
        for name in ("pairs", "first_repeats", "any_repeats", "slot_overlaps"):
            index = table.column_names.index(name)
            table = table.set_column(index, table.schema.field(name), pa.nulls(len(table), pa.int64()))
        return table

    empty = {path: lambda table: table.slice(0, 0) for path in sound.traces["heldout"]}
    build({**empty, sound.statistics_file("heldout", "layer_stats"): unordered})


def test_decisions_that_were_not_finite_are_no_fault(build, sound):
    build({sound.statistics_file("capture", "layer_stats"): edit("nonfinite", 5)})


def test_edit_changes_what_it_says():
    table = pa.table({"a": [1, 2], "b": [[1, 2], [3, 4]]})
    assert edit("a", 5)(table)["a"].to_pylist() == [6, 2]
    assert np.array_equal(edit("b", {1: 1})(table)["b"].to_pylist(), [[1, 3], [3, 4]])
