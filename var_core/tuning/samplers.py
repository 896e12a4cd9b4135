"""Samplers whose every proposal depends on the seed and on what was tried before, and not on who was killed when."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, NSGAIISampler, RandomSampler, TPESampler
from optuna.study import Study
from optuna.trial import FrozenTrial

from var_core.config.tuning import Sampler

REPEATS, RANK = "repeats", "rank"
"""Attributes of a trial that is tried again: the number of the trial that it repeats, and that one's rank."""
_STARTUP_TRIALS = 10
_POPULATION = 20


def rank_of(trial: FrozenTrial, trials: Sequence[FrozenTrial]) -> int:
    """The number that a trial would have if none had failed and been tried again under another number."""
    if RANK in trial.user_attrs:
        return int(trial.user_attrs[RANK])
    return trial.number - sum(REPEATS in other.user_attrs for other in trials[: trial.number])


class OrderedNSGAIISampler(NSGAIISampler):
    """NSGA-II that draws from its parents in order of number.

    Who comes second reads the parents from the journal in that order, and the first must draw from the same.
    """

    def select_parent(self, study: Study, generation: int) -> list[FrozenTrial]:
        """As NSGA-II does, in order of number."""
        return sorted(super().select_parent(study, generation), key=lambda trial: trial.number)


class LazyTPESampler(TPESampler):
    """Multivariate TPE that draws each group of keys when the first of them is asked for.

    Optuna's draws the keys of all predicates, of thresholds by layer and for all layers, and of the cache, for every
    trial, also those that the trial then has no use for; that is most of the time that it takes.
    """

    def __init__(self, seed: int) -> None:
        super().__init__(seed=seed, multivariate=True, group=True, n_startup_trials=_STARTUP_TRIALS)
        self._groups: list[dict[str, BaseDistribution]] | None = None
        self._drawn: dict[str, Any] = {}

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Draw nothing yet; this is a trial's first question."""
        assert self._search_space_group is not None
        self._groups, self._drawn = self._search_space_group.search_spaces, {}
        return {}

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """Draw the group that the key is of, if that was not yet done; a key of no group on its own."""
        if param_name not in self._drawn:
            group = next((group for group in self._groups or [] if param_name in group), {})
            self._drawn |= super().sample_relative(study, trial, group)
        if param_name in self._drawn:
            return self._drawn[param_name]
        return super().sample_independent(study, trial, param_name, param_distribution)


GENERATION = OrderedNSGAIISampler._get_generation_key()
"""Attribute in which NSGA-II keeps a trial's generation."""


class RankedSampler(BaseSampler):
    """A fresh sampler for each trial, seeded with the trial's rank.

    A sampler draws from one stream of random numbers, whose position is lost with its process. Here each trial has a
    stream of its own, so that a study which was interrupted proposes what it would have proposed.

    Parameters
    ----------
    kind : Sampler
        Tree-structured Parzen estimators, multivariate, in groups of keys that are used together; NSGA-II; or random.
    seed : int
        Seed of the study.
    """

    def __init__(self, kind: Sampler, seed: int) -> None:
        self._kind, self._seed = kind, seed
        self._sampler: BaseSampler | None = None

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        """Make the trial's own sampler."""
        rank = rank_of(trial, study.get_trials(deepcopy=False))
        entropy = [self._seed & 0xFFFF_FFFF_FFFF_FFFF, rank]
        self._sampler = self._make(int(np.random.SeedSequence(entropy).generate_state(1)[0]))
        self._sampler.before_trial(study, trial)

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """As the trial's sampler does."""
        return self._own.infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """As the trial's sampler does."""
        return self._own.sample_relative(study, trial, search_space)

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """As the trial's sampler does."""
        return self._own.sample_independent(study, trial, param_name, param_distribution)

    @property
    def _own(self) -> BaseSampler:
        assert self._sampler is not None, "no trial was begun"
        return self._sampler

    def _make(self, seed: int) -> BaseSampler:
        if self._kind == "tpe":
            return LazyTPESampler(seed)
        if self._kind == "nsga2":
            return OrderedNSGAIISampler(seed=seed, population_size=_POPULATION)
        return RandomSampler(seed=seed)
