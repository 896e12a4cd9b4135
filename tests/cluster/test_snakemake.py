"""Snakemake itself is ended while its jobs run, and started again; no shard is written by two."""

import signal

import pytest

from cluster.slurm import wait_until

pytestmark = [pytest.mark.cluster, pytest.mark.slow]

ADOPTED = "does this work already; it is not submitted again"


def test_interrupted(disturb):
    with disturb(
        "Ctrl-C, then a new start", "Terminating processes on user request", "jobs are cancelled; run the same again"
    ) as run:
        run.start_and_wait()
        run.snakemake.interrupt()
        assert run.snakemake.wait(30) != 0
        wait_until("no job is left", lambda: not run.slurm.jobs(), 30)
        run.start()
        run.finish()


def test_terminated(disturb):
    with disturb(
        "SIGTERM to Snakemake, then a new start",
        "Will exit after finishing currently running jobs",
        "it waits for its running jobs and ends; run the same again",
    ) as run:
        run.start_and_wait()
        run.snakemake.send(signal.SIGTERM)
        assert run.snakemake.wait(90) != 0
        assert not run.slurm.jobs()
        run.start()
        run.finish()


def test_killed(disturb):
    with disturb(
        "SIGKILL of Snakemake, then a new start",
        ADOPTED,
        "`snakemake --profile slurm --unlock`, then run the same again: jobs that run on are adopted",
    ) as run:
        run.start_and_wait()
        run.snakemake.end()
        before = {job.number for job in run.captures()}
        assert before
        for number in before:
            run.slurm.send(number, signal.SIGSTOP)
        assert run.start("--unlock").wait(30) == 0
        run.start()
        wait_until("the jobs that run are adopted", lambda: ADOPTED in run.snakemake.output(), 60)
        for number in before:
            run.slurm.send(number, signal.SIGCONT)
        run.finish()
        assert all(f"external jobid '{number}'" in run.snakemake.output() for number in before)


def test_killed_and_changed(disturb):
    with disturb(
        "SIGKILL of Snakemake, then a new start with other settings",
        "cancelling Slurm jobs on the same files",
        "as before; jobs that work with the old settings are cancelled first",
    ) as run:
        (run.project.folder / "other.yaml").write_text("capture: {seed: 1}")
        # The seed is a parameter of all captures; only the one that is not there shall be made with it.
        job = run.start_and_wait("--configfile", "small.yaml", "other.yaml", "--rerun-triggers", "mtime")
        run.snakemake.end()
        run.slurm.send(job.number, signal.SIGSTOP)
        assert run.start("--unlock").wait(30) == 0
        run.start()
        run.finish()
