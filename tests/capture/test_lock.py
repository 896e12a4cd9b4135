"""One writer a shard, with real processes."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import asdict, replace

import pytest

from capture_processes import ROOT
from captures import capture, contents, unfinished
from var_core.capture.lock import LostLockError, Owner, ShardLock
from var_core.capture.outputs import CaptureOutputs
from var_core.errors import VarError

HOLDER = """
import sys, time
from pathlib import Path
from var_core.capture.lock import ShardLock
from var_core.errors import VarError

path, stale, wait, hold = Path(sys.argv[1]), *map(float, sys.argv[2:])
try:
    with ShardLock(path, stale, wait) as lock:
        print("held", flush=True)
        end = time.monotonic() + hold
        while time.monotonic() < end:
            time.sleep(0.05)
            lock.check()
except VarError as error:
    print(error, flush=True)
"""


@pytest.fixture
def holder(tmp_path):
    """Start a process that takes the lock, says so, and holds it."""
    started = []

    def start(stale=60.0, wait=0.0, hold=60.0):
        command = [sys.executable, "-c", HOLDER, str(tmp_path / "x.lock"), str(stale), str(wait), str(hold)]
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        started.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.wait()
        process.stdout.close()


def locks(tmp_path):
    return sorted(path.name for path in tmp_path.iterdir())


def test_a_lock_is_there_while_it_is_held(tmp_path):
    with ShardLock(tmp_path / "x.lock", 60, 0) as lock:
        lock.check()
        owner = json.loads((tmp_path / "x.lock-1").read_text())
        assert owner["pid"] == os.getpid() and owner["host"] and locks(tmp_path) == ["x.lock-1"]
    assert locks(tmp_path) == []
    with pytest.raises(LostLockError):
        lock.check()


def test_the_second_fails_naming_the_first(tmp_path, holder):
    first = holder()
    assert first.stdout.readline() == "held\n"
    with pytest.raises(VarError, match=rf"x\.lock: process {first.pid} on \S+ captures this shard already") as caught:
        ShardLock(tmp_path / "x.lock", 60, 0.3).__enter__()
    assert "\n" not in str(caught.value)
    assert locks(tmp_path) == ["x.lock-1"], "and leaves the lock alone"


def test_the_second_waits_for_the_first(tmp_path, holder, caplog):
    first = holder(hold=1.0)
    assert first.stdout.readline() == "held\n"
    caplog.set_level("INFO")
    with ShardLock(tmp_path / "x.lock", 2, 60):
        assert first.wait(timeout=30) == 0
    assert f"waiting for process {first.pid}" in caplog.text and "taking over" not in caplog.text


def test_a_killed_owner_s_lock_is_taken_over_at_once(tmp_path, holder, caplog):
    first = holder(stale=1000)
    assert first.stdout.readline() == "held\n"
    first.kill()
    first.wait()
    with ShardLock(tmp_path / "x.lock", 1000, 0) as lock:
        lock.check()
    assert f"taking over the lock of process {first.pid}" in caplog.text and "which runs no more" in caplog.text
    assert locks(tmp_path) == []


def left_by(tmp_path, seconds=0.0, **changes):
    """A lock file of a process that is no more or is elsewhere, last heard of some time ago."""
    file = tmp_path / "x.lock-1"
    file.write_text(json.dumps(asdict(replace(Owner.this_process(), **changes))))
    os.utime(file, (time.time() - seconds,) * 2)


def test_a_number_that_is_used_again_is_another_process(tmp_path):
    left_by(tmp_path, started="1")
    with ShardLock(tmp_path / "x.lock", 1000, 0) as lock:
        lock.check()


@pytest.mark.parametrize("place", ["another machine", ""])
def test_an_owner_elsewhere_is_dead_when_its_heart_has_stopped(tmp_path, place, caplog):
    left_by(tmp_path, 30, place=place, host="elsewhere", job="77", started="1")
    with pytest.raises(VarError, match=r"process \d+ on elsewhere, job 77 captures this shard already"):
        ShardLock(tmp_path / "x.lock", 60, 0).__enter__()
    with ShardLock(tmp_path / "x.lock", 20, 0):
        pass
    assert "on elsewhere, job 77, without a sign of life for 30 s" in caplog.text


def test_a_lock_that_names_nobody_counts_as_alive_until_it_is_old(tmp_path):
    (tmp_path / "x.lock-1").write_text("")
    with pytest.raises(VarError, match="another process captures this shard already"):
        ShardLock(tmp_path / "x.lock", 60, 0).__enter__()
    os.utime(tmp_path / "x.lock-1", (time.time() - 100,) * 2)
    with ShardLock(tmp_path / "x.lock", 60, 0):
        pass


def test_a_beating_heart_keeps_the_lock(tmp_path, holder):
    assert holder(stale=1.0).stdout.readline() == "held\n"
    with pytest.raises(VarError, match="captures this shard already"):
        ShardLock(tmp_path / "x.lock", 1.0, 2.5).__enter__()


def test_a_suspended_owner_loses_the_lock_and_finds_out(tmp_path, holder):
    first = holder(stale=1.0)
    assert first.stdout.readline() == "held\n"
    first.send_signal(signal.SIGSTOP)
    with ShardLock(tmp_path / "x.lock", 1.0, 30) as lock:
        first.send_signal(signal.SIGCONT)
        message = first.stdout.readline()
        assert f"process {os.getpid()} on" in message and "has taken this shard over" in message
        assert first.wait(timeout=30) == 0
        lock.check()  # the loser's going has not released what is another's
    assert locks(tmp_path) == []


def test_of_many_takers_exactly_one_wins(tmp_path, holder):
    left_by(tmp_path, started="1")
    answers = [taker.stdout.readline() for taker in [holder(hold=3.0) for _ in range(6)]]
    assert answers.count("held\n") == 1, answers
    assert sum("captures this shard already" in answer for answer in answers) == 5


def test_the_owner_may_come_back_while_it_is_being_replaced(tmp_path):
    """The taker has seen a dead owner, but by the time that it has the next number that lock is released or another."""
    for now in (None, "of a third"):
        left_by(tmp_path, 100, place="elsewhere")

        class Slow(ShardLock):
            def _make(self, number, now=now):
                made = super()._make(number)
                (tmp_path / "x.lock-1").unlink(missing_ok=True)
                if now:
                    left_by(tmp_path, token=now)
                return made

        assert not Slow(tmp_path / "x.lock", 60, 0)._try()
        assert locks(tmp_path) == (["x.lock-1"] if now else [])
        (tmp_path / "x.lock-1").unlink(missing_ok=True)


def test_without_hard_links_there_is_still_one_winner(tmp_path, monkeypatch):
    def refused(*arguments):
        raise PermissionError(1, "Operation not permitted")  # what Linux says on FAT

    monkeypatch.setattr(os, "link", refused)
    with ShardLock(tmp_path / "x.lock", 60, 0) as lock:
        lock.check()
        with pytest.raises(VarError, match="captures this shard already"):
            ShardLock(tmp_path / "x.lock", 60, 0).__enter__()
    assert locks(tmp_path) == []


def test_a_link_whose_answer_was_lost_is_ours(tmp_path, monkeypatch):
    link = os.link

    def made_but_denied(source, target):
        link(source, target)
        raise FileExistsError

    monkeypatch.setattr(os, "link", made_but_denied)
    with ShardLock(tmp_path / "x.lock", 60, 0) as lock:
        lock.check()


def test_two_captures_of_one_shard_do_it_one_after_the_other(tmp_path, shard, model, processes):
    whole = contents(capture(shard, model, tmp_path / "whole"))
    out, logs = tmp_path / "out", [tmp_path / "log1", tmp_path / "log2"]
    both = [processes.start(out, log, lock_stale_s=10) for log in logs]
    assert [processes.wait(process) for process in both] == [0, 0]
    assert contents(CaptureOutputs(out, "heldout-00000", True)) == whole
    assert not unfinished(out)
    forwards = "".join(log.read_text() for log in logs).count("weights not used")
    assert forwards == 1, "the one that waited found the micro-shard whole, and loaded no model"
    shutil.rmtree(out)
    impatient = [processes.start(out, log, lock_wait_s=0) for log in logs]
    assert sorted(processes.wait(process) for process in impatient) == [0, 1]
    said = "".join(log.read_text() for log in logs)
    assert "waiting for process" in said and "captures this shard already" in said
