"""A Slurm cluster of one machine: munge, the controller, three nodes, and accounting if asked for."""

import contextlib
import os
import secrets
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from cluster.configuration import NODES, Layout, free_ports, memory_cgroup, write

T = TypeVar("T")


@dataclass(frozen=True)
class SlurmJob:
    """A job in the queue."""

    number: str
    state: str
    name: str
    node: str


def wait_until(what: str, true: Callable[[], T], limit: float = 30) -> T:
    """Wait for something, but not for ever; return what it is."""
    give_up = time.monotonic() + limit
    while not (value := true()):
        assert time.monotonic() < give_up, f"waited {limit:g} s for: {what}"
        time.sleep(0.05)
    return value


class Slurm:
    """A cluster that runs from `start` to `stop`.

    Parameters
    ----------
    folder : Path
        An empty folder, for everything; outside there is only a memory cgroup of its own, inside this process's.
    accounting : bool
        Whether to start slurmdbd and its database too.
    """

    def __init__(self, folder: Path, accounting: bool) -> None:
        self.layout = Layout(folder, free_ports(), accounting, memory_cgroup())
        self.accounting = accounting
        self.environment = {
            key: value for key, value in os.environ.items() if not key.startswith(("SLURM_", "SBATCH_", "SNAKEMAKE_"))
        } | {"SLURM_CONF": str(self.layout.configuration), "PATH": f"{folder}/bin:{os.environ['PATH']}"}
        self._daemons: dict[str, subprocess.Popen[bytes]] = {}

    @staticmethod
    def version() -> str:
        return subprocess.run(["slurmctld", "-V"], capture_output=True, text=True, check=True).stdout.strip()

    @staticmethod
    def memory_limit() -> str:
        return "cgroup" if memory_cgroup() else "slurmstepd, looking every second"

    def start(self) -> None:
        """Start all daemons, and wait until every node is idle."""
        write(self.layout)
        self._start_munge()
        if self.accounting:
            self._start_database()
            self.start_slurmdbd()
            for what in (["cluster", "test"], ["account", "test"], ["user", "root", "Account=test"]):
                self.run("sacctmgr", "--immediate", "--quiet", "add", *what)
        self.start_controller()
        for node in NODES:
            self.start_node(node)
        wait_until("all nodes are idle", lambda: set(self.node_states().values()) == {"idle"})

    def stop(self) -> None:
        """End the jobs, then all daemons in reverse, then what jobs have left."""
        with contextlib.suppress(AssertionError, subprocess.SubprocessError):
            self.cancel_everything()
        for name in reversed(list(self._daemons)):
            self.end(name)
        self._kill_the_rest()
        self._remove_cgroups()

    # What a test does to it -----------------------------------------------------------------------------------------

    def start_controller(self) -> None:
        self._start("slurmctld", "slurmctld", "-D")
        wait_until("slurmctld answers", lambda: "UP" in self.run("scontrol", "ping"))

    def start_node(self, node: str) -> None:
        self._start(node, "slurmd", "-D", "-N", node)

    def start_slurmdbd(self) -> None:
        self._start("slurmdbd", "slurmdbd", "-D", MYSQL_UNIX_PORT=f"{self.layout.folder}/run/mysql.sock")
        wait_until("slurmdbd answers", lambda: self.runs("sacctmgr", "--noheader", "show", "cluster"))

    def end(self, name: str, number: signal.Signals = signal.SIGTERM) -> None:
        """End one daemon."""
        daemon = self._daemons.pop(name)
        daemon.send_signal(number)
        try:
            daemon.wait(15)
        except subprocess.TimeoutExpired:
            daemon.kill()
            daemon.wait()

    def suspend(self, name: str) -> None:
        """Let one daemon hang: connections to it are taken, and never answered."""
        self._daemons[name].send_signal(signal.SIGSTOP)

    def resume(self, name: str) -> None:
        self._daemons[name].send_signal(signal.SIGCONT)

    def forget(self) -> None:
        """Take the controller's state away, while it does not run."""
        shutil.rmtree(self.layout.folder / "state")
        (self.layout.folder / "state").mkdir()

    def update_node(self, node: str, state: str) -> None:
        self.run("scontrol", "update", f"NodeName={node}", f"State={state}", "Reason=test")

    def run(self, *command: str) -> str:
        """What a Slurm command prints, errors too."""
        return self._run(command).stdout

    def runs(self, *command: str) -> bool:
        return self._run(command).returncode == 0

    def jobs(self) -> list[SlurmJob]:
        """Jobs that have not ended."""
        lines = self.run("squeue", "--noheader", "--format=%i|%T|%j|%N").splitlines()
        return [SlurmJob(*line.split("|")) for line in lines if line.count("|") == 3]

    def node_states(self) -> dict[str, str]:
        lines = self.run("sinfo", "--noheader", "--Node", "--format=%N %T").splitlines()
        return dict(line.split() for line in lines if len(line.split()) == 2)

    def processes(self, job: str) -> list[int]:
        """Numbers of the processes of a job, but not of Slurm's own for it."""
        marks = {f"SLURM_JOB_ID={job}", f"SLURM_CONF={self.layout.configuration}"}
        return [process for process, environment in _environments() if marks <= environment]

    def send(self, job: str, number: signal.Signals) -> None:
        """Hold a job's processes or let them go on: held, it does not come to its end meanwhile."""
        for process in self.processes(job):
            os.kill(process, number)

    def recover(self) -> None:
        """After a test: nothing in the queue, every daemon there, every node idle."""
        if "slurmctld" not in self._daemons:
            self.start_controller()
        for node in NODES:
            if node not in self._daemons:
                self.start_node(node)
        self.cancel_everything()
        for node, state in self.node_states().items():
            if state != "idle":
                self.run("scontrol", "update", f"NodeName={node}", "State=resume")
        wait_until("all nodes are idle", lambda: set(self.node_states().values()) == {"idle"}, 40)

    def cancel_everything(self) -> None:
        self.run("scancel", "--user=root")
        wait_until("the queue is empty", lambda: not self.jobs(), 40)

    # ----------------------------------------------------------------------------------------------------------------

    def _run(self, command: tuple[str, ...]) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command, env=self.environment, stdin=subprocess.DEVNULL, timeout=30,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip

    def _start(self, name: str, *command: str, **environment: str) -> None:
        """Start a daemon in the foreground of a session of its own; it ends when this process does."""
        with (self.layout.folder / f"log/{name}.out").open("ab") as log:
            self._daemons[name] = subprocess.Popen(
                ["setpriv", "--pdeathsig", "TERM", "--", *command],
                env=self.environment | environment,
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip

    def _start_munge(self) -> None:
        folder = self.layout.folder
        key = folder / "munge/key"
        key.touch(mode=0o600)
        key.write_bytes(secrets.token_bytes(128))
        self._start(
            "munged", "munged", "--foreground", "--force", f"--key-file={key}", f"--socket={folder}/run/munge.sock",
            f"--pid-file={folder}/run/munged.pid", f"--seed-file={folder}/munge/seed",
            f"--log-file={folder}/log/munged.log",
        )  # fmt: skip
        wait_until("munged answers", lambda: self.runs("munge", "-n", "-S", f"{folder}/run/munge.sock"))

    def _start_database(self) -> None:
        folder = self.layout.folder
        data, client = f"--datadir={folder}/database", f"--socket={folder}/run/mysql.sock"
        assert self.runs(
            "mariadb-install-db", "--no-defaults", "--user=root", data, "--auth-root-authentication-method=normal",
            "--skip-test-db",
        )  # fmt: skip
        self._start(
            "mariadbd", "mariadbd", "--no-defaults", "--user=root", data, client, "--skip-networking",
            "--innodb-buffer-pool-size=64M", "--innodb-flush-log-at-trx-commit=0",
            f"--pid-file={folder}/run/mariadb.pid",
        )  # fmt: skip
        wait_until("mariadbd answers", lambda: self.runs("mariadb-admin", "--no-defaults", "-uroot", client, "ping"))
        user = "'slurm'@'localhost'"
        assert self.runs(
            "mariadb", "--no-defaults", "-uroot", client, "--execute",
            f"CREATE DATABASE slurm; CREATE USER {user} IDENTIFIED BY 'only-on-a-socket'; "
            f"GRANT ALL ON slurm.* TO {user};",
        )  # fmt: skip

    def _kill_the_rest(self) -> None:
        """Processes of jobs, and slurmstepd, which go on without the daemons."""
        mark = f"SLURM_CONF={self.layout.configuration}"
        left = [process for process, environment in _environments() if mark in environment]
        left += [
            int(path.parent.name)
            for path in Path("/proc").glob("[0-9]*/cmdline")
            if _read(path).startswith(b"slurmstepd")
            and str(self.layout.folder).encode() in _read(path.parent / "environ")
        ]
        for process in set(left) - {os.getpid()}:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)

    def _remove_cgroups(self) -> None:
        if self.layout.cgroup is None:
            return
        for folder, _, _ in os.walk(self.layout.cgroup, topdown=False):
            with contextlib.suppress(OSError):
                Path(folder).rmdir()


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


def _environments() -> list[tuple[int, set[str]]]:
    """The environment of every process, as it was started."""
    return [
        (int(path.parent.name), set(_read(path).decode(errors="replace").split("\0")))
        for path in Path("/proc").glob("[0-9]*/environ")
    ]
