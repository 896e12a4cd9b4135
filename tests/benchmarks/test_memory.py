import subprocess
import sys

import pytest

from var_core.benchmarks.decisions import Shape
from var_core.benchmarks.flat import run_job
from var_core.benchmarks.process import in_own_process, peak_bytes, resident_bytes
from var_core.benchmarks.spill import compare, limited
from var_core.errors import VarError
from var_core.parquet import read_table, write_table

SMALL = Shape(layers=3, vocabulary=3000, experts=16, top_k=2, sequences=2, length=64)
FLAT = Shape(layers=2, vocabulary=40, experts=4, top_k=2, sequences=2, length=50)


def test_a_job_counts_every_decision_once_and_writes_checkpoints(tmp_path):
    answer = run_job(1900, tmp_path, FLAT)
    assert answer["decisions"] == 2000 and answer["checkpoints"] == 2
    assert answer["peak_bytes"] >= answer["start_bytes"] > 0
    assert sum(read_table(tmp_path / "token_stats.parquet")["n"].to_pylist()) == 2000


def test_peak_memory_sees_what_has_been_given_back():
    before = peak_bytes()
    ballast = bytearray(b"1") * (300 << 20)
    held = resident_bytes()
    del ballast
    # Linux counts resident pages in batches: the two may differ by some hundred kilobytes.
    assert peak_bytes() >= held - (4 << 20) and held > resident_bytes() + (200 << 20)
    assert peak_bytes() >= before


@pytest.mark.skipif(sys.platform != "linux", reason="reads what Linux says about a process")
def test_a_process_does_not_inherit_the_peak_of_the_one_that_started_it():
    ballast = bytearray(b"1") * (600 << 20)
    code = "from var_core.benchmarks.process import peak_bytes; print(peak_bytes())"
    peak = int(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)
    assert peak < 300 << 20 < len(ballast)


def test_a_failed_process_is_one_line():
    with pytest.raises(VarError, match=r"var_core\.benchmarks\.flat .* failed \(1\): KeyError: 'decisions'"):
        in_own_process("var_core.benchmarks.flat", {"other": 1})


def test_parts_merge_to_what_an_accumulator_without_a_limit_gives(tmp_path):
    answer = limited(SMALL, 8, 300_000, tmp_path)
    assert answer["parts"] > 2 and answer["state_bytes"] < 300_000 + 100_000  # and the matrices by layer
    assert answer["decisions"] == sum(read_table(tmp_path / "merged" / "token_stats.parquet")["n"].to_pylist())
    rows = compare(SMALL, 8, tmp_path)["same_rows"]
    assert rows["token_stats"] > 100 and rows["layer_stats"] == SMALL.layers


def test_a_limit_that_is_never_reached_is_refused(tmp_path):
    with pytest.raises(VarError, match="fit into"):
        limited(SMALL, 2, 10**9, tmp_path)


def test_a_decision_lost_or_counted_twice_between_parts_is_found(tmp_path):
    limited(SMALL, 8, 300_000, tmp_path)
    path = tmp_path / "merged" / "token_stats.parquet"
    table = read_table(path)
    n = table["n"].to_pylist()
    n[5] += 1
    write_table(path, table.set_column(table.column_names.index("n"), table.schema.field("n"), [n]), {})
    with pytest.raises(VarError, match="column n of token_stats"):
        compare(SMALL, 8, tmp_path)
