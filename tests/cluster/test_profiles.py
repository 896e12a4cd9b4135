"""The profiles' names resolve as the how-to says, and each is one that Snakemake takes, with its real executor."""

import os
import subprocess
import sys

import pytest

from cluster.project import ROOT, Project


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    return Project.new(tmp_path_factory.mktemp("profiles") / "project")


@pytest.mark.parametrize(
    "arguments",
    [
        ("--profile", "slurm"),
        ("--profile", "profiles/slurm"),
        ("--workflow-profile", "slurm"),
        ("--workflow-profile", "slurm-plugin"),
    ],
)
def test_a_dry_run_by_the_profile(project, arguments):
    environment = {key: value for key, value in os.environ.items() if not key.startswith("SNAKEMAKE_")}
    done = subprocess.run(
        [sys.executable, "-m", "snakemake", "statistics", "--dry-run", "--configfile", "small.yaml", *arguments],
        cwd=project.folder, env=environment | {"PYTHONPATH": str(project.folder)},
        stdin=subprocess.DEVNULL, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "slurm_partition=cpu" in done.stdout + done.stderr


def test_the_set_up_step_makes_the_link_and_no_profile_is_loaded_by_itself(tmp_path):
    (tmp_path / "Makefile").write_text((ROOT / "Makefile").read_text())
    (tmp_path / "profiles").mkdir()
    subprocess.run(["make", "slurm-profile"], cwd=tmp_path, check=True, capture_output=True)
    assert (tmp_path / "slurm").readlink().as_posix() == "profiles/slurm"
    assert not (ROOT / "profiles/default").exists()
