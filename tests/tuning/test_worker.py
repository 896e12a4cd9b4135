"""A worker of a study, from its first trial to its file."""

import logging

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from tuning_processes import LAYERS, STUDY, evaluate, strictness, work
from var_core.capture.lock import ShardLock
from var_core.config.policy import PolicyConfig
from var_core.config.tuning import TuningConfig
from var_core.errors import VarError
from var_core.parquet import read_provenance
from var_core.tuning import worker as module
from var_core.tuning.results import collect
from var_core.tuning.trials import CONTROL, TRIALS

pytestmark = pytest.mark.filterwarnings("ignore:The value of `grace_period`")
CONFIG = TuningConfig(trials=40, seed=1)


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """A study by one worker: its folder, and the worker's rows."""
    folder = tmp_path_factory.mktemp("study")
    return folder, work(folder, CONFIG).to_pylist()


def test_a_worker_writes_its_trials(done):
    folder, rows = done
    assert read_provenance(folder / "worker-0.parquet") == {"test": 1}
    assert [row["number"] for row in rows] == list(range(40))
    assert {(row["study"], row["worker"], row["state"]) for row in rows} == {("search", 0, "complete")}
    assert [row["began_as"] for row in rows] == ["classic", "configured"] + [None] * 38
    assert all(row["seconds"] >= 0 and not row["on_front"] and row["hypervolume"] is None for row in rows)


def test_a_row_has_what_its_trial_uses_and_nothing_else(done):
    _, rows = done
    for row in rows:
        classic, cached = row["predicate"] == "classic", row["capacity"] > 0
        assert (row["agreement_threshold"] is None) == classic
        assert (row["frequency_threshold"] is None) == (row["entropy_threshold"] is None) == (not classic)
        numbers = row["entropy_threshold"] if classic else row["agreement_threshold"]
        assert len(numbers) == (LAYERS if row["thresholds"] == "by_layer" else 1)
        assert all(
            (row[name] is not None) == cached for name in ("context_window", "time_to_live", "confidence_threshold")
        )
    kinds = {(row["predicate"], row["thresholds"], row["capacity"] > 0) for row in rows}
    assert len(kinds) >= 6  # so that all of this was there to see


def test_a_row_has_the_values_of_its_settings(done):
    _, rows = done
    row = next(row for row in rows if row["predicate"] == "agreement" and row["capacity"] == 0)
    policy = PolicyConfig(
        by_layer={"agreement_threshold": (row["agreement_threshold"] * LAYERS)[:LAYERS]}, cache={"capacity": 0}
    )
    values = evaluate(policy)
    names = ("learned_share", "loss_difference", "relative_loss", "set_agreement", "recall_at_k", "misplaced")
    assert [row[name] for name in names] == pytest.approx([getattr(values, name) for name in names])
    assert row["violation"] == pytest.approx(max(values.learned_share / 0.15, values.relative_loss / 0.05) - 1)
    assert row["learned_share"] == pytest.approx(sum(strictness(policy)) / LAYERS)


def test_the_study_is_collected_and_opens_as_the_dashboard_opens_it(done):
    folder, rows = done
    table = collect([folder / "worker-0.parquet"], CONFIG, 1.0)
    assert table.schema.equals(TRIALS) and any(table["on_front"].to_pylist())
    study = optuna.load_study(study_name=STUDY, storage=JournalStorage(JournalFileBackend(str(folder / "journal"))))
    assert [trial.values for trial in study.trials] == [[row["learned_share"], row["loss_difference"]] for row in rows]
    front = {trial.number for trial in study.best_trials}
    assert {row["number"] for row in table.to_pylist() if row["on_front"]} <= front


def test_a_worker_that_is_done_writes_the_same_again_and_tries_nothing(done):
    folder, rows = done
    again = work(folder, CONFIG, evaluate=lambda policy: pytest.fail("tried a policy"))
    assert again.to_pylist() == rows
    # So does another that comes too late to try any.
    assert work(folder, CONFIG, worker=1).to_pylist() == rows
    assert sorted(path.name for path in folder.iterdir()) == ["journal", "worker-0.parquet", "worker-1.parquet"]


def test_the_control_samples_at_random(tmp_path):
    config = TuningConfig(trials=15)
    control = work(tmp_path / "control", config, study=CONTROL).to_pylist()
    drawn = work(tmp_path / "random", TuningConfig(trials=15, sampler="random")).to_pylist()
    assert {row["study"] for row in control} == {"random"}
    assert [row["learned_share"] for row in control] == [row["learned_share"] for row in drawn]


def test_a_worker_goes_on_where_a_fault_stopped_it(tmp_path):
    tried = []

    def faulty(policy):
        tried.append(policy)
        if len(tried) == 7:
            raise ZeroDivisionError
        return evaluate(policy)

    with pytest.raises(ZeroDivisionError):
        work(tmp_path, CONFIG, evaluate=faulty)
    assert not (tmp_path / "worker-0.parquet").exists()
    rows = work(tmp_path, CONFIG, evaluate=faulty).to_pylist()
    assert [row["state"] for row in rows] == ["complete"] * 6 + ["failed"] + ["complete"] * 34
    failed, repeated = rows[6], rows[7]
    assert tried[6] == tried[7] and failed["learned_share"] is None and failed["violation"] is None
    assert (
        failed["agreement_threshold"] == repeated["agreement_threshold"]
        and failed["predicate"] == repeated["predicate"]
    )


def test_progress_is_told_and_optuna_is_quiet(tmp_path, caplog, capfd):
    caplog.set_level(logging.INFO)
    work(tmp_path, TuningConfig(trials=12))
    assert "tuning search, worker 0: 12 of 12 trials (100 %)" in caplog.text
    out, err = capfd.readouterr()
    assert "optuna" not in caplog.text + out and "Trial" not in err and "experimental" not in err.lower()


def test_a_second_process_of_the_same_number_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_WAIT_SECONDS", 0.0)
    with ShardLock(tmp_path / f"journal-{STUDY}-0", 60, 0), pytest.raises(VarError) as error:
        work(tmp_path, CONFIG)
    assert str(error.value) == (
        f"{tmp_path / 'journal'}: another process goes on as worker 0 of study {STUDY}; let it finish, or end it and "
        "run again"
    )


def test_a_worker_that_was_taken_over_tells_nothing(tmp_path):
    lock = tmp_path / f"journal-{STUDY}-0-2"

    def overtaken(policy):
        lock.write_text("{}")
        return evaluate(policy)

    with pytest.raises(VarError, match="another process has taken over from this one as worker 0 of study"):
        work(tmp_path, CONFIG, evaluate=overtaken)
    lock.unlink()
    storage = JournalStorage(JournalFileBackend(str(tmp_path / "journal")))
    assert [trial.state.name for trial in optuna.load_study(study_name=STUDY, storage=storage).trials] == ["RUNNING"]


def test_a_journal_that_is_none_is_one_line(tmp_path):
    (tmp_path / "journal").write_text("number,value\n1,2\n")
    with pytest.raises(VarError, match="not readable as a journal of trials") as error:
        work(tmp_path, CONFIG)
    assert "\n" not in str(error.value)
