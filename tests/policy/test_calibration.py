"""Agreement of a policy's rows on the decisions that they own, and the pairs that are worth a row."""

from collections import defaultdict

import numpy as np
import pytest

from policy_splits import (
    LAYOUT,
    E,
    K,
    V,
    another,
    at_random,
    by_pair,
    by_token,
    calibrated,
    fitted,
    sometimes_by_pair,
)
from var_core.policy.calibration import PairChoice, calibrate, nested_agreement, rows_of
from var_core.policy.recorded import read_decisions

EVERY_PAIR = PairChoice(least_gain=-1.0)


@pytest.mark.parametrize("choice", [EVERY_PAIR, PairChoice(most=4)])
def test_a_row_is_judged_by_the_decisions_that_it_owns(tmp_path, choice):
    """With many decisions a row, the estimate is the mean of its own and of no others."""
    tables = fitted(tmp_path, sometimes_by_pair, sequences=200)
    # What was fitted does not hold in the calibration split at all after token 3.
    rule = lambda layer, previous, token: np.where(previous == 3, 3, token) + layer  # noqa: E731
    _, traces = another(tmp_path, rule, 1, sequences=3000)
    tables = calibrate(tables, LAYOUT, traces, isolate_documents=True, choice=choice)
    for layer in range(2):
        recorded = read_decisions(traces, layer, E, K, True)
        owner = tables.any_row(rows_of(tables, recorded))[layer].tolist()
        own = defaultdict(list)
        for row, learned in zip(owner, recorded.experts.tolist(), strict=True):
            own[row].append(sorted(tables.experts[layer, row].tolist()) == sorted(learned))
        for row, outcomes in own.items():
            assert tables.agreement[layer, row] == pytest.approx(np.mean(outcomes), abs=0.03)
        assert {row >= V for row in own} == {True, False} if choice.most == 4 else {True}


def test_only_pairs_that_change_something_are_kept(tmp_path):
    assert not len(calibrated(tmp_path / "token", by_token).pairs)
    assert len(calibrated(tmp_path / "pair", by_pair).pairs) > 30
    tables = calibrated(tmp_path / "some", sometimes_by_pair, sequences=100)
    # Token 0 agrees less often altogether than after each other token; the other tokens need no pairs.
    assert (tables.pairs % V == 0).all() and 1 * V + 0 in tables.pairs


def test_the_pairs_that_gain_most_are_kept(tmp_path):
    tables = calibrated(tmp_path, sometimes_by_pair, PairChoice(most=1), sequences=100)
    assert tables.pairs.tolist() == [1 * V + 0]
    assert tables.agreement[:, :V].min() > 0.99 and tables.agreement[:, V].min() > 0.99


def test_a_pair_that_did_not_occur_is_as_its_tokens_other_pairs(tmp_path):
    tables = fitted(tmp_path, by_pair)
    ids, traces = another(tmp_path, by_pair, 1, sequences=4)
    tables = calibrate(tables, LAYOUT, traces, isolate_documents=True, choice=EVERY_PAIR)
    context = np.concatenate([np.full((len(ids), 1), V), ids[:, :-1]], axis=1)
    missing = ~np.isin(tables.pairs, context * V + ids)
    assert missing.any()
    assert tables.agreement[:, V:-1][:, missing].min() > 0.9
    # And one whose token did not occur at all is not known.
    other = fitted(tmp_path, by_pair, seed=5)
    _, traces = another(tmp_path, by_pair, 6, sequences=1)
    found = read_decisions(traces, 0, E, K, True)
    kept = calibrate(other, LAYOUT, traces, isolate_documents=True, choice=EVERY_PAIR)
    assert kept.agreement[:, :V].isnan().any(dim=0).tolist() == [v not in found.token_id for v in range(V)]


def test_random_routing_is_promised_what_chance_gives(tmp_path):
    """Negative control: one set in ten agrees by chance, in whatever row."""
    tables = calibrated(tmp_path, at_random(2), EVERY_PAIR, sequences=200)
    # First and second expert follow each other, so chance is 1 in 5 where the entry is such a set.
    assert tables.agreement[:, :-1].max() < 0.35


def test_estimates_are_nearer_than_means_of_their_own_or_of_all(tmp_path):
    random = np.random.default_rng(0)
    errors = np.zeros(3)
    for _ in range(20):
        groups, members = 50, 2000
        group = random.integers(groups, size=members)
        middle = random.beta(4, 2, size=groups)[group]
        truth = random.beta(8 * middle, 8 * (1 - middle))
        n = random.integers(0, 6, size=members).astype(float)
        agreed = random.binomial(n.astype(int), truth).astype(float)
        sums = np.stack([n, agreed, agreed])
        nested = nested_agreement(sums, group, groups)
        flat = nested_agreement(sums, np.zeros(members, np.int64), 1)
        own = np.divide(agreed, n, out=np.full(members, agreed.sum() / n.sum()), where=n > 0)
        errors += [((estimate - truth) ** 2).mean() for estimate in (nested, flat, own)]
        assert abs(nested.mean() - truth.mean()) < 0.03
    assert errors[0] < 0.85 * errors[1] < 0.85 * errors[2]


def test_nothing_is_known_of_a_group_without_decisions():
    sums = np.array([[4.0, 0, 0, 0], [2.0, 0, 0, 0], [2.0, 0, 0, 0]])
    estimate = nested_agreement(sums, np.array([0, 0, 1, 1]), 2)
    assert estimate[:2].tolist() == [0.5, 0.5] and np.isnan(estimate[2:]).all()
