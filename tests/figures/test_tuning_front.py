import numpy as np
import pyarrow.compute as pc
import pytest

from simulated_tuning import PLAIN_LOSS, SimulatedTuning, front_of
from tunings_to_draw import open_study
from var_core.figures.sources import Sources
from var_core.figures.tuning_front import constraints, draw
from var_core.figures.tunings import plain_loss, points_of
from var_core.tuning.trials import CONTROL, SEARCH

STUDIES = ["tuned", "few_trials", "many_trials", "one_objective"]


def panels(run):
    return run.drawing("tuning_front").figure.axes


def line(panel, label):
    [found] = [each for each in panel.lines if each.get_label() == label]
    return found


def trials(run, study):
    rows = run.sources.query("SELECT * FROM tuning_trials WHERE run = $run AND study = $study", study=study)
    return [row for row in rows.to_pylist() if row["state"] == "complete"]


@pytest.mark.parametrize("which", STUDIES)
def test_every_complete_trial_is_drawn_once_and_failed_ones_are_not(which, request):
    run = request.getfixturevalue(which)
    drawn = np.concatenate([each.get_xydata() for each in panels(run)[0].lines if each.get_linestyle() == "None"])
    expected = [(row["learned_share"], row["loss_difference"]) for study in (CONTROL, SEARCH)
                for row in trials(run, study)]  # fmt: skip
    assert sorted(map(tuple, drawn)) == sorted(expected)
    failed = run.sources.query("SELECT count(*) AS n FROM tuning_trials WHERE run = $run AND state = 'failed'")
    assert failed["n"].to_pylist()[0] > 0


@pytest.mark.parametrize("which", STUDIES)
@pytest.mark.parametrize(("study", "label"), [(SEARCH, "front of the search"), (CONTROL, "front at random")])
def test_steps_are_the_front_and_no_trial_lies_below_them(which, study, label, request):
    run = request.getfixturevalue(which)
    own = trials(run, study)
    steps = line(panels(run)[0], label)
    front = sorted((row["learned_share"], row["loss_difference"]) for row in front_of(own))
    np.testing.assert_array_equal(steps.get_xydata(), front)
    assert steps.get_drawstyle() == "steps-post"
    x, y = steps.get_xydata().T
    for row in own:
        left = np.flatnonzero(x <= row["learned_share"])
        assert left.size and row["loss_difference"] >= y[left[-1]]


def table_of_points(run):
    """(learned share, loss difference) of each point, a row of the table each."""
    rows = run.sources.query("SELECT * FROM tuning_front WHERE run = $run").to_pylist()
    by_key = {(row["point"], row["measure"]): row for row in rows}
    names = dict.fromkeys(row["point"] for row in rows)
    return [tuple(by_key[name, measure] for measure in ("learned_share", "loss_difference")) for name in names]


@pytest.mark.parametrize("which", STUDIES)
def test_measured_points_and_their_intervals_are_those_of_the_table(which, request):
    run = request.getfixturevalue(which)
    panel, table = panels(run)[1], table_of_points(run)
    drawn = [
        tuple(point)
        for label in ("front, measured", "classic predicate, measured", "as configured, measured")
        for point in line(panel, label).get_xydata()
    ]
    assert sorted(drawn) == sorted((share["measured"], loss["measured"]) for share, loss in table)
    [chosen] = [(share["measured"], loss["measured"]) for share, loss in table if share["chosen"]]
    np.testing.assert_array_equal(line(panel, "chosen").get_xydata(), [chosen])
    bars = {tuple(path.vertices.ravel()) for part in panel.collections for path in part.get_paths()}
    for share, loss in table:
        if loss["low"] is not None:
            x, y = share["measured"], loss["measured"]
            assert (x, loss["low"], x, loss["high"]) in bars and (share["low"], y, share["high"], y) in bars
    (left, right), (low, high) = panel.get_xlim(), panel.get_ylim()
    assert all(left <= x <= right and low <= y <= high for x, y in drawn)


@pytest.mark.parametrize("which", STUDIES)
def test_grey_lines_lead_from_estimates(which, request):
    run = request.getfixturevalue(which)
    ends = {tuple(each.get_xydata().ravel()) for each in panels(run)[1].lines if len(each.get_xydata()) == 2}
    for share, loss in table_of_points(run):
        assert (share["estimated"], loss["estimated"], share["measured"], loss["measured"]) in ends


def test_constraints_are_those_of_the_search_in_nats(tuned):
    share, loss = constraints(tuned.sources)
    assert (
        share == 0.15 and loss == pytest.approx(0.05 * PLAIN_LOSS) and plain_loss(tuned.sources) == pytest.approx(3.2)
    )
    dashed = [each for each in panels(tuned)[0].lines if each.get_linestyle() == "--" and len(each.get_xdata())]
    places = sorted(value for each in dashed for value in {*each.get_xdata(), *each.get_ydata()} - {0, 1})
    assert places == pytest.approx([0.15, 0.16])
    assert "a learned share under 15 % and a loss under 0.160 nats" in tuned.drawing("tuning_front").caption


def without_constraints(sources):
    config = dict(sources.tuning, max_learned_share=None, max_relative_loss=None)
    return Sources(sources.connection, sources.run, sources.verdicts, tuning=config)


def test_without_constraints_there_are_no_limits(few_trials, drawn_texts):
    drawing = draw(without_constraints(few_trials.sources))
    assert "There are no constraints." in drawing.caption
    assert not [each for each in drawing.figure.axes[0].lines if each.get_linestyle() == "--" and len(each.get_xdata())]
    assert "limit of a constraint" not in {each.text for each in drawn_texts(drawing.figure)}


def test_a_loss_that_no_trial_tells_has_no_limit():
    study = SimulatedTuning(trials=10)
    table = study.tables()["tuning_trials"]
    zeros = pc.multiply(table["relative_loss"], 0.0)
    place = table.column_names.index("relative_loss")
    sources = open_study(study, tuning_trials=table.set_column(place, "relative_loss", zeros))
    assert constraints(sources) == (0.15, None)


def test_the_chosen_point_is_told(tuned):
    [chosen] = [point for point in points_of(tuned.sources) if point.chosen]
    assert f"{chosen.loss_difference.value:+.4f} nats" in tuned.drawing("tuning_front").caption
