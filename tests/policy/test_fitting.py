"""Tables against counting one decision after another."""

from collections import Counter, defaultdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from var_core.policy.fitting import ExpertSums, fit_entries


def decisions(seed, tokens=60, keys=7, width=5, top_k=2):
    random = np.random.default_rng(seed)
    experts = np.argsort(random.random((tokens, width)), axis=1)[:, :top_k]
    return random.integers(keys, size=tokens) * 1000, experts, random.random((tokens, top_k)), width


@given(st.integers(0, 10**6))
@settings(max_examples=30, deadline=None)
def test_an_entry_is_what_was_chosen_most(seed):
    key, experts, weights, width = decisions(seed)
    chosen, summed = defaultdict(Counter), defaultdict(float)
    for k, row, own in zip(key.tolist(), experts.tolist(), weights.tolist(), strict=True):
        chosen[k].update(row)
        for e, w in zip(row, own, strict=True):
            summed[k, e] += w
    entries = fit_entries(ExpertSums.of_decisions(key, experts, weights, width), width, 2, 1.5)
    assert entries.key.tolist() == sorted(chosen)
    for k, n, own, given_weights in zip(*vars(entries).values(), strict=True):
        best = sorted(chosen[k], key=lambda e: (-chosen[k][e], e))[:2]
        means = np.array([summed[k, e] / chosen[k][e] for e in best])
        assert own.tolist() == best
        assert given_weights == pytest.approx(means / means.sum() * 1.5)
        assert n == (key == k).sum()


def test_seldom_seen_keys_have_no_entry():
    key = np.array([1, 1, 1, 2])
    experts = np.array([[0, 1], [0, 1], [0, 2], [3, 1]])
    sums = ExpertSums.of_decisions(key, experts, np.ones((4, 2)), 4)
    assert fit_entries(sums, 4, 2, 1.0, minimum=2).key.tolist() == [1]


def test_empty_slots_are_not_counted():
    sums = ExpertSums.of_decisions(np.array([3]), np.array([[1, 4]]), np.array([[0.7, 0.0]]), 4)
    entries = fit_entries(sums, 4, 2, 0.7)
    assert entries.experts.tolist() == [[1, 4]]
    assert entries.weights.tolist() == [[0.7, 0.0]]


def test_sums_of_parts_are_sums_of_the_whole():
    key, experts, weights, width = decisions(3)
    whole = ExpertSums.of_decisions(key, experts, weights, width)
    parts = [
        ExpertSums.of_decisions(key[part], experts[part], weights[part], width) for part in np.split(np.arange(60), 3)
    ]
    joined = ExpertSums.of(*(np.concatenate([getattr(p, name) for p in parts]) for name in vars(whole)))
    for name in vars(whole):
        assert getattr(joined, name) == pytest.approx(getattr(whole, name))
