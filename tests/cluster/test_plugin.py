"""The other profile, with Snakemake's own plugin: it works, and gets over what it is not known to wait for for ever."""

import pytest

pytestmark = [pytest.mark.cluster, pytest.mark.slow]


def test_scancel(disturb):
    with disturb(
        "`scancel` of a job", "CANCELLED", "Snakemake submits it again (retries)", accounting=True,
        profile="profiles/slurm-plugin",
    ) as run:  # fmt: skip
        # Its status queries become rarer with time, which would take minutes here.
        job = run.start_and_wait("--slurm-init-seconds-before-status-checks", "2")
        run.slurm.run("scancel", job.number)
        run.finish()
