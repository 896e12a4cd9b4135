"""A copy of the project with a small configuration, and Snakemake on it."""

import copy
import hashlib
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import yaml

import workflow_runs.project
from cluster.slurm import Slurm, wait_until

ROOT = Path(__file__).resolve().parents[2]
AUDIT = Path(__file__).parent / "audit"
SMALL = copy.deepcopy(workflow_runs.project.SMALL)
SMALL["corpora"]["topics"]["max_tokens"] = {"capture": 160_000, "calibration": 5_000, "tuning": 3_000, "heldout": 5_000}
# One short sequence a batch, so that a capture takes long enough to have something happen to it.
SMALL["capture"] = {
    "shards": {"capture": 2, "calibration": 1, "tuning": 1, "heldout": 1},
    # Two a shard: large enough to have checkpoints, and one to be shared where two jobs are at it.
    "micro_shards": {"capture": 4, "calibration": 1, "tuning": 1, "heldout": 1},
    "batch_sequences": 1,
    "trace": ["calibration", "tuning", "heldout"],
    "checkpoint_tokens": 8_000,
    "lock_stale_s": 10,
    "lock_wait_s": 60,
}
# A policy, and what routing is worth, ask nothing of a cluster that a capture does not.
SMALL["policy"] = {"enabled": False, "tables": ["token"]}
SMALL["systems"] = {"enabled": False}
PATIENCE = {
    "VAR_SLURM_QUERY_S": "1",
    "VAR_SLURM_TIMEOUT_S": "5",
    "VAR_SLURM_MISSING_S": "6",
}
"""The profile's times, shorter (profiles/slurm/client.py)."""
SOONER = ("--seconds-between-status-checks", "1", "--latency-wait", "10")
"""The profile's other times, shorter."""


class Written(NamedTuple):
    """A file that a process published; the job is its number and how often Slurm has restarted it."""

    when: float
    process: int
    job: str
    path: str


class Snakemake:
    """A Snakemake that runs in the background, in a session of its own as if at its own terminal."""

    def __init__(self, command: list[str], folder: Path, environment: dict[str, str], log: Path) -> None:
        self._log = log
        with log.open("wb") as stream:
            self._process = subprocess.Popen(
                # As at a terminal: what is started in the background would have Ctrl-C ignored, and Python leave it so.
                ["env", "--default-signal=INT", "setpriv", "--pdeathsig", "KILL", "--", *command],
                cwd=folder, env=environment, start_new_session=True,
                stdin=subprocess.DEVNULL, stdout=stream, stderr=stream,
            )  # fmt: skip

    def send(self, number: signal.Signals) -> None:
        """Send a signal to Snakemake alone."""
        self._process.send_signal(number)

    def interrupt(self) -> None:
        """Do what Ctrl-C at a terminal does: every process there gets the signal."""
        os.killpg(self._process.pid, signal.SIGINT)

    def runs(self) -> bool:
        return self._process.poll() is None

    def wait(self, limit: float = 120) -> int:
        """Wait for the end, but not for ever; return the exit status."""
        wait_until("Snakemake ends", lambda: not self.runs(), limit)
        return self._process.returncode

    def end(self) -> None:
        """End it, and what it started, whatever state it is in."""
        if self.runs():
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def output(self) -> str:
        return self._log.read_text(errors="replace")


class Project:
    """The project in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.started: list[Snakemake] = []
        self.environment: dict[str, str] = {}

    @classmethod
    def new(cls, folder: Path) -> "Project":
        """Copy the code, and do the set-up step of docs/how-to/cluster.md."""
        folder.mkdir()
        for name in ("Snakefile", "rules", "workflow_scripts", "var_core", "config", "profiles"):
            # With what Python and numba have compiled, which is known by the sources' times.
            source = ROOT / name
            (shutil.copytree if source.is_dir() else shutil.copy2)(source, folder / name)
        (folder / "slurm").symlink_to("profiles/slurm")
        (folder / "small.yaml").write_text(yaml.safe_dump(SMALL))
        return cls(folder)

    def copy(self, folder: Path) -> "Project":
        """A copy in the state in which the first shard of the capture split has not been captured."""
        shutil.copytree(self.folder, folder, symlinks=True, ignore=shutil.ignore_patterns("*.out", "slurm-audit"))
        for path in folder.glob("results/*/*/capture/capture-00000*"):
            path.unlink()
        for pattern in ("statistics/capture", "capture/.state"):
            for path in folder.glob(f"results/*/*/{pattern}"):
                shutil.rmtree(path)
        return Project(folder)

    def snakemake(self, *arguments: str, environment: dict[str, str]) -> Snakemake:
        """Start Snakemake up to the merged statistics."""
        command = [sys.executable, "-m", "snakemake", "statistics", "--configfile", "small.yaml", *arguments]
        environment = environment | self.environment | {
            "PYTHONPATH": f"{self.folder}:{AUDIT}",
            "VAR_TEST_AUDIT": str(self.folder / "slurm-audit"),
            "OMP_NUM_THREADS": "1",
        }  # fmt: skip
        self.started.append(
            Snakemake(command, self.folder, environment, self.folder / f"snakemake-{len(self.started)}.out")
        )
        return self.started[-1]

    def on_cluster(self, slurm: Slurm, *arguments: str, profile: str = "slurm") -> Snakemake:
        """Start Snakemake as the how-to says."""
        return self.snakemake("--profile", profile, *SOONER, *arguments, environment=slurm.environment | PATIENCE)

    def end(self) -> None:
        for snakemake in self.started:
            snakemake.end()

    def rules(self) -> list[str]:
        """Names of the workflow's rules, and whatever else Snakemake says."""
        listed = self.snakemake("--list-rules", environment=dict(os.environ))
        assert listed.wait(30) == 0
        return listed.output().split()

    def files(self) -> dict[str, str]:
        """Digests of what a run is for."""
        patterns = ("results/*/*/statistics/**/*.parquet", "results/*/*/capture/*.parquet")
        return {
            str(path.relative_to(self.folder)): hashlib.sha256(path.read_bytes()).hexdigest()
            for pattern in patterns
            for path in sorted(self.folder.glob(pattern))
        }

    def checkpoints(self) -> list[Path]:
        """What captures have put by so far."""
        states = self.folder.glob("results/*/*/capture/.state/**/*")
        return [path for path in states if path.is_file() and "lock" not in path.name and path.suffix != ".tmp"]

    def writers(self) -> dict[str, list[str]]:
        """For each file under capture/, who has written it, in order; once for each uninterrupted turn."""
        turns: dict[str, list[str]] = {}
        for written in self.written():
            writer = f"process {written.process} of job {written.job}"
            of_file = turns.setdefault(written.path, [])
            if not of_file or of_file[-1] != writer:
                of_file.append(writer)
        return turns

    def written(self) -> list[Written]:
        """Every file published under capture/ so far, in order."""
        audit = self.folder / "slurm-audit"
        lines = audit.read_text().splitlines() if audit.exists() else []
        fields = [line.split(maxsplit=3) for line in lines]
        return sorted(Written(float(when), int(process), job, path) for when, process, job, path in fields)
