import numpy as np
import pyarrow as pa
import pytest

from simulated_tuning import SimulatedTuning
from tunings_to_draw import open_study
from var_core.figures.tuning_slices import draw

ALL = [
    "agreement threshold",
    "frequency threshold",
    "entropy threshold",
    "cache confidence",
    "cache capacity",
    "context window",
    "time to live",
]


def panels(run):
    return {
        panel.get_title(loc="left").strip(): panel
        for panel in run.drawing("tuning_slices").figure.axes
        if panel.get_label() != "<colorbar>"
    }


def trials(run):
    rows = run.sources.query("SELECT * FROM tuning_trials WHERE run = $run AND study = 'search' ORDER BY number")
    return [row for row in rows.to_pylist() if row["state"] == "complete"]


@pytest.mark.parametrize(
    ("which", "expected"),
    [("tuned", ALL), ("few_trials", ALL), ("many_trials", ALL), ("one_objective", ["agreement threshold"])],
)
def test_every_number_that_differs_has_a_panel(which, expected, request):
    run = request.getfixturevalue(which)
    assert list(panels(run)) == [*expected, "importance"]


@pytest.mark.parametrize(
    ("title", "value"),
    [
        ("agreement threshold", lambda row: row["agreement_threshold"] and np.mean(row["agreement_threshold"])),
        ("frequency threshold", lambda row: row["frequency_threshold"] and np.mean(row["frequency_threshold"])),
        ("entropy threshold", lambda row: row["entropy_threshold"] and np.mean(row["entropy_threshold"])),
        ("cache capacity", lambda row: [0, 64, 256, 1024].index(row["capacity"])),
        ("context window", lambda row: row["context_window"]),
        ("time to live", lambda row: row["time_to_live"]),
        ("cache confidence", lambda row: row["confidence_threshold"]),
    ],
)
def test_dots_are_the_trials_that_have_the_setting(tuned, title, value):
    [dots] = panels(tuned)[title].collections
    own = [row for row in trials(tuned) if value(row) is not None]
    np.testing.assert_allclose(dots.get_offsets(), [(value(row), row["loss_difference"]) for row in own])
    np.testing.assert_array_equal(dots.get_array(), [row["learned_share"] for row in own])
    assert own and (len(own) < len(trials(tuned)) or title == "cache capacity")


def test_capacities_stand_side_by_side_by_their_numbers(tuned):
    assert [each.get_text() for each in panels(tuned)["cache capacity"].get_xticklabels()] == ["0", "64", "256", "1024"]


def test_bars_are_the_importances_and_the_largest_comes_first(tuned):
    rows = tuned.sources.query("SELECT * FROM tuning_importances WHERE run = $run AND study = 'search'").to_pylist()
    panel = panels(tuned)["importance"]
    names = [each.get_text() for each in panel.get_yticklabels()]
    largest = [max(row["importance"] for row in rows if row["parameter"].replace("_", " ") == name) for name in names]
    assert largest == sorted(largest, reverse=True) and len(names) == len({row["parameter"] for row in rows})
    for bars, objective in zip(panel.containers, ("learned_share", "loss_difference"), strict=True):
        own = {row["parameter"].replace("_", " "): row["importance"] for row in rows if row["objective"] == objective}
        assert [bar.get_width() for bar in bars] == [own[name] for name in names]
    first = max((row for row in rows if row["objective"] == "learned_share"), key=lambda row: row["importance"])
    said = f"the largest are {first['parameter'].replace('_', ' ')} for the learned share ("
    assert said in tuned.drawing("tuning_slices").caption


def test_without_importances_the_panel_says_why(few_trials):
    texts = [each.get_text() for each in panels(few_trials)["importance"].texts]
    assert "no setting differs between trials" in texts
    assert (
        "No setting differs between trials, so that none has an importance."
        in few_trials.drawing("tuning_slices").caption
    )


def test_a_search_of_choices_alone_has_no_slices_and_says_so(drawn_texts):
    study = SimulatedTuning(classic=False, caches=False)
    table = study.tables()["tuning_trials"]
    rows = [row | {"agreement_threshold": row["agreement_threshold"] and [0.5]} for row in table.to_pylist()]
    rows = [row for row in rows if row["predicate"] == "agreement"]
    drawing = draw(open_study(study, tuning_trials=pa.Table.from_pylist(rows, table.schema)))
    assert "no setting with numbers was searched" in {each.text for each in drawn_texts(drawing.figure)}
    assert drawing.caption.startswith("Which settings matter? No setting with numbers was searched. Bars")
