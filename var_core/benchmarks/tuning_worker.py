"""Workers of studies in processes of their own; ``python -m`` is one, and does what it is told line by line.

A process makes several studies one after another. For each it is told to get ready, and then to begin, so that those of
one study begin together, whatever each took to import and to read.
"""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any

import torch

from var_core.benchmarks.process import respond
from var_core.benchmarks.tuning_run import TunedRun
from var_core.config.policy import PolicyConfig
from var_core.config.tuning import TuningConfig
from var_core.errors import VarError
from var_core.tuning.trials import SEARCH, Evaluate, Values
from var_core.tuning.worker import run_worker


class WorkerProcess:
    """A process that works on studies as it is told."""

    def __init__(self, process: "subprocess.Popen[str]", said: IO[str]) -> None:
        self._process, self._said = process, said

    def prepare(self, order: dict[str, Any]) -> None:
        """Tell it which study is next; do not wait."""
        self._tell(order)

    def ready(self) -> None:
        """Wait until it has all that it needs."""
        self._answer()

    def begin(self) -> None:
        """Let it begin; do not wait."""
        self._tell({})

    def result(self) -> dict[str, float]:
        """Wait until its study is done: when it began and ended, and how many trials it made."""
        return self._answer()

    def _tell(self, order: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        try:
            print(json.dumps(order), file=self._process.stdin, flush=True)
        except BrokenPipeError:
            self._answer()

    def _answer(self) -> dict[str, float]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self._process.wait()
            self._said.seek(0)
            said = self._said.read().strip().splitlines() or ["killed, most likely for want of memory"]
            raise VarError(f"benchmark tuning: a worker failed ({self._process.returncode}): {said[-1]}")
        answer: dict[str, float] = json.loads(line)
        return answer


@contextmanager
def worker_processes(run: TunedRun, number: int) -> Iterator[list[WorkerProcess]]:
    """Start processes, and end them with the block."""
    given = json.dumps({"results": str(run.results), "model": run.model, "corpus": run.corpus})
    with ExitStack() as stack:
        workers = []
        for _ in range(number):
            said = stack.enter_context(tempfile.TemporaryFile("w+", encoding="utf-8"))
            process = subprocess.Popen(
                [sys.executable, "-m", "var_core.benchmarks.tuning_worker", given],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=said, text=True,
            )  # fmt: skip
            # Whatever happens here, none of them outlives the block.
            stack.callback(_end, process)
            workers.append(WorkerProcess(process, said))
        yield workers


def _end(process: "subprocess.Popen[str]") -> None:
    process.kill()
    process.communicate()


def _work(given: dict[str, str]) -> None:
    run = TunedRun(Path(given["results"]), given["model"], given["corpus"])
    torch.set_num_threads(1)
    run.warm_up()
    evaluate: Evaluate | None = None
    for line in sys.stdin:
        order = json.loads(line)
        if evaluate is None or order["cold"]:
            evaluate = run.evaluator()
        respond({})
        sys.stdin.readline()
        respond(_make_study(run, evaluate, order))


def _make_study(run: TunedRun, evaluate: Evaluate, order: dict[str, Any]) -> dict[str, float]:
    made = 0

    def counted(policy: PolicyConfig) -> Values:
        nonlocal made
        made += 1
        return evaluate(policy)

    begun = time.monotonic()
    run_worker(
        Path(order["journal"]), "benchmark", order["worker"], TuningConfig.model_validate(order["config"]),
        run.search.policy, len(run.search.recorded.layout), counted, Path(order["output"]),
        study=SEARCH, provenance={},
    )  # fmt: skip
    return {"begun": begun, "ended": time.monotonic(), "made": made}


if __name__ == "__main__":
    try:
        _work(json.loads(sys.argv[1]))
    except VarError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
