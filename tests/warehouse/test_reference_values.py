"""The views on routing recorded from real models, against values that were computed independently of this project."""

import json
import os
from pathlib import Path

import duckdb
import pytest

from var_core.warehouse.queries import read_queries
from var_core.warehouse.schema import create_tables, create_views

ROOT = Path(__file__).resolve().parents[2]
DATA = Path(os.environ.get("VAR_SHARED_DATA", ROOT.parent / "shared" / "data"))
COUNTS = DATA / "olmoe_mixtral_token_expert_counts.parquet"
QUERIES = read_queries(ROOT / "docs" / "queries.md")
CASES = {"Mixtral-8x7B": ("Mixtral-8x7B.L0", 8, 2, 0, "c4"), "OLMoE-1B-7B": ("OLMoE-1B-7B.L15", 64, 8, 15, "arxiv")}

pytestmark = pytest.mark.skipif(not COUNTS.exists(), reason=f"recorded routing is not there: {COUNTS}")


@pytest.fixture(scope="module")
def reference():
    return json.loads((DATA / "reference_values.json").read_text())


@pytest.fixture(scope="module", params=CASES)
def case(request):
    """A database with one layer of a model: run 'all' has all domains, run 'unseen' one domain held out."""
    name, experts, top_k, layer, domain = CASES[request.param]
    with duckdb.connect() as connection:
        create_tables(connection)
        create_views(connection)
        for run, capture, heldout in (
            ("all", "true", "false"),
            ("unseen", f"domain <> '{domain}'", f"domain = '{domain}'"),
        ):
            # The record has no first choices; that of each token's lowest expert is made up, to give it its n.
            connection.execute(
                f"""
                INSERT INTO expert_counts
                SELECT '{run}', if({heldout}, 'heldout', 'capture'), domain, 0, token_id, expert, count,
                    if(row_number() OVER token = 1, sum(count) OVER token // {top_k}, 0), 0
                FROM '{COUNTS}'
                WHERE model = '{request.param}' AND layer = {layer} AND ({capture} OR {heldout})
                WINDOW token AS (PARTITION BY domain, token_id ORDER BY expert
                    ROWS BETWEEN UNBOUNDED PRECEDING AND UNBOUNDED FOLLOWING)
                """
            )
            connection.execute(f"INSERT INTO layers VALUES ('{run}', 0, '', {experts}, {top_k})")
        connection.execute(
            f"""
            INSERT INTO tokens
            SELECT run, token_id, '', false, sum(if(split = 'capture', first, 0)), 0 FROM expert_counts GROUP BY ALL;
            INSERT INTO expert_load
            SELECT run, split, 0, expert, sum(chosen), sum(first), 0,
                sum(sum(chosen)) OVER (PARTITION BY run, split) // {top_k}
            FROM expert_counts GROUP BY run, split, expert;
            """
        )
        yield connection, name, domain


def values(connection, sql):
    return list(connection.execute(sql).fetchall()[0])


def test_measures_of_tokens_and_load(case, reference):
    connection, name, _ = case
    expected = reference[name]
    got = values(connection, "SELECT vocabulary_specialization FROM v_vocabulary_specialization WHERE run = 'all'")
    got += values(connection, "SELECT load_max_over_mean, load_cv, load_entropy_norm FROM v_load WHERE run = 'all'")
    names = ("vocabulary_specialization_min10", "load_max_over_mean", "load_cv", "load_entropy_norm")
    assert got == pytest.approx([expected[each] for each in names], abs=6e-5)


def test_tables_on_a_domain_that_they_were_not_fitted_on(case, reference):
    connection, name, domain = case
    got = values(
        connection,
        "SELECT token_table_recall_at_k, global_table_recall_at_k FROM v_table_recall "
        "WHERE run = 'unseen' AND split = 'heldout'",
    )
    expected = [reference[name][f"{table}_recall_heldout_{domain}"] for table in ("table", "global")]
    assert got == pytest.approx(expected, abs=6e-5)


def test_queries_behind_the_hypotheses(case, reference):
    connection, name, _ = case
    expected = reference[name]
    connection.execute("DELETE FROM expert_counts WHERE run = 'unseen'; DELETE FROM tokens WHERE run = 'unseen'")
    h1 = connection.execute(QUERIES["H1: frequency and selection entropy"]).fetchall()
    rho = {row[3]: row[5] for row in h1 if row[:3] == ("all", 0, "plug-in")}
    for minimum in (1, 10, 100):
        assert rho[minimum] == pytest.approx(expected[f"rho_freq_selection_entropy_min{minimum}"], abs=6e-5)
    [h2] = [row for row in connection.execute(QUERIES["H2: rank and frequency"]).fetchall() if row[0] == "all"]
    assert h2[1:] == pytest.approx((expected["types"], expected["zipf_slope"], expected["zipf_r2"]), abs=6e-5)
    h3 = connection.execute(QUERIES["H3: consistency of the 1,000 most frequent tokens"]).fetchall()
    [row] = [row for row in h3 if row[:2] == ("all", 0)]
    names = ("top1000_modal_in_topk_mean", "top1000_set_recall_mean")
    assert row[4:6] == pytest.approx([expected[each] for each in names], abs=6e-5)
