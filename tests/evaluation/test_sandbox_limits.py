"""Programs that take all they can get, each really run."""

import os
import signal
import threading
import time

import pytest

from sandboxes import host_processes, needs_sandbox, run
from var_core.evaluation.sandbox.program import Limits, Outcome


@needs_sandbox
def test_an_endless_loop_is_ended_by_processor_time_and_sleep_by_wall_time():
    loop = run("while True: pass", Limits(wall_seconds=20, cpu_seconds=1))
    assert (loop.outcome, loop.status) == (Outcome.TIMED_OUT, -signal.SIGXCPU)
    stubborn = run(
        "import signal\nsignal.signal(signal.SIGXCPU, signal.SIG_IGN)\nwhile True: pass",
        Limits(wall_seconds=20, cpu_seconds=1),
    )
    assert (stubborn.outcome, stubborn.status) == (Outcome.TIMED_OUT, -signal.SIGKILL)
    sleep = run("import time\ntime.sleep(100)", Limits(wall_seconds=0.7))
    assert (sleep.outcome, sleep.status) == (Outcome.TIMED_OUT, None)
    assert 0.7 <= sleep.seconds < 3


@needs_sandbox
def test_a_fork_bomb_ends_with_the_sandbox_and_never_has_more_than_its_processes():
    mark = b"fork-bomb-" + os.urandom(4).hex().encode()
    program = (
        "import os, subprocess, sys, time\n"
        "for _ in range(1000):\n"
        "    try:\n"
        f"        subprocess.Popen([sys.executable, '-S', '-c', 'import time; time.sleep(60)', '{mark.decode()}'])\n"
        "    except BlockingIOError:\n"
        "        break\n"
        "while True:\n"
        "    try:\n"
        "        os.fork()\n"
        "    except BlockingIOError:\n"
        "        time.sleep(0.01)\n"
    )
    most = 0
    thread = threading.Thread(target=lambda: results.append(run(program, Limits(wall_seconds=3, processes=12))))
    results: list = []
    thread.start()
    while thread.is_alive():
        most = max(most, len(host_processes(mark)))
        time.sleep(0.05)
    thread.join()
    assert results[0].outcome is Outcome.TIMED_OUT
    assert 2 <= most <= 12
    assert host_processes(mark) == []


@needs_sandbox
def test_memory_of_one_process_and_of_many_is_limited():
    one = run("hog = []\nwhile True: hog.append(bytearray(10_000_000))")
    assert (one.outcome, one.status) == (Outcome.OUT_OF_MEMORY, 1)
    many = run(
        "import os, time\n"
        "for _ in range(8):\n"
        "    if not os.fork():\n"
        "        hog = bytearray(100_000_000)\n"
        "        time.sleep(60)\n"
        "time.sleep(60)\n",
        Limits(memory_bytes=300_000_000),
    )
    assert (many.outcome, many.status) == (Outcome.OUT_OF_MEMORY, -signal.SIGKILL)
    assert many.seconds < 8


@needs_sandbox
@pytest.mark.parametrize("take", ["os.memfd_create('hog')", "shmget(0, 1 << 20, 0o1600)"])
def test_memory_that_belongs_to_no_process_cannot_be_had(take):
    result = run(
        "import ctypes, os\n"
        "def shmget(*order):\n"
        "    if ctypes.CDLL(None, use_errno=True).shmget(*order) < 0:\n"
        "        raise OSError(ctypes.get_errno(), 'refused')\n"
        f"try:\n    {take}\nexcept PermissionError:\n    pass\nelse:\n    raise AssertionError\n"
    )
    assert result.passed, result.output


@needs_sandbox
def test_files_are_limited_one_by_one_and_together():
    limits = Limits(wall_seconds=4, file_bytes=1 << 20, scratch_bytes=3 << 20)
    result = run(
        "import errno\n"
        "def fill(name, size):\n"
        "    try:\n"
        "        with open(name, 'wb') as stream: stream.write(bytes(size))\n"
        "    except OSError as error:\n"
        "        return errno.errorcode[error.errno]\n"
        "assert fill('small', 1 << 20) is None\n"
        "assert fill('large', (1 << 20) + 1) == 'EFBIG'\n"
        "assert [fill(str(number), 1 << 20) for number in range(3)][-1] == 'ENOSPC'\n",
        limits,
    )
    assert result.passed, result.output


@needs_sandbox
def test_endless_output_is_ended_and_only_its_end_is_kept():
    result = run("while True: print('y' * 1000)", Limits(wall_seconds=20, output_bytes=200_000))
    assert result.outcome is Outcome.TOO_MUCH_OUTPUT and result.seconds < 5
    assert len(result.output) <= 4096
    report = run(
        "import os\nwhile True: os.write(int(os.sys.orig_argv[-1]), bytes(1000))", Limits(output_bytes=200_000)
    )
    assert report.outcome is Outcome.TOO_MUCH_OUTPUT
    assert run("print('y' * 100_000)", Limits(output_bytes=200_000)).passed
