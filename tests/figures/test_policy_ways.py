import numpy as np
import pytest

from policies_to_draw import SimulatedEvaluation, open_sources
from var_core.evaluation import names
from var_core.figures.policies import SHARES, WAYS, Evaluation
from var_core.figures.policy_ways import certified, draw


def panels(run):
    return run.drawing("policy_ways").figure.axes


@pytest.mark.parametrize("which", ["evaluated", "smallest", "deep"])
@pytest.mark.parametrize(("place", "arm"), [(0, names.POLICY), (1, names.CLASSIC)])
def test_bars_are_the_shares_and_fill_the_whole(which, place, arm, request):
    run = request.getfixturevalue(which)
    layers, evaluation = run.sources.layers, Evaluation(run.sources)
    bars = panels(run)[place].containers
    assert len(bars) == len(WAYS)
    for way, stack in zip(WAYS, bars, strict=True):
        shares = [each.statistic for each in evaluation.by_layer(arm, SHARES[way], layers)]
        np.testing.assert_allclose([bar.get_height() for bar in stack], shares)
    np.testing.assert_allclose([bar.get_y() + bar.get_height() for bar in bars[-1]], 1.0)


@pytest.mark.parametrize("way", ["fast", "cached"])
def test_agreement_and_its_intervals_are_those_of_the_table(evaluated, way):
    panel, sources = panels(evaluated)[2], evaluated.sources
    rows = Evaluation(sources).by_layer(names.POLICY, f"set_agreement_{way}", sources.layers)
    [line] = [line for line in panel.lines if line.get_label() == f"agreement, {way}"]
    np.testing.assert_allclose(line.get_ydata(), [row.statistic for row in rows])
    bars = np.array([path.vertices[:, 1] for part in panel.collections for path in part.get_paths()])
    for row in rows:
        assert np.isclose(bars, [row.low, row.high]).all(axis=1).any()


@pytest.mark.parametrize("which", ["evaluated", "deep"])
def test_ticks_are_what_is_certified_and_nothing_is_outside(which, request):
    run = request.getfixturevalue(which)
    panel, bounds = panels(run)[2], certified(run.sources)
    [ticks] = [line for line in panel.lines if line.get_label() == "certified, both"]
    np.testing.assert_allclose(ticks.get_xydata(), list(bounds.items()))
    assert list(bounds) == [layer.layer for layer in run.sources.layers]
    assert panel.get_ylim()[0] < min(bounds.values())


def test_a_way_that_nothing_took_is_said(smallest):
    labels = [line.get_label() for line in panels(smallest)[2].lines]
    assert "agreement, cached" not in labels and "agreement, fast" in labels
    assert "no decision was cached" in smallest.drawing("policy_ways").caption


def test_without_the_classic_predicate_its_panel_says_so(few_arms):
    assert "not evaluated" in [text.get_text() for text in panels(few_arms)[1].texts]
    assert "classic" not in few_arms.drawing("policy_ways").caption


def test_without_promises_there_are_no_ticks():
    simulation = SimulatedEvaluation()
    promises = simulation.tables()["certificates"]
    drawing = draw(open_sources(simulation, certificates=promises.slice(promises.num_rows - 1)))
    assert "Nothing is certified of the agreement." in drawing.caption
