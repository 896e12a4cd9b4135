"""The process that builds a sandbox, starts the program inside, and watches it.

Three processes stand between the caller and the program. The first enters new namespaces. The second, its child,
is process 1 of the sandbox: it makes the file system, starts the program and waits for it; when it ends, the kernel
ends everything that is left inside. The third gives up every privilege and becomes the program.

Only the standard library is used, since this runs in an interpreter without installed packages.
"""

import json
import os
import resource
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

if sys.platform == "linux":
    from var_core.evaluation.sandbox import system

_NOBODY = 65534
_DEVICES = ("null", "zero", "full", "random", "urandom")
_SECONDS_BETWEEN_LOOKS = 0.05
_OPEN_FILES = 64

Order = dict[str, Any]


def main() -> None:
    """Read the order from standard input, run its program, and write what became of it to the order's status pipe."""
    order: Order = json.loads(sys.stdin.buffer.read())
    for pipe in (order["status"], order["report"]):
        os.set_inheritable(pipe, False)
    os.umask(0o022)
    with _faults_told(order):
        if sys.platform == "linux":
            system.die_with_parent()
            _raise_oom_score()
        if os.getppid() != order["parent"]:
            return
        if order["strict"]:
            _enter_namespaces()
        _start_watcher(order)


@contextmanager
def _faults_told(order: Order) -> Iterator[None]:
    """Report what kept the sandbox from being built."""
    try:
        yield
    except Exception as error:
        _tell(order, fault=" ".join(f"{type(error).__name__}: {error}".split()))


def _tell(order: Order, **what: Any) -> None:
    os.write(order["status"], json.dumps(what).encode() + b"\n")


def _raise_oom_score() -> None:
    """Be the first that the kernel ends when the whole machine is out of memory."""
    Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")


def _enter_namespaces() -> None:
    """Leave behind the machine's users, mounts, processes, network, and names."""
    user, group, root = os.geteuid(), os.getegid(), os.geteuid() == 0
    go_read, go_write = os.pipe()
    helper = os.fork() if root else None
    if helper == 0:
        _map_ids_of_parent(go_read, go_write)
    names = system.NEW_IPC | system.NEW_HOSTNAME | system.NEW_CGROUP
    system.unshare(system.NEW_USER | system.NEW_MOUNTS | system.NEW_PIDS | system.NEW_NETWORK | names)
    if helper is not None:
        os.write(go_write, b".")
        if os.waitpid(helper, 0)[1] != 0:
            raise OSError("root may not give the sandbox the user ids 0 and 65534")
    else:
        here = Path("/proc/self")
        (here / "setgroups").write_text("deny", encoding="ascii")
        (here / "uid_map").write_text(f"{user} {user} 1", encoding="ascii")
        (here / "gid_map").write_text(f"{group} {group} 1", encoding="ascii")
    os.close(go_read)
    os.close(go_write)


def _map_ids_of_parent(go_read: int, go_write: int) -> None:
    """Wait until the parent is in its own user namespace, then let it have root (to build) and nobody (to run)."""
    status = 1
    try:
        os.close(go_write)
        if os.read(go_read, 1):
            for kind in ("uid_map", "gid_map"):
                lines = f"0 0 1\n{_NOBODY} {_NOBODY} 1\n"
                Path(f"/proc/{os.getppid()}/{kind}").write_text(lines, encoding="ascii")
            status = 0
    finally:
        os._exit(status)


def _start_watcher(order: Order) -> None:
    """Fork the watcher and wait for its end; a request to stop ends it, and with it all that runs in the sandbox."""
    go_read, go_write = os.pipe()
    watcher = os.fork()
    if watcher == 0:
        os.close(go_write)
        with _faults_told(order):
            if sys.platform == "linux":
                system.die_with_parent()
            if os.read(go_read, 1):  # nothing when the parent died before it could be asked for
                _watch(order)
        os._exit(0)
    stop = signal.SIGKILL if order["strict"] else signal.SIGTERM
    signal.signal(signal.SIGTERM, lambda number, frame: os.kill(watcher, stop))
    os.write(go_write, b".")
    os.waitpid(watcher, 0)


def _watch(order: Order) -> None:
    """Build the file system, start the program, and tell how it ended."""
    if order["strict"]:
        if os.getpid() != 1:  # else ending all that is in reach would end the machine's processes
            raise OSError("the watcher is not process 1 of a namespace of its own")
        _build_root(order)
        system.hide_memory()
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # from inside, process 1 gets no signal that it has no handler for
    awaited = {signal.SIGCHLD} if order["strict"] else {signal.SIGCHLD, signal.SIGTERM}
    signal.pthread_sigmask(signal.SIG_BLOCK, awaited)
    child = _start_program(order)
    reason = None
    while (ended := _ended(child)) is None:
        if _signal_within(awaited) == signal.SIGTERM:
            _end_group(child)
        if order["strict"] and reason is None and _resident_bytes() > order["memory_bytes"]:
            reason = "memory"
            os.kill(-1, signal.SIGKILL)
    if not order["strict"]:
        _end_group(child)
    status, usage = ended
    seconds = usage.ru_utime + usage.ru_stime
    _tell(order, status=os.waitstatus_to_exitcode(status), cpu_seconds=seconds, reason=reason)


def _start_program(order: Order) -> int:
    """Start the program in the folder that it may write in, with the token to report on its standard input."""
    scratch = Path("/scratch" if order["strict"] else order["scratch"])
    (scratch / "program.py").write_text(order["program"], encoding="utf-8", errors="surrogatepass")
    token_read, token_write = os.pipe()
    os.write(token_write, order["token"].encode())
    os.close(token_write)
    child = os.fork()
    if child == 0:
        with _faults_told(order):
            os.dup2(token_read, 0)
            _become_program(order, scratch)
        os._exit(1)
    os.close(token_read)
    return child


def _signal_within(awaited: set[signal.Signals]) -> int | None:
    """Wait a short while for one of some signals that are blocked."""
    if sys.platform == "darwin":  # which has no wait that ends
        time.sleep(_SECONDS_BETWEEN_LOOKS)
        pending = signal.sigpending() & awaited
        return signal.sigwait(pending) if pending else None
    found = signal.sigtimedwait(awaited, _SECONDS_BETWEEN_LOOKS)
    return None if found is None else found.si_signo


def _ended(child: int) -> tuple[int, resource.struct_rusage] | None:
    """Collect what has ended, and give how the program did if it is among it."""
    while True:
        process, status, usage = os.wait4(-1, os.WNOHANG)
        if process == child:
            return status, usage
        if process == 0:
            return None


def _resident_bytes() -> int:
    """Memory of all processes of the sandbox but this one; what they share is counted for each."""
    pages = 0
    for name in os.listdir("/proc"):  # noqa: PTH208  pathlib would make an object for each
        if name.isdigit() and name != "1":
            try:
                pages += int(Path(f"/proc/{name}/statm").read_bytes().split()[1])
            except OSError:  # it has just ended
                continue
    return pages * resource.getpagesize()


def _end_group(child: int) -> None:
    """End what the program left in its process group; what left that group is not found."""
    try:
        os.killpg(child, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        return


def _build_root(order: Order) -> None:
    """Make a root of what a Python program reads, all of it read-only, and one folder to write in."""
    root, old = Path("/"), Path("/old")
    system.keep_mounts_private()
    system.mount("tmpfs", Path("/tmp"), "mode=755,size=1m")
    Path("/tmp/old").mkdir()
    system.pivot_root(Path("/tmp"), Path("/tmp/old"))
    os.chdir("/")
    for path in map(Path, order["visible"]):
        _show(old, path)
    for name in _DEVICES:
        target = Path("/dev") / name
        target.parent.mkdir(exist_ok=True)
        target.touch()
        system.bind(old / "dev" / name, target, system.NO_SETUID | system.NO_WRITING)
    scratch, processes = Path("/scratch"), Path("/proc")
    scratch.mkdir()
    owner = _NOBODY if os.geteuid() == 0 else os.geteuid()
    options = f"size={order['scratch_bytes']},nr_inodes=4096,mode=700,uid={owner}"
    system.mount("tmpfs", scratch, options)
    system.restrict_mount(scratch, system.NO_SETUID | system.NO_DEVICES)
    processes.mkdir()
    system.mount("proc", processes)
    (processes / "sys/user/max_user_namespaces").write_text("0", encoding="ascii")
    system.restrict_mount(processes, system.NO_WRITING | system.NO_SETUID | system.NO_DEVICES | system.NO_RUNNING)
    system.unmount(old)
    old.rmdir()
    system.restrict_mount(root, system.NO_WRITING | system.NO_SETUID | system.NO_DEVICES)
    system.set_hostname("sandbox")


def _show(old: Path, path: Path) -> None:
    """Put a path of the machine at the same place in the new root: a link as a link, all else read-only."""
    source = old / path.relative_to("/")
    if path.exists() or not (source.exists() or source.is_symlink()):
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    if source.is_symlink():
        path.symlink_to(source.readlink())
        return
    if source.is_dir():
        path.mkdir()
    else:
        path.touch()
    system.bind(source, path, system.NO_WRITING | system.NO_SETUID | system.NO_DEVICES)


def _become_program(order: Order, scratch: Path) -> None:
    """Give up everything that the program shall not have, and turn into the interpreter that runs it."""
    os.setsid()  # else a signal to its own group would reach the processes that watch it
    os.chdir(scratch)
    signal.pthread_sigmask(signal.SIG_SETMASK, set())
    os.set_inheritable(order["report"], True)
    _set_limits(order)
    if order["strict"]:
        system.bound_capabilities()
        if os.geteuid() == 0:
            os.setgroups([])
            os.setresgid(_NOBODY, _NOBODY, _NOBODY)
            os.setresuid(_NOBODY, _NOBODY, _NOBODY)
        system.drop_capabilities()
        system.forbid_calls()
    environment = {
        "HOME": str(scratch),
        "TMPDIR": str(scratch),
        "PATH": "/usr/bin:/bin",
        "LANG": "C.UTF-8",
        "PYTHONHASHSEED": "0",  # the order of sets is then the same in every run
    }
    words = [order["python"], "-s", "-P", "-B", "-X", "utf8", "-c", order["harness"], str(order["report"])]
    os.execve(order["python"], words, environment)


def _set_limits(order: Order) -> None:
    """Set the limits that the kernel keeps for each process (processes: for the sandbox)."""
    _limit("AS", order["memory_bytes"])
    _limit("CORE", 0)
    _limit("CPU", order["cpu_seconds"], order["cpu_seconds"] + 1)
    _limit("FSIZE", order["file_bytes"])
    _limit("MEMLOCK", 0)
    _limit("MSGQUEUE", 0)
    _limit("NOFILE", _OPEN_FILES)
    if order["strict"]:  # without a namespace, all processes of the user would count
        # An ordinary user's launcher and watcher are of the same user as the program.
        _limit("NPROC", order["processes"] + (0 if os.geteuid() == 0 else 2))


def _limit(name: str, soft: int, hard: int | None = None) -> None:
    """Set a limit, or keep the one that is in force where it is lower."""
    number = getattr(resource, f"RLIMIT_{name}", None)
    if number is None:  # not on macOS
        return
    highest = resource.getrlimit(number)[1]
    hard = soft if hard is None else hard
    if highest != resource.RLIM_INFINITY:
        soft, hard = min(soft, highest), min(hard, highest)
    resource.setrlimit(number, (soft, hard))
