"""Whether Slurm answers, knows the partitions of a profile, and remembers finished jobs for long enough."""

import re
import shutil

from var_core.errors import VarError
from var_core.preflight.check import Check, failed, passed, unchecked
from var_core.preflight.commands import answer
from var_core.preflight.profile import Profile

SCHEDULER, PARTITIONS, FINISHED = "scheduler", "partitions", "finished jobs"
_ROUNDS = 3
"""Rounds of queries during which a finished job must still be known: one may fail, one may just have missed it."""
_DEFAULT_INTERVAL = {"slurm": 40, "cluster-generic": 10}


def check_slurm(profile: Profile) -> list[Check]:
    """Ask Slurm's own programs, each with a limit of time; nothing is submitted."""
    if not profile.uses_slurm:
        why = f"jobs go to the executor {profile.executor}, not to Slurm"
        return [
            unchecked(name, f"{why}; name a profile that uses it with --profile") for name in (SCHEDULER, PARTITIONS)
        ]
    try:
        listed = [
            line.split() for line in answer(["sinfo", "--noheader", "--format=%R %a"]).splitlines() if line.strip()
        ]
        answer(["squeue", "--noheader", "--me"])
    except VarError as error:
        said = f"{error}; work on a login node of the cluster, load its Slurm module, or ask its administrators"
        return [failed(SCHEDULER, said), *(unchecked(name, "Slurm does not answer") for name in (PARTITIONS, FINISHED))]
    scheduler = passed(SCHEDULER, f"sinfo and squeue answer ({len(listed)} partitions)")
    return [scheduler, _partitions(profile, {name: up for name, up, *_ in listed}), _finished(profile)]


def _partitions(profile: Profile, known: dict[str, str]) -> Check:
    named = profile.partitions()
    unknown = [name for name in named if name not in known]
    if unknown:
        return failed(
            PARTITIONS,
            f"{unknown[0]} ({named[unknown[0]]}) is none; there are {', '.join(sorted(known))}: change {profile.path}",
        )
    if down := [name for name in named if known[name] != "up"]:
        return failed(PARTITIONS, f"{down[0]} is {known[down[0]]}; choose another in {profile.path}, or wait")
    if not named:
        return passed(PARTITIONS, "the profile names none; Slurm's default is used")
    return passed(PARTITIONS, f"{', '.join(named)} {'are' if len(named) > 1 else 'is'} up")


def _finished(profile: Profile) -> Check:
    """Look at how Snakemake learns that a job has ended: from the accounting, or while the controller remembers it."""
    try:
        settings = answer(["scontrol", "show", "config"])
    except VarError as error:
        return unchecked(FINISHED, f"{error}; ask the administrators whether there is accounting, and for MinJobAge")
    accounting = "accounting_storage/none" not in (
        _setting(settings, "AccountingStorageType") or "accounting_storage/none"
    )
    command = str(profile.values.get("slurm-status-command") or ("sacct" if shutil.which("sacct") else "squeue"))
    if profile.executor == "slurm" and command == "sacct":
        return _by_accounting(accounting, profile)
    age, interval = _seconds(_setting(settings, "MinJobAge")), _interval(profile)
    if age is None:
        return unchecked(FINISHED, "scontrol names no MinJobAge; it must be over three rounds of status queries")
    said = f"the controller remembers them for {age} s (MinJobAge), status is asked every {interval} s"
    if age < _ROUNDS * interval:
        return failed(FINISHED, f"{said}: too short; set {_key(profile)} to at most {age // _ROUNDS} in {profile.path}")
    return passed(FINISHED, said)


def _by_accounting(accounting: bool, profile: Profile) -> Check:
    if not accounting:
        return failed(
            FINISHED,
            "status is asked of sacct, but there is no accounting here, so that Snakemake would wait for ever; set "
            f"slurm-status-command: squeue in {profile.path}",
        )
    try:
        answer(["sacct", "--noheader", "--allocations", "--starttime=now"])
    except VarError as error:
        return failed(FINISHED, f"{error}; set slurm-status-command: squeue in {profile.path}")
    return passed(FINISHED, "sacct answers")


def _key(profile: Profile) -> str:
    if profile.executor == "slurm":
        return "slurm-init-seconds-before-status-checks"
    return "seconds-between-status-checks"


def _interval(profile: Profile) -> int:
    value = profile.values.get(_key(profile))
    return value if isinstance(value, int) else _DEFAULT_INTERVAL.get(profile.executor, 40)


def _setting(settings: str, name: str) -> str | None:
    found = re.search(rf"^{name}\s*=\s*(\S.*)$", settings, re.M)
    return found[1].strip() if found else None


def _seconds(value: str | None) -> int | None:
    found = re.match(r"(\d+)", value or "")
    return int(found[1]) if found else None
