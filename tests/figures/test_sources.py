import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from var_core.errors import VarError
from var_core.figures.sources import minus, number, percent, shown_layers, spread_layers, with_interval
from var_core.hypotheses.data import Layer
from var_core.hypotheses.results import Result


def layers(count):
    return [Layer(number, 8, 2) for number in range(count)]


@given(st.integers(1, 100), st.integers(2, 12))
def test_layers_are_spread_evenly_with_both_ends(count, at_most):
    chosen = [layer.layer for layer in spread_layers(layers(count), at_most)]
    assert len(chosen) == min(count, at_most) and len(set(chosen)) == len(chosen)
    assert chosen[0] == 0 and chosen[-1] == count - 1
    gaps = np.diff(chosen)
    assert not len(gaps) or gaps.max() - gaps.min() <= 1


def test_one_layer_of_many_is_the_middle_one():
    assert [layer.layer for layer in spread_layers(layers(9), 1)] == [4]


def test_a_caption_says_which_layers_are_shown_only_if_some_are_not():
    assert shown_layers(layers(4), layers(4)) == ""
    assert shown_layers(spread_layers(layers(16), 4), layers(16)) == " Of 16 layers, 0, 5, 10, 15 are shown."


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "undefined"),
        (0.0, "0 %"),
        (0.0001, "under 0.1 %"),
        (0.031, "3.1 %"),
        (0.42, "42 %"),
        (0.987, "98.7 %"),
        (1.0, "100 %"),
    ],
)
def test_shares_are_percentages(value, text):
    assert percent(value) == text


def test_numbers_have_a_true_minus_sign():
    assert number(-0.123, sign=True) == "−0.12" and number(0.5, 1, sign=True) == "+0.5" and number(None) == "undefined"
    assert minus(-0.4) == "−0.4"


def test_an_interval_is_left_out_where_there_is_none():
    row = Result(
        hypothesis="H1", form="detail", variant="v", layer=None, measure="m", statistic=0.5, n=3, n_unit="types"
    )
    assert with_interval(row) == "0.50"
    assert with_interval(row.model_copy(update={"low": 0.4, "high": 0.6})) == "0.50 [0.40, 0.60]"


def test_a_row_that_is_not_there_is_named(run):
    with pytest.raises(
        VarError, match=r"run simulated/text: the verdicts have no row of layer 7 for H1, as stated, rho"
    ):
        run.sources.result("H1", "as stated", "rho", 7)
    with pytest.raises(VarError, match="no curve of nothing; run the hypotheses stage again"):
        run.sources.curves("nothing")


def test_settings_are_those_that_the_verdicts_were_made_with(run):
    assert run.sources.tested == run.simulation.hypotheses
