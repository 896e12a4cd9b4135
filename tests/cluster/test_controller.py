"""The controller restarts, hangs, is away, and forgets everything."""

import signal
import time

import pytest

pytestmark = [pytest.mark.cluster, pytest.mark.slow]


def test_restart(disturb):
    with disturb("slurmctld restarted", "Finished jobid", "nothing is lost") as run:
        run.start_and_wait()
        run.slurm.end("slurmctld")
        run.slurm.start_controller()
        run.finish()


def test_away(disturb):
    with disturb("slurmctld away for 30 s", "Finished jobid", "Snakemake asks again until it is back") as run:
        run.start_and_wait()
        run.slurm.end("slurmctld", signal.SIGKILL)
        time.sleep(30)
        assert run.snakemake.runs()
        run.slurm.start_controller()
        run.finish()


def test_hangs(disturb):
    with disturb("slurmctld hangs for 20 s", "Finished jobid", "Snakemake asks again until it answers") as run:
        run.start_and_wait()
        run.slurm.suspend("slurmctld")
        time.sleep(20)
        run.slurm.resume("slurmctld")
        run.finish()


def test_away_for_too_long(disturb):
    with disturb(
        "slurmctld away for longer than `PATIENCE_S` (here 8 s)",
        "error: Slurm has not answered for",
        "Snakemake ends, its jobs run on; run the same again: they are adopted",
    ) as run:
        run.project.environment["VAR_SLURM_PATIENCE_S"] = "8"
        run.start_and_wait()
        run.slurm.end("slurmctld", signal.SIGKILL)
        assert run.snakemake.wait(60) != 0
        run.slurm.start_controller()
        run.start()
        run.finish()


def test_state_lost(disturb):
    with disturb(
        "slurmctld lost its state", "is unknown to Slurm and left no exit status", "Snakemake submits its jobs again"
    ) as run:
        run.start_and_wait()
        run.slurm.end("slurmctld", signal.SIGKILL)
        run.slurm.forget()
        run.slurm.start_controller()
        run.finish()


def test_refused(disturb):
    with disturb(
        "a partition that does not exist",
        "error: Slurm refuses the job",
        "Snakemake ends and says so; correct the profile and run the same again",
    ) as run:
        rules = [rule for rule in run.project.rules() if rule.startswith("capture_")]
        run.start("--set-resources", *(f"{rule}:slurm_partition=nowhere" for rule in rules))
        assert run.snakemake.wait(90) != 0
        run.start()
        run.finish()
