"""The accumulator alone: its rate, against plain Python, DuckDB and polars, and against the memory's speed."""

from collections.abc import Callable, Sequence

import torch

from var_core.benchmarks.alternatives import Tables, by_duckdb, by_polars
from var_core.benchmarks.decisions import Decisions, Shape, synthetic_batches
from var_core.benchmarks.document import Section, not_run
from var_core.benchmarks.environment import environment
from var_core.benchmarks.equality import check_same_statistics
from var_core.benchmarks.plain_python import by_python, moments_by_python
from var_core.benchmarks.timing import Contender, Figure, Times, figure, time_rounds
from var_core.benchmarks.traffic import Copy, least_bytes
from var_core.statistics.accumulator import Accumulator

SHAPES = {
    "e8_k2": Shape(layers=4, vocabulary=32_000, experts=8, top_k=2, sequences=8, length=256),
    "e128_k8": Shape(layers=4, vocabulary=32_000, experts=128, top_k=8, sequences=8, length=256),
}
_BATCHES = 64
"""131,072 tokens: about what a capture job counts between two checkpoints."""
_OURS, _UPDATES, _COPY, _TENSORS = "accumulator", "updates", "copy", "tensor_operations"
_ALTERNATIVES: dict[str, Callable[[Sequence[Decisions]], Tables]] = {
    "python_welford": by_python,
    "python_moments": moments_by_python,
    "duckdb": by_duckdb,
    "dataframe": by_polars,
}
_SUBSET = {"python_welford": 1, "python_moments": 1}
"""Ways too slow for all batches: how many they are given. Their time grows with the decisions, and is scaled up."""

WHAT = {
    _OURS: "reset, an update a batch with all statistics, and the sorted tables at the end",
    _TENSORS: "the accumulator as it counts on a GPU, on this CPU",
    "python_welford": "Welford over dictionaries in plain Python, one decision after another, from the same logits: "
    "all statistics; timed on 1 batch and scaled to all",
    "python_moments": "the same without co-activation, next-layer and repetition counts, which the accumulator makes",
    "duckdb": "quantities by tensor operations, rows inserted into a database file batch by batch, then GROUP BY",
    "dataframe": "quantities by tensor operations, rows in memory as polars data frames, then group-by",
    "share_of_bandwidth": "bytes that the updates must move at least (inputs once, touched state twice) a second, over "
    "the bytes a second of a 256 MB copy in the same round",
}


class Bench:
    """All ways on one shape.

    Parameters
    ----------
    shape : Shape
        Sizes.
    batches : int, optional
        Batches that a round accumulates.

    Attributes
    ----------
    missing : dict
        Way -> why it cannot run.
    """

    def __init__(self, shape: Shape, batches: int = _BATCHES) -> None:
        self.shape, self._batches = shape, synthetic_batches(shape, batches)
        self._accumulator, self._by_tensors = (
            Accumulator(shape.layout, shape.vocabulary, torch.device("cpu"), loops=loops) for loops in (True, False)
        )
        self.missing: dict[str, str] = {}

    def check(self) -> None:
        """Check that all ways give what the accumulator gives.

        Raises
        ------
        VarError
            If one does not.
        """
        for name, way in _ALTERNATIVES.items():
            batches = self._given(name)
            try:
                found = way(batches)
            except ImportError as error:
                self.missing[name] = str(error)
                continue
            check_same_statistics(self._accumulate(batches, self._accumulator), found, name)

    def _given(self, name: str) -> Sequence[Decisions]:
        return self._batches[: _SUBSET.get(name, len(self._batches))]

    def _update(self, batches: Sequence[Decisions], accumulator: Accumulator) -> None:
        with torch.inference_mode():
            for index, batch in enumerate(batches):
                accumulator.update(batch.tokens, batch.routed, index)

    def _accumulate(self, batches: Sequence[Decisions], accumulator: Accumulator) -> Tables:
        accumulator.reset()
        self._update(batches, accumulator)
        return accumulator.tables("synthetic")

    def time(self, rounds: int) -> Times:
        """Time all ways that are there, interleaved."""
        runs: dict[str, Contender] = {
            _OURS: lambda round_: self._accumulate(self._batches, self._accumulator),
            _TENSORS: lambda round_: self._accumulate(self._batches, self._by_tensors),
            _UPDATES: lambda round_: self._update(self._batches, self._accumulator),
            _COPY: Copy(torch.device("cpu")),
        }
        for name, way in _ALTERNATIVES.items():
            if name not in self.missing:
                runs[name] = lambda round_, way=way, name=name: way(self._given(name))  # type: ignore[misc]
        times = time_rounds(runs, rounds, torch.device("cpu"), warm_up=1)
        return times.scaled({name: len(self._batches) / few for name, few in _SUBSET.items()})

    def figures(self, times: Times) -> dict[str, Figure | str]:
        """Figures of this shape by key, without the shape's name."""
        decisions = len(self._batches) * self.shape.decisions
        moved = least_bytes(self._batches, self.shape.experts) / Copy.moved_bytes
        share = [
            moved * copy / updates for copy, updates in zip(times.seconds[_COPY], times.seconds[_UPDATES], strict=True)
        ]
        found: dict[str, Figure | str] = {
            "accumulator_rate": times.rate(_UPDATES, decisions, "tokens x layers a second"),
            "accumulator_share_of_bandwidth": figure(share, "ratio", "copy of 256 MB"),
        }
        for name in (*_ALTERNATIVES, _TENSORS):
            key = f"accumulator_over_{name}"
            if name in self.missing:
                found[key] = not_run(self.missing[name])
            else:
                found[key] = times.ratio(name, _OURS)
        return found


def accumulator_section(rounds: int) -> Section:
    """Both shapes; a key without a shape's name is the lower of the two."""
    by_shape: dict[str, dict[str, Figure | str]] = {}
    for name, shape in SHAPES.items():
        bench = Bench(shape)
        bench.check()
        by_shape[name] = bench.figures(bench.time(rounds))
    figures: dict[str, Figure | str] = {}
    for key in next(iter(by_shape.values())):
        figures[key] = _lowest([each[key] for each in by_shape.values()])
        figures |= {f"{key}_{name}": each[key] for name, each in by_shape.items()}
    about = {
        "shapes": {name: vars(shape) for name, shape in SHAPES.items()},
        "batches": _BATCHES,
        "rounds": rounds,
        "contenders": WHAT,
        "ratios": "time of the other way over time of the accumulator: how many times faster the accumulator is",
    }
    return Section("accumulator", environment(torch.device("cpu")), about, figures)


def _lowest(figures: list[Figure | str]) -> Figure | str:
    measured = [each for each in figures if isinstance(each, Figure)]
    return min(measured, key=lambda each: each.median) if measured else figures[0]
