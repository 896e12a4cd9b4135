"""What the profile's scripts make of a job, without a cluster; and that its name resolves after the set-up step."""

import os
import signal
import subprocess
import sys

import pytest
import yaml

from cluster.project import ROOT
from cluster.slurm import wait_until

SCRIPTS = ROOT / "profiles/slurm"
sys.path.insert(0, str(SCRIPTS))
try:
    import client
    import submit
    from client import Job, Queue

    import status
finally:
    sys.path.remove(str(SCRIPTS))

PROPERTIES = {
    "rule": "capture_shard",
    "wildcards": {"model": "m", "shard": "00001"},
    "output": ["results/x"],
    "input": ["y"],
    "params": {"code": "1"},
    "threads": 2,
    "resources": {
        "slurm_partition": "cpu", "slurm_partition_gpu": "gpu", "mem_mb": 4000, "runtime": 240, "slurm_signal_s": 300,
        "tmpdir": "/tmp",
    },
}  # fmt: skip


def arguments(**resources) -> list[str]:
    return submit.sbatch_arguments(PROPERTIES | {"resources": PROPERTIES["resources"] | resources})


def test_resources_are_sbatch_s_arguments():
    assert arguments() == [
        "--partition=cpu", "--time=240", "--mem=4000", "--nodes=1", "--ntasks=1", "--cpus-per-task=2",
        "--signal=B:USR1@300",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("resources", "gres"),
    [
        ({"gpu": 2}, "--gres=gpu:2"),
        ({"gpu": 2, "gpu_model": "a100"}, "--gres=gpu:a100:2"),
        ({"gpu_model": "a100"}, "--gres=gpu:a100:1"),
        ({"gres": "gpu:h100:1"}, "--gres=gpu:h100:1"),
    ],
)
def test_gpus_go_to_their_partition(resources, gres):
    assert {"--partition=gpu", gres} <= set(arguments(**resources))


def test_a_site_s_own_arguments_are_passed_on():
    given = arguments(
        slurm_account="a", qos="q", constraint="c|d", slurm_extra="--reservation='moe team' --nice", mem_mb_per_cpu=9
    )
    assert {"--account=a", "--qos=q", "--constraint=c|d", "--reservation=moe team", "--nice", "--mem-per-cpu=9"} <= set(
        given
    )
    assert not [argument for argument in given if argument.startswith("--mem=")]


def test_short_jobs_are_not_told_at_their_start_that_their_time_is_up():
    assert "--signal=B:USR1@60" in arguments(runtime=10)
    assert not [argument for argument in arguments(slurm_signal_s=0) if "signal" in argument]


def test_names_tell_same_work_from_other_work_at_the_same_place():
    def name(**changes):
        return submit.job_name(PROPERTIES | changes, "/here", "script")

    assert name(resources={}) == name()  # a retry with more memory is the same work
    assert name(params={"code": "2"})[0] == name()[0] and name(params={"code": "2"})[1] != name()[1]
    assert name(wildcards={"shard": "00002"})[0] != name()[0]
    assert submit.job_name(PROPERTIES, "/there", "script")[0] != name()[0]


def test_snakemake_s_script_is_run_inside_the_profile_s():
    script = submit.batch_script("#!/bin/sh\necho from the job\nexit 3\n")
    assert subprocess.run(["sh", "-n"], input=script, text=True).returncode == 0
    assert (SCRIPTS / "site.sh").read_text() in script and "@" not in script.replace("$@", "")


def test_a_job_leaves_its_exit_status_and_is_not_run_twice(tmp_path):
    def run(script: str, restarts: int) -> subprocess.CompletedProcess[str]:
        environment = os.environ | {"SLURM_JOB_ID": "7", "SLURM_RESTART_COUNT": str(restarts)}
        return subprocess.run(
            ["sh"], input=submit.batch_script(script), text=True, cwd=tmp_path, env=environment, capture_output=True
        )

    assert run("exit 3\n", 0).returncode == 3
    assert (tmp_path / ".snakemake/slurm/ended-7").read_text() == "3\n"
    assert run("touch one; exit 0\n", 1).returncode == 0 and (tmp_path / "one").exists()
    done = run("touch two; exit 0\n", 1)
    assert done.returncode == 0 and "nothing to do" in done.stdout and not (tmp_path / "two").exists()


CATCHES = """
import pathlib, signal, sys, time
signal.signal(signal.SIGUSR1, lambda *_: sys.exit(5))
pathlib.Path("ready").touch()
time.sleep(60)
"""


def test_usr1_reaches_who_asked_for_it_and_kills_nobody_else(tmp_path):
    (tmp_path / "catches.py").write_text(CATCHES)
    script = f"{sys.executable} catches.py; status=$?; sleep 0.1 && touch survived; exit $status\n"
    environment = os.environ | {"SLURM_JOB_ID": f"test-{os.getpid()}"}
    job = tmp_path / "batch.sh"
    job.write_text(submit.batch_script(script))
    process = subprocess.Popen(["sh", job], cwd=tmp_path, env=environment)
    wait_until("the job runs", lambda: (tmp_path / "ready").exists())
    process.send_signal(signal.SIGUSR1)
    assert process.wait(20) == 5
    assert (tmp_path / "survived").exists()


@pytest.mark.parametrize(
    ("state", "verdict"),
    [("COMPLETED", "success"), ("RUNNING", "running"), ("PENDING", "running"), ("COMPLETING", "running"),
     ("TIMEOUT", "failed"), ("NODE_FAIL", "failed"), ("OUT_OF_MEMORY", "failed")],
)  # fmt: skip
def test_states_of_slurm_are_states_of_snakemake(state, verdict):
    assert status.verdict("7", Job(state, "None", "name")) == verdict


@pytest.mark.parametrize(("left", "verdict"), [("0\n", "success"), ("1\n", "failed")])
def test_a_job_that_slurm_has_forgotten_has_left_its_status(tmp_path, monkeypatch, left, verdict):
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".snakemake/slurm").mkdir(parents=True)
    (tmp_path / ".snakemake/slurm/ended-7").write_text(left)
    assert status.unknown("7", Queue()) == verdict


def test_a_job_that_left_nothing_is_lost_after_a_while(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    queue = Queue()
    assert status.unknown("7", queue) == "running"
    queue.missing["7"] -= status.MISSING_S + 1
    assert status.unknown("7", queue) == "failed"


def test_a_job_that_was_seen_again_is_not_lost(tmp_path, monkeypatch):
    """The first answer may be from before it was submitted; hours later one that has forgotten it counts anew."""
    monkeypatch.chdir(tmp_path)
    queue = Queue()
    assert status.unknown("7", queue) == "running"
    queue.missing["7"] -= status.MISSING_S + 1
    monkeypatch.setattr(client, "ask_queue", lambda: {"7": Job("RUNNING", "None", "name")})
    queue._ask()
    monkeypatch.setattr(client, "ask_queue", dict)
    queue._ask()
    assert "7" not in queue.jobs and status.unknown("7", queue) == "running"


@pytest.mark.parametrize("profile", ["slurm", "slurm-plugin"])
def test_every_key_has_a_comment(profile):
    lines = (ROOT / "profiles" / profile / "profile.yaml").read_text().splitlines()
    keys = [number for number, line in enumerate(lines) if line and not line.startswith(("#", " "))]
    settled = {"retries", "rerun-incomplete", "keep-going", "keep-incomplete", "show-failed-logs", "latency-wait"}
    for number in keys:
        name = lines[number].split(":")[0]
        before = lines[number - 1]
        together = (name in settled and profile == "slurm-plugin") or name.startswith("cluster-generic")
        assert before.startswith("#") or together, name
    assert yaml.safe_load("\n".join(lines))["retries"] == 3
