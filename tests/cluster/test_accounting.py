"""With accounting on, which the profile never asks: the faults in which Snakemake's own plugin waits for ever."""

import time

import pytest

from cluster.slurm import wait_until

pytestmark = [pytest.mark.cluster, pytest.mark.slow]


def test_scancel(disturb):
    with disturb(
        "`scancel` of a job", "ended as CANCELLED", "Snakemake submits it again (retries)", accounting=True
    ) as run:
        job = run.start_and_wait()
        run.slurm.run("scancel", job.number)
        run.finish()


def test_node_down_and_back(disturb):
    with disturb(
        "node down and back", "Finished jobid", "Slurm starts the job again, as the same job (requeue)", accounting=True
    ) as run:
        job = run.start_and_wait()
        run.slurm.update_node(job.node, "down")
        wait_until("the job left its node", lambda: job not in run.captures())
        run.slurm.update_node(job.node, "resume")
        run.finish()


def test_slurmdbd_away(disturb):
    with disturb("slurmdbd away for 20 s", "Finished jobid", "nothing is lost", accounting=True) as run:
        run.start_and_wait()
        run.slurm.end("slurmdbd")
        time.sleep(20)
        run.slurm.start_slurmdbd()
        run.finish()


def test_scancel_with_the_plugin(disturb):
    """The other profile: it works, and gets over what it is not known to wait for for ever."""
    with disturb(
        "`scancel` of a job", "CANCELLED", "Snakemake submits it again (retries)", accounting=True,
        profile="profiles/slurm-plugin",
    ) as run:  # fmt: skip
        # Its status queries become rarer with time, which would take minutes here.
        job = run.start_and_wait("--slurm-init-seconds-before-status-checks", "2")
        run.slurm.run("scancel", job.number)
        run.finish()
