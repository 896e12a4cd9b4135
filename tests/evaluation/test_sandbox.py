"""Running programs: which pass, which cannot seem to, and where there is no sandbox."""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from sandboxes import QUICK, host_processes, needs_sandbox, run
from var_core.errors import VarError
from var_core.evaluation.sandbox import probe
from var_core.evaluation.sandbox.program import Limits, Outcome
from var_core.evaluation.sandbox.run import run_programs

ROOT = Path(__file__).parents[2]


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
def test_an_ordinary_user_can_build_it_too():
    with tempfile.TemporaryDirectory() as place:  # pytest's own folders are closed to others
        Path(place).chmod(0o755)
        sources = [*(ROOT / "var_core").glob("*.py"), *(ROOT / "var_core/evaluation/sandbox").glob("*.py")]
        for source in sources:
            target = place / source.relative_to(ROOT)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)
        done = subprocess.run(
            ["/usr/bin/python3", "-c", ORDINARY],
            env={"PYTHONPATH": place}, cwd="/", user=65534, group=65534, extra_groups=[],
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
