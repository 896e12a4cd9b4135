"""What the scripts of this profile share: asking Slurm, its answers kept for a while, and what is kept of our jobs.

Only the standard library, and nothing newer than Python 3.8: Snakemake runs these with whatever ``python3`` is first
on its PATH.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path


def setting(name: str, value: float) -> float:
    """A setting in seconds; the environment may say otherwise (the tests use that to wait less)."""
    return float(os.environ.get(f"VAR_SLURM_{name}", value))


LOGS = Path("results/logs/slurm")
"""Where Slurm writes what a job prints, a folder a rule."""
KEPT = Path(".snakemake/slurm")
"""Last answer of squeue, and the exit statuses that jobs leave behind."""
QUERY_S = setting("QUERY_S", 10)
"""One squeue answers the questions about all jobs for so long."""
TIMEOUT_S = setting("TIMEOUT_S", 20)
"""A Slurm command that has not answered after this long counts as unanswered."""
PATIENCE_S = setting("PATIENCE_S", 3600)
"""How long Slurm may be out of reach before Snakemake ends (its jobs run on, and the next start adopts them)."""
MISSING_S = setting("MISSING_S", 90)
"""How long a job may be unknown to Slurm, and have left nothing behind, before it counts as lost."""

_OUT_OF_REACH = re.compile(
    r"unable to contact|timed out|temporarily|connection refused|connection failure|transport endpoint"
    r"|zero bytes|fetch_config|could not establish|no route to host|socket|not responding|try again"
    r"|server is currently busy|slurm_persist|rate limit",
    re.IGNORECASE,
)


class OutOfReachError(Exception):
    """Slurm did not answer; it may later."""


class RefusedError(Exception):
    """Slurm answered, and refused."""


@dataclass
class Job:
    """A job as squeue shows it."""

    state: str
    reason: str
    name: str


@dataclass
class Queue:
    """The last answer of squeue, and what has to be remembered from one question to the next.

    Attributes
    ----------
    asked
        When squeue was asked last.
    silent_since
        Since when it does not answer; None if it did the last time.
    jobs
        All jobs of this user that Slurm knows, those that have ended lately too.
    missing
        Since when it is that a job is unknown.
    """

    asked: float = 0.0
    silent_since: float | None = None
    jobs: dict[str, Job] = field(default_factory=dict)
    missing: dict[str, float] = field(default_factory=dict)

    @classmethod
    def load(cls) -> Queue:
        """Read the last answer, and ask again if it is old."""
        try:
            kept = json.loads((KEPT / "queue.json").read_text(encoding="utf-8"))
            kept["jobs"] = {number: Job(**job) for number, job in kept["jobs"].items()}
            queue = cls(**kept)
        except (OSError, ValueError, TypeError, KeyError):
            queue = cls()
        if time.time() - queue.asked > QUERY_S:
            queue._ask()
            queue.save()
        return queue

    def _ask(self) -> None:
        now = time.time()
        if now - self.asked > PATIENCE_S:
            # Nobody asked for long, as between two runs: nothing is known about that time.
            self.silent_since, self.missing = None, {}
        try:
            self.jobs, self.silent_since = ask_queue(), None
            # One that was seen again was not lost: an answer from before it was submitted did not know it yet.
            self.missing = {number: since for number, since in self.missing.items() if number not in self.jobs}
        except OutOfReachError:
            self.silent_since = self.silent_since or now
        self.asked = time.time()

    def save(self) -> None:
        """Keep it for the next question."""
        KEPT.mkdir(parents=True, exist_ok=True)
        aside = KEPT / f".queue-{os.getpid()}.tmp"
        aside.write_text(json.dumps(asdict(self)), encoding="utf-8")
        aside.replace(KEPT / "queue.json")


def ask_queue() -> dict[str, Job]:
    """All jobs of this user that Slurm knows, by number."""
    columns = "%i|%T|%r|%j"
    try:
        lines = slurm("squeue", "--noheader", "--states=all", f"--user={os.getuid()}", f"--format={columns}")
    except RefusedError as error:  # there is nothing in this question that could be wrong
        raise OutOfReachError(str(error)) from None
    jobs = {}
    for line in lines.splitlines():
        number, state, reason, name = line.split("|", 3)
        jobs[number] = Job(state, reason, name)
    return jobs


def slurm(*command: str, text: str | None = None, env: dict[str, str] | None = None) -> str:
    """Run a Slurm command; return what it prints."""
    try:
        done = subprocess.run(
            command, input=text or "", capture_output=True, text=True, timeout=TIMEOUT_S, env=env, check=False
        )
    except subprocess.TimeoutExpired:
        raise OutOfReachError(f"{command[0]} gave no answer for {TIMEOUT_S:g} s") from None
    except FileNotFoundError:
        raise RefusedError(f"there is no command {command[0]} here: is this a machine of the cluster?") from None
    if done.returncode == 0:
        return done.stdout
    said = " ".join(done.stderr.split()) or f"exit status {done.returncode}"
    raise (OutOfReachError if _OUT_OF_REACH.search(said) else RefusedError)(said)


def left_behind(number: str) -> Path:
    """The file in which a job leaves its exit status when it ends, for when Slurm has forgotten it."""
    return KEPT / f"ended-{number}"


def log_of(number: str) -> str:
    """Where a job's output is, for a message."""
    return str(next(LOGS.glob(f"*/*-{number}.log"), LOGS))
