"""Workers of a study as real processes to kill, one parent of which imports everything once and forks.

What they search is a stand-in at the edge: a cheap function of a policy's settings in place of the replay of a trace,
smooth, and with a known front.
"""

import json
import logging
import os
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa

from var_core.config.policy import PolicyConfig
from var_core.config.tuning import SpaceConfig, TuningConfig
from var_core.parquet import read_table
from var_core.tuning.space import threshold
from var_core.tuning.trials import SEARCH, Values
from var_core.tuning.worker import run_worker

ROOT = Path(__file__).parents[1]
LAYERS = 4
STUDY = "search-0123"
SMALL = SpaceConfig(predicate=("agreement",), tables=("token",), capacity=(0,), thresholds=("by_layer",))
"""A number for each layer, and nothing else."""


def strictness(policy: PolicyConfig) -> list[float]:
    """How much each layer leaves to the router, of 0 to 1."""
    if policy.predicate == "agreement":
        shares = threshold(policy, "agreement_threshold") or ()
    else:
        frequencies, entropies = threshold(policy, "frequency_threshold"), threshold(policy, "entropy_threshold")
        pairs = zip(frequencies * LAYERS, entropies * LAYERS, strict=False)
        shares = tuple(frequency / 2000 + (3 - entropy) / 6 for frequency, entropy in pairs)
    return list(shares * LAYERS)[:LAYERS]


def evaluate(policy: PolicyConfig) -> Values:
    """Loss falls with the learned share, layer by layer; other settings have a best value.

    Without other settings and with the same strictness s everywhere, the loss is 0.2 (1 - s)², which is the front.
    """
    shares = strictness(policy)
    loss = 0.2 * sum((1 - share) ** 2 for share in shares) / LAYERS
    if policy.cache.capacity:
        cache = policy.cache
        loss += 0.1 * (cache.confidence_threshold - 0.7) ** 2 + 0.001 * abs(cache.context_window - 6)
    learned = sum(shares) / LAYERS
    agreement = float("nan") if learned == 1 else 1 - loss
    return Values(learned, loss, loss / 2, agreement, agreement, loss / 3)


def work(
    folder: Path, config: TuningConfig, worker: int = 0, study: str = SEARCH, policy: PolicyConfig | None = None,
    evaluate: Any = evaluate, layers: int = LAYERS,
) -> pa.Table:  # fmt: skip
    """Run a worker to its end; the rows that it wrote."""
    output = folder / f"worker-{worker}.parquet"
    run_worker(
        folder / "journal", STUDY, worker, config, policy or PolicyConfig(), layers, evaluate, output, study=study,
        provenance={"test": 1}, grace_seconds=1,
    )  # fmt: skip
    return read_table(output)


class Workers:
    """Starts workers, kills them, and waits for them."""

    def __init__(self, parent: subprocess.Popen) -> None:
        self._parent = parent

    def start(self, folder: Path, config: TuningConfig, worker: int = 0, pause: float = 0.0) -> int:
        """Start a worker that takes `pause` seconds for every trial; return the process's number."""
        order = {"folder": str(folder), "config": config.model_dump(mode="json"), "worker": worker, "pause": pause}
        return self._ask(order)

    def kill(self, process: int, after: float) -> int:
        """Kill a worker after so many seconds, unless it ends before; return its exit status."""
        end = time.monotonic() + after
        while time.monotonic() < end:
            time.sleep(min(0.002, after))
        os.kill(process, signal.SIGKILL)  # it is not waited for yet, so that the number is still its own
        return self.wait(process)

    def wait(self, process: int) -> int:
        """Wait for a worker to end; return its exit status."""
        return self._ask(process)

    def _ask(self, order: Any) -> int:
        self._parent.stdin.write(json.dumps(order) + "\n")
        self._parent.stdin.flush()
        return int(self._parent.stdout.readline())


@contextmanager
def parent_of_workers() -> Iterator[Workers]:
    """A parent of workers, which ends with the block."""
    environment = os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}", "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    ) as parent:
        try:
            yield Workers(parent)
        finally:
            parent.stdin.close()
            parent.wait(timeout=60)


def main() -> None:
    """Fork workers and wait for them, as ordered."""
    logging.disable()
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as folder:  # so that all there is to import has been
        work(Path(folder), TuningConfig(trials=14))
    for line in sys.stdin:
        order = json.loads(line)
        if isinstance(order, int):
            print(os.waitstatus_to_exitcode(os.waitpid(order, 0)[1]), flush=True)
        elif child := os.fork():
            print(child, flush=True)
        else:
            os._exit(_work(**order))


def _work(folder: str, config: dict[str, Any], worker: int, pause: float) -> int:
    def slowly(policy: PolicyConfig) -> Values:
        time.sleep(pause)
        return evaluate(policy)

    try:
        work(Path(folder), TuningConfig.model_validate(config), worker, evaluate=slowly)
    except BaseException as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    main()
