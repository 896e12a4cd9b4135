import sys

from var_core.benchmarks.accumulator import Bench, _lowest
from var_core.benchmarks.decisions import Shape
from var_core.benchmarks.timing import Figure, figure

SHAPE = Shape(layers=2, vocabulary=50, experts=6, top_k=2, sequences=2, length=20)


def test_every_way_is_timed_against_the_accumulator():
    bench = Bench(SHAPE, batches=4)
    bench.check()
    times = bench.time(2)
    figures = bench.figures(times)
    assert set(figures) == {
        "accumulator_rate", "accumulator_share_of_bandwidth", "accumulator_over_python_welford",
            "accumulator_over_python_moments",
        "accumulator_over_duckdb", "accumulator_over_dataframe", "accumulator_over_tensor_operations",
    }  # fmt: skip
    ratio = figures["accumulator_over_duckdb"]
    assert ratio.against == "accumulator" and ratio.n == 2
    assert ratio.maximum == max(
        a / b for a, b in zip(times.seconds["duckdb"], times.seconds["accumulator"], strict=True)
    )


def test_a_library_that_is_not_there_is_said_to_be_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "polars", None)
    bench = Bench(SHAPE, batches=1)
    bench.check()
    figures = bench.figures(bench.time(1))
    assert figures["accumulator_over_dataframe"].startswith("not run: ")
    assert isinstance(figures["accumulator_over_duckdb"], Figure)


def test_the_plain_key_is_the_less_favourable_shape():
    low, high = figure([2.0], "ratio", "x"), figure([3.0], "ratio", "x")
    assert _lowest([high, low]) is low and _lowest([low, "not run: x"]) is low
    assert _lowest(["not run: x", "not run: x"]) == "not run: x"
