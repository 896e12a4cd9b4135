"""What a study comes to: the front, its hypervolume, what mattered, and the knee."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna._hypervolume import compute_hypervolume
from optuna.study._multi_objective import _is_pareto_front

from var_core.config.tuning import TuningConfig
from var_core.errors import VarError
from var_core.parquet import write_table
from var_core.tuning.results import collect, front, hypervolumes, importances, knee, nearest_to_constraints
from var_core.tuning.trials import IMPORTANCES, TRIALS

CONFIG = TuningConfig(trials=10)
COORDINATES = st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.6, 0.75, 0.9, 1.0, 1.5])
POINTS = st.lists(st.tuples(COORDINATES, COORDINATES), min_size=1, max_size=20).map(np.array)


def row(number, learned=0.5, loss=0.5, state="complete", **other):
    complete = state == "complete"
    settings = {
        "predicate": "agreement", "tables": "token", "thresholds": "global", "agreement_threshold": [0.5],
        "weights": "stored", "capacity": 0,
    }  # fmt: skip
    values = {"learned_share": learned, "loss_difference": loss, "relative_loss": loss / 2} if complete else {}
    own = {"study": "search", "number": number, "worker": number % 2, "state": state, "on_front": False}
    return own | values | settings | other


def written(folder, rows, names=("search 1", "search 1")):
    """Rows as workers write them, each what it knew at its end: the first did not see the last two."""
    files = [folder / f"{worker}.parquet" for worker in (0, 1)]
    for file, own, name in zip(files, (rows[:-2], rows[2:] + rows[:2]), names, strict=True):
        write_table(file, pa.Table.from_pylist(own, TRIALS), {"study_name": name})
    return files


def table_of(rows):
    return pa.Table.from_pylist(rows, TRIALS)


def test_a_study_is_put_together(tmp_path):
    rows = [row(number, 0.9 - 0.1 * number, 0.1 * number) for number in range(8)]
    rows += [row(8, state="failed"), row(9, 0.9, 0.7), row(10, 0.5, 0.2, began_as="classic", violation=0.5)]
    table = collect(written(tmp_path, rows), CONFIG, 1.0)
    assert table.schema.equals(TRIALS)
    assert table["number"].to_pylist() == list(range(11))
    # Trial 10 dominates trials 4, 3 and 2: (0.5, 0.4), (0.6, 0.3), (0.7, 0.2).
    assert [number for number, kept in enumerate(table["on_front"].to_pylist()) if kept] == [0, 1, 5, 6, 7, 10]
    areas = table["hypervolume"].to_numpy()
    assert areas[0] == pytest.approx(0.1) and areas[8] == areas[7] == areas[9] < areas[10]
    assert table["violation"].to_pylist()[10] == 0.5 and table["began_as"].to_pylist()[10] == "classic"


@pytest.mark.parametrize(
    ("number", "names", "line"),
    [
        (9, ("search 1", "search 1"), "9 complete trials, where tuning.trials is 10"),
        (10, ("search 1", "search 2"), r"of several studies \(search 1, search 2\)"),
    ],
)
def test_what_is_not_one_whole_study_is_one_line(tmp_path, number, names, line):
    with pytest.raises(VarError, match=line) as error:
        collect(written(tmp_path, [row(place) for place in range(number)], names), CONFIG, 1.0)
    assert str(tmp_path) in str(error.value) and "\n" not in str(error.value)


def test_a_study_that_was_longer_is_cut_to_what_it_would_have_been(tmp_path):
    rows = [row(number, 0.9 - 0.05 * number, 0.05 * number) for number in range(14)]
    rows[3] = row(3, state="failed")
    short, long = tmp_path / "short", tmp_path / "long"
    tables = []
    for folder, own in ((short, rows[:11]), (long, rows)):
        folder.mkdir()
        tables.append(collect(written(folder, own), CONFIG, 1.0))
    assert tables[1].equals(tables[0]) and tables[0]["number"].to_pylist() == list(range(11))


def test_a_trial_that_one_worker_saw_fail_and_another_complete_is_complete(tmp_path):
    rows = [row(number) for number in range(10)]
    files = written(tmp_path, rows)
    write_table(files[0], pa.Table.from_pylist([row(4, state="failed")], TRIALS), {"study_name": "search 1"})
    assert set(collect(files, CONFIG, 1.0)["state"].to_pylist()) == {"complete"}


@given(POINTS)
def test_the_front_is_that_of_optuna_and_has_one_of_equal_points(points):
    kept = front(points)
    assert set(map(tuple, points[kept])) == set(
        map(tuple, points[_is_pareto_front(points, assume_unique_lexsorted=False)])
    )
    assert len(set(map(tuple, points[kept]))) == kept.sum()
    assert all(not (points[:index] == points[index]).all(axis=1).any() for index in np.flatnonzero(kept))


@given(POINTS)
def test_the_hypervolume_is_that_of_optuna(points):
    reference = np.array([1.0, 0.8])
    for number, area in enumerate(hypervolumes(points, tuple(reference)), 1):
        within = points[:number][(points[:number] < reference).all(axis=1)]
        expected = compute_hypervolume(within, reference) if len(within) else 0.0
        assert area == pytest.approx(expected, abs=1e-12)


def test_a_failed_trial_has_no_part_in_the_hypervolume():
    points = np.array([[0.5, 0.5], [np.inf, np.inf], [0.25, 0.75]])
    assert hypervolumes(points, (1.0, 1.0)).tolist() == [0.25, 0.25, 0.3125]


def test_the_setting_that_decides_is_the_most_important():
    draw = np.random.default_rng(0)
    rows = []
    for number in range(200):
        classic = draw.random() < 0.5
        threshold, entropy, window = draw.random(3)
        learned = (0.9 + 0.1 * entropy) if classic else threshold
        loss = 1 - threshold if not classic else 0.5 + 0.5 * entropy
        given = {"context_window": int(2 + 10 * window), "capacity": 64, "time_to_live": 7, "confidence_threshold": 0.5}
        if classic:
            given |= {"predicate": "classic", "agreement_threshold": None, "entropy_threshold": [entropy] * 3}
            given |= {"frequency_threshold": [1, 2, int(1 + 900 * draw.random())]}
        else:
            given |= {"agreement_threshold": [threshold]}
        rows.append(row(number, learned, loss, **given))
    table = importances(table_of([*rows, row(200, state="failed", capacity=9)]))
    assert table.schema.equals(IMPORTANCES)
    for objective in ("learned_share", "loss_difference"):
        found = {each["parameter"]: each["importance"] for each in table.to_pylist() if each["objective"] == objective}
        assert found.keys() == {
            "predicate", "agreement_threshold", "frequency_threshold", "entropy_threshold", "context_window"
        }  # fmt: skip
        assert max(found, key=found.get) == "agreement_threshold" and sum(found.values()) == pytest.approx(1)
        assert found["context_window"] < 0.1 * found["agreement_threshold"]


def test_a_study_in_which_nothing_differs_has_no_importances():
    assert importances(table_of([row(0), row(1)])).num_rows == 0


def test_feasible_trials_are_counted():
    rows = [row(0, violation=-0.1), row(1, violation=0.0), row(2, violation=0.4), row(3, state="failed")]
    found = nearest_to_constraints(table_of(rows))
    assert (found.feasible, found.nearest, found.line) == (1, None, None)
    assert nearest_to_constraints(table_of([row(0), row(1)])).feasible is None


def test_where_none_is_feasible_the_nearest_is_named():
    found = nearest_to_constraints(
        table_of([row(0, violation=0.9), row(7, 0.21, 0.1, violation=0.4), row(8, violation=2)])
    )
    assert (found.feasible, found.nearest) == (0, 7)
    assert found.line.startswith(
        "none of 3 trials meets the constraints; trial 7 comes nearest, with a learned share of 0.210 and a loss "
        "increase of 5.0%, and misses one by 40.0% of it"
    )


def test_the_knee_is_farthest_below_the_line():
    points = np.array([[0.0, 10.0], [1.0, 4.0], [2.0, 3.5], [6.0, 1.0], [10.0, 0.0]])
    assert knee(points) == 1
    assert knee(points[::-1]) == 3
    # A stretched axis changes nothing.
    assert knee(points * [1e-6, 1e6] + [5, -3]) == 1


@pytest.mark.parametrize(
    "points",
    [
        [[0.0, 1.0], [0.25, 0.75], [0.5, 0.5], [1.0, 0.0]],  # on the line
        [[0.0, 1.0], [0.1, 0.9], [0.2, 0.8], [0.3, 0.7], [1.0, 0.0]],
        [[0.0, 1.0], [0.5, 0.9], [1.0, 0.0]],  # above it
        [[0.0, 1.0], [1.0, 0.0]],
        [[0.3, 0.4]],
    ],
)
def test_a_front_without_a_knee_gives_its_first_end(points):
    assert knee(np.array(points)) == 0


def test_no_front_no_knee():
    with pytest.raises(ValueError, match="without points"):
        knee(np.empty((0, 2)))
