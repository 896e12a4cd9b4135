"""Tables, views and their comments."""

import duckdb
import pytest

from var_core.warehouse.files import RunFiles
from var_core.warehouse.run import open_run
from var_core.warehouse.schema import COMMON_COLUMNS, TABLE_KEYS, identifier, literal

ALL_RELATIONS = {*TABLE_KEYS, "traces", "shard_token_stats", "shard_expert_counts"} | {
    "v_token_stats",
    "v_expert_counts",
    "v_token_routing",
    "v_token_frequency",
    "v_vocabulary_specialization",
    "v_entropy_coverage",
    "v_token_table",
    "v_global_table",
    "v_token_recall",
    "v_table_recall",
    "v_load",
    "v_domain_specialization",
    "v_coactivation",
    "v_crosslayer",
    "v_crosslayer_mi",
    "v_repeats",
    "v_segment_predictability",
    "v_domain_recall",
    "v_quality_coverage",
    "v_ways_by_layer",
    "v_tuning_front",
    "v_tuning_optimism",
    "v_cache_curve",
    "v_break_even",
    "v_cost_ceilings",
    "v_policy_speed",
}


@pytest.fixture(scope="module", params=["in memory", "file"])
def connection(request, results, database, small):
    if request.param == "file":
        opened = duckdb.connect(database, read_only=True)
        opened.execute(f"SET file_search_path = '{database.parent.parent}'")
    else:
        opened = open_run(RunFiles.in_results(results, small.model, small.corpus))
    with opened:
        yield opened


def relations(connection):
    return connection.execute(
        "SELECT table_name, comment FROM duckdb_tables() WHERE NOT internal "
        "UNION ALL SELECT view_name, comment FROM duckdb_views() WHERE NOT internal"
    ).fetchall()


def test_in_memory_and_file_have_the_same_relations_and_nothing_else(connection):
    assert {name for name, _ in relations(connection)} == ALL_RELATIONS


def test_in_memory_and_file_have_the_same_columns(results, database, small):
    described = []
    with (
        open_run(RunFiles.in_results(results, small.model, small.corpus)) as run,
        duckdb.connect(database, read_only=True) as file,
    ):
        for connection in (run, file):
            sql = "SELECT table_name, column_name, data_type FROM duckdb_columns() WHERE NOT internal ORDER BY ALL"
            described.append(connection.execute(sql).fetchall())
    assert described[0] == described[1]


def test_every_table_and_view_has_a_comment(connection):
    silent = [name for name, comment in relations(connection) if not comment]
    assert not silent


def test_every_column_has_a_comment(connection):
    columns = connection.execute(
        "SELECT table_name, column_name, comment FROM duckdb_columns() WHERE NOT internal"
    ).fetchall()
    assert len(columns) > 200
    assert not [f"{table}.{column}" for table, column, comment in columns if not comment]


def test_every_relation_begins_with_the_run(connection):
    for name, _ in relations(connection):
        first = connection.execute(f"SELECT column_name FROM (DESCRIBE {name})").fetchall()[0]
        assert first == ("run",)


def test_columns_that_mean_the_same_everywhere_say_so_unless_a_table_knows_better(connection):
    comments = dict(
        connection.execute("SELECT table_name, comment FROM duckdb_columns() WHERE column_name = 'layer'").fetchall()
    )
    assert comments["v_load"] == comments["token_stats"] == COMMON_COLUMNS["layer"]
    assert comments["hypotheses"] != COMMON_COLUMNS["layer"]


def test_quoting():
    with duckdb.connect() as connection:
        assert connection.execute(f"SELECT {literal(chr(39) + 'a')} AS {identifier('x' + chr(34))}").df().to_dict() == {
            'x"': {0: "'a"}
        }
