"""Samplers: the same seed proposes the same, whoever asks; and what they are worth."""

import numpy as np
import optuna
import pytest
from optuna.distributions import FloatDistribution
from optuna.samplers import TPESampler
from optuna.trial import TrialState, create_trial

from tuning_processes import LAYERS, SMALL, evaluate
from var_core.config.policy import PolicyConfig
from var_core.config.tuning import SpaceConfig
from var_core.tuning.journal import quiet
from var_core.tuning.results import hypervolumes
from var_core.tuning.samplers import RANK, REPEATS, LazyTPESampler, OrderedNSGAIISampler, RankedSampler, rank_of
from var_core.tuning.space import suggest

KINDS = ("tpe", "nsga2", "random")


@pytest.fixture(autouse=True)
def silent():
    with quiet():
        yield


def tried(sampler, trials, study=None, space=SpaceConfig(), objectives=2):
    """A study in memory, after so many trials more."""
    study = study or optuna.create_study(directions=["minimize"] * objectives, sampler=sampler)
    study.sampler = sampler
    for _ in range(trials):
        trial = study.ask()
        values = evaluate(suggest(trial, space, PolicyConfig(), LAYERS))
        study.tell(trial, [values.learned_share, values.loss_difference][:objectives])
    return study


def parameters(study):
    return [trial.params for trial in study.trials]


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_seed_proposes_the_same_and_another_does_not(kind):
    first, second, other = (tried(RankedSampler(kind, seed), 40) for seed in (1, 1, 2))
    assert parameters(first) == parameters(second)
    assert all(one != two for one, two in zip(parameters(first), parameters(other), strict=True))


@pytest.mark.parametrize("kind", KINDS)
def test_no_two_trials_draw_the_same(kind):
    drawn = parameters(tried(RankedSampler(kind, -5), 40))
    assert len({str(each) for each in drawn}) == 40


@pytest.mark.parametrize("kind", KINDS)
def test_a_sampler_that_comes_anew_for_every_trial_proposes_the_same(kind):
    study = None
    for _ in range(40):
        study = tried(RankedSampler(kind, 4), 1, study)
    assert parameters(study) == parameters(tried(RankedSampler(kind, 4), 40))


def test_the_rank_is_the_number_without_what_was_tried_again():
    study = optuna.create_study()
    state = {"state": TrialState.WAITING}
    study.add_trials([create_trial(**state) for _ in range(3)])
    study.add_trial(create_trial(**state, user_attrs={REPEATS: 1, RANK: 1}))
    study.add_trial(create_trial(**state))
    study.add_trial(create_trial(**state, user_attrs={REPEATS: 3, RANK: 1}))
    study.add_trial(create_trial(**state))
    assert [rank_of(trial, study.trials) for trial in study.trials] == [0, 1, 2, 1, 3, 1, 4]


def test_nsga2_has_generations_and_draws_from_parents_in_order_of_number():
    study = tried(RankedSampler("nsga2", 0), 40)
    generations = [trial.system_attrs[OrderedNSGAIISampler._get_generation_key()] for trial in study.trials]
    assert generations == sorted(generations) and [generations.count(each) for each in range(2)] == [20] * 2
    parents = OrderedNSGAIISampler(population_size=20, seed=1).select_parent(study, 1)
    assert len(parents) == 20 and parents == sorted(parents, key=lambda trial: trial.number)


def test_a_group_of_keys_is_drawn_as_optuna_draws_it_and_no_other():
    """Of one group of keys, the lazy sampler's draw is Optuna's own; of several, only those in use are drawn."""
    one, two = (
        tried(sampler, 30, space=SMALL)
        for sampler in (LazyTPESampler(7), TPESampler(seed=7, multivariate=True, group=True))
    )
    assert parameters(one) == parameters(two)

    drawn = []

    class Watched(LazyTPESampler):
        def _sample(self, study, trial, search_space):
            drawn.append(set(search_space))
            return super()._sample(study, trial, search_space)

    study = tried(RankedSampler("random", 0), 40)
    trial = tried(Watched(1), 1, study).trials[-1]
    assert drawn and set.union(*drawn) <= trial.params.keys()


def test_constraints_lead_the_search_to_where_they_are_met():
    """One objective, learned share, under a limit on the loss: without the constraint, TPE would go to zero."""

    def search(limit):
        study = optuna.create_study(sampler=RankedSampler("tpe", 0))
        for _ in range(60):
            trial = study.ask()
            values = evaluate(suggest(trial, SMALL, PolicyConfig(), LAYERS))
            trial.set_constraint("loss", values.loss_difference / limit - 1)
            study.tell(trial, values.learned_share)
        return [sum(v for v in trial.constraints.values()) <= 0 for trial in study.trials[30:]]

    assert sum(search(0.02)) > 10 > sum(search(1e-6)) == 0


def test_tpe_beats_random_search_with_the_same_budget():
    """On a known front: (s, 0.2 (1 - s)²) for s of 0 to 1, the same in all layers, without a cache."""

    def missed(kind, seed):
        values = np.array([trial.values for trial in tried(RankedSampler(kind, seed), 100).trials])
        return 0.2 - 0.2 / 3 - hypervolumes(values, (1.0, 0.2))[-1]

    tpe, control = ([missed(kind, seed) for seed in range(5)] for kind in ("tpe", "random"))
    assert min(tpe) > 0  # nothing is beyond the front
    # By far, and whatever the seed.
    assert max(tpe) < 0.8 * min(control)


def test_a_range_is_kept_to():
    study = tried(
        RankedSampler("tpe", 0), 30, space=SpaceConfig(predicate=("agreement",), agreement_threshold=(0.25, 0.5))
    )
    numbers = [
        (name, value) for trial in study.trials for name, value in trial.params.items() if name.startswith("agreement_")
    ]
    assert numbers and all(0.25 <= value <= 0.5 for _, value in numbers)
    assert study.trials[0].distributions[numbers[0][0]] == FloatDistribution(0.25, 0.5)
