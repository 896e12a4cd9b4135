"""A worker of a study: tries settings until the study's budget is spent, then writes down the trials."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
from optuna.trial import FrozenTrial, TrialState

from var_core.capture.lock import HeldLockError, LostLockError, ShardLock
from var_core.config.policy import PolicyConfig
from var_core.config.tuning import TuningConfig
from var_core.errors import VarError
from var_core.parquet import write_table
from var_core.progress import Progress
from var_core.tuning.journal import quiet
from var_core.tuning.lock import GRACE_SECONDS
from var_core.tuning.space import CACHE_KEYS, THRESHOLDS, threshold
from var_core.tuning.study import BEGAN_AS, SECONDS, VALUES, VIOLATION, WORKER, SharedStudy
from var_core.tuning.trials import CONTROL, TRIALS, Evaluate

_FINISHED = (TrialState.COMPLETE, TrialState.FAIL)
_STALE_SECONDS, _WAIT_SECONDS = 60.0, 90.0
"""A worker on another machine is taken for dead after so long without a sign of life; its successor waits for it."""


def run_worker(
    journal: Path, study_name: str, worker: int, config: TuningConfig, policy: PolicyConfig, layers: int,
    evaluate: Evaluate, output: Path, *, study: str, provenance: dict[str, Any], grace_seconds: int = GRACE_SECONDS,
) -> None:  # fmt: skip
    """Try settings until the study has as many trials as it may have, then write those that are finished to `output`.

    Parameters
    ----------
    journal : Path
        Where the study is kept, on a file system that all workers share.
    study_name : str
        Name of the study in the journal; with a digest of what it depends on, for it is resumed by this name.
    worker : int
        Number of this worker. Trials that a killed worker of this number left are tried again.
    config : TuningConfig
        Space, objectives, sampler, seed and budget.
    policy : PolicyConfig
        The policy as configured.
    layers : int
        Layers with a router.
    evaluate : Evaluate
        Replays a policy.
    output : Path
        The study's finished trials as this worker knows them at its end, with the columns of ``TRIALS``: those that
        settings were known of. What takes the whole study, ``on_front`` and ``hypervolume``, is for
        :func:`var_core.tuning.results.collect`.
    study : str
        ``SEARCH``, or ``CONTROL``, which samples at random.
    provenance : dict
        Record of what the file was made from.
    grace_seconds : int
        After how long a killed process's lock on the journal is taken over.

    Raises
    ------
    VarError
        If another process runs as the same worker of the study, or the journal is not readable.
    """
    sampler = "random" if study == CONTROL else config.sampler
    with quiet(), _the_only(journal, study_name, worker) as lock:
        shared = SharedStudy(journal, study_name, worker, config, sampler, policy, layers, grace_seconds)
        done = _complete(shared)
        with Progress(config.trials, "trial", f"tuning {study}, worker {worker}", done) as progress:
            while (trial := shared.claim()) is not None:
                settings = shared.settings(trial)
                started = time.perf_counter()
                values = evaluate(settings)
                seconds = time.perf_counter() - started
                lock.check()
                shared.tell(trial, values, seconds)
                done += 1
                progress.advance(1)
                others = _complete(shared) - done
                if others:
                    done += others
                    progress.found_done(others)
        finished = [trial for trial in shared.trials() if trial.state in _FINISHED and WORKER in trial.user_attrs]
        rows = [_row(study, trial, shared) for trial in finished]
        table = pa.Table.from_pylist([row for row in rows if row is not None], TRIALS)
        write_table(output, table, provenance)


@contextmanager
def _the_only(journal: Path, study_name: str, worker: int) -> Iterator[ShardLock]:
    """Make sure that no other process runs under this worker's number."""
    path = journal.with_name(f"{journal.name}-{study_name}-{worker}")
    try:
        with ShardLock(path, _STALE_SECONDS, _WAIT_SECONDS) as lock:
            yield lock
    except (HeldLockError, LostLockError) as error:
        way = "goes on as" if isinstance(error, HeldLockError) else "has taken over from this one as"
        raise VarError(
            f"{journal}: another process {way} worker {worker} of study {study_name}; let it finish, or end it and run "
            "again"
        ) from None


def _complete(shared: SharedStudy) -> int:
    return sum(trial.state == TrialState.COMPLETE for trial in shared.trials())


def _row(study: str, trial: FrozenTrial, shared: SharedStudy) -> dict[str, Any] | None:
    """A trial as a row of ``TRIALS``; None if its worker was killed before it had all its settings."""
    policy = shared.settings_of(trial)
    if policy is None:
        return None
    complete = trial.state == TrialState.COMPLETE
    given = trial.user_attrs if complete else {}
    row = {
        "study": study,
        "number": trial.number,
        "worker": trial.user_attrs[WORKER],
        "state": "complete" if complete else "failed",
        "began_as": trial.user_attrs.get(BEGAN_AS),
        "seconds": given.get(SECONDS),
        "violation": given.get(VIOLATION),
        "on_front": False,
        "predicate": policy.predicate,
        "tables": policy.table_set,
        "thresholds": "by_layer" if any(dict(policy.by_layer).values()) else "global",
        "weights": policy.weights,
        "capacity": policy.cache.capacity,
    }
    row |= {name: threshold(policy, name) for names in THRESHOLDS.values() for name in names}
    row |= {name: getattr(policy.cache, name) for name in CACHE_KEYS if policy.cache.capacity}
    return row | given.get(VALUES, {})
