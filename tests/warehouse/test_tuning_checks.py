"""Tables on the search for a policy's settings that cannot be true are refused, naming run and table."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from changed_tables import ChangedTables, no_rows, setting, without
from simulated_tuning import MEASURES, SimulatedTuning
from var_core.errors import VarError
from var_core.warehouse.checks import check_run
from var_core.warehouse.run import open_run
from var_core.warehouse.tuning_checks import TUNING_CHECKS

NONE = float("nan")


@pytest.fixture(scope="module")
def sound(simulated_run, tmp_path_factory):
    run = simulated_run(layers=2, vocabulary=20, sequences={"capture": 12, "heldout": 6})
    return run.write(tmp_path_factory.mktemp("results"))


@pytest.fixture
def check(sound):
    """Check a run with changed tables; the files are put back afterwards."""
    with ChangedTables(sound, sound.tuning) as check:
        yield check


@pytest.fixture(scope="module")
def beaten(sound):
    """Number of a trial of the search that another one beats in both objectives."""
    rows = complete(sound)
    return next(
        row["number"]
        for row in rows
        if any(all(other[name] < row[name] for name in MEASURES[:2]) for other in rows) and row["violation"] > 1
    )


@pytest.fixture(scope="module")
def chosen(sound):
    """A row of the chosen point."""
    return next(row for row in pq.read_table(sound.tuning["tuning_front"]).to_pylist() if row["chosen"])


def complete(sound):
    rows = pq.read_table(sound.tuning["tuning_trials"]).to_pylist()
    return [row for row in rows if row["study"] == "search" and row["state"] == "complete"]


def refused(check, message, **changes):
    with pytest.raises(VarError, match=f"run sim-a/text, {message}") as error:
        check(**changes)
    assert "\n" not in str(error.value) and "run its stages again" in str(error.value)


def test_a_sound_run_passes(check):
    check()


@pytest.mark.parametrize(
    "study",
    [
        SimulatedTuning(layers=2, objectives=("learned_share",)),
        SimulatedTuning(layers=2, objectives=("loss_difference",), importances=False),
        SimulatedTuning(trials=1000, layers=2, classic=False, caches=False, intervals=False),
        SimulatedTuning(trials=10, layers=2, front_points=3, seed=3),
    ],
)
def test_other_sound_studies_pass(check, study):
    tables = study.tables()
    check(**{table: lambda _, own=own: own for table, own in tables.items()})


def test_a_run_that_was_not_tuned_passes(check):
    check(tuning_trials=no_rows, tuning_importances=no_rows, tuning_front=no_rows)


def test_a_dominated_point_of_the_front_is_found(check, beaten):
    refused(
        check,
        rf"table tuning_trials: trial {beaten} of study search is on the front, but trial \d+ is better in one",
        tuning_trials=setting("on_front", lambda _: True, study="search", number=beaten),
    )


@pytest.mark.parametrize("measure", MEASURES[:2])
def test_a_point_that_is_as_good_in_one_and_worse_in_the_other_is_found(check, sound, measure):
    """A copy of a trial of the front, a little worse in one, stands in for the last trial."""
    best = next(row for row in complete(sound) if row["on_front"])

    def copied(table):
        rows = table.to_pylist()
        copy = next(row for row in rows if row["study"] == "search" and row["number"] == 59)
        copy |= {name: best[name] for name in MEASURES[:2]} | {"on_front": True, "state": "complete"}
        copy[measure] = best[measure] + 1e-9
        return pa.Table.from_pylist(rows, table.schema)

    refused(check, "table tuning_trials: trial 59 of study search is on the front, but trial", tuning_trials=copied)


def test_a_front_that_leaves_a_point_out_is_found(check, sound):
    best = next(row["number"] for row in complete(sound) if row["on_front"])
    left_out = setting("on_front", lambda _: False, study="search", number=best)
    refused(check, f"table tuning_trials: trial {best} of study search is not on the front, but no trial",
            tuning_trials=left_out)  # fmt: skip


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (setting("state", lambda _: "failed", study="random", on_front=True), "is on the front, but is failed"),
        (
            setting("loss_difference", lambda _: None, study="random", number=5),
            "trial 5 of study random is complete, but has no learned share or no loss",
        ),
        (
            setting("hypervolume", lambda area: area * 0.1, study="search", number=40),
            r"the hypervolume of study search falls from 0\.\d+ to 0\.\d+ with trial 40",
        ),
        (
            setting("entropy_threshold", lambda _: [0.5, 0.6, 0.7], study="search", number=0),
            "trial 0 of study search has 3 thresholds; of 2 layers, there are 2 or one",
        ),
        (
            setting("context_window", lambda _: 4, study="random", capacity=0),
            r"trial \d+ of study random has a cache of 0 contexts, and a context window of 4",
        ),
    ],
)
def test_trials_that_cannot_be_are_named(check, change, message):
    refused(check, f"table tuning_trials: .*{message}", tuning_trials=change)


def test_the_same_trial_twice_is_named(check):
    refused(
        check,
        "table tuning_trials: more than one row for run sim-a/text, study search, number 0",
        tuning_trials=lambda table: pa.concat_tables([table, table.slice(0, 1)]),
    )


def test_importances_that_are_no_shares_are_named(check):
    more = setting("importance", lambda share: share + 0.2, study="search", objective="loss_difference")
    refused(check, "table tuning_importances: the importances of study search for loss_difference sum to 3",
            tuning_importances=more)  # fmt: skip


def test_one_point_is_chosen(check, chosen):
    message = "table tuning_front: has {} chosen points, and not one"
    other = "front-0" if chosen["point"] != "front-0" else "front-1"
    refused(check, message.format(2), tuning_front=setting("chosen", lambda _: True, point=other))
    refused(check, message.format(0), tuning_front=no_rows)
    refused(check, message.format(0), tuning_front=without(point=chosen["point"]))


def test_a_point_is_chosen_altogether(check, chosen):
    part = setting("chosen", lambda _: False, point=chosen["point"], measure="relative_loss")
    refused(check, f"table tuning_front: point {chosen['point']} is another trial, or otherwise", tuning_front=part)


@pytest.mark.parametrize("measure", MEASURES)
def test_a_measure_that_is_not_there_is_named(check, measure):
    refused(
        check,
        f"table tuning_front: point classic has no {measure}",
        tuning_front=without(point="classic", measure=measure),
    )


def test_an_interval_the_wrong_way_round_is_named(check):
    turned = setting("low", lambda _: 9.0, point="configured", measure="loss_difference")
    refused(check, "table tuning_front: point configured, measure loss_difference, has an interval from 9.0 to",
            tuning_front=turned)  # fmt: skip


def test_an_estimate_is_what_its_trial_came_to(check, chosen):
    def of(change):
        return setting("estimated", change, point=chosen["point"], measure="loss_difference")

    message = rf"table tuning_front: point {chosen['point']} is estimated to have loss_difference .*, but trial"
    refused(check, message, tuning_front=of(lambda value: value + 1e-6))
    refused(check, message, tuning_front=of(lambda _: NONE))
    refused(check, message, tuning_front=of(lambda _: None))


def test_an_agreement_of_no_decisions_is_none(check, chosen):
    trial = setting("set_agreement", lambda _: NONE, study="search", number=chosen["trial"])
    check(
        tuning_front=setting("estimated", lambda _: None, point=chosen["point"], measure="set_agreement"),
        tuning_trials=trial,
    )
    refused(check, f"table tuning_front: point {chosen['point']} is estimated to have set_agreement",
            tuning_trials=trial)  # fmt: skip


def test_a_point_that_replaces_nothing_has_no_agreement(check):
    def nothing(table):
        rows = [row for row in table.to_pylist() if (row["point"], row["measure"]) != ("classic", "set_agreement")]
        for row in rows:
            if (row["point"], row["measure"]) == ("classic", "learned_share"):
                row |= {"measured": 1.0, "low": 1.0, "high": 1.0}
        return pa.Table.from_pylist(rows, table.schema)

    check(tuning_front=nothing)


def test_a_point_that_no_trial_was_of_is_no_fault(check):
    check(tuning_front=setting("trial", lambda _: None, point="configured"))


def test_a_failed_trial_cannot_be_measured(check):
    wrong = setting("trial", lambda _: 7, point="configured")
    refused(check, "table tuning_front: point configured is estimated to have .*, but trial 7 came to None",
            tuning_front=wrong)  # fmt: skip


def test_every_check_is_of_a_table_on_tuning():
    assert {check.table for check in TUNING_CHECKS} == {"tuning_trials", "tuning_importances", "tuning_front"}


def test_a_run_is_held_against_its_own_trials(sound):
    with open_run(sound) as connection:
        connection.execute("UPDATE tuning_trials SET run = 'another/run' WHERE number = 0")
        with pytest.raises(VarError, match=r"point classic is estimated to have .*, but trial 0 came to None"):
            check_run(connection, sound.run, sound.traced_splits)
