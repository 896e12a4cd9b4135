"""The benchmark of merging: real shards, merged in processes of their own, and a line through the times."""

import pytest

from var_core.benchmarks.decisions import Shape
from var_core.benchmarks.merging import line, merging_section

TINY = Shape(layers=2, vocabulary=50, experts=4, top_k=2, sequences=2, length=16)


def test_every_number_of_shards_is_merged_and_timed():
    section = merging_section((2, 4, 6), runs=1, shape=TINY)
    assert section.about["merged_rows"]["layer_stats"] == 2
    assert all(section.figures[f"merge_seconds_{number}"].median > 0 for number in (2, 4, 6))
    assert section.figures["merge_peak_6"].unit == "MB above start"


def test_a_line_is_recognised_and_a_parabola_is_not():
    numbers = [100, 200, 400, 800]
    straight = line(numbers, [3 + 0.02 * number for number in numbers])
    assert straight["r_squared"] == pytest.approx(1) and straight["slope_s"] == pytest.approx(0.02)
    assert line(numbers, [number**2 for number in numbers])["r_squared"] < 0.98
