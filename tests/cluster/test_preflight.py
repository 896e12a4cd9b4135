"""The preflight on a cluster with partitions cpu and gpu, the latter with a counted gres."""

import functools

import pytest

from preflight_runs import run_preflight

PROFILE = {
    "executor": "cluster-generic",
    "cluster-generic-submit-cmd": "sbatch",
    "default-resources": {"slurm_partition": "'cpu'", "slurm_partition_gpu": "'gpu'"},
    "seconds-between-status-checks": 10,
}
SOUND = ("scheduler", "partitions", "finished jobs", "job", "Python", "shared files", "locks", "heartbeat")


pytestmark = [pytest.mark.cluster, pytest.mark.slow]


@pytest.fixture
def cluster(start_slurm):
    """One without accounting."""
    return start_slurm(False)


@pytest.fixture
def preflight(cluster, tmp_path):
    """The preflight, where commands lead to that cluster."""
    leads = {name: cluster.environment[name] for name in ("SLURM_CONF", "PATH")}
    return functools.partial(run_preflight, tmp_path, **leads)


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


def test_a_job_that_does_not_start_in_time_is_withdrawn(preflight, cluster):
    """All of the nodes is taken, so that the test job waits; waiting is no fault."""
    nodes = cluster.run("sinfo", "--noheader", "--partition=cpu", "--format=%D").strip()
    blocker = cluster.run(
        "sbatch",
        "--parsable",
        f"--nodes={nodes}",
        "--partition=cpu",
        "--exclusive",
        "--output=/dev/null",
        "--wrap",
        "sleep 60",
    )
    try:
        _, checks, _ = preflight("--wait", "8", profile=PROFILE)
        outcome, said = checks["job"]
        assert outcome == "not checked" and "not done in 8 s (PENDING" in said
        assert "var-preflight" not in cluster.run("squeue", "--noheader", "--format=%j %T", "--states=PENDING,RUNNING")
    finally:
        cluster.run("scancel", blocker.strip())


def test_status_by_an_accounting_that_is_not_there_is_found(preflight):
    by_sacct = {"executor": "slurm", "slurm-status-command": "sacct", "default-resources": ["slurm_partition=cpu"]}
    outcome, said = preflight("--wait", "1", profile=by_sacct)[1]["finished jobs"]
    assert outcome == "fail" and "set slurm-status-command: squeue" in said


def test_an_interval_that_is_too_long_is_found(preflight):
    long = PROFILE | {"seconds-between-status-checks": 100_000}
    outcome, said = preflight("--wait", "1", profile=long)[1]["finished jobs"]
    assert outcome == "fail" and "too short; set seconds-between-status-checks to at most" in said
