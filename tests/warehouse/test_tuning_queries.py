"""The ready queries on tuning: what they give is what the study's files say."""

from pathlib import Path

import duckdb
import pyarrow.parquet as pq
import pytest

from simulated_tuning import MEASURES
from var_core.warehouse.files import TUNING_FILES, RunFiles
from var_core.warehouse.queries import read_queries
from var_core.warehouse.run import open_run

QUERIES = read_queries(Path(__file__).resolve().parents[2] / "docs" / "queries.md")


@pytest.fixture(scope="module")
def connection(database):
    with duckdb.connect(database, read_only=True) as connection:
        yield connection


def answers(connection, title):
    """Rows of a query, as dicts."""
    return connection.sql(QUERIES[title]).to_arrow_table().to_pylist()


@pytest.fixture(scope="module")
def rows(results, small):
    """Table -> rows of the file."""
    folder = results / small.name / "tuning"
    return {table: pq.read_table(folder / name).to_pylist() for table, name in TUNING_FILES.items()}


def test_measured_points_are_those_of_the_file(connection, rows):
    by_key = {(row["point"], row["measure"]): row for row in rows["tuning_front"]}
    found = answers(connection, "The measured front")
    assert {row["point"] for row in found} == {point for point, _ in by_key}
    assert [row["learned_share_estimated"] for row in found] == sorted(row["learned_share_estimated"] for row in found)
    for row in found:
        share, loss = (by_key[row["point"], measure] for measure in MEASURES[:2])
        assert (row["trial"], row["chosen"]) == (share["trial"], share["chosen"])
        assert (row["learned_share_estimated"], row["learned_share"]) == (share["estimated"], share["measured"])
        assert (row["loss_difference_estimated"], row["loss_difference"]) == (loss["estimated"], loss["measured"])
        assert (row["loss_difference_low"], row["loss_difference_high"]) == (loss["low"], loss["high"])
        for measure in MEASURES[2:]:
            assert row[measure] == by_key[row["point"], measure]["measured"]
    assert sum(row["chosen"] for row in found) == 1


def test_optimism_is_what_held_out_text_adds(connection, rows, results, small):
    evaluated = {
        row["measure"]: row
        for row in pq.read_table(results / small.name / "evaluation" / "evaluations.parquet").to_pylist()
        if row["arm"] == "policy" and row["layer"] is None
    }
    chosen = {row["measure"]: row for row in rows["tuning_front"] if row["chosen"]}
    found = answers(connection, "How much tuning flattered its choice")
    assert [row["measure"] for row in found] == sorted(MEASURES)
    for row in found:
        own, held_out = chosen[row["measure"]], evaluated[row["measure"]]
        assert (row["estimated"], row["measured"]) == (own["estimated"], own["measured"])
        assert (row["heldout"], row["heldout_low"], row["heldout_high"]) == tuple(
            held_out[end] for end in ("value", "low", "high")
        )
        assert None not in row.values()
        parts = row["measured_less_estimated"] + row["heldout_less_measured"]
        assert row["heldout_less_estimated"] == pytest.approx(parts, abs=1e-15)
        assert row["heldout_less_estimated"] == held_out["value"] - own["estimated"]


def test_without_an_evaluation_the_choice_stands_alone(results, small, rows):
    files = RunFiles.in_results(results, small.model, small.corpus, evaluated=False)
    with open_run(files) as connection:
        found = answers(connection, "How much tuning flattered its choice")
    assert [row["measure"] for row in found] == sorted(MEASURES)
    assert {row["heldout"] for row in found} == {row["heldout_less_estimated"] for row in found} == {None}
    assert all(row["measured_less_estimated"] == row["measured"] - row["estimated"] for row in found)


def test_a_run_that_was_not_tuned_has_no_rows(connection, results, other):
    files = RunFiles.in_results(results, other.model, other.corpus)
    with open_run(files) as alone:
        for view in ("v_tuning_front", "v_tuning_optimism"):
            assert alone.execute(f"SELECT count(*) FROM {view}").fetchall() == [(0,)]
            assert connection.execute(f"SELECT count(*) FROM {view} WHERE run = '{other.name}'").fetchall() == [(0,)]


def test_studies_are_counted_and_their_best_is_found(connection, rows):
    found = answers(connection, "What the search gained over random settings")
    assert [row["study"] for row in found] == ["search", "random"]
    for row in found:
        own = [trial for trial in rows["tuning_trials"] if trial["study"] == row["study"]]
        complete = [trial for trial in own if trial["state"] == "complete"]
        assert (row["trials"], row["complete"]) == (len(own), len(complete)) and len(own) == 60
        assert row["on_front"] == sum(trial["on_front"] for trial in own) > 0
        assert row["hypervolume"] == own[-1]["hypervolume"]
        feasible = [trial["learned_share"] for trial in complete if trial["violation"] <= 0]
        assert row["feasible"] == len(feasible)
        assert row["feasible_learned_share"] == min(feasible, default=None)
        assert row["least_violation"] == min(trial["violation"] for trial in complete)
    assert found[0]["hypervolume"] > found[1]["hypervolume"]


def test_importances_stand_side_by_side(connection, rows):
    by_key = {
        (row["objective"], row["parameter"], row["study"]): row["importance"] for row in rows["tuning_importances"]
    }
    found = answers(connection, "Which settings matter")
    assert len(found) == len(by_key) / 2
    for row in found:
        for study in ("search", "random"):
            assert row[study] == by_key[row["objective"], row["parameter"], study]
