"""One study that several workers share: what is tried first, the budget, and what becomes of killed workers' trials."""

import logging

import optuna
import pytest
from optuna.trial import TrialState

from tuning_processes import LAYERS, SMALL, STUDY, evaluate
from var_core.config.policy import PolicyCacheConfig, PolicyConfig
from var_core.config.tuning import SpaceConfig, TuningConfig
from var_core.tuning.journal import Journal, quiet
from var_core.tuning.samplers import RANK, REPEATS
from var_core.tuning.study import SharedStudy, excesses, violation
from var_core.tuning.trials import Values

pytestmark = pytest.mark.filterwarnings("ignore:The value of `grace_period`")
CONFIG = TuningConfig(trials=10, workers=3)


@pytest.fixture(autouse=True)
def silent():
    with quiet():
        yield


@pytest.fixture
def shared(tmp_path):
    """A function that joins the study as a worker."""

    def join(worker=0, config=CONFIG, policy=PolicyConfig(), name=STUDY, kind=SharedStudy):
        return kind(tmp_path / "journal", name, worker, config, config.sampler, policy, LAYERS, 1)

    return join


def finish(study, trial):
    study.tell(trial, evaluate(study.settings(trial)), 0.5)


def run(study, trials=1000):
    """Finish so many trials, or as many as there are."""
    done = 0
    while done < trials and (trial := study.claim()) is not None:
        finish(study, trial)
        done += 1
    return done


def states(study):
    return [trial.state.name for trial in study.trials()]


def attributes(study, name):
    return [trial.user_attrs.get(name) for trial in study.trials()]


def test_the_classic_defaults_come_first_and_the_configured_policy_second(shared):
    configured = PolicyConfig(agreement_threshold=0.9, frequency_threshold=20)
    study = shared(policy=configured)
    first, second, third = (study.settings(study.claim()) for _ in range(3))
    assert first == configured.model_copy(update={"predicate": "classic"}) and second == configured
    assert third not in (first, second)
    assert attributes(study, "began_as") == ["classic", "configured", None]


def test_a_policy_that_is_classic_is_tried_once(shared):
    study = shared(policy=PolicyConfig(predicate="classic"))
    run(study, 3)
    assert attributes(study, "began_as") == ["classic", None, None]


def test_what_the_space_does_not_hold_is_not_tried_and_the_log_says_so(shared, caplog):
    caplog.set_level(logging.INFO)
    study = shared(config=TuningConfig(trials=10, space=SpaceConfig(predicate=("agreement",))))
    run(study, 3)
    assert attributes(study, "began_as") == ["configured", None, None]
    assert "does not hold the policy with predicate classic" in caplog.text
    other = shared(policy=PolicyConfig(cache=PolicyCacheConfig(capacity=5)), name="other")
    run(other, 2)
    assert attributes(other, "began_as") == [None, None]


def test_a_trial_says_all_that_is_known_of_it(shared):
    study = shared(worker=3)
    trial = study.claim()
    study.tell(trial, Values(0.3, 0.25, 0.1, float("nan"), 0.5, 0.125), 0.75)
    (told,) = study.trials()
    assert told.values == [0.3, 0.25] and told.state == TrialState.COMPLETE and told.constraints == {}
    assert told.user_attrs == {
        "worker": 3, "began_as": "classic", "violation": pytest.approx(1), "seconds": 0.75,
        "values": {
            "learned_share": 0.3, "loss_difference": 0.25, "relative_loss": 0.1, "set_agreement": None,
            "recall_at_k": 0.5, "misplaced": 0.125,
        },
    }  # fmt: skip


@pytest.mark.parametrize("objective", ["learned_share", "loss_difference"])
def test_one_objective_is_made_small_under_the_constraints(shared, objective):
    study = shared(config=TuningConfig(trials=10, objectives=(objective,), max_relative_loss=0.2))
    study.tell(study.claim(), Values(0.3, 0.25, 0.1, 1, 1, 0), 0.0)
    (told,) = study.trials()
    assert told.values == [{"learned_share": 0.3, "loss_difference": 0.25}[objective]]
    assert told.constraints == {"learned_share": pytest.approx(1), "relative_loss": pytest.approx(-0.5)}


def test_violation_is_the_greatest_share_by_which_a_constraint_is_missed():
    values = Values(0.12, 0.25, 0.1, 1, 1, 0)
    assert violation(values, CONFIG) == pytest.approx(1)
    assert violation(values, TuningConfig(max_relative_loss=0.2)) == pytest.approx(-0.2)
    assert violation(values, TuningConfig(max_relative_loss=None)) == pytest.approx(-0.2)
    none = TuningConfig(max_relative_loss=None, max_learned_share=None)
    assert violation(values, none) is None and excesses(values, none) == {}


def test_workers_share_the_budget(shared):
    one, two = shared(0), shared(1)
    begun = [study.claim() for _ in range(5) for study in (one, two)]
    assert one.claim() is None and two.claim() is None
    for number, trial in enumerate(begun):
        finish((one, two)[number % 2], trial)
    assert one.claim() is None
    assert states(two) == ["COMPLETE"] * 10 and attributes(two, "worker") == [0, 1] * 5


def test_a_killed_workers_trial_is_tried_again_with_the_same_parameters(shared):
    study = shared(0)
    run(study, 4)
    lost = study.claim()
    settings = study.settings(lost)
    again = shared(0)
    assert states(again) == ["COMPLETE"] * 4 + ["FAIL", "WAITING"]
    assert again.trials()[5].user_attrs == {REPEATS: 4, RANK: 4}
    trial = again.claim()
    assert trial.number == 5 and again.settings(trial) == settings
    finish(again, trial)
    assert run(again) == 5 and states(again).count("COMPLETE") == 10


def test_a_trial_without_all_its_settings_is_proposed_again(shared):
    undisturbed = shared(0, name="undisturbed")
    run(undisturbed, 5)
    study = shared(0)
    run(study, 3)
    study.claim().suggest_categorical("predicate", ["agreement", "classic"])
    again = shared(0)
    assert again.trials()[4].system_attrs["fixed_params"] == {}
    run(again, 2)
    complete = [trial.params for trial in again.trials() if trial.state == TrialState.COMPLETE]
    assert complete == [trial.params for trial in undisturbed.trials()]


def test_a_first_trial_that_is_lost_is_still_the_first(shared):
    shared(0).claim()
    again = shared(0)
    run(again, 2)
    assert states(again) == ["FAIL", "COMPLETE", "COMPLETE"]
    assert attributes(again, "began_as") == ["classic", "classic", "configured"]


def test_what_a_worker_left_that_is_no_more_is_tried_again(shared):
    shared(2).claim()
    shared(0, config=TuningConfig(trials=10, workers=3))
    assert states(shared(0)) == ["RUNNING"]
    fewer = shared(0, config=TuningConfig(trials=10, workers=2))
    assert states(fewer) == ["FAIL", "WAITING"]


def test_any_worker_takes_what_waits_and_leaves_alone_what_others_do(shared):
    other, killed = shared(1), shared(0)
    lost, kept = killed.claim(), other.claim()
    killed.settings(lost)
    shared(0)  # is killed too, when it has queued the trial
    assert states(other) == ["FAIL", "RUNNING", "WAITING"]
    finish(other, kept)
    finish(other, other.claim())
    assert states(other) == ["FAIL", "COMPLETE", "COMPLETE"] and attributes(other, "worker") == [0, 1, 1]
    assert run(shared(0)) == 8


def test_giving_a_trial_up_can_be_interrupted_and_is_done_once(shared, monkeypatch):
    study = shared(0)
    study.settings(study.claim())

    def killed(*arguments, **options):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(optuna.Study, "tell", killed)
        shared(0)
    assert states(study) == ["RUNNING", "WAITING"]
    shared(0)
    assert states(study) == ["FAIL", "WAITING"]
    assert run(study) == 10


def test_a_trial_that_was_begun_and_not_marked_is_tried_again_by_anyone(shared, tmp_path):
    shared(0)
    optuna.load_study(study_name=STUDY, storage=Journal(tmp_path / "journal", 1)).ask()
    other = shared(1)
    assert run(other) == 10
    assert states(other) == ["FAIL"] + ["COMPLETE"] * 10 and attributes(other, "worker") == [1] * 11


def test_a_worker_that_was_held_up_does_not_overdraw_the_budget(shared):
    """Longer than the grace period, so that another took its lock over and began the last trial."""
    other = shared(1)

    class HeldUp(SharedStudy):
        held_up = False

        def trials(self):
            found = super().trials()
            if self.held_up:
                self.held_up = False
                finish(other, other.claim())
            return found

    study = shared(0, kind=HeldUp)
    run(study, 9)
    study._try_again_those_of = lambda worker: setattr(study, "held_up", worker is None)
    assert study.claim() is None
    assert states(study) == ["COMPLETE"] * 10 + ["FAIL"]


def test_a_worker_whose_new_trial_another_gave_up_begins_one_more(shared):
    other = shared(1)

    class HeldUp(SharedStudy):
        held_up = True

        def trials(self):
            found = super().trials()
            if self.held_up and found and found[-1].state == TrialState.RUNNING:
                self.held_up = False
                finish(other, other.claim())
            return found

    study = shared(0, kind=HeldUp)
    assert run(study) == 9
    assert states(study) == ["FAIL"] + ["COMPLETE"] * 10


def test_other_studies_in_the_journal_are_left_alone(shared):
    one, two = shared(0, name="search-a"), shared(0, name="search-b", config=TuningConfig(trials=12, space=SMALL))
    one.settings(one.claim())
    assert run(two) == 12
    shared(0, name="search-b")
    assert states(one) == ["RUNNING"] and states(two) == ["COMPLETE"] * 12
