"""One program in one sandbox: its process, its pipes, its deadline."""

import contextlib
import json
import os
import secrets
import selectors
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import var_core
from var_core.evaluation.sandbox.program import Limits, Outcome, ProgramResult

_SYSTEM = ("/usr", "/bin", "/lib", "/lib32", "/lib64", "/etc/ld.so.cache")
_KEPT_BYTES = 4096
_READ_BYTES = 1 << 16
_SECONDS_TO_END = 5.0
_START = "import sys; sys.path.insert(0, sys.argv[1]); from var_core.evaluation.sandbox import launch; launch.main()"
_HARNESS = Path(__file__).with_name("harness.py")


class SandboxFaultError(Exception):
    """The sandbox could not be built; the message says at which step."""


@dataclass
class _Streams:
    """What has come out of the sandbox so far."""

    limits: Limits
    output: bytes = b""
    report: bytes = b""
    status: bytes = b""
    count: int = 0

    def take(self, name: str, data: bytes) -> None:
        """Keep the end of the output, and as much of the report as could still be the token."""
        if name == "status":
            self.status += data
            return
        self.count += len(data)
        if name == "output":
            self.output = (self.output + data)[-_KEPT_BYTES:]
        else:
            self.report = (self.report + data)[:_KEPT_BYTES]

    @property
    def too_much(self) -> bool:
        return self.count > self.limits.output_bytes


def execute(program: str, limits: Limits, strict: bool) -> ProgramResult:
    """Run a program and wait for its end.

    Parameters
    ----------
    program : str
        Python source.
    limits : Limits
    strict : bool
        In namespaces of its own; False: only with limits, in its own process group and folder.

    Raises
    ------
    SandboxFaultError
        If the sandbox cannot be built.
    """
    token = secrets.token_hex(16)
    streams = _Streams(limits)
    started = time.monotonic()
    with _scratch(strict) as scratch, contextlib.ExitStack() as pipes:
        ends = {name: _pipe(pipes) for name in ("output", "report", "status")}
        order = {
            **asdict(limits),
            "program": program,
            "token": token,
            "strict": strict,
            "scratch": scratch,
            "parent": os.getpid(),
            "report": ends["report"][1].fileno(),
            "status": ends["status"][1].fileno(),
            "harness": _HARNESS.read_text(encoding="utf-8"),
            "python": _interpreter(),
            "visible": [*_SYSTEM, *_python_paths()],
        }
        stopped = _run(order, ends, streams, started + limits.wall_seconds)
    return _result(streams, token, stopped, time.monotonic() - started)


@contextlib.contextmanager
def _scratch(strict: bool) -> Iterator[str | None]:
    """Give the folder to write in, where the sandbox does not have its own."""
    if strict:
        yield None
        return
    with tempfile.TemporaryDirectory(prefix="var-program-", ignore_cleanup_errors=True) as folder:
        yield folder


def _pipe(stack: contextlib.ExitStack) -> tuple[Any, Any]:
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    return (
        stack.enter_context(os.fdopen(reader, "rb", buffering=0)),
        stack.enter_context(os.fdopen(writer, "wb", buffering=0)),
    )


def _interpreter() -> str:
    """Path of the interpreter itself, and not of a virtual environment's link to it."""
    return str(Path(getattr(sys, "_base_executable", None) or sys.executable).resolve())


def _python_paths() -> list[str]:
    """Where the interpreter, its library and its shared objects are; never a whole prefix, which may be a home."""
    library = Path(sys.base_prefix).resolve() / "lib"
    places = [library, Path(sysconfig.get_path("platstdlib", vars={"platbase": sys.base_exec_prefix})).resolve()]
    return [_interpreter(), *map(str, places)]


def _run(order: dict[str, Any], ends: dict[str, tuple[Any, Any]], streams: _Streams, deadline: float) -> Outcome | None:
    """Start the launcher and read until it is done; give the limit for which it was stopped, if it was."""
    launcher = subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", _START, str(Path(var_core.__file__).parents[1])],
        stdin=subprocess.PIPE,
        stdout=ends["output"][1],
        stderr=ends["output"][1],
        pass_fds=(order["report"], order["status"]),
        env={},
        cwd="/",
        start_new_session=True,
    )
    try:
        for _, writer in ends.values():
            writer.close()
        assert launcher.stdin is not None
        with contextlib.suppress(BrokenPipeError), launcher.stdin:
            launcher.stdin.write(json.dumps(order).encode())
        readers = {name: reader for name, (reader, _) in ends.items()}
        return _read(readers, streams, deadline, launcher)
    finally:
        _end(launcher)


def _read(
    readers: dict[str, Any], streams: _Streams, deadline: float, launcher: subprocess.Popen[bytes]
) -> Outcome | None:
    """Read all streams until that of the status ends, which only the launcher and the watcher can write to."""
    stopped = None
    with selectors.DefaultSelector() as selector:
        for name, reader in readers.items():
            selector.register(reader, selectors.EVENT_READ, name)
        while "status" in {key.data for key in selector.get_map().values()}:
            left = deadline - time.monotonic()
            if left <= 0 and stopped is not None:
                return stopped
            if stopped is None and (left <= 0 or streams.too_much):
                stopped = Outcome.TOO_MUCH_OUTPUT if streams.too_much else Outcome.TIMED_OUT
                launcher.send_signal(signal.SIGTERM)
                deadline = time.monotonic() + _SECONDS_TO_END
                continue
            for key, _ in selector.select(left):
                reader = readers[key.data]
                if data := reader.read(_READ_BYTES):
                    streams.take(key.data, data)
                else:
                    selector.unregister(reader)
    for name in ("output", "report"):
        while data := readers[name].read(_READ_BYTES):
            streams.take(name, data)
    return stopped or (Outcome.TOO_MUCH_OUTPUT if streams.too_much else None)


def _end(launcher: subprocess.Popen[bytes]) -> None:
    """Wait for the launcher; where it does not end, kill it, and by that everything in its sandbox."""
    try:
        launcher.wait(_SECONDS_TO_END)
    except BaseException:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(launcher.pid, signal.SIGKILL)
        launcher.wait()
        raise


def _result(streams: _Streams, token: str, stopped: Outcome | None, seconds: float) -> ProgramResult:
    said = [json.loads(line) for line in streams.status.splitlines()]
    for each in said:
        if "fault" in each:
            raise SandboxFaultError(each["fault"])
    ended: dict[str, Any] = said[-1] if said else {"status": None, "reason": None, "cpu_seconds": 0.0}
    outcome = stopped or _outcome(streams, token, ended)
    output = streams.output.decode("utf-8", errors="replace")
    return ProgramResult(outcome, ended["status"], output, seconds)


def _outcome(streams: _Streams, token: str, ended: dict[str, Any]) -> Outcome:
    """Read how a program ended that was not stopped from outside."""
    status = ended["status"]
    if ended["reason"] == "memory" or (status == 1 and streams.report == b"memory"):
        return Outcome.OUT_OF_MEMORY
    if status == -signal.SIGXCPU or (status == -signal.SIGKILL and ended["cpu_seconds"] >= streams.limits.cpu_seconds):
        return Outcome.TIMED_OUT
    if status is None or status < 0:
        return Outcome.KILLED
    right = status == 0 and secrets.compare_digest(streams.report, token.encode())
    return Outcome.PASSED if right else Outcome.FAILED
