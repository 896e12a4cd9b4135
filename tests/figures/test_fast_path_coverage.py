import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from var_core.figures.fast_path_coverage import at_target, entropy_coverage
from var_core.hypotheses.agreement import MEASURES
from var_core.hypotheses.data import TokenMoments


def panels(run):
    return run.drawing("fast_path_coverage").figure.axes


def line(panel, label):
    return next(line for line in panel.lines if line.get_label() == label)


def test_curves_are_those_of_the_verdicts(run):
    for panel, measure in zip(panels(run), MEASURES, strict=False):
        assert panel.get_title(loc="left").split(",")[0].strip() == measure
        curve, by_layer = run.sources.curves(measure)
        x, y = line(panel, "token table, all layers").get_data()
        np.testing.assert_allclose(x, curve.coverage)
        np.testing.assert_allclose(y, np.array(curve.agreement, dtype=float))
        assert len(by_layer) == 3
        band = panel.collections[0].get_paths()[0].vertices[:, 1]
        known = [value for value in curve.high if value is not None]
        assert band.max() == pytest.approx(max(known))


def test_controls_are_levels(run):
    for panel, measure in zip(panels(run), MEASURES, strict=False):
        curve, _ = run.sources.curves(measure)
        for label, value in (
            ("global table", curve.global_table),
            ("labels shuffled", curve.shuffled_labels),
            ("blind guess", curve.chance),
        ):
            assert line(panel, label).get_ydata() == [value, value]


def test_the_dot_is_the_verdicts_statistic(run):
    found = 0
    for panel, measure in zip(panels(run), MEASURES, strict=False):
        coverage, realised = at_target(measure, run.sources)
        dots = [part.get_offsets() for part in panel.collections if part.get_label() == "chosen on other documents"]
        if realised.statistic is not None:
            np.testing.assert_allclose(dots[0], [[coverage.statistic, realised.statistic]])
            found += 1
        else:
            assert not dots
    assert found


def test_the_corner_is_what_h4_asks_for(run):
    for panel in panels(run)[:3]:
        assert panel.patches[0].get_xy() == (0.4, 0.8)
    classic = panels(run)[3].patches[0]
    assert classic.get_xy() == (0, 0.4) and classic.get_width() == 0.5


def test_the_classic_curve_passes_through_the_verdict(run):
    stated = run.sources.result("H4", "as stated", "coverage, n > 50 and entropy < 0.5")
    moments = [run.sources.data.token_moments(layer.layer) for layer in run.sources.layers]
    threshold, coverage = entropy_coverage(moments, 50)
    below = threshold < 0.5
    assert below.any() and coverage[below][-1] == pytest.approx(stated.statistic)
    dot = panels(run)[3].collections[-1].get_offsets()
    np.testing.assert_allclose(dot, [[0.5, stated.statistic]])


@given(st.lists(st.tuples(st.integers(0, 200), st.floats(0, 2)), min_size=1, max_size=20), st.floats(0, 2))
def test_coverage_by_entropy_is_a_share_of_occurrences(types, at):
    n, entropy = (np.array(values) for values in zip(*types, strict=True))
    if not n.sum():
        return
    moments = TokenMoments(n, n * entropy)
    threshold, coverage = entropy_coverage([moments], 50)
    eligible = (n > 50) & (moments.mean_router_entropy <= at)
    expected = n[eligible].sum() / n.sum()
    found = coverage[threshold <= at]
    assert (found[-1] if len(found) else 0.0) == pytest.approx(expected)


def test_a_router_that_ignores_the_token_reaches_nothing(blind):
    curve, _ = blind.sources.curves("set_agreement")
    last = line(panels(blind)[2], "token table, all layers").get_ydata()[-1]
    assert last == pytest.approx(curve.global_table, abs=0.08)
    assert "nothing can be covered at that agreement: not supported" in blind.drawing("fast_path_coverage").caption
