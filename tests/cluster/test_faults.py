"""Faults of jobs and nodes, one at a time, while shards are being captured. Nothing waits for ever; see `Disturbed`."""

import os
import signal
from pathlib import Path

import pytest

from cluster.slurm import wait_until

pytestmark = [pytest.mark.cluster, pytest.mark.slow]


def test_scancel(disturb):
    with disturb("`scancel` of a job", "ended as CANCELLED", "Snakemake submits it again (retries)") as run:
        job = run.start_and_wait()
        run.slurm.run("scancel", job.number)
        run.finish()


def test_killed_process(disturb):
    with disturb(
        "SIGKILL of a job's processes, on a node with GPUs", "ended as FAILED", "Snakemake submits it again (retries)"
    ) as run:
        rules = [rule for rule in run.project.rules() if rule.startswith("capture_")]
        asked = [f"{rule}:{resource}" for rule in rules for resource in ("gpu=1", "gpu_model='fake'")]
        job = run.start_and_wait("--set-resources", *asked)
        assert job.node == "g1"
        # All: where only the capture is killed, the Snakemake inside the job starts it again (retries of the rule).
        for process in run.slurm.processes(job.number):
            os.kill(process, signal.SIGKILL)
        run.finish()


def test_node_down_and_back(disturb):
    with disturb(
        "node down and back", "Finished jobid", "Slurm starts the job again, as the same job (requeue)"
    ) as run:
        job = run.start_and_wait()
        run.slurm.update_node(job.node, "down")
        wait_until("the job left its node", lambda: job not in run.captures())
        run.slurm.update_node(job.node, "resume")
        run.finish()


def test_node_lost_with_its_jobs_alive(disturb):
    """The node's slurmd dies; the job goes on, hangs for a while, and wakes up beside its requeued copy."""
    with disturb(
        "node lost, its job hangs there and wakes up later",
        "Finished jobid",
        "Slurm starts the job again elsewhere; the copy takes its micro-shard over, the old one finds out and ends",
    ) as run:
        job = run.start_and_wait()
        alive = run.slurm.processes(job.number)
        for process in alive:
            os.kill(process, signal.SIGSTOP)
        run.slurm.end(job.node, signal.SIGKILL)
        wait_until("the job runs elsewhere", lambda: _runs_elsewhere(run, job), 60)
        wait_until("the copy captures", lambda: _copy_writes(run, job), 60)
        for process in alive:
            os.kill(process, signal.SIGCONT)
        run.finish()
        wait_until("the old processes end", lambda: not _living(alive), 60)


def _runs_elsewhere(run, job) -> bool:
    return any(other.number == job.number and other.node != job.node for other in run.captures())


def _copy_writes(run, job) -> bool:
    return any(written.job == f"{job.number}.1" for written in run.project.written())


def _living(processes: list[int]) -> list[int]:
    def lives(process: int) -> bool:
        try:
            state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            return False
        return state not in "ZX"

    return [process for process in processes if lives(process)]


def test_node_lost_with_its_jobs_at_work(disturb):
    """The node's slurmd dies; the job goes on, and shares the work with its requeued copy."""
    with disturb(
        "node lost, its job works on there",
        "Finished jobid",
        "Slurm starts the job again elsewhere; the two share the micro-shards that are left",
    ) as run:
        job = run.start_and_wait()
        run.slurm.end(job.node, signal.SIGKILL)
        run.finish()


def test_drain(disturb):
    with disturb("node drained", "Finished jobid", "running jobs end there, later ones go elsewhere") as run:
        job = run.start_and_wait()
        run.slurm.update_node(job.node, "drain")
        assert "drain" in run.slurm.node_states()[job.node]
        assert job.number in [other.number for other in run.captures()], "what runs there goes on"
        run.finish()
        assert "drain" in run.slurm.node_states()[job.node], "later jobs ran without it"


def test_time_limit(disturb):
    with disturb("time limit", "ended as TIMEOUT", "Snakemake submits it again, with more time (attempt)") as run:
        job = run.start_and_wait()
        # Held, or it may end by itself, at the warning that comes before the limit.
        run.slurm.send(job.number, signal.SIGSTOP)
        run.slurm.run("scontrol", "update", f"JobId={job.number}", "EndTime=now+1")
        run.finish()


def test_memory_limit(disturb):
    with disturb("memory limit", "OUT_OF_MEMORY", "Snakemake submits it again, with more memory (attempt)") as run:
        # Enough for Snakemake in the job, too little for the capture beside it.
        rules = [rule for rule in run.project.rules() if rule.startswith("capture_")]
        run.start("--set-resources", *(f"{rule}:mem_mb=450*attempt**2" for rule in rules))
        run.finish()
