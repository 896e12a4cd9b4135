"""Rows of an evaluation are the sums of its arms' files, with intervals over clusters of sequences."""

from dataclasses import replace

import numpy as np
import pytest

from var_core.config.policy import EvaluationConfig
from var_core.errors import VarError
from var_core.evaluation import names
from var_core.evaluation.results import (
    CACHED,
    EVALUATIONS,
    FAST,
    LEARNED,
    ArmResult,
    Clusters,
    as_table,
    evaluation_rows,
)
from var_core.evaluation.verdict import CLASSIC_LOSS, classic_table, find, verdict
from var_core.models.perplexity import SequenceScores

CONFIG = EvaluationConfig(bootstrap=400)
SEQUENCES, LAYERS = 60, 3
SPEED = {"median": 0.9, "low": 0.85, "high": 0.95, "rounds": 5, "device": "cpu"}
CERTIFICATE = {
    "terms": {"confidence": 0.95},
    "promises": [{"name": "set_agreement", "bound": bound} for bound in (0.9, 0.7, 0.8)],
}


def arm(name, excess, learned=0.5, seed=0, noise=0.02):
    """An arm whose sequences lose so much more than the plain model's, in nats a token."""
    random = np.random.default_rng(seed)
    predicted = np.full(SEQUENCES, 20)
    plain = np.random.default_rng(9).normal(4, 0.5, SEQUENCES)
    nll = (plain + excess + (random.normal(0, noise, SEQUENCES) if excess else 0)) * predicted
    ways = None
    if name not in (names.PLAIN, names.ORACLE):
        decisions = random.multinomial(20, [learned, 0.7 * (1 - learned), 0.3 * (1 - learned)], (SEQUENCES, LAYERS))
        agreed = decisions * np.array([1.0, 0.8, 0.9])
        ways = np.stack([decisions, agreed, agreed + (decisions - agreed) / 2]).astype(float)
    cluster = np.arange(SEQUENCES) // 2
    return ArmResult(name, SequenceScores(nll, predicted), cluster, np.full(SEQUENCES, "d"), ways)


def results(policy=0.02):
    same = names.GLOBAL_TABLE + names.SAME_COVERAGE
    return [
        arm(names.PLAIN, 0), arm(names.POLICY, policy), arm(names.CLASSIC, 0.5, 0.95, 1), arm(same, 1.0, seed=2),
    ]  # fmt: skip


@pytest.fixture(scope="module")
def rows():
    return evaluation_rows(results(), CONFIG)


def test_shares_are_those_of_the_sums_and_add_up(rows):
    own = results()[1].ways
    for layer in (None, 0, 1, 2):
        by_way = own[0].sum(axis=(0, 1)) if layer is None else own[0][:, layer].sum(axis=0)
        parts = {"learned_share": LEARNED, "fast_share": FAST, "cache_share": CACHED}
        found = {measure: find(rows, names.POLICY, measure, layer) for measure in parts}
        for measure, way in parts.items():
            assert found[measure].value == pytest.approx(by_way[way] / by_way.sum())
            assert found[measure].low < found[measure].value < found[measure].high
        assert sum(row.value for row in found.values()) == pytest.approx(1)
        covered = find(rows, names.POLICY, "coverage", layer).value
        assert covered == pytest.approx(1 - found["learned_share"].value)
        assert find(rows, names.POLICY, "set_agreement_fast", layer).value == pytest.approx(0.8)
        assert find(rows, names.POLICY, "set_agreement_cached", layer).value == pytest.approx(0.9)
        assert 0.8 < find(rows, names.POLICY, "set_agreement", layer).value < 0.9


def test_losses_are_beside_the_plain_model_s(rows):
    difference = find(rows, names.POLICY, "loss_difference")
    assert difference.low < 0.02 < difference.high and difference.n == SEQUENCES // 2
    assert find(rows, names.PLAIN, "loss_difference") is None
    plain = find(rows, names.PLAIN, "loss").value
    assert find(rows, names.POLICY, "relative_loss").value == pytest.approx(difference.value / plain)
    assert find(rows, names.POLICY, "perplexity_ratio").value == pytest.approx(np.exp(difference.value))
    assert as_table(rows, EVALUATIONS).num_rows == len(rows)


def test_clusters_and_not_sequences_are_what_is_resampled():
    """Sequences that say the same twice say no more than once."""
    whole = results()[1]
    halves = np.arange(SEQUENCES) % (SEQUENCES // 2)
    doubled = replace(whole, ways=whole.ways[:, halves], cluster=halves)
    fast, whole = doubled.ways[0].sum(axis=1)[:, [FAST]], doubled.ways[0].sum(axis=(1, 2))[:, None]
    _, wide = Clusters(doubled.cluster, CONFIG).ratios(fast, whole)
    _, narrow = Clusters(np.arange(SEQUENCES), CONFIG).ratios(fast, whole)
    assert wide[1, 0] - wide[0, 0] > 1.2 * (narrow[1, 0] - narrow[0, 0])


def test_arms_of_other_sequences_are_refused():
    plain, policy, *_ = results()
    with pytest.raises(VarError, match="was run on other sequences"):
        evaluation_rows([plain, replace(policy, cluster=policy.cluster + 1)], CONFIG)


def test_too_few_clusters_have_no_intervals():
    few = [replace(each, cluster=each.cluster // 10) for each in results()]
    rows = evaluation_rows(few, CONFIG)
    assert all(row.low is None and row.note for row in rows if row.measure in ("coverage", "loss_difference"))


def test_the_classic_table_says_met_only_where_the_whole_interval_does(rows):
    lines = {(line.arm, line.measure): line for line in classic_table(rows, SPEED)}
    assert lines[names.POLICY, "relative_loss"].met == "yes"
    assert lines[names.POLICY, "learned_share"].met == "no"
    assert lines[names.CLASSIC, "relative_loss"].met == "no"
    assert lines[names.POLICY, "speed_up"].met == "no"
    assert lines[names.POLICY, "fast_share"].met == lines[names.POLICY, "fast_share"].asked == ""
    open_ones = classic_table(rows, SPEED | {"low": 0.9, "high": 1.1})
    assert open_ones[0].met == "open"


@pytest.mark.parametrize(("excess", "said"), [(0.02, "within the margin"), (1.0, "not within the margin")])
def test_the_sentence_says_what_came_out(excess, said):
    found = verdict(evaluation_rows(results(excess), CONFIG), [], CERTIFICATE, SPEED, CONFIG)
    assert found["margin"] == said and f", {said} of 5% of the loss;" in found["sentence"]
    assert "at least 0.70 at each of 3 layers, with confidence 0.95" in found["sentence"]
    assert "is slower: 0.90 times" in found["sentence"]
    assert found["controls"][names.GLOBAL_TABLE + names.SAME_COVERAGE]["value"] > 4 * CLASSIC_LOSS
    assert found["best_gain"] is None
