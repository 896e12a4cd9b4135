"""One study that several workers share: who tries what, how often, and what becomes of a killed worker's trials.

A trial that was begun and whose worker was killed is told to have failed, and its parameters are queued again under
another number, which says what it repeats. So the trials that repeat nothing are what the budget counts, and each of
them comes to one complete trial. There is no pruning: a trial is a replay of milliseconds that has no earlier
stages to judge it by, and Optuna prunes no studies of two objectives.
"""

import logging
from dataclasses import asdict
from pathlib import Path
from typing import Any

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import FixedTrial, FrozenTrial, TrialState, create_trial

from var_core.config.policy import PolicyConfig
from var_core.config.tuning import Sampler, TuningConfig
from var_core.tuning.journal import Journal, claiming
from var_core.tuning.lock import GRACE_SECONDS
from var_core.tuning.samplers import GENERATION, RANK, REPEATS, RankedSampler, rank_of
from var_core.tuning.space import classic_defaults, parameters_of, suggest
from var_core.tuning.trials import CLASSIC, CONFIGURED, Values

_LOGGER = logging.getLogger(__name__)

WORKER, BEGAN_AS, VALUES, VIOLATION, SECONDS = "worker", "began_as", "values", "violation", "seconds"
"""Attributes of trials."""
_FIXED = "fixed_params"
"""Where Optuna keeps the parameters of a trial that waits in the queue."""


class SharedStudy:
    """A worker's view of a study.

    Parameters
    ----------
    path : Path
        The journal; other studies in it are left alone.
    name : str
        Name of the study in it.
    worker : int
        Number of this worker; no other process may run under it.
    config : TuningConfig
        Space, objectives, constraints, seed, and the number of trials that all workers share.
    sampler : Sampler
        What proposes settings.
    configured : PolicyConfig
        The policy whose settings are searched.
    layers : int
        Layers with a router.
    grace_seconds : int
        After how long a killed process's lock on the journal is taken over.
    """

    def __init__(
        self, path: Path, name: str, worker: int, config: TuningConfig, sampler: Sampler, configured: PolicyConfig,
        layers: int, grace_seconds: int = GRACE_SECONDS,
    ) -> None:  # fmt: skip
        self._path, self._worker, self._grace = path, worker, grace_seconds
        self._config, self._configured, self._layers = config, configured, layers
        self._journal = Journal(path, grace_seconds)
        self._first = self._first_trials()
        with claiming(path, grace_seconds):
            self._study = optuna.create_study(
                study_name=name, storage=self._journal, directions=["minimize"] * len(config.objectives),
                sampler=RankedSampler(sampler, config.seed), load_if_exists=True,
            )  # fmt: skip
            self._try_again_those_of(worker)
            # Those that the configuration does not have any more are not started again.
            for other in {trial.user_attrs.get(WORKER) for trial in self.trials()}:
                if other is not None and other >= config.workers and other != worker:
                    self._try_again_those_of(other)

    def trials(self) -> list[FrozenTrial]:
        """All trials so far, in order of number; not to be changed."""
        return self._study.get_trials(deepcopy=False)

    def claim(self) -> optuna.Trial | None:
        """Begin a trial: one that waits, or a new one; None when all that the study may have are begun."""
        while True:
            try:
                return self._claim()
            except UpdateFinishedTrialError:
                _LOGGER.warning("%s: was held up for so long that another worker gave the trial up", self._path)

    def settings(self, trial: optuna.Trial) -> PolicyConfig:
        """The settings of a trial, as the sampler proposes them."""
        with self._journal.together():
            return suggest(trial, self._config.space, self._configured, self._layers)

    def tell(self, trial: optuna.Trial, values: Values, seconds: float) -> None:
        """Finish a trial."""
        noted = {name: value if value == value else None for name, value in asdict(values).items()}
        with self._journal.together():
            for name, value in {VALUES: noted, VIOLATION: violation(values, self._config), SECONDS: seconds}.items():
                trial.set_user_attr(name, value)
            if len(self._config.objectives) == 1:
                for name, excess in excesses(values, self._config).items():
                    trial.set_constraint(name, excess)
            self._study.tell(trial, [getattr(values, name) for name in self._config.objectives], TrialState.COMPLETE)

    def settings_of(self, trial: FrozenTrial) -> PolicyConfig | None:
        """The settings of a trial that was begun; None if its worker was killed before it had them all."""
        known = trial.system_attrs.get(_FIXED, {}) | trial.params
        try:
            return suggest(FixedTrial(known), self._config.space, self._configured, self._layers)
        except ValueError:
            return None

    def _claim(self) -> optuna.Trial | None:
        with claiming(self._path, self._grace):
            # Trials are begun and marked within this lock: whoever began one without a mark was killed in between.
            self._try_again_those_of(None)
            trials = self.trials()
            if not any(trial.state == TrialState.WAITING for trial in trials):
                begun = sum(REPEATS not in trial.user_attrs for trial in trials)
                if begun >= self._config.trials:
                    return None
                # One at a time, or a first trial that is tried again would come behind the second.
                if begun < len(self._first):
                    name, parameters = self._first[begun]
                    self._queue(parameters, {BEGAN_AS: name}, {})
            trial = self._study.ask()
            if rank_of(self.trials()[trial.number], self.trials()) >= self._config.trials:
                # Only if this process was held up until another took its lock over.
                self._study.tell(trial, state=TrialState.FAIL)
                return None
            trial.set_user_attr(WORKER, self._worker)
            return trial

    def _first_trials(self) -> list[tuple[str, dict[str, Any]]]:
        """What every study begins with, as far as the space holds it."""
        first: list[tuple[str, dict[str, Any]]] = []
        for name, policy in ((CLASSIC, classic_defaults(self._configured)), (CONFIGURED, self._configured)):
            parameters = parameters_of(policy, self._config.space, self._configured, self._layers)
            if parameters is not None and parameters not in [earlier for _, earlier in first]:
                first.append((name, parameters))
        return first

    def _try_again_those_of(self, worker: int | None) -> None:
        for trial in self.trials():
            if trial.state == TrialState.RUNNING and trial.user_attrs.get(WORKER) == worker:
                self._try_again(trial)

    def _try_again(self, trial: FrozenTrial) -> None:
        """Queue the parameters of a killed worker's trial, then give it up; also if this was begun before."""
        trials = self.trials()
        if not any(other.user_attrs.get(REPEATS) == trial.number for other in trials):
            # Settings that were not complete are proposed again, from the same seed.
            parameters = {} if self.settings_of(trial) is None else trial.system_attrs.get(_FIXED, {}) | trial.params
            attributes = {REPEATS: trial.number, RANK: rank_of(trial, trials)}
            attributes |= {name: trial.user_attrs[name] for name in (BEGAN_AS,) if name in trial.user_attrs}
            kept = {name: trial.system_attrs[name] for name in (GENERATION,) if name in trial.system_attrs}
            self._queue(parameters, attributes, kept)
        if WORKER not in trial.user_attrs:
            self._journal.set_trial_user_attr(trial._trial_id, WORKER, self._worker)
        self._study.tell(trial.number, state=TrialState.FAIL)
        _LOGGER.warning("trial %d: its worker was killed; it is tried again", trial.number)

    def _queue(self, parameters: dict[str, Any], attributes: dict[str, Any], kept: dict[str, Any]) -> None:
        waiting = create_trial(
            state=TrialState.WAITING, user_attrs=attributes, system_attrs={_FIXED: parameters, **kept}
        )
        self._study.add_trial(waiting)


def excesses(values: Values, config: TuningConfig) -> dict[str, float]:
    """By how much each constraint is missed, as a share of it; less than 0 where it is met."""
    return {name: getattr(values, name) / limit - 1 for name, limit in config.limits.items()}


def violation(values: Values, config: TuningConfig) -> float | None:
    """The greatest by which a constraint is missed, as a share of it; None without constraints."""
    return max(excesses(values, config).values(), default=None)
