import numpy as np
import pytest

from policies_to_draw import SimulatedEvaluation, open_sources
from var_core.figures.policy_gain import draw, measure_gains


def panels(run):
    return run.drawing("policy_gain").figure.axes


@pytest.mark.parametrize("which", ["evaluated", "smallest", "deep"])
def test_lines_and_bands_are_those_of_the_table(which, request):
    run = request.getfixturevalue(which)
    gains, left = measure_gains(run.sources), panels(run)[0]
    lines = [line for line in left.lines if line.get_label().startswith("layer ")]
    assert len(lines) == min(len(gains), 5)
    for line, band in zip(lines, left.collections, strict=True):
        own = gains[int(line.get_label().removeprefix("layer "))]
        np.testing.assert_allclose(line.get_xdata(), list(own))
        np.testing.assert_allclose(line.get_ydata(), [each.statistic for each in own.values()])
        if which == "smallest":
            assert not len(band.get_paths())
        else:
            assert band.get_paths()[0].vertices[:, 1].max() == pytest.approx(max(each.high for each in own.values()))


@pytest.mark.parametrize(("label", "coverage"), [("at 20 %", 0.2), ("at 50 %", 0.5), ("at 100 %", 1.0)])
@pytest.mark.parametrize("which", ["evaluated", "deep"])
def test_by_layer_it_is_the_gain_at_that_coverage(which, label, coverage, request):
    run = request.getfixturevalue(which)
    gains = measure_gains(run.sources)
    [line] = [line for line in panels(run)[1].lines if line.get_label() == label]
    np.testing.assert_allclose(line.get_ydata(), [own[coverage].statistic for own in gains.values()])


def test_only_set_agreement_is_drawn(evaluated):
    assert {len(own) for own in measure_gains(evaluated.sources).values()} == {10}


def test_the_caption_says_where_the_gain_is_largest(evaluated):
    gains = measure_gains(evaluated.sources)
    best = max(each.statistic for own in gains.values() for each in own.values())
    assert f"The largest gain is +{best:.3f} [" in evaluated.drawing("policy_gain").caption


def test_a_policy_of_tokens_alone_gains_nothing():
    simulation = SimulatedEvaluation()
    drawing = draw(open_sources(simulation, policy_gains=simulation.tables()["policy_gains"].slice(0, 0)))
    [panel] = drawing.figure.axes
    assert not panel.axison and "no tables but those by token id" in panel.texts[0].get_text()
