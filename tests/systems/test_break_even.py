"""The condition for prefetching to pay, held against the replay that follows every load."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from var_core.systems.break_even import Layer

SECONDS = st.floats(1e-6, 1e-1)


@given(SECONDS, SECONDS, SECONDS, st.floats(0, 1e-2), st.floats(0, 1))
def test_prefetching_is_faster_exactly_above_the_break_even_recall(before, experts, stall, deciding, recall):
    layer = Layer(before, experts, stall, deciding)
    least = float(layer.break_even_recall())
    if abs(recall - least) > 1e-6:
        assert (layer.prefetching(recall) < layer.plain) == (recall > least)


def test_a_predictor_that_is_usually_right_loses_on_a_busy_link():
    """88.6 % right, and a fifth slower: what was measured on a phone whose loads took ten times its computing."""
    layer = Layer(before=0.5, experts=0.5, stall=10.0)
    assert layer.break_even_recall() == pytest.approx(0.9)
    assert layer.speed_up(0.886) < 1
    assert layer.speed_up(0.95) > 1
    assert Layer(before=0.5, experts=0.5, stall=0.9).speed_up(0.1) > 1


def test_resident_experts_leave_the_gate_to_save_and_no_more():
    layer = Layer(before=1.0, experts=3.0, stall=0.0, deciding=0.002, gate=0.01)
    assert np.isnan(layer.break_even_recall())
    assert layer.deciding_beforehand(1.0) == pytest.approx(4.0 + 0.002 - 0.01)
    assert layer.plain / layer.deciding_beforehand(1.0) < 1.003
    assert layer.prefetching(1.0) > layer.plain


@given(SECONDS, SECONDS, SECONDS, st.floats(0, 1))
def test_what_is_decided_beforehand_is_never_waited_for_longer_than_what_is_predicted(before, experts, stall, share):
    layer = Layer(before, experts, stall)
    assert layer.deciding_beforehand(share) <= layer.prefetching(share) + 1e-12
    assert layer.deciding_beforehand(share) <= layer.plain + 1e-12
