import numpy as np
import pytest

from var_core.hypotheses.data import RunData
from var_core.hypotheses.frequent import most_frequent
from var_core.hypotheses.h3 import DEFINITIONS, h3_results
from var_core.hypotheses.multiplicity import judged
from var_core.statistics.measures import most_used

RUN = "simulated/text"


@pytest.fixture(scope="module")
def settings(quick):
    return quick.model_copy(update={"h3": quick.h3.model_copy(update={"most_frequent": 60})})


@pytest.fixture(scope="module")
def results(informative, settings):
    return judged(h3_results(RunData(informative, RUN), settings))


@pytest.fixture(scope="module")
def of_blind(blind, settings):
    return judged(h3_results(RunData(blind, RUN), settings))


def test_the_most_frequent_are_taken_ties_to_the_lower_id():
    assert most_frequent(np.array([3, 9, 0, 3, 5]), 3).tolist() == [1, 4, 0]
    assert most_frequent(np.array([3, 0, 0]), 3).tolist() == [0]


def test_values_are_those_of_the_counts(informative, results, pick):
    data = RunData(informative, RUN)
    counts = data.expert_counts(data.layers[1])
    top = np.argsort(-counts.n, kind="stable")[:60]
    for name, definition in DEFINITIONS.items():
        row = pick(results, measure=f"mean {name}", layer=1)
        assert row.statistic == pytest.approx(definition(counts, 2)[top].mean())
        assert row.low < row.statistic < row.high
        assert row.n == 60


def test_heldout_recall_is_the_mean_over_types_of_their_own(informative, results, pick):
    data = RunData(informative, RUN)
    fitted, heldout = data.expert_counts(data.layers[0]), data.expert_counts(data.layers[0], split="heldout")
    top = np.argsort(-fitted.n, kind="stable")[:60]
    recalls = []
    for token_type in top:
        own = most_used(fitted.chosen[token_type], 2)
        recalls.append(heldout.chosen[token_type, own].sum() / heldout.chosen[token_type].sum())
    row = pick(results, form="corrected", layer=0)
    assert row.statistic == pytest.approx(np.mean(recalls))
    assert row.low < row.statistic < row.high


def test_the_verdict_changes_with_the_definition_and_the_stated_one_is_named(results, pick):
    stated = pick(results, form="as stated", layer=None)
    assert stated.measure == "mean modal_in_topk" and stated.verdict == "supported"
    assert pick(results, measure="mean set_recall", layer=None).verdict == "not supported"
    assert pick(results, measure="mean modal_share", layer=None).verdict == "not supported"
    assert pick(results, form="corrected", layer=None).verdict == "not supported"


def test_pooled_is_the_mean_over_layers(results, pick):
    for measure in {row.measure for row in results}:
        layers = [pick(results, measure=measure, layer=layer).statistic for layer in (0, 1)]
        assert pick(results, measure=measure, layer=None).statistic == pytest.approx(np.mean(layers))


def test_a_router_that_ignores_the_token_is_no_more_consistent_than_its_load(of_blind, pick):
    for name in DEFINITIONS:
        for layer in (0, 1, None):
            row = pick(of_blind, measure=f"mean {name}", layer=layer)
            assert row.statistic == pytest.approx(row.null_mean, abs=4 * row.null_sd)
            assert row.verdict == "not supported"


def test_recall_of_a_router_that_ignores_the_token_falls_to_the_global_table(of_blind, pick):
    for layer in (0, 1):
        row = pick(of_blind, form="corrected", layer=layer)
        blind_recall = float(row.note.split("global table ")[1].split(",")[0])
        assert row.statistic == pytest.approx(blind_recall, abs=0.02)
        assert row.p > 0.01


def test_recall_of_an_informed_router_is_far_above_its_nulls(results, pick):
    for layer in (0, 1, None):
        row = pick(results, form="corrected", layer=layer)
        assert row.statistic > row.null_mean + 5 * row.null_sd and row.p == pytest.approx(1 / 201)


def test_perfect_routing_is_supported_throughout(simulated, settings, pick):
    rows = judged(h3_results(RunData(simulated(token_effect=60.0, layers=1), RUN), settings))
    assert {row.verdict for row in rows} == {"supported"}
    assert pick(rows, form="corrected", layer=0).statistic > 0.95


def test_few_documents_are_inconclusive(simulated, settings, pick):
    rows = judged(h3_results(RunData(simulated(documents=6, tokens=5000, layers=1), RUN), settings))
    row = pick(rows, form="corrected", layer=0)
    assert row.low is None and row.verdict == "inconclusive"
