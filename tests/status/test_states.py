"""A real capture, looked at while it runs, after it was killed, stopped, failed, and when it is whole."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from capture_processes import ROOT
from var_core.config.layers import load_layers
from var_core.status.run import read_status


@pytest.fixture
def look(results, config_file):
    """Look at the held-out shard."""

    def shard():
        (run,) = read_status(results, load_layers([config_file])).runs
        assert [each.state for each in run.capture.shards[:2]] == ["waiting", "waiting"]
        assert sum(run.capture.counts.values()) == 5
        return run.capture.shards[-1]

    return shard


def until(look, wanted, seconds=60.0):
    give_up = time.monotonic() + seconds
    while not wanted(shard := look()):
        assert time.monotonic() < give_up, shard
        time.sleep(0.02)
    return shard


def test_each_state_is_seen(results, config_file, stages, look):
    folder = results / "mine" / "text" / "capture"
    log = results / "logs" / "capture_traced_shard" / "mine" / "text" / "heldout-00000.log"
    assert look().state == "waiting"

    process = stages.start(folder, log, checkpoint_tokens=640)
    shard = until(look, lambda shard: shard.state == "running" and shard.work and shard.resumable)
    assert f"process {process} on " in shard.owner and shard.work.unit == "token"
    assert 0 < shard.work.done < shard.work.total == 600 * 16 and shard.work.rate > 0

    os.kill(process, signal.SIGKILL)
    assert stages.wait(process) == -signal.SIGKILL
    shard = look()
    assert (shard.state, shard.resumable, shard.owner, shard.lines) == ("resumable", True, None, ())
    assert 0 < shard.work.share < 1

    process = stages.start(folder, log, checkpoint_tokens=640)
    until(look, lambda shard: shard.state == "running" and shard.work)
    os.kill(process, signal.SIGTERM)
    assert stages.wait(process) == 1
    shard = look()
    assert (shard.state, shard.lines) == ("resumable", ("signal SIGTERM",))
    assert 0 < shard.work.share < 1

    assert stages.wait(stages.start(folder, log, checkpoint_tokens=640, largest_file=2000)) == 1
    shard = look()
    assert (shard.state, shard.resumable) == ("failed", True)
    assert "no room to write" in shard.lines[-1] and shard.log == str(log)
    printed = printed_status(results, config_file)
    assert "1 failed" in printed and shard.lines[-1] in printed and "goes on from there" in printed

    assert stages.wait(stages.start(folder, log, checkpoint_tokens=640)) == 0
    assert look().state == "done"
    assert re.search("capture +waiting  1 of 5 shards, 4 waiting", printed_status(results, config_file))


def printed_status(results, config_file, *more):
    command = [sys.executable, "-m", "var_core.status", str(results), "--configfile", str(config_file), *more]
    run = subprocess.run(command, cwd=results.parent, capture_output=True, text=True, env=os.environ | PATHS)
    assert run.returncode == 0, run.stderr
    return run.stdout


PATHS = {"PYTHONPATH": str(ROOT)}


def test_the_same_as_json(results, config_file):
    values = json.loads(printed_status(results, config_file, "--json"))
    (run,) = values["runs"]
    assert (run["model"], run["corpus"]) == ("mine", "text")
    assert run["capture"]["counts"] == {"done": 0, "running": 0, "failed": 0, "resumable": 0, "waiting": 5}
    assert [(shard["split"], shard["shard"], shard["state"]) for shard in run["capture"]["shards"]] == [
        ("capture", 0, "waiting"), ("capture", 1, "waiting"), ("calibration", 0, "waiting"),
        ("tuning", 0, "waiting"), ("heldout", 0, "waiting"),
    ]  # fmt: skip
    assert values["warehouse"]["state"] == "waiting"


def test_nothing_is_written(results, config_file):
    def listing() -> dict[Path, int]:
        return {path: path.stat().st_mtime_ns for path in results.rglob("*")}

    before = listing()
    printed_status(results, config_file)
    assert listing() == before


def test_a_missing_folder_is_one_line(tmp_path, config_file):
    command = [sys.executable, "-m", "var_core.status", "nowhere", "--configfile", str(config_file)]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=os.environ | PATHS)
    assert run.returncode == 1
    assert run.stderr == "error: nowhere: no such folder; run snakemake first, or name the folder with the results\n"
