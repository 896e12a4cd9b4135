"""Programs that reach for what is not theirs, each really run; and proof, from outside, that they got nothing."""

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sandboxes import host_processes, needs_sandbox, run
from var_core.evaluation.sandbox.program import Limits, Outcome

ROOT = Path(__file__).parents[2]


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
def test_every_namespace_is_its_own():
    names = ("cgroup", "ipc", "mnt", "net", "pid", "user", "uts")
    result = run(f"import os\nprint(*[os.readlink('/proc/self/ns/' + name) for name in {names!r}])")
    outside = {str(Path("/proc/self/ns", name).readlink()) for name in names}
    assert len(set(result.output.split()) - outside) == len(names)


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
