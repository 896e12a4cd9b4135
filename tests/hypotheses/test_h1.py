import numpy as np
import pytest

from var_core.hypotheses.data import RunData
from var_core.hypotheses.h1 import LABELS_NULL, LOAD_NULL, h1_results
from var_core.hypotheses.multiplicity import judged

RUN = "simulated/text"
ROUTER = "spearman(frequency, mean_router_entropy)"
PLUG_IN = "spearman(frequency, selection_entropy)"
RAREFIED = "spearman(frequency, rarefied_selection_entropy)"


@pytest.fixture(scope="module")
def of_blind(blind, quick):
    return judged(h1_results(RunData(blind, RUN), quick))


def test_every_test_has_a_row_for_each_layer_and_one_for_all(of_blind):
    tests = {(row.variant, row.measure) for row in of_blind}
    assert len(of_blind) == 3 * len(tests)
    for test in tests:
        assert {row.layer for row in of_blind if (row.variant, row.measure) == test} == {0, 1, None}
    assert {row.variant for row in of_blind} == {
        "as stated",
        "minimum count 10",
        "minimum count 100",
        "rarefied to 10 occurrences",
        "plug-in, minimum count 1",
        "plug-in, minimum count 10",
        "plug-in, minimum count 100",
        "Chao-Shen, minimum count 10",
    }


@pytest.mark.parametrize("layer", [0, 1, None])
def test_a_router_that_ignores_the_token_correlates_by_plug_in_bias_alone(of_blind, pick, layer):
    plug_in = pick(of_blind, variant="plug-in, minimum count 1", measure=PLUG_IN, layer=layer)
    rarefied = pick(of_blind, variant="rarefied to 10 occurrences", measure=RAREFIED, layer=layer)
    assert plug_in.statistic > 0.4
    assert plug_in.null == LOAD_NULL
    assert plug_in.statistic == pytest.approx(plug_in.null_mean, abs=4 * plug_in.null_sd)
    assert abs(rarefied.statistic) < 0.2
    assert rarefied.statistic == pytest.approx(rarefied.null_mean, abs=4 * rarefied.null_sd)
    assert plug_in.verdict == "reported" and rarefied.verdict == "not supported"


def test_router_entropy_that_does_not_fall_with_frequency_is_no_support(of_blind, pick):
    row = pick(of_blind, variant="as stated", layer=None)
    assert abs(row.statistic) < 0.3 and row.verdict == "not supported"
    assert row.null == LABELS_NULL and abs(row.null_mean) < 0.05
    assert row.low < row.statistic < row.high
    assert row.n == 299 and row.n_unit == "token types"


def test_minimum_counts_leave_rare_types_out(of_blind, pick):
    n = [pick(of_blind, variant=f"plug-in, minimum count {count}", layer=0).n for count in (1, 10, 100)]
    assert n[0] >= n[1] > n[2] > 30


def test_a_router_that_is_surer_of_frequent_tokens_is_found(simulated, quick, pick):
    """The positive control."""
    connection = simulated(types=200, tokens=60_000, token_effect=4.0, fading=1.0, exponent=0.5)
    rows = judged(h1_results(RunData(connection, RUN), quick))
    for layer in (0, 1, None):
        stated = pick(rows, variant="as stated", layer=layer)
        assert stated.statistic < -0.6 and stated.high < -0.4 and stated.p == pytest.approx(1 / 201)
        rarefied = pick(rows, variant="rarefied to 10 occurrences", layer=layer)
        assert rarefied.statistic < rarefied.null_mean - 5 * rarefied.null_sd and rarefied.p == pytest.approx(1 / 25)
        assert stated.verdict == rarefied.verdict == "supported"


def test_too_few_types_are_inconclusive(simulated, quick, pick):
    rows = judged(h1_results(RunData(simulated(types=20, tokens=4000, layers=1), RUN), quick))
    row = pick(rows, variant="as stated", layer=0)
    assert row.verdict == "inconclusive" and "too few" in row.note and row.low is None


def test_without_counts_by_shard_there_is_no_interval_and_the_note_says_why(simulated, quick, pick):
    rows = judged(h1_results(RunData(simulated(shard_counts=False, tokens=8000, layers=1), RUN), quick))
    rarefied = pick(rows, variant="rarefied to 10 occurrences", layer=0)
    assert rarefied.low is None and rarefied.verdict == "inconclusive" and "no counts of two shards" in rarefied.note
    assert pick(rows, variant="as stated", layer=0).low is not None


def test_where_all_experts_are_chosen_there_is_nothing_to_select(simulated, quick, pick):
    rows = judged(h1_results(RunData(simulated(experts=2, top_k=2, tokens=5000, layers=1), RUN), quick))
    row = pick(rows, variant="rarefied to 10 occurrences", layer=0)
    assert row.statistic is None and row.verdict == "inconclusive"
    assert np.isfinite(pick(rows, variant="as stated", layer=0).statistic)
