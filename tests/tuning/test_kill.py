"""Workers that are killed at any moment, again and again: no trial is lost, and none is counted twice."""

import random
from functools import partial

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from tuning_processes import LAYERS, STUDY, evaluate, parent_of_workers, work
from var_core.config.policy import PolicyConfig
from var_core.config.tuning import TuningConfig
from var_core.parquet import read_table
from var_core.tuning.journal import quiet
from var_core.tuning.samplers import REPEATS
from var_core.tuning.study import SharedStudy

SAMPLERS = {
    "tpe": TuningConfig(sampler="tpe", trials=30, seed=3),
    "nsga2": TuningConfig(sampler="nsga2", trials=40, seed=3),
    "one objective": TuningConfig(sampler="tpe", objectives=("learned_share",), trials=30, seed=3),
}
pytestmark = pytest.mark.filterwarnings("ignore:The value of `grace_period`")


@pytest.fixture(scope="module")
def workers():
    with parent_of_workers() as parent:
        yield parent


def loaded(folder):
    """The study as optuna-dashboard loads it."""
    return optuna.load_study(study_name=STUDY, storage=JournalStorage(JournalFileBackend(str(folder / "journal"))))


def complete(study):
    return [trial for trial in study.trials if trial.state == TrialState.COMPLETE]


def check_none_lost_and_none_twice(study, trials):
    states = [trial.state for trial in study.trials]
    assert states.count(TrialState.COMPLETE) == trials
    assert set(states) <= {TrialState.COMPLETE, TrialState.FAIL}
    repeated = [trial.user_attrs[REPEATS] for trial in study.trials if REPEATS in trial.user_attrs]
    assert sorted(repeated) == [trial.number for trial in study.trials if trial.state == TrialState.FAIL]


def kill_until_done(workers, folder, config, kills, seed, pause):
    """How often the worker was killed; the last one is left to finish, if none did before."""
    draw = random.Random(seed)
    for killed in range(kills):
        # A process that was killed with a lock in its hand holds the next one up for the grace period of a second.
        held = 1.2 * len(list(folder.glob("journal*.lock")))
        if workers.kill(workers.start(folder, config, pause=pause), held + draw.uniform(0.02, 0.35)) == 0:
            return killed
    assert workers.wait(workers.start(folder, config)) == 0
    return kills


def compare_with_undisturbed(workers, tmp_path, config, kills, seed, pause):
    killed = kill_until_done(workers, tmp_path / "killed", config, kills, seed, pause)
    work(tmp_path / "undisturbed", config)
    study, undisturbed = loaded(tmp_path / "killed"), loaded(tmp_path / "undisturbed")
    check_none_lost_and_none_twice(study, config.trials)
    assert [trial.params for trial in complete(study)] == [trial.params for trial in undisturbed.trials]
    assert [trial.values for trial in complete(study)] == [trial.values for trial in undisturbed.trials]
    assert read_table(tmp_path / "killed" / "worker-0.parquet").num_rows >= config.trials
    return killed, len(study.trials) - config.trials


@pytest.mark.parametrize("config", SAMPLERS.values(), ids=SAMPLERS)
def test_a_worker_that_is_killed_again_and_again_does_what_an_undisturbed_one_does(workers, tmp_path, config):
    # So long that no worker gets through the whole study between two kills, on however fast a machine.
    killed, failed = compare_with_undisturbed(workers, tmp_path, config, kills=6, seed=1, pause=0.15)
    assert killed >= 3 and failed >= 2


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("sampler", ["tpe", "nsga2", "random"])
def test_thirty_kills(workers, tmp_path, sampler, seed):
    config = TuningConfig(sampler=sampler, trials=150, seed=seed)
    killed, failed = compare_with_undisturbed(workers, tmp_path, config, kills=30, seed=seed, pause=0.04)
    assert killed == 30 and failed >= 10


@pytest.mark.parametrize("step", [pytest.param(1, marks=pytest.mark.slow), 23])
@pytest.mark.parametrize("sampler", ["tpe", "nsga2"])
def test_a_journal_that_ends_anywhere_is_gone_on_with(tmp_path, sampler, step):
    """Cut off where a kill could have left it: behind every record, and in the middle of the next one."""
    config = TuningConfig(sampler=sampler, trials=20, seed=2)
    begin = partial(SharedStudy, name=STUDY, worker=0, config=config, sampler=sampler, configured=PolicyConfig(),
                    layers=LAYERS, grace_seconds=1)  # fmt: skip
    with quiet():
        undisturbed = go_on(begin(tmp_path / "undisturbed"))
        records = (tmp_path / "undisturbed").read_bytes().splitlines(keepends=True)
        for end in range(0, len(records), step):
            path = tmp_path / f"journal-{end}"
            path.write_bytes(b"".join(records[:end]) + records[end][: len(records[end]) // 2 * (end % 2)])
            study = begin(path)
            complete = [trial for trial in go_on(study) if trial.state == TrialState.COMPLETE]
            assert [trial.params for trial in complete] == [trial.params for trial in undisturbed], end
            assert [trial.values for trial in complete] == [trial.values for trial in undisturbed], end
            assert len(study.trials()) <= config.trials + 1


def go_on(study):
    """Finish a study; its trials."""
    while (trial := study.claim()) is not None:
        study.tell(trial, evaluate(study.settings(trial)), 0.0)
    return study.trials()


@pytest.mark.parametrize("kills", [1, pytest.param(15, marks=pytest.mark.slow)])
def test_of_two_workers_one_is_killed(workers, tmp_path, kills):
    config = TuningConfig(trials=40 * min(kills, 3), seed=5, workers=2)
    draw = random.Random(kills)
    other = workers.start(tmp_path, config, worker=1, pause=0.02)
    for _ in range(kills):
        workers.kill(workers.start(tmp_path, config, worker=0, pause=0.02), draw.uniform(0.1, 0.4))
    assert workers.wait(workers.start(tmp_path, config, worker=0, pause=0.02)) == 0
    assert workers.wait(other) == 0
    study = loaded(tmp_path)
    check_none_lost_and_none_twice(study, config.trials)
    rows = [row for worker in (0, 1) for row in read_table(tmp_path / f"worker-{worker}.parquet").to_pylist()]
    # Each wrote all that was finished at its end, and both together all of the study.
    own = {(row["number"], row["worker"]) for row in rows if row["state"] == "complete"}
    assert sorted(own) == [(trial.number, trial.user_attrs["worker"]) for trial in complete(study)]
    assert {worker for _, worker in own} == {0, 1}
