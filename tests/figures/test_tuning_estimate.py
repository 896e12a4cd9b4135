import numpy as np
import pytest
from scipy.stats import spearmanr

from simulated_tuning import SimulatedTuning
from tunings_to_draw import open_study
from var_core.figures.tuning_estimate import draw, rank_correlation
from var_core.figures.tunings import Measured

MEASURES = ("loss_difference", "learned_share")


def measured(*pairs):
    return [Measured(estimated, value, np.nan, np.nan) for estimated, value in pairs]


def points(run, measure):
    rows = run.sources.query("SELECT * FROM tuning_front WHERE run = $run AND measure = $measure", measure=measure)
    return rows.to_pylist()


@pytest.mark.parametrize("which", ["tuned", "few_trials", "many_trials", "one_objective"])
@pytest.mark.parametrize("place", [0, 1])
def test_points_intervals_and_correlation_are_those_of_the_table(which, place, request):
    run = request.getfixturevalue(which)
    panel, rows = run.drawing("tuning_estimate").figure.axes[place], points(run, MEASURES[place])
    drawn = np.concatenate([each.get_xydata() for each in panel.lines if each.get_label().endswith(", measured")])
    assert sorted(map(tuple, drawn)) == sorted((row["estimated"], row["measured"]) for row in rows)
    bars = {tuple(path.vertices.ravel()) for part in panel.collections for path in part.get_paths()}
    for row in rows:
        if row["low"] is not None:
            assert (row["estimated"], row["low"], row["estimated"], row["high"]) in bars
    rho = spearmanr([row["estimated"] for row in rows], [row["measured"] for row in rows]).statistic
    assert f"ρ = {rho:.2f} ({len(rows)} points)".replace("-", "−") in panel.get_title(loc="left")
    [chosen] = [each.get_xydata() for each in panel.lines if each.get_label() == "chosen"]
    np.testing.assert_array_equal(chosen, [(r["estimated"], r["measured"]) for r in rows if r["chosen"]])


@pytest.mark.parametrize("place", [0, 1])
def test_the_diagonal_is_where_both_are_equal(tuned, place):
    panel = tuned.drawing("tuning_estimate").figure.axes[place]
    [diagonal] = [each for each in panel.lines if each.get_label() == "as estimated"]
    assert diagonal.get_xy1() == (0, 0) and diagonal.get_slope() == 1


def test_a_rank_correlation_goes_by_ranks_and_by_nothing_else():
    assert rank_correlation(measured((0.1, 5), (0.2, 50), (0.3, 5000))) == pytest.approx(1)
    assert rank_correlation(measured((0.1, 3), (0.2, 2), (0.3, 1))) == pytest.approx(-1)
    random = np.random.default_rng(0)
    assert abs(rank_correlation(measured(*random.normal(size=(2000, 2))))) < 0.05


@pytest.mark.parametrize("pairs", [[], [(1, 2), (2, 3)], [(1, 2), (1, 3), (1, 4)], [(1, 2), (2, 3), (np.nan, 4)]])
def test_a_rank_correlation_of_too_little_is_none(pairs):
    assert rank_correlation(measured(*pairs)) is None


def test_a_correlation_that_is_not_defined_is_said():
    study = SimulatedTuning()
    table = study.tables()["tuning_front"]
    rows = [row for row in table.to_pylist() if row["point"] in ("front-0", "front-3", "classic")]
    for row in rows:
        row["estimated"] = 0.2
    drawing = draw(open_study(study, tuning_front=table.from_pylist(rows, table.schema)))
    assert "rank correlation is not defined" in drawing.caption
    assert drawing.figure.axes[0].get_title(loc="left").strip() == "loss difference, 3 points"


def test_how_many_estimates_lie_inside_is_counted(tuned, few_trials):
    rows = points(tuned, "loss_difference")
    inside = sum(row["low"] <= row["estimated"] <= row["high"] for row in rows)
    assert f"{inside} of {len(rows)} estimates lie inside." in tuned.drawing("tuning_estimate").caption
    assert "No intervals were asked for. Half" in few_trials.drawing("tuning_estimate").caption
