"""Hostile programs, each really run; and proof, from outside, that they reached nothing."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from sandboxes import needs_sandbox
from var_core.errors import VarError
from var_core.evaluation.sandbox import probe
from var_core.evaluation.sandbox.program import Limits, Outcome
from var_core.evaluation.sandbox.run import run_program, run_programs

ROOT = Path(__file__).parents[2]
QUICK = Limits(wall_seconds=4.0, cpu_seconds=4, memory_bytes=256 << 20)


def run(program, limits=QUICK):
    return run_program(program, limits)


def host_processes(mark):
    """Ids of the machine's processes that have a word in their command line."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if mark in (folder / "cmdline").read_bytes():
                found.append(int(folder.name))
        except OSError:
            continue
    return found


@needs_sandbox
def test_it_can_be_built_where_namespaces_are_permitted():
    assert probe.why_not() is None


@needs_sandbox
def test_a_program_passes_when_its_last_line_is_reached():
    result = run("import math\nassert math.comb(5, 2) == 10\nprint('fine')")
    assert (result.outcome, result.status, result.output) == (Outcome.PASSED, 0, "fine\n")
    assert 0 < result.seconds < QUICK.wall_seconds


@needs_sandbox
@pytest.mark.parametrize(
    ("program", "said"),
    [
        ("assert 1 == 2, 'no'", "AssertionError: no"),
        ("def f(:", "SyntaxError"),
        ("raise ValueError(3)", "ValueError: 3"),
        ("'\x00'", "null bytes"),
        ("'\ud800'", "UnicodeDecodeError"),
    ],
)
def test_a_program_that_raises_fails_and_its_last_lines_say_why(program, said):
    result = run(program)
    assert (result.outcome, result.status) == (Outcome.FAILED, 1)
    assert said in result.output


@needs_sandbox
@pytest.mark.parametrize(
    "leave",
    [
        "import sys; sys.exit(0)",
        "import os; os._exit(0)",
        "raise SystemExit",
        "print('passed'); quit(0)",
        "import os; os.write(int(os.sys.orig_argv[-1]), b'passed'); os._exit(0)",
        "import os; os.write(int(os.sys.orig_argv[-1]), b'0' * 32); os._exit(0)",
        "import atexit, os; atexit.register(os._exit, 0); 1 / 0",
        "import os, sys; sys.excepthook = lambda *_: os._exit(0); 1 / 0",
        "import os\nif os.fork(): os._exit(0)",
    ],
)
def test_ending_early_with_status_0_is_not_passing(leave):
    result = run(f"{leave}\nassert False, 'a test'")
    assert (result.outcome, result.status) == (Outcome.FAILED, 0)


@needs_sandbox
def test_the_token_is_in_no_file_argument_or_variable_of_the_program():
    # 32 hexadecimal digits in a row are nowhere in what a program is given.
    result = run(
        "import os, re, sys\n"
        "given = [*sys.orig_argv, *sys.argv, *os.environ, *os.environ.values(), sys.stdin.read()]\n"
        "given += [open(each).read() for each in os.listdir('.')]\n"
        "given += [open('/proc/self/environ').read(), open('/proc/self/cmdline').read()]\n"
        "assert not [each for each in given if re.search('[0-9a-f]' '{32}', each)]\n"
    )
    assert result.passed, result.output


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
def test_deleting_and_writing_outside_reaches_nothing(tmp_path):
    kept = tmp_path / "kept.txt"
    kept.write_text("kept")
    tmp_path.chmod(0o777)
    kept.chmod(0o666)
    folders = ["/", "/usr", "/usr/bin", "/etc", "/root", "/tmp", "/proc", "/dev", str(tmp_path), sys.base_prefix]
    before = {name: sorted(Path(name).iterdir()) for name in ("/", "/etc", "/usr/bin", tmp_path)}
    result = run(
        "import os, shutil\n"
        f"for path in {folders!r}:\n"
        "    try:\n"
        "        open(os.path.join(path, 'written-by-program'), 'w').close()\n"
        "    except OSError:\n"
        "        pass\n"
        "    else:\n"
        "        print('wrote in', path)\n"
        f"for path in ({str(kept)!r}, '/usr/bin/env', '/usr/bin', '/etc', os.__file__):\n"
        "    shutil.rmtree(path, ignore_errors=True)\n"
        "    try: os.unlink(path)\n"
        "    except OSError: pass\n"
        f"assert os.path.exists('/usr/bin/env') and not os.path.exists({str(kept)!r})\n"
    )
    assert (result.output, result.outcome) == ("", Outcome.PASSED)
    run("import shutil; shutil.rmtree('/', ignore_errors=True)", Limits(wall_seconds=2))
    assert {name: sorted(Path(name).iterdir()) for name in before} == before
    assert kept.read_text() == "kept" and Path(os.__file__).is_file()
    assert not Path("/tmp/written-by-program").exists()


@needs_sandbox
def test_every_mount_but_the_scratch_folder_is_read_only_and_the_old_root_is_gone():
    result = run("print(open('/proc/self/mounts').read())")
    mounts = {line.split()[1]: set(line.split()[3].split(",")) for line in result.output.strip().splitlines()}
    assert {path for path, flags in mounts.items() if "rw" in flags} == {"/scratch"}
    assert {path for path, flags in mounts.items() if "nosuid" not in flags} == set()
    devices = {path for path, flags in mounts.items() if "nodev" not in flags}
    assert devices == {f"/dev/{name}" for name in ("null", "zero", "full", "random", "urandom")}
    known = ("/", "/scratch", "/proc", "/usr", "/bin", "/lib", "/lib32", "/lib64", "/etc/ld.so.cache")
    assert all(path.startswith((sys.base_prefix, "/dev/")) or path in known for path in mounts)


@needs_sandbox
def test_only_the_scratch_folder_can_be_written_and_it_is_gone_afterwards():
    first = run(
        "import os, tempfile\n"
        "assert os.getcwd() == tempfile.gettempdir() == os.path.expanduser('~') == '/scratch'\n"
        "with tempfile.NamedTemporaryFile(delete=False) as stream: stream.write(b'x')\n"
        "os.mkdir('folder'); assert len(os.listdir('.')) == 3\n"
    )
    assert first.passed, first.output
    assert run("import os; assert os.listdir('.') == ['program.py']").passed
    assert not Path("/scratch").exists()


@needs_sandbox
def test_sockets_reach_nobody():
    tcp, udp = socket.socket(), socket.socket(type=socket.SOCK_DGRAM)
    with tcp, udp:
        for each in (tcp, udp):
            each.bind(("127.0.0.1", 0))
            each.settimeout(0.2)
        tcp.listen()
        with socket.create_connection(tcp.getsockname()), tcp.accept()[0]:
            pass  # this listener can be reached from out here
        result = run(
            "import socket\n"
            "reached = []\n"
            "for address in ('127.0.0.1', '10.0.0.1', '1.1.1.1'):\n"
            "    try:\n"
            f"        socket.create_connection((address, {tcp.getsockname()[1]}), timeout=1)\n"
            "        reached.append(address)\n"
            "    except OSError: pass\n"
            "    try:\n"
            "        sender = socket.socket(type=socket.SOCK_DGRAM)\n"
            f"        sender.sendto(b'x', (address, {udp.getsockname()[1]}))\n"
            "        reached.append(address)\n"
            "    except OSError: pass\n"
            "print(reached, [name for _, name in socket.if_nameindex()])\n"
        )
        assert (result.output, result.outcome) == ("[] ['lo']\n", Outcome.PASSED)
        for each in (tcp.accept, lambda: udp.recv(1)):
            with pytest.raises(TimeoutError):
                each()


@needs_sandbox
def test_abstract_sockets_of_the_machine_are_not_there():
    name = "\0var-test-" + os.urandom(4).hex()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(name)
        listener.listen()
        result = run(f"import socket\nsocket.socket(socket.AF_UNIX).connect({name!r})")
    assert (result.outcome, "ConnectionRefusedError" in result.output) == (Outcome.FAILED, True)


@needs_sandbox
def test_the_caller_and_the_watcher_can_be_neither_killed_nor_traced():
    bystander = subprocess.Popen(["sleep", "60"])
    try:
        result = run(
            "import ctypes, os, signal\n"
            f"targets = [os.getppid(), {os.getpid()}, {bystander.pid}, 1]\n"
            "for target in targets:\n"
            "    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGKILL):\n"
            "        try: os.kill(target, number)\n"
            "        except OSError: pass\n"
            "    library = ctypes.CDLL(None, use_errno=True)\n"
            "    for request in (16, 0x4206):\n"  # attach, seize
            "        assert library.ptrace(request, target, 0, 0) == -1\n"
            "    try: open(f'/proc/{target}/mem', 'rb+')\n"
            "    except OSError: continue\n"
            "    raise AssertionError(target)\n"
            "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
            "os.killpg(0, signal.SIGTERM)\n"
            "assert sorted(int(name) for name in os.listdir('/proc') if name.isdigit()) == [1, os.getpid()]\n"
        )
        assert result.passed, result.output
        assert bystander.poll() is None
    finally:
        bystander.kill()
        bystander.wait()


@needs_sandbox
def test_killing_everything_in_reach_ends_only_itself():
    assert run("import os\nos.kill(-1, 9)\nassert 0, 'alive'").outcome is Outcome.FAILED
    result = run("import os\nos.kill(os.getpid(), 9)")
    assert (result.outcome, result.status) == (Outcome.KILLED, -9)


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


@needs_sandbox
def test_no_secret_is_in_reach(monkeypatch, tmp_path):
    monkeypatch.setenv("SECRET_TOKEN", "hunter2")
    secret = tmp_path / "secret"
    secret.write_text("hunter2")
    result = run(
        "import glob, os\n"
        f"assert not os.path.exists({str(secret)!r})\n"
        "for path in ('/root/.ssh', '/root/.bashrc', '/home', '/etc/shadow', '/etc/passwd', '/run', '/var', '/sys'):\n"
        "    assert not os.path.exists(path), path\n"
        "for path in glob.glob('/proc/*/environ'):\n"
        "    try: assert b'hunter2' not in open(path, 'rb').read()\n"
        "    except PermissionError: pass\n"
        "print(sorted(os.environ), os.listdir('/proc/self/fd'))\n"
    )
    assert result.passed, result.output
    names, descriptors = result.output.strip().split("] ")
    assert names + "]" == "['HOME', 'LANG', 'PATH', 'PYTHONHASHSEED', 'TMPDIR']"
    assert len(descriptors.split(",")) == 5  # the three usual ones, the report, and that of this listing


@needs_sandbox
def test_what_a_program_leaves_behind_is_gone_with_it():
    mark = "left-behind-" + os.urandom(4).hex()
    result = run(
        "import os, subprocess, sys, time\n"
        "ready, said = os.pipe()\n"
        "if not os.fork():\n"
        "    os.setsid()\n"
        "    if not os.fork():\n"
        "        os.closerange(0, 3)\n"
        "        os.set_inheritable(said, True)\n"
        f"        code = 'import os, sys, time; os.write(int(sys.argv[2]), b\".\"); time.sleep(60)'\n"
        f"        os.execv(sys.executable, [sys.executable, '-S', '-c', code, {mark!r}, str(said)])\n"
        "    os._exit(0)\n"
        "os.close(said)\n"
        "assert os.read(ready, 1) == b'.'\n"
    )
    assert result.passed, result.output
    assert host_processes(mark.encode()) == []


@needs_sandbox
def test_no_privileges_and_no_way_to_get_any():
    result = run(
        "import ctypes, os\n"
        "status = dict(line.split(':\\t', 1) for line in open('/proc/self/status').read().splitlines())\n"
        "assert {status[name].strip() for name in ('CapInh', 'CapPrm', 'CapEff', 'CapBnd', 'CapAmb')} == {'0' * 16}\n"
        "assert (status['NoNewPrivs'], status['Seccomp']) == ('1', '2') and os.getuid() != 0\n"
        "library = ctypes.CDLL(None, use_errno=True)\n"
        "for flags in (0x10000000, 0x00020000, 0x40000000):\n"
        "    assert library.unshare(flags) == -1\n"
        "assert library.mount(b'tmpfs', b'/usr', b'tmpfs', 0, None) == -1\n"
        "assert library.umount2(b'/proc', 2) == -1\n"
        "assert library.chroot(b'/scratch') == -1\n"
    )
    assert result.passed, result.output


@needs_sandbox
def test_a_killed_caller_takes_the_sandbox_with_it():
    mark = "orphan-" + os.urandom(4).hex()
    code = (
        "from var_core.evaluation.sandbox.run import run_program\n"
        "import sys; program = 'import os, sys; os.execv(sys.executable, "
        f'[sys.executable, "-S", "-c", "import time; time.sleep(60)", "{mark}"])\'\n'
        "del sys.argv[:]\n"
        "run_program(program)\n"
    )
    caller = subprocess.Popen(
        [sys.executable, "-"], stdin=subprocess.PIPE, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    caller.stdin.write(code.encode())
    caller.stdin.close()
    until = time.monotonic() + 20
    while not (started := host_processes(mark.encode())) and time.monotonic() < until:
        time.sleep(0.05)
    caller.kill()
    caller.wait()
    assert started
    until = time.monotonic() + 5
    while host_processes(mark.encode()) and time.monotonic() < until:
        time.sleep(0.05)
    assert host_processes(mark.encode()) == []


@needs_sandbox
def test_a_batch_keeps_its_order_and_mixes_outcomes():
    programs = [f"assert {number} % 3" for number in range(7)]
    results = run_programs(programs, QUICK, workers=2)
    assert [result.passed for result in results] == [False, True, True, False, True, True, False]


REFUSED = """
import sys
from pathlib import Path
from var_core.errors import VarError
from var_core.evaluation.sandbox import system
from var_core.evaluation.sandbox.run import run_program

here = Path("/proc/self")
system.unshare(system.NEW_USER)
(here / "setgroups").write_text("deny")
(here / "uid_map").write_text("0 %d 1")
(here / "gid_map").write_text("0 %d 1")
Path("/proc/sys/user/max_user_namespaces").write_text("0")
try:
    run_program("pass")
except VarError as error:
    print(error)
print(run_program("pass", unsafe=True).outcome)
"""


@needs_sandbox
def test_where_user_namespaces_are_forbidden_it_refuses_and_says_why():
    code = REFUSED % (os.geteuid(), os.getegid())
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60)
    lines = done.stdout.splitlines()
    assert len(lines) == 2, done.stderr
    assert "user namespaces are switched off" in lines[0] and "unsafe=True" in lines[0]
    assert lines[1] == "passed"


ORDINARY = """
import os, sys
if sys.version_info < (3, 11):
    sys.exit(77)
from var_core.evaluation.sandbox.process import execute
from var_core.evaluation.sandbox.program import Limits
bomb = '''
import os, time
made = 0
try:
    while True:
        if not os.fork():
            time.sleep(9)
        made += 1
except BlockingIOError:
    print(made)
'''
kill = '''
import os, signal
signal.signal(signal.SIGTERM, signal.SIG_IGN)
for target in (1, os.getppid()):
    os.kill(target, 9)
os.killpg(0, signal.SIGTERM)
print(os.getuid())
'''
write = '''
import os
for place in ("/", "/proc", "/dev", "/usr"):
    try:
        os.mkdir(place + "/new")
    except OSError:
        continue
    print("wrote in", place)
for name in ("mem", "environ"):
    try:
        open("/proc/1/" + name, "rb").read(1)
    except PermissionError:
        print(name)
'''
for program in (bomb, kill, write):
    result = execute(program, Limits(processes=5), True)
    print(result.outcome, *result.output.split())
"""


@needs_sandbox
@pytest.mark.skipif(os.geteuid() != 0 or not Path("/usr/bin/python3").exists(), reason="needs root to be somebody else")
def test_an_ordinary_user_can_build_it_too(tmp_path):
    package = tmp_path / "var_core"
    for source in [ROOT / "var_core/errors.py", *(ROOT / "var_core/evaluation/sandbox").glob("*.py")]:
        target = package / source.relative_to(ROOT / "var_core")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(source.read_text())
    (package / "__init__.py").touch()
    for folder in (tmp_path, *tmp_path.parents[:2]):
        folder.chmod(0o755)
    done = subprocess.run(
        ["/usr/bin/python3", "-c", ORDINARY],
        env={"PYTHONPATH": str(tmp_path)}, cwd="/", user=65534, group=65534, extra_groups=[],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    if done.returncode == 77:
        pytest.skip("/usr/bin/python3 is older than 3.11")
    assert done.stdout.splitlines() == ["passed 4", "passed 65534", "passed mem environ"], done.stderr


def test_without_a_sandbox_limits_time_and_environment_are_kept(monkeypatch, caplog, tmp_path):
    monkeypatch.setenv("SECRET_TOKEN", "hunter2")
    limits = Limits(wall_seconds=1.5, cpu_seconds=5, memory_bytes=256 << 20)
    mark = "unsafe-" + os.urandom(4).hex()
    programs = {
        "import os; assert 'SECRET_TOKEN' not in os.environ": Outcome.PASSED,
        "import sys; sys.exit(0)": Outcome.FAILED,
        "hog = []\nwhile True: hog.append(bytearray(10_000_000))": Outcome.OUT_OF_MEMORY,
        "while True: print('y' * 1000)": Outcome.TOO_MUCH_OUTPUT,
        "import subprocess, sys\n"
        f"subprocess.run([sys.executable, '-Sc', 'import time; time.sleep(60)', '{mark}'])": Outcome.TIMED_OUT,
    }
    results = run_programs(list(programs), limits, unsafe=True)
    assert [result.outcome for result in results] == list(programs.values())
    assert "without a sandbox" in caplog.text
    assert host_processes(mark.encode()) == []


@pytest.mark.parametrize("change", [{"wall_seconds": 0}, {"processes": -1}, {"memory_bytes": 0}])
def test_limits_that_forbid_everything_are_refused(change):
    with pytest.raises(VarError, match=rf"sandbox limit {next(iter(change))}: .*above 0"):
        Limits(**change)


def test_no_workers_is_refused():
    with pytest.raises(VarError, match="set at least 1"):
        run_programs(["pass"], workers=0, unsafe=True)
