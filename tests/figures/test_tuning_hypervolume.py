import numpy as np
import pytest

from simulated_tuning import SimulatedTuning, hypervolume
from tunings_to_draw import open_study
from var_core.figures.tuning_hypervolume import draw, measure_curves
from var_core.tuning.trials import CONTROL, SEARCH


@pytest.mark.parametrize("which", ["tuned", "few_trials", "many_trials", "one_objective"])
@pytest.mark.parametrize(("study", "label"), [(SEARCH, "search"), (CONTROL, "at random")])
def test_lines_are_the_table_s_and_never_fall(which, study, label, request):
    run = request.getfixturevalue(which)
    [panel] = run.drawing("tuning_hypervolume").figure.axes
    [line] = [each for each in panel.lines if each.get_label() == label]
    rows = run.sources.query(
        "SELECT * FROM tuning_trials WHERE run = $run AND study = $study ORDER BY number", study=study
    ).to_pylist()
    np.testing.assert_array_equal(line.get_xdata(), [row["number"] + 1 for row in rows])
    np.testing.assert_array_equal(line.get_ydata(), [row["hypervolume"] for row in rows])
    assert (np.diff(line.get_ydata()) >= 0).all() and np.ptp(line.get_ydata()) > 0
    complete = [row for row in rows if row["state"] == "complete"]
    assert line.get_ydata()[-1] == pytest.approx(hypervolume(complete))


def test_when_the_search_had_what_random_trials_came_to_is_told(tuned):
    curves = measure_curves(tuned.sources)
    last = curves[CONTROL][1][-1]
    first = next(trials for trials, volume in zip(*curves[SEARCH], strict=True) if volume >= last)
    assert f"the search had after {first:.0f} trials" in tuned.drawing("tuning_hypervolume").caption


def test_a_search_that_is_worse_than_random_says_so():
    study = SimulatedTuning(trials=20)
    table = study.tables()["tuning_trials"]
    rows = table.to_pylist()
    for row in rows:
        row["hypervolume"] *= 0.1 if row["study"] == SEARCH else 1
    drawing = draw(open_study(study, tuning_trials=table.from_pylist(rows, table.schema)))
    assert "The search did not come to what random trials came to." in drawing.caption


def test_a_search_that_does_not_go_by_it_says_so(one_objective, tuned):
    said = "Only the learned share was made small, so that the search does not go by it."
    assert said in one_objective.drawing("tuning_hypervolume").caption
    assert "made small" not in tuned.drawing("tuning_hypervolume").caption
