#!/usr/bin/env python3
"""Say ``running``, ``success`` or ``failed`` of one job: Snakemake's status command.

It never leaves Snakemake waiting for a job that will not end. What Slurm does not know any more has left its exit
status behind, or is lost. What cannot start as it was asked for is cancelled. A controller that does not answer is
asked again, up to a limit; accounting (sacct, slurmdbd) is not asked at all.
"""

from __future__ import annotations

import signal
import sys
import time

from client import MISSING_S, PATIENCE_S, Job, OutOfReachError, Queue, RefusedError, left_behind, log_of, slurm

ENDED = {
    "BOOT_FAIL", "CANCELLED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED", "REVOKED",
    "SPECIAL_EXIT", "TIMEOUT",
}  # fmt: skip
NEVER_STARTS = {
    "AccountNotAllowed", "BadConstraints", "DependencyNeverSatisfied", "InvalidAccount", "InvalidQOS",
    "JobHoldMaxRequeue", "PartitionNodeLimit", "PartitionTimeLimit", "QOSNotAllowed", "launch failed requeued held",
}  # fmt: skip
"""Why a pending job stays pending. Jobs that a person holds are not among them: `scontrol release` starts those."""


def verdict(number: str, job: Job) -> str:
    """What a job that Slurm knows has come to."""
    if job.state == "COMPLETED":
        return "success"
    if job.state in ENDED:
        return failed(number, f"ended as {job.state}")
    if job.state == "PENDING" and job.reason.replace("_", " ") in {name.replace("_", " ") for name in NEVER_STARTS}:
        try:
            slurm("scancel", number)
        except OutOfReachError:
            return "running"
        except RefusedError:
            pass  # it is gone already
        return failed(number, f"can never start ({job.reason}) and was cancelled")
    return "running"


def unknown(number: str, queue: Queue) -> str:
    """What has become of a job that Slurm does not know, or not any more."""
    try:
        status = left_behind(number).read_text(encoding="utf-8").strip()
    except OSError:
        since = queue.missing.setdefault(number, time.time())
        queue.save()
        if time.time() - since <= MISSING_S:
            return "running"  # just submitted, or its last words are still on their way through the file system
        return failed(number, "is unknown to Slurm and left no exit status (did the controller lose its state?)")
    return "success" if status == "0" else failed(number, f"ended with exit status {status}")


def failed(number: str, what: str) -> str:
    """Tell the user, and Snakemake."""
    print(f"Slurm job {number} {what}; what it printed: {log_of(number)}", file=sys.stderr)
    return "failed"


def status(number: str) -> str:
    """Answer Snakemake's question about a job."""
    queue = Queue.load()
    if queue.silent_since is None:
        return verdict(number, queue.jobs[number]) if number in queue.jobs else unknown(number, queue)
    silent = time.time() - queue.silent_since
    if silent > PATIENCE_S:
        sys.exit(
            f"error: Slurm has not answered for {silent:.0f} s (profiles/slurm/client.py: PATIENCE_S). Jobs that run "
            "go on; start Snakemake again when `squeue` answers, and it adopts them."
        )
    return "running"


if __name__ == "__main__":
    # Ctrl-C goes to everything at this terminal, but it is meant for Snakemake, which needs an answer all the same.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    print(status(sys.argv[1]))
