import numpy as np
import pyarrow.compute as pc
import pytest

from policies_to_draw import SimulatedEvaluation, open_sources
from var_core.evaluation import names
from var_core.figures.policy_frequency import draw, measure


def panels(run):
    return run.drawing("policy_frequency").figure.axes


@pytest.mark.parametrize(
    ("label", "arm"), [("policy's tables", names.POLICY), ("table by token id", names.TOKEN_TABLE)]
)
def test_points_and_intervals_are_those_of_the_table(evaluated, label, arm):
    panel, found = panels(evaluated)[0], measure(evaluated.sources, arm)
    [line] = [line for line in panel.lines if line.get_label() == label]
    np.testing.assert_allclose(line.get_ydata(), found.agreement)
    bars = np.array([path.vertices[:, 1] for part in panel.collections for path in part.get_paths()])
    for low, high in zip(found.low, found.high, strict=True):
        assert np.isclose(bars, [low, high]).all(axis=1).any()


def test_points_stand_within_their_range_of_occurrences(evaluated):
    found = measure(evaluated.sources, names.POLICY)
    assert found.from_count[0] == 0 and found.place[0] < 1
    inside = (found.from_count <= found.place) & ~(found.place > found.to_count + 1)
    assert inside[1:].all() and (np.diff(found.place) > 0).all()


def test_bars_are_shares_of_all_decisions(evaluated):
    heights = [bar.get_height() for bar in panels(evaluated)[0].patches]
    decisions = measure(evaluated.sources, names.POLICY).decisions
    np.testing.assert_allclose(heights, decisions / decisions.sum())


@pytest.mark.parametrize("which", ["evaluated", "smallest", "deep"])
def test_every_layer_is_a_thin_line_and_the_pooled_one_is_thick(which, request):
    run = request.getfixturevalue(which)
    lines = panels(run)[1].lines
    thin = [line for line in lines if line.get_linewidth() < 1]
    assert len(thin) == len(run.sources.layers) == len(lines) - 1
    for layer, line in zip(run.sources.layers, thin, strict=True):
        np.testing.assert_allclose(line.get_ydata(), measure(run.sources, names.POLICY, layer.layer).agreement)


def test_ranges_without_a_decision_are_left_out():
    simulation = SimulatedEvaluation()
    table = simulation.tables()["policy_frequencies"]
    rare = pc.is_in(table["from_count"], pc.cast([0, 1, 100], table["from_count"].type))
    drawing = draw(open_sources(simulation, policy_frequencies=table.filter(pc.invert(rare))))
    [ticks] = [[text.get_text() for text in panel.get_xticklabels()] for panel in drawing.figure.axes[:1]]
    assert ticks[0] == "1" and "never occurred" not in drawing.caption.split("Policy's tables")[1]


def test_the_caption_gives_both_ends(evaluated):
    caption = evaluated.drawing("policy_frequency").caption
    found = measure(evaluated.sources, names.POLICY)
    assert f"Policy's tables: {found.agreement[0]:.2f} for tokens that never occurred" in caption
    assert f"{found.agreement[-1]:.2f} from 10000 occurrences on" in caption
