"""On a real cluster: skipped unless SLURM_CONF leads to one that answers, with partitions cpu and gpu (with a gres)."""

import os
import subprocess

import pytest

PROFILE = {
    "executor": "cluster-generic",
    "cluster-generic-submit-cmd": "sbatch",
    "default-resources": {"slurm_partition": "'cpu'", "slurm_partition_gpu": "'gpu'"},
    "seconds-between-status-checks": 10,
}
SOUND = ("scheduler", "partitions", "finished jobs", "job", "Python", "shared files", "locks", "heartbeat")


def slurm(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout


@pytest.fixture(autouse=True)
def cluster():
    """The cluster that the environment leads to."""
    if "SLURM_CONF" not in os.environ:
        pytest.skip("SLURM_CONF names no cluster")
    try:
        slurm("sinfo", "--noheader")
    except (OSError, subprocess.SubprocessError):
        pytest.skip("the cluster of SLURM_CONF does not answer")


def test_a_sound_cluster_passes(preflight):
    status, checks, printed = preflight(profile=PROFILE)
    assert status == 0, printed
    assert [checks[name][0] for name in SOUND] == ["pass"] * len(SOUND), printed
    assert checks["partitions"][1] == "cpu, gpu are up"


def test_a_gpu_that_the_driver_does_not_know_is_found(preflight):
    """Slurm counts GPUs here that are none: it hands one out, and torch sees nothing."""
    _, checks, printed = preflight(profile=PROFILE | {"set-resources": {"capture_shard": {"gpu": 1}}})
    outcome, said = checks["GPU"]
    assert outcome == "fail" and "1 asked for, torch sees 0" in said and "CUDA_VISIBLE_DEVICES=" in said, printed
    assert checks["job"][0] == "pass"


def test_a_partition_that_is_none_is_found(preflight):
    _, checks, _ = preflight(profile=PROFILE | {"default-resources": {"slurm_partition": "nowhere"}})
    assert "nowhere (default-resources: slurm_partition) is none; there are cpu, gpu" in checks["partitions"][1]
    assert checks["job"][0] == "fail" and "nvalid partition" in checks["job"][1]


def test_a_request_that_nothing_can_meet_is_found(preflight):
    _, checks, _ = preflight(profile=PROFILE | {"set-resources": {"capture_shard": {"gpu": 1000}}})
    assert checks["job"][0] == "fail" and "change what capture_shard asks for" in checks["job"][1]


def test_a_job_that_does_not_start_in_time_is_withdrawn(preflight):
    """All of the nodes is taken, so that the test job waits; waiting is no fault."""
    nodes = slurm("sinfo", "--noheader", "--partition=cpu", "--format=%D").strip()
    blocker = slurm("sbatch", "--parsable", f"--nodes={nodes}", "--partition=cpu", "--exclusive", "--wrap", "sleep 60")
    try:
        _, checks, _ = preflight("--wait", "8", profile=PROFILE)
        outcome, said = checks["job"]
        assert outcome == "not checked" and "not done in 8 s (PENDING" in said
        assert "var-preflight" not in slurm("squeue", "--noheader", "--format=%j %T", "--states=PENDING,RUNNING")
    finally:
        slurm("scancel", blocker.strip())


def test_status_by_an_accounting_that_is_not_there_is_found(preflight):
    if "accounting_storage/none" not in slurm("scontrol", "show", "config"):
        pytest.skip("this cluster has accounting")
    by_sacct = {"executor": "slurm", "slurm-status-command": "sacct", "default-resources": ["slurm_partition=cpu"]}
    outcome, said = preflight("--wait", "1", profile=by_sacct)[1]["finished jobs"]
    assert outcome == "fail" and "set slurm-status-command: squeue" in said


def test_an_interval_that_is_too_long_is_found(preflight):
    long = PROFILE | {"seconds-between-status-checks": 100_000}
    outcome, said = preflight("--wait", "1", profile=long)[1]["finished jobs"]
    assert outcome == "fail" and "too short; set seconds-between-status-checks to at most" in said
