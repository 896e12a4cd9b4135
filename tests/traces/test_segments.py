"""Segment predictability against a count by hand, and what it is where there is nothing to find."""

import numpy as np
import pytest

from var_core.traces.segments import segment_predictability, segment_predictability_chance, window_uses


def by_hand(experts, follows, window, count):
    """Best F1 over the threshold, window by window and token by token."""
    best = 0.0
    for threshold in range(1, window + 1):
        right = named = chosen = 0
        for start in range(len(experts) - window + 1):
            if not follows[start + 1 : start + window].all():
                continue
            tokens = [set(row) for row in experts[start : start + window].tolist()]
            active = {e for e in range(count) if sum(e in token for token in tokens) >= threshold}
            right += sum(len(token & active) for token in tokens)
            named += window * len(active)
            chosen += sum(map(len, tokens))
        best = max(best, 2 * right / (named + chosen) if chosen else 0.0)
    return best


def random_choices(tokens, layers, count, top_k, seed=0):
    scores = np.random.default_rng(seed).random((tokens, layers, count))
    return scores.argsort(-1)[..., :top_k]


@pytest.mark.parametrize("window", [2, 5, 16])
def test_it_is_the_best_f1_of_one_threshold(window):
    experts = random_choices(60, 2, 6, 2) % 5
    experts[..., 1] = np.where(experts[..., 0] == experts[..., 1], 5, experts[..., 1])
    follows = np.random.default_rng(1).random(60) < 0.95
    follows[0] = False
    uses = window_uses(experts, follows, window, 6)
    for layer in range(2):
        expected = by_hand(experts[:, layer], follows, window, 6)
        got = segment_predictability(uses[layer])
        assert got == pytest.approx(expected) if expected else np.isnan(got)


def test_even_and_independent_routing_is_at_chance_and_constant_routing_is_perfect():
    follows = np.arange(4000) > 0
    at_random = segment_predictability(window_uses(random_choices(4000, 1, 16, 2), follows, 16, 16)[0])
    assert at_random == pytest.approx(segment_predictability_chance(16, 2, 16), abs=0.01)
    constant = np.tile([3, 7], (100, 1, 1))
    assert segment_predictability(window_uses(constant, follows[:100], 16, 16)[0]) == 1.0


def test_a_window_with_a_decision_that_is_not_there_is_left_out_at_that_layer_only():
    experts = random_choices(40, 2, 8, 2)
    experts[20, 1] = 8
    follows = np.arange(40) > 0
    uses = window_uses(experts, follows, 4, 8)
    assert uses.sum(axis=1).tolist() == [8 * 37, 8 * 33]
    assert (uses * np.arange(5)).sum(axis=1).tolist() == [37 * 4 * 2, 33 * 4 * 2]


def test_no_window_no_value():
    assert np.isnan(segment_predictability(window_uses(random_choices(3, 1, 4, 2), np.arange(3) > 0, 16, 4)[0]))
