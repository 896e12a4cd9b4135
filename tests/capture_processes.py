"""Real capture processes to kill, stop and suspend, cheap to start: one parent imports everything once and forks.

Run as a script it is that parent, which takes orders as lines of JSON: for an object it forks a capture and answers
with the child's number; for such a number it waits for that child and answers with its exit status (negative: the
signal).
"""

import importlib
import json
import logging
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]


class CaptureProcesses:
    """Starts captures of one shard with one model: one after another, or several to compete."""

    def __init__(self, parent: subprocess.Popen, shard: Path, model: Path) -> None:
        self._parent, self._shard, self._model = parent, shard, model

    def start(
        self, folder: Path, log: Path, seconds: float | None = None, largest_file: int | None = None, **config: Any
    ) -> int:
        """Start a capture into a folder; return the process's number.

        It has `seconds` of time, and can write files of at most `largest_file` bytes, if those are given.
        """
        order = {"shard": str(self._shard), "model": str(self._model), "folder": str(folder), "log": str(log)}
        return self._ask({**order, "seconds": seconds, "largest_file": largest_file, "config": config})

    def wait(self, process: int) -> int:
        """Wait for a capture to end; return its exit status. Until then its number is no other process's."""
        return self._ask(process)

    def _ask(self, order: Any) -> int:
        self._parent.stdin.write(json.dumps(order) + "\n")
        self._parent.stdin.flush()
        return int(self._parent.stdout.readline())


@contextmanager
def parent_of_captures() -> Iterator[subprocess.Popen]:
    """A parent of capture processes, which ends with the block."""
    environment = os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}", "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    ) as parent:
        try:
            yield parent
        finally:
            parent.stdin.close()
            parent.wait(timeout=60)


def main() -> None:
    """Fork captures and wait for them, as ordered."""
    import torch

    importlib.import_module("captures")
    importlib.import_module("transformers.models.mixtral.modeling_mixtral")
    torch.set_num_threads(1)
    _load_compiled_loops()
    for line in sys.stdin:
        order = json.loads(line)
        if isinstance(order, int):
            print(os.waitstatus_to_exitcode(os.waitpid(order, 0)[1]), flush=True)
        elif child := os.fork():
            print(child, flush=True)
        else:
            os._exit(_capture(**order))


def _load_compiled_loops() -> None:
    import torch

    from statistics_routed import random_decisions
    from var_core.routing.batch import RouterLayout
    from var_core.statistics.accumulator import Accumulator, TokenBatch

    tokens, document, batch = random_decisions(0)
    accumulator = Accumulator(RouterLayout.uniform(3, 6, 2), 20, torch.device("cpu"))
    accumulator.update(TokenBatch.from_sequences(tokens, document), batch, 0)


def _capture(
    shard: str,
    model: str,
    folder: str,
    log: str,
    seconds: float | None,
    largest_file: int | None,
    config: dict[str, Any],
) -> int:
    from captures import CONFIG, capture
    from var_core.errors import VarError

    logging.basicConfig(filename=log, level=logging.INFO, format="%(message)s")
    settings = CONFIG.model_copy(update=config)
    if largest_file is not None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, resource.RLIM_INFINITY))
        logging.raiseExceptions = False  # the log is a file too
    try:
        try:
            capture(Path(shard), Path(model), Path(folder), settings, seconds=seconds)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    except VarError as error:
        logging.error("error: %s", error)
        return 1
    except Exception:
        logging.exception("a fault of the program")
        return 2
    return 0


if __name__ == "__main__":
    main()
