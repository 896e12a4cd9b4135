"""Killing real capture processes, at random moments and in the middle of every kind of write, and resuming them."""

import collections
import os
import random
import shutil
import signal
import time
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from capture_processes import CaptureProcesses
from captures import LENGTH, contents, write_shard
from var_core.capture.outputs import CaptureOutputs

SEQUENCES = 40
SEED = 20240229
WRITES = ("checkpoint write", "part write", "micro-shard write", "final write")


@pytest.fixture
def shard(tmp_path):
    return write_shard(tmp_path / "corpus" / "heldout-00000.parquet", sequences=SEQUENCES, micro_shards=2)


@dataclass(frozen=True)
class Death:
    """What a killed process was doing, judged by what it left behind; None if it had ended before."""

    moment: str | None


class Killer:
    """Kills captures into one folder."""

    def __init__(self, processes: CaptureProcesses, folder: Path, log: Path) -> None:
        self._processes, self._folder, self._log = processes, folder, log

    def kill(self, moment: str | float) -> Death:
        """Start a capture and kill it: some seconds after, or while it writes a kind of file."""
        return self._kill_while(moment) if isinstance(moment, str) else self._kill_after(moment)

    def _kill_after(self, seconds: float) -> Death:
        process = self._start()
        time.sleep(seconds)
        return self._kill(process)

    def _kill_while(self, write: str) -> Death:
        process = self._start()
        while Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z":
            if self._written_by(process) == write:
                break
        return self._kill(process)

    def _start(self) -> int:
        return self._processes.start(self._folder, self._log)

    def _kill(self, process: int) -> Death:
        os.kill(process, signal.SIGKILL)
        status = self._processes.wait(process)
        assert status in (0, -signal.SIGKILL), self._log.read_text()
        if status == 0:
            return Death(None)
        counting = any((self._folder / ".state").glob("heldout-00000-*/checkpoint-*"))
        return Death(
            self._written_by(process) or ("forward pass or counting" if counting else "before the first checkpoint")
        )

    def _written_by(self, process: int) -> str | None:
        """The kind of file that a process is writing aside, or was when it was killed."""
        for place, kind in ((self._folder, "final write"), (self._folder / ".state", None)):
            for path, _, names in os.walk(place):
                for name in names:
                    if name.endswith(f".{process}.tmp"):
                        whole = "micro-shard write" if name.startswith(".heldout-") else "part write"
                        return kind or ("checkpoint write" if name.startswith(".checkpoint-") else whole)
                if kind:
                    break  # not into the state's folder
        return None


def kill_and_resume(tmp_path, processes, kills: list[str | float]) -> collections.Counter:
    """Kill captures at the given moments, resuming each; every shard that becomes whole must be the undisturbed one.

    A moment is a kind of write, or a share of the time that an undisturbed capture takes.
    """
    folder, log = tmp_path / "out", tmp_path / "log"
    hits: collections.Counter[str] = collections.Counter()
    missed = 0
    processes.wait(processes.start(tmp_path / "whole", log))  # the first one reads what the operating system then holds
    shutil.rmtree(tmp_path / "whole")
    started = time.monotonic()
    assert processes.wait(processes.start(tmp_path / "whole", log)) == 0
    undisturbed = time.monotonic() - started
    whole = contents(CaptureOutputs(tmp_path / "whole", "heldout-00000", trace=True))
    killer = Killer(processes, folder, log)

    def check_whole() -> None:
        assert contents(CaptureOutputs(folder, "heldout-00000", trace=True)) == whole
        assert [path.name for path in folder.rglob("*") if path.is_file() and ".parquet" not in path.name] == []
        assert not list(folder.glob(".*.tmp")), "nothing is left aside"

    for moment in kills:
        for attempt in range(20):
            # One that was done before is tried again a little earlier: captures do not take the same time each.
            death = killer.kill(moment if isinstance(moment, str) else moment * undisturbed * 0.97**attempt)
            if death.moment is None:  # it was done before; that shard is whole now, go on with a new one
                check_whole()
                shutil.rmtree(folder)
            elif isinstance(moment, float) or death.moment == moment:
                break
            else:  # it got on between being seen and being killed
                missed += 1
        else:
            pytest.fail(f"no process could be killed in the moment {moment!r}")
        hits[death.moment] += 1
        for kind, content in whole.items():
            final = CaptureOutputs(folder, "heldout-00000", trace=True).path(kind)
            assert not final.exists() or final.read_bytes() == content, "a final file is whole or absent"
    assert processes.wait(processes.start(folder, log)) == 0, log.read_text()
    check_whole()
    assert "resuming at batch" in log.read_text()
    stats = pq.read_table(folder / "heldout-00000.token_stats.parquet").to_pandas()
    assert (stats.groupby("layer")["n"].sum() == SEQUENCES * LENGTH).all(), "nothing is counted twice"
    trace = pq.read_table(folder / "heldout-00000.trace.parquet").to_pandas()
    assert len(trace) == len(trace.drop_duplicates(["sequence", "position", "layer"])) == SEQUENCES * LENGTH * 3
    killed = f"{sum(hits.values())} kills: {dict(hits)}; {missed} missed their moment"
    print(f"\nseed {SEED}, {undisturbed:.1f} s undisturbed, {killed}")
    return hits


def test_a_killed_capture_ends_byte_identical(tmp_path, processes):
    hits = kill_and_resume(tmp_path, processes, [0.5, *WRITES, 0.3])
    assert set(WRITES) <= set(hits) and sum(hits.values()) == 6


@pytest.mark.slow
def test_thirty_kills_end_byte_identical(tmp_path, processes):
    generator = random.Random(SEED)
    kills = [*WRITES * 4, *(generator.uniform(0.1, 1.0) for _ in range(14))]
    generator.shuffle(kills)
    hits = kill_and_resume(tmp_path, processes, kills)
    assert sum(hits.values()) == 30 and all(hits[write] >= 4 for write in WRITES)
