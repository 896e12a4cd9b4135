"""Deadline and signals: a capture ends between two batches with a checkpoint, and a retry goes on from it."""

import os
import re
import signal
import threading
import time

import pytest

from captures import CONFIG, LENGTH, capture, contents, write_shard
from var_core.capture.outputs import CaptureOutputs
from var_core.capture.stopping import StopRequest
from var_core.errors import VarError

STOPPED = re.compile(r"error: stopped at (\d+) of (\d+) tokens: (.+); run again to continue \(capture mine/text .+\)")
SEQUENCES = 200


def test_the_time_is_up_a_margin_before_the_deadline():
    stop = StopRequest(10.2, 10)
    assert stop.reason() is None
    time.sleep(0.25)
    assert stop.reason() == "the job's time is nearly up"
    assert StopRequest(None, 10).reason() is None


def test_a_margin_that_leaves_no_time_is_refused():
    with pytest.raises(VarError, match=r"capture\.deadline_margin_s: 300 s leave nothing of the job's 60 s"):
        StopRequest(60, 300)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_is_noted_and_the_former_handler_put_back(number):
    before = signal.getsignal(number)
    with StopRequest(None, 0) as stop:
        signal.raise_signal(number)
        assert stop.reason() == f"signal {number.name}"
    assert signal.getsignal(number) is before


def test_another_thread_than_the_main_one_has_a_deadline_only():
    reasons = []

    def work():
        with StopRequest(0.1, 0) as stop:
            time.sleep(0.15)
            reasons.append(stop.reason())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert reasons == ["the job's time is nearly up"]


@pytest.fixture
def shard(tmp_path):
    return write_shard(tmp_path / "corpus" / "heldout-00000.parquet", sequences=SEQUENCES)


def wait_for(words, log):
    end = time.monotonic() + 60
    while not re.search(words, log.read_text()):
        assert time.monotonic() < end, log.read_text()
        time.sleep(0.005)


def test_a_stopped_capture_goes_on_from_where_it_stopped(tmp_path, shard, model, processes):
    """Each attempt is stopped, by a signal or by its deadline; what they leave is the undisturbed run's, byte by byte.

    The next regular checkpoint is farther away than the shard is long, so that all progress is the stops' own.
    """
    whole = contents(capture(shard, model, tmp_path / "whole"))
    out, log = tmp_path / "out", tmp_path / "log"
    stops, done = [], [0]
    attempts = [signal.SIGTERM, signal.SIGUSR1, 0.3, None]
    processes.wait(processes.start(tmp_path / "first", log))  # slower than the next: nothing is in memory yet
    for how in attempts:
        log.write_text("")
        seconds = how if isinstance(how, float) else None
        process = processes.start(out, log, seconds=seconds, deadline_margin_s=0, checkpoint_tokens=10**9)
        if isinstance(how, signal.Signals):
            wait_for(r"(beginning|resuming) .*batch", log)
            time.sleep(0.1)
            os.kill(process, how)
        status = processes.wait(process)
        last = log.read_text().strip().splitlines()[-1]
        assert status == (1 if last.startswith("error: ") else 0), log.read_text()
        if status == 0:
            break
        found = STOPPED.fullmatch(last)
        assert found and int(found[2]) == SEQUENCES * LENGTH, last
        stops.append(found[3])
        done.append(int(found[1]))
        assert not list((out / ".state" / "locks").iterdir()), "the lock is released"
    assert stops == ["signal SIGTERM", "signal SIGUSR1", "the job's time is nearly up"]
    assert done == sorted(done) and len(set(done)) >= 3, "attempts go on, and do not begin again"
    assert contents(CaptureOutputs(out, "heldout-00000", trace=True)) == whole


def test_every_attempt_gets_on_however_short_its_time(tmp_path, model):
    shard = write_shard(tmp_path / "corpus" / "heldout-00000.parquet", sequences=4)
    whole = contents(capture(shard, model, tmp_path / "whole"))
    config = CONFIG.model_copy(update={"deadline_margin_s": 0})
    for batch in (1, 2):
        message = rf"stopped at {batch * 2 * LENGTH} of {4 * LENGTH} tokens: the job's time is nearly up"
        with pytest.raises(VarError, match=message):
            capture(shard, model, tmp_path / "out", config, seconds=1e-9)
        assert not list((tmp_path / "out").glob("*.parquet"))
    assert contents(capture(shard, model, tmp_path / "out", config, seconds=1e-9)) == whole
