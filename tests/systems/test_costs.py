"""The table of costs."""

from pathlib import Path

import pyarrow.compute as pc
import pytest

from var_core.errors import VarError
from var_core.parquet import read_provenance, read_table, write_table
from var_core.systems.costs import COSTS, count_costs, fits
from var_core.systems.counts import count
from var_core.systems.devices import PRESETS
from var_core.systems.published import PUBLISHED, published_shape
from var_core.systems.roofline import step_seconds
from var_core.systems.shape import shape_of_recorded

H100, LAPTOP = PRESETS["h100-sxm"], PRESETS["laptop-nvme"]


@pytest.fixture(scope="module")
def table():
    shapes = [published_shape(name) for name in PUBLISHED]
    return count_costs(shapes, [H100, LAPTOP], batches=[1, 16], contexts=[128, 4096])


def rows(table, **wanted):
    for key, value in wanted.items():
        table = table.filter(pc.equal(table[key], value))
    return table.to_pylist()


def test_there_is_a_row_for_each_part(table):
    assert table.schema == COSTS
    passes = 5 * 2 * 2 * 2 * 2
    assert len(rows(table, part="gate")) == len(rows(table, part="gate+top_k")) == passes
    assert len(rows(table, part="shared_experts")) == passes // 5
    assert {row["model"] for row in rows(table, part="dense")} == {"deepseek-v3"}


@pytest.mark.parametrize("phase", ["prefill", "decode"])
def test_rows_of_a_pass_add_up(table, phase):
    found = rows(table, model="deepseek-v3", device="laptop-nvme", phase=phase, batch=16, context=4096)
    parts = [row for row in found if row["part"] != "gate+top_k"]
    counts = count(published_shape("deepseek-v3"), phase, 16, 4096)
    assert sum(row["seconds"] for row in parts) == pytest.approx(step_seconds(counts, LAPTOP))
    assert sum(row["flops"] for row in parts) == pytest.approx(sum(one.flops for one in counts))
    assert sum(row["share"] for row in parts) == pytest.approx(1)
    assert sum(row["flops_share"] for row in parts) == pytest.approx(1)
    by_part = {row["part"]: row for row in found}
    both = by_part["gate"]["share"] + by_part["top_k"]["share"]
    assert by_part["gate+top_k"]["ceiling"] == pytest.approx(1 / (1 - both))


def test_skipping_the_gate_saves_next_to_no_operations(table):
    assert all(1 < row["flops_ceiling"] < 1.01 for row in rows(table, part="gate"))


def test_what_fits(table):
    assert {row["model"] for row in rows(table, device="h100-sxm", batch=1, context=128) if row["fits"]} == {
        "olmoe-1b-7b", "qwen3-30b-a3b", "gpt-oss-120b"
    }  # fmt: skip
    olmoe = published_shape("olmoe-1b-7b")
    assert fits(olmoe, LAPTOP, 1, 4096) and not fits(olmoe, LAPTOP, 16, 4096)  # 16 caches of 512 MiB


def test_the_table_survives_its_file(table, tmp_path: Path):
    write_table(tmp_path / "costs.parquet", table, {"stage": "costs"})
    again = read_table(tmp_path / "costs.parquet")
    assert again.equals(table) and read_provenance(tmp_path / "costs.parquet") == {"stage": "costs"}


def test_what_was_recorded_elsewhere_has_no_costs():
    with pytest.raises(VarError, match="elsewhere: was recorded elsewhere"):
        count_costs([shape_of_recorded("elsewhere", 2, 8, 2)], [H100], [1], [1])
