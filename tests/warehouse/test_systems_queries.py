"""Views and ready queries on what routing is worth: what they give is what the files say."""

from pathlib import Path

import duckdb
import pyarrow.parquet as pq
import pytest

from simulated_systems import SPEED, TOKENS_A_SECOND
from var_core.warehouse.files import SYSTEMS_FILES
from var_core.warehouse.queries import read_queries

QUERIES = read_queries(Path(__file__).resolve().parents[2] / "docs" / "queries.md")
REAL = ("previous_token", "next_layer")
"""Predictors that were replayed, but for those that are no way to run a model."""


@pytest.fixture(scope="module")
def connection(database):
    with duckdb.connect(database, read_only=True) as connection:
        yield connection


@pytest.fixture(scope="module")
def rows(results, small):
    """Table -> rows of the file."""
    folder = results / small.name / "systems"
    return {table: pq.read_table(folder / name).to_pylist() for table, name in SYSTEMS_FILES.items()}


def answers(connection, query):
    """Rows of a query, as dicts."""
    return connection.sql(QUERIES.get(query, query)).to_arrow_table().to_pylist()


def cache(row):
    return tuple(row[name] for name in ("phase", "batch", "start", "sharing", "capacity_share"))


def test_each_cache_has_its_limit_and_its_best_predictor_beside_it(connection, rows):
    by_key = {(cache(row), row["policy"]): row for row in rows["cache_simulations"]}
    found = answers(connection, "FROM v_cache_curve")
    assert sorted(map(cache, found)) == sorted({key for key, _ in by_key})
    for row in found:
        lru, belady = by_key[cache(row), "lru"], by_key[cache(row), "belady"]
        assert (row["lru_hit_rate"], row["lru_loads_an_access"]) == (lru["hit_rate"], lru["loads_an_access"])
        assert (row["belady_hit_rate"], row["belady_loads_an_access"]) == (
            belady["hit_rate"],
            belady["loads_an_access"],
        )
        predicted = [by_key[cache(row), name] for name in REAL if (cache(row), name) in by_key]
        if not predicted:
            assert row["phase"] == "prefill" and row["predictor"] is row["predictor_hit_rate"] is None
            continue
        best = max(predicted, key=lambda each: (each["hit_rate"], -each["loads_an_access"]))
        assert row["predictor_hit_rate"] == best["hit_rate"] == by_key[cache(row), row["predictor"]]["hit_rate"]
        assert row["recall"] == by_key[cache(row), row["predictor"]]["recall"]
        assert row["random_hit_rate"] == by_key[cache(row), "random"]["hit_rate"]


def test_the_curve_is_that_of_one_sequence_decoded_with_a_warm_shared_cache(connection, rows):
    found = answers(connection, "Expert caches by size")
    sizes = {row["capacity_share"] for row in rows["cache_simulations"]}
    assert [row["capacity_share"] for row in found] == sorted(sizes)
    rates = [row["belady_hit_rate"] for row in found]
    assert rates == sorted(rates)
    assert all(row["lru_hit_rate"] <= row["belady_hit_rate"] for row in found)


def test_the_fastest_predictor_is_held_against_its_condition(connection, rows):
    replayed = [row for row in rows["break_even"] if row["source"] == "replayed" and row["case"] == "offloaded"]
    resident = {
        (row["device"], row["batch"]): row
        for row in sorted(rows["break_even"], key=lambda row: row["source"], reverse=True)
        if row["case"] == "resident" and row["source"] != "assumed"
    }
    found = answers(connection, "FROM v_break_even")
    keys = [(row["device"], row["batch"], row["capacity_share"]) for row in found]
    assert sorted(keys) == sorted({(row["device"], row["batch"], row["capacity_share"]) for row in replayed})
    for row, key in zip(found, keys, strict=True):
        own = [
            each for each in replayed
            if (each["device"], each["batch"], each["capacity_share"]) == key and each["policy"] in REAL
        ]  # fmt: skip
        assert row["speed_up"] == max(each["speed_up"] for each in own)
        best = next(each for each in own if each["policy"] == row["policy"])
        for name in ("recall", "break_even_recall", "speed_up", "speed_up_modelled", "verdict", "stall_seconds"):
            assert row[name] == best[name]
        if row["break_even_recall"] is None:
            assert row["recall_suffices"] is False
        else:
            assert row["recall_suffices"] == (row["recall"] > row["break_even_recall"])
        ran = [each["speed_up"] for each in rows["break_even"] if each["source"] == "run" and each["device"] == key[0]
               and (each["batch"], each["capacity_share"], each["policy"]) == (*key[1:], row["policy"])]  # fmt: skip
        assert row["run_speed_up"] == (ran[0] if ran else None)
        beside = resident[key[:2]]
        assert row["resident_source"] == beside["source"]
        assert row["resident_ceiling"] == beside["ceiling"] and row["resident_verdict"] == beside["verdict"]
    measured = {row["resident_speed_up"] for row in found if row["device"] == "this machine" and row["batch"] == 1}
    assert measured == {0.8}


def test_ceilings_are_those_of_gate_and_top_k(connection, rows):
    found = answers(connection, "FROM v_cost_ceilings")
    assert len(found) == len({tuple(row[name] for name in ("model", "device", "phase", "batch", "context"))
                              for row in rows["costs"]})  # fmt: skip
    for row in found:
        own = {
            each["part"]: each for each in rows["costs"]
            if all(each[name] == row[name] for name in ("model", "device", "phase", "batch", "context"))
        }  # fmt: skip
        assert row["gate_and_top_k_ceiling"] == own["gate+top_k"]["ceiling"] >= own["gate"]["ceiling"]
        assert row["experts_share"] == own["experts"]["share"]
        assert row["seconds"] == pytest.approx(sum(own[part]["seconds"] for part in own if part != "gate+top_k"))
    assert {row["phase"] for row in answers(connection, "What skipping the gate can save")} == {"decode"}


def test_speed_under_the_policy_is_of_passes_that_nobody_watches(connection, rows):
    found = answers(connection, "Speed under the policy, all experts in memory")
    assert len(found) == 4
    for row in found:
        own = {
            each["arm"]: each for each in rows["profiles"]
            if each["instrument"] == "none" and all(each[name] == row[name] for name in ("phase", "batch"))
        }  # fmt: skip
        assert row["policy_speed_up"] == own["plain"]["seconds"] / own["policy"]["seconds"]
        assert row["policy_speed_up"] == pytest.approx(1 / SPEED["policy"], rel=0.1)
        assert row["policy_speed_up_low"] == own["plain"]["low"] / own["policy"]["high"] < row["policy_speed_up"]
        assert row["policy_speed_up_high"] == own["plain"]["high"] / own["policy"]["low"] > row["policy_speed_up"]


def test_the_offloaded_run_stands_beside_its_replay(connection, rows):
    found = answers(connection, "Really offloaded")
    assert {row["arm"]: row["tokens_per_second"] for row in found} == TOKENS_A_SECOND
    by_arm = {row["arm"]: row for row in rows["offloaded"] if row["phase"] == "decode"}
    for row in found:
        own = by_arm[row["arm"]]
        assert (row["hit_rate"], row["predicted_hit_rate"]) == (own["hit_rate"], own["predicted_hit_rate"])
        assert row["points_apart"] == (None if own["hit_rate"] is None else pytest.approx(0.1))


def test_known_architectures_have_the_recall_that_they_need(connection, rows):
    found = answers(connection, "Recall that known architectures need")
    assumed = [row for row in rows["break_even"] if row["source"] == "assumed" and row["case"] == "offloaded"]
    assert len(found) == len([row for row in assumed if row["batch"] == 1]) > 0
    assert {row["architecture"] for row in found} == {"known"}


def test_a_run_that_was_not_looked_at_has_no_rows(connection, other):
    for view in ("v_cache_curve", "v_break_even", "v_cost_ceilings", "v_policy_speed"):
        assert connection.execute(f"SELECT count(*) FROM {view} WHERE run = '{other.name}'").fetchall() == [(0,)]
