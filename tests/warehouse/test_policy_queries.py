"""The ready queries on policies: what they give is what the evaluation's files say."""

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from var_core.warehouse.queries import read_queries
from var_core.warehouse.query import run_query

QUERIES = read_queries(Path(__file__).resolve().parents[2] / "docs" / "queries.md")


def table(database, title, run):
    """Rows of a query about a run, as dicts."""
    names, rows = run_query(database, QUERIES[title])
    return [found for row in rows if (found := dict(zip(names, row, strict=True)))["run"] == run]


def test_arms_stand_beside_the_plain_model(database, small, results):
    evaluated = values_of(results, small)
    found = table(database, "What the policy covers and costs, beside its controls", run=small.name)
    assert found[0]["arm"] == "plain" and len(found) == len({arm for arm, *_ in evaluated}) == 11
    differences = [row["loss_difference"] for row in found[1:]]
    assert differences == sorted(differences)
    for row in found[1:]:
        assert row["loss"] == pytest.approx(found[0]["loss"] + row["loss_difference"], rel=1e-9)
        assert row["relative_loss"] == pytest.approx(row["loss_difference"] / found[0]["loss"], rel=1e-9)
        for measure in ("coverage", "set_agreement", "loss_difference", "p_within_margin"):
            assert row[measure] == evaluated.get((row["arm"], None, measure))
        assert row["loss_difference_low"] <= row["loss_difference"] <= row["loss_difference_high"]
    assert [row["arm"] for row in found if row["coverage"] is None] == ["plain", "oracle"]


def values_of(results, small):
    """(arm, layer, measure) -> value, from the file."""
    rows = pq.read_table(results / small.name / "evaluation" / "evaluations.parquet").to_pylist()
    return {(row["arm"], row["layer"], row["measure"]): row["value"] for row in rows}


def test_ways_of_a_layer_make_a_whole(database, small, results):
    evaluated = values_of(results, small)
    found = table(database, "Ways by layer", run=small.name)
    assert [row["layer"] for row in found] == [None, 0, 1, 2]
    for row in found:
        assert row["fast_share"] + row["cache_share"] + row["learned_share"] == pytest.approx(1, abs=1e-12)
        for measure in ("fast_share", "cache_share", "learned_share", "set_agreement_fast", "set_agreement_cached"):
            assert row[measure] == evaluated["policy", row["layer"], measure]
        covered = row["fast_share"] + row["cache_share"]
        agreed = row["fast_share"] * row["set_agreement_fast"] + row["cache_share"] * row["set_agreement_cached"]
        assert row["set_agreement"] == pytest.approx(agreed / covered, rel=1e-12)
    assert found[0]["decisions"] == sum(row["decisions"] for row in found[1:])


def test_the_classic_predicate_is_subtracted_from_the_policy_s(database, small, results):
    evaluated = values_of(results, small)
    found = table(database, "Where the classic predicate and agreement differ", run=small.name)
    assert [row["layer"] for row in found] == [None, 0, 1, 2]
    for row in found:
        share, agreement = (
            evaluated["policy", row["layer"], measure] - evaluated["classic", row["layer"], measure]
            for measure in ("fast_share", "set_agreement_fast")
        )
        assert (row["share_difference"], row["agreement_difference"]) == pytest.approx((share, agreement), abs=1e-15)


def test_promises_gains_transfer_frequencies_and_entries_are_those_of_the_files(database, small):
    promises = table(database, "What is certified", run=small.name)
    assert [(row["promise"], row["layer"]) for row in promises] == [
        ("clipped_loss_increase", None), ("learned_share", None), *(("set_agreement", layer) for layer in range(3))
    ]  # fmt: skip
    gains = table(database, "Gain of pairs over token tables by layer", run=small.name)
    assert [(row["coverage"], row["layer"]) for row in gains] == [(c, i) for c in (0.2, 0.5, 0.8, 1) for i in range(3)]
    assert all(row["gain"] == pytest.approx(row["all_tables"] - row["token_tables"]) for row in gains)
    transfer = table(database, "A policy of one domain on the text of another", run=small.name)
    pairs = [(made_on, used_on) for made_on in (*small.domains, "all") for used_on in small.domains]
    assert [(row["made_on"], row["evaluated_on"]) for row in transfer] == pairs
    assert len({row["set_agreement"] for row in transfer}) == len(pairs)
    frequencies = table(database, "Agreement by frequency of the token", run=small.name)
    assert [(row["from_count"], row["to_count"], row["decisions"]) for row in frequencies] == [
        (0, 9, 300), (10, None, 780)
    ]  # fmt: skip
    assert all(row["token_table"] != row["all_tables"] for row in frequencies)
    entries = table(database, "Entries of a policy's tables", run=small.name)
    assert [(row["token_usable"], row["pair_usable"]) for row in entries] == [(10 + i, 30 + i) for i in range(3)]
