"""Handing out GPUs, with real processes and made-up device names: the hand-out needs no GPU."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
JOB = """
import json, os, sys, time
from pathlib import Path
from var_core.errors import VarError
from var_core.gpus import take_gpus

order = json.loads(sys.argv[1])
try:
    taken = take_gpus(order["number"], Path(order["folder"]), order["devices"], order["wait"])
    print(json.dumps([taken, os.environ.get("CUDA_VISIBLE_DEVICES")]), flush=True)
except VarError as error:
    print(f"error: {error}", flush=True)
    sys.exit(1)
if order["fork"] == "program":
    import subprocess
    subprocess.Popen(["sleep", "30"], stdout=subprocess.DEVNULL)
time.sleep(order["hold"])
"""


@pytest.fixture
def job(tmp_path):
    """Start a job that takes GPUs, says which, and holds them."""
    started = []

    def start(number=1, devices=("0", "1", "2"), hold=60.0, wait=0.0, fork="", **environment):
        order = {
            "number": number, "devices": devices, "hold": hold, "wait": wait, "folder": str(tmp_path), "fork": fork,
        }  # fmt: skip
        clean = {k: v for k, v in os.environ.items() if k != "CUDA_VISIBLE_DEVICES" and not k.startswith("SLURM_")}
        started.append(
            subprocess.Popen(
                [sys.executable, "-c", JOB, json.dumps(order)],
                stdout=subprocess.PIPE,
                text=True,
                env=clean | {"PYTHONPATH": str(ROOT)} | environment,
                start_new_session=True,
            )
        )
        return started[-1]

    yield start
    for process in started:
        with suppress(ProcessLookupError):  # with the programs that it started
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()


def answer(process):
    line = process.stdout.readline()
    return line if line.startswith("error: ") else json.loads(line)


def test_each_of_several_jobs_has_a_gpu_of_its_own(job):
    jobs = [job() for _ in range(3)]
    answers = [answer(each) for each in jobs]
    assert sorted(taken for (taken,), _ in answers) == ["0", "1", "2"]
    assert all(taken == [seen] for taken, seen in answers), "and CUDA is shown just that one"


def test_there_is_none_for_one_too_many(job):
    for _ in range(3):
        answer(job())
    line = answer(job(wait=0.2))
    assert "fewer than 1 of the GPUs 0, 1, 2 became free in 0.2 s" in line
    assert line.count("\n") == 1


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM, None])
def test_a_gpu_is_free_once_its_job_has_ended_however(job, end):
    first = job(devices=["7"], hold=60.0 if end else 0.0)
    assert answer(first)[0] == ["7"]
    if end:
        first.send_signal(end)
    first.wait(timeout=30)
    assert answer(job(devices=["7"], wait=5))[0] == ["7"]


def test_a_program_that_outlives_its_job_holds_no_gpu(job):
    first = job(devices=["7"], fork="program")
    assert answer(first)[0] == ["7"]
    first.kill()
    first.wait(timeout=30)
    assert answer(job(devices=["7"]))[0] == ["7"]


def test_one_who_waits_gets_the_gpu_that_becomes_free(job):
    first = job(devices=["7"])
    assert answer(first)[0] == ["7"]
    second = job(devices=["7"], wait=60)
    time.sleep(0.5)
    assert second.poll() is None
    first.kill()
    assert answer(second)[0] == ["7"]


def test_jobs_that_want_two_each_do_not_block_each_other(job):
    jobs = [job(number=2, wait=60, hold=1.0) for _ in range(4)]
    for each in jobs:
        taken, seen = answer(each)
        assert len(set(taken)) == 2 and seen == ",".join(taken)


def test_more_than_there_are_is_one_line(job):
    assert "resources: gpu=4, but 3 GPUs are visible here" in answer(job(number=4))


def test_who_asks_for_none_gets_none(job):
    assert answer(job(number=0)) == [[], None]


@pytest.mark.parametrize(
    "environment",
    [
        {"SLURM_JOB_GPUS": "3", "CUDA_VISIBLE_DEVICES": "0"},
        {"SLURM_STEP_GPUS": "3"},
        {"CUDA_VISIBLE_DEVICES": "5"},
        {"CUDA_VISIBLE_DEVICES": "GPU-8932f937-d72c-4106-c12f-20bd9faed9f6"},
    ],
)
def test_what_a_scheduler_handed_out_is_left_alone(job, environment):
    for _ in range(2):  # the second job of one scheduler too
        assert answer(job(devices=None, **environment)) == [[], environment.get("CUDA_VISIBLE_DEVICES")]


def test_only_what_is_visible_is_handed_out(job):
    visible = {"CUDA_VISIBLE_DEVICES": "4, GPU-ab"}
    assert sorted(answer(job(devices=None, **visible))[1] for _ in range(2)) == ["4", "GPU-ab"]
    assert "of the GPUs 4, GPU-ab became free" in answer(job(devices=None, **visible))


@pytest.mark.parametrize("nothing", ["", "-1"])
def test_where_all_gpus_are_hidden_there_is_none_to_take(job, nothing):
    line = answer(job(devices=None, CUDA_VISIBLE_DEVICES=nothing))
    assert f"0 GPUs are visible here (CUDA_VISIBLE_DEVICES is {nothing!r})" in line


@contextmanager
def fake_listing(folder, text):
    """A driver's listing on PATH: what stands in for the driver, since this machine need have none."""
    program = folder / "bin" / "nvidia-smi"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\ncat <<'END'\n{text}END\n")
    program.chmod(0o755)
    yield str(program.parent) + os.pathsep + os.environ["PATH"]


def test_without_the_variable_the_driver_is_asked(job, tmp_path):
    listing = "GPU 0: NVIDIA A100 (UUID: GPU-a)\nGPU 1: NVIDIA A100 (UUID: GPU-b)\n"
    with fake_listing(tmp_path, listing) as path:
        assert sorted(answer(job(devices=None, PATH=path))[1] for _ in range(2)) == ["0", "1"]
        assert "of the GPUs 0, 1 became free" in answer(job(devices=None, PATH=path))


def test_the_folder_of_the_locks_is_the_user_s_own():
    code = "from var_core.gpus import _own_folder as f; p = f(); print(oct(p.stat().st_mode & 0o777), p == f())"
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)}
    )
    assert run.stdout == "0o700 True\n", run.stderr
