"""The condition for prefetching to pay: what follows from it, and what it must not claim."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from var_core.systems.break_even import Layer, wrong_missing

SECONDS = st.floats(1e-6, 1e-1)
SHARE = st.floats(0, 1)
LAYERS = st.builds(Layer, SECONDS, SECONDS, SECONDS, st.floats(1, 8), SHARE, SHARE, st.floats(0, 1e-2))


@given(LAYERS, SHARE)
def test_prefetching_is_faster_exactly_above_the_break_even_recall(layer, recall):
    least = float(layer.break_even_recall())
    if layer.wrong_missing < 1 - layer.hit_rate:
        return  # Then more recall may be worse: right predictions are loaded, and wrong ones are there.
    if np.isnan(least):
        assert layer.prefetching(recall) >= layer.plain
    elif abs(recall - least) > 2e-3:
        assert (layer.prefetching(recall) < layer.plain) == (recall > least)


@given(SECONDS, SECONDS, SECONDS, SHARE)
def test_many_small_loads_follow_the_plain_rule(before, experts, load, hit_rate):
    """r > 1 - min(1, W / S), where as many wrong predictions as right ones are missing."""
    n = 400
    layer = Layer(before, experts, load / n, n, hit_rate, 1 - hit_rate)
    if hit_rate < 0.95:
        rule = 1 - min(1, float(layer.window / layer.stall))
        # Loads of a layer scatter about their mean, which never makes waiting shorter.
        assert float(layer.break_even_recall()) >= rule - 2e-3
        assert float(layer.break_even_recall()) <= rule + 0.1


def test_a_predictor_that_is_usually_right_loses_on_a_busy_link():
    """88.6 % right, and a fifth slower: what was measured on a phone whose loads took ten times its computing."""
    layer = Layer(before=0.5, experts=0.5, load=10.0 / 6, needed=6, hit_rate=0.0)
    assert layer.break_even_recall() == pytest.approx(0.9, abs=2e-3)
    assert layer.speed_up(0.886) < 1
    assert layer.speed_up(0.95) > 1
    assert Layer(before=0.5, experts=0.5, load=0.15, needed=6, hit_rate=0.0).speed_up(0.1) > 1


def test_wrong_predictions_that_are_missing_more_often_ask_for_more_recall():
    least = [float(Layer(0.5, 0.5, 0.5, 4, 0.6, wrong).break_even_recall()) for wrong in (0.0, 0.4, 0.7, 1.0)]
    assert least == sorted(least)
    assert least[-1] > least[0] + 0.1


def test_resident_experts_leave_the_gate_to_save_and_no_more():
    layer = Layer(before=1.0, experts=3.0, load=5.0, needed=2, hit_rate=1.0, deciding=0.002, gate=0.01)
    assert np.isnan(layer.break_even_recall())
    assert layer.deciding_beforehand(1.0) == pytest.approx(4.0 + 0.002 - 0.01)
    assert layer.plain / layer.deciding_beforehand(1.0) < 1.003
    assert layer.prefetching(1.0) > layer.plain


@given(LAYERS, SHARE)
def test_what_is_decided_beforehand_is_never_waited_for_longer_than_what_is_predicted(layer, share):
    assert layer.deciding_beforehand(share) <= layer.prefetching(share) + 1e-9


def test_arrays_broadcast():
    load = np.array([0.1, 1.0, 10.0])
    layer = Layer(1.0, 1.0, load, 2.5, 0.5)
    whole = layer.speed_up(np.linspace(0, 1, 5)[:, None])
    assert whole.shape == (5, 3)
    assert layer.break_even_recall().shape == (3,)
    for place, each in enumerate(load):
        one = Layer(1.0, 1.0, float(each), 2.5, 0.5)
        assert whole[3, place] == pytest.approx(float(one.speed_up(0.75)))


def test_what_was_loaded_in_vain_tells_how_often_wrong_predictions_are_missing():
    # Of 100 needed: 77 predicted rightly, of which 40 % are missing; of 23 wrong ones 20 were loaded.
    assert wrong_missing(0.77, 0.6, (0.77 * 40 + 20) / 100) == pytest.approx(20 / 23)
    assert wrong_missing(1.0, 0.6, 0.4) == 1
    assert wrong_missing(0.5, 0.0, 0.1) == 0
