from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from var_core.figures.coactivation import Pairs, draw, expected_pairs, measure_pairs
from var_core.figures.sources import Sources
from var_core.hypotheses.data import Layer


def pairs_of(sets, experts):
    hot = np.zeros((len(sets), experts), dtype=np.int64)
    np.put_along_axis(hot, sets, 1, axis=1)
    return hot.T @ hot


@given(arrays(np.int64, (6, 6), elements=st.integers(1, 1000)))
def test_expected_counts_have_the_loads_of_the_counts(counts):
    counts = counts + counts.T
    expected = expected_pairs(counts)
    np.testing.assert_allclose(expected, expected.T)
    assert (np.diagonal(expected) == 0).all()
    np.testing.assert_allclose(expected.sum(axis=1), counts.sum(axis=1) - np.diagonal(counts), rtol=1e-6)


@given(arrays(np.float64, 7, elements=st.floats(0.05, 20)))
def test_pairs_that_only_have_loads_are_expected_exactly(strength):
    counts = np.round(1e9 * np.outer(strength, strength) / strength.sum() ** 2).astype(np.int64)
    expected = expected_pairs(counts)
    off = ~np.eye(7, dtype=bool)
    np.testing.assert_allclose(expected[off], counts[off], rtol=1e-3, atol=5)


def test_routing_by_load_alone_has_lifts_below_one_and_ratios_of_one():
    """The negative control: against free choices every pair looks too rare, most of all those of busy experts."""
    random, load = np.random.default_rng(0), np.array([1.2, 0.8, 0.6, 0.3, 0.0, 0.0, -0.5, -0.5])
    sets = np.argsort(-(load + random.gumbel(size=(200_000, 8))), axis=1)[:, :2]
    pairs = Pairs(Layer(0, 8, 2), pairs_of(sets, 8), len(sets))
    off = ~np.eye(8, dtype=bool)
    assert pairs.lift[off].max() < 0.9 and np.ptp(pairs.lift[off]) > 0.2
    np.testing.assert_allclose(pairs.ratio[off], 1, atol=0.1)


def test_experts_that_go_together_are_seen():
    together = {(0, 1), (2, 3), (4, 5)}
    sets = np.array([*together] * 60 + list(combinations(range(6), 2)) * 20)
    ratio = Pairs(Layer(0, 6, 2), pairs_of(sets, 6), len(sets)).ratio
    for pair in combinations(range(6), 2):
        assert ratio[pair] > 2 if pair in together else ratio[pair] < 0.7
    assert np.isnan(np.diagonal(ratio)).all()


def test_an_expert_that_is_never_chosen_has_no_ratio():
    sets = np.array(list(combinations(range(5), 2)) * 10)
    ratio = Pairs(Layer(0, 6, 2), pairs_of(sets, 6), len(sets)).ratio
    assert np.isnan(ratio[5]).all() and np.isnan(ratio[:, 5]).all()
    np.testing.assert_allclose(ratio[:5, :5][~np.eye(5, dtype=bool)], 1, rtol=1e-6)


def test_counts_are_those_of_the_tables(run):
    layer = run.sources.layers[1]
    pairs = measure_pairs(run.sources, layer)
    view = run.sources.query(
        "SELECT expert, other_expert, lift FROM v_coactivation WHERE run = $run AND split = 'capture' AND layer = 1"
    )
    for row in view.to_pylist():
        assert pairs.lift[row["expert"], row["other_expert"]] == pytest.approx(row["lift"])
    assert np.diagonal(pairs.counts).sum() == 2 * pairs.tokens


def test_maps_show_logarithms_about_one(run):
    for place, panel in enumerate(run.drawing("coactivation").figure.axes[:3]):
        ratio = measure_pairs(run.sources, run.sources.layers[place]).ratio
        shown = panel.images[0].get_array()
        np.testing.assert_allclose(np.ma.filled(shown, np.nan), np.log2(np.maximum(ratio, 2.0**-6)))
        low, high = panel.images[0].get_clim()
        assert low == -high


def test_many_experts_are_ordered_alike_on_both_axes(wide):
    shown = np.ma.filled(wide.drawing("coactivation").figure.axes[0].images[0].get_array(), np.nan)
    assert shown.shape == (64, 64) and np.isnan(np.diagonal(shown)).all()
    np.testing.assert_allclose(shown, shown.T)


def test_one_expert_a_token_has_no_pairs(run):
    class TopOne(Sources):
        layers = (Layer(0, 8, 1),)

    drawing = draw(TopOne(run.sources.connection, run.sources.run, run.sources.verdicts))
    assert "chooses one expert a token" in drawing.caption
