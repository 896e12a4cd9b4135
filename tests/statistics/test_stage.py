import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from statistics_routed import random_decisions
from var_core.benchmarks.equality import FLOAT64, check_same_statistics
from var_core.errors import VarError
from var_core.parquet import read_provenance, write_table
from var_core.routing.batch import RouterLayout
from var_core.statistics import stage
from var_core.statistics.accumulator import Accumulator, TokenBatch
from var_core.statistics.stage import merge_shards
from var_core.statistics.tables import SCHEMAS


def write_shard(folder, shard, shards=3, plan="p"):
    accumulator = Accumulator(RouterLayout.uniform(3, 6, 2), 20, torch.device("cpu"))
    tokens, document, batch = random_decisions(shard)
    accumulator.update(TokenBatch.from_sequences(tokens, document), batch, 0)
    provenance = {
        "stage": "capture", "plan": plan, "run": "m/c", "split": "capture", "shard": shard, "shards": shards,
        "content": f"c{shard}", "tokens": 30,
    }  # fmt: skip
    files = {}
    for kind, table in accumulator.tables("d").items():
        files[kind] = folder / f"capture-{shard:05d}.{kind}.parquet"
        write_table(files[kind], table, provenance)
    return files


def test_merged_in_order_whatever_order_they_are_given_in(tmp_path):
    shards = [write_shard(tmp_path, shard) for shard in range(3)]
    merge_shards(shards, tmp_path / "a", "code")
    merge_shards(shards[::-1], tmp_path / "b", "code")
    for kind in SCHEMAS:
        assert (tmp_path / "a" / f"{kind}.parquet").read_bytes() == (tmp_path / "b" / f"{kind}.parquet").read_bytes()
    merged = pq.read_table(tmp_path / "a" / "token_stats.parquet")
    assert pa.compute.sum(merged["n"]).as_py() == 3 * 30 * 3
    record = read_provenance(tmp_path / "a" / "layer_stats.parquet")
    assert record["tokens"] == 90 and record["contents"] == ["c0", "c1", "c2"] and "shard" not in record


@pytest.mark.parametrize("numbers", [[0, 1], [0, 1, 1], [0, 1, 2, 2], [1, 2]])
def test_a_missing_or_doubled_shard_is_refused(tmp_path, numbers):
    shards = [write_shard(tmp_path, shard) for shard in numbers]
    with pytest.raises(VarError, match=r"m/c capture: shards \[.*\] were given, the plan has 0 to 2, each once"):
        merge_shards(shards, tmp_path / "out", "code")
    assert not (tmp_path / "out").exists()


def test_a_shard_of_another_plan_is_refused(tmp_path):
    shards = [write_shard(tmp_path, 0), write_shard(tmp_path, 1, plan="other"), write_shard(tmp_path, 2)]
    with pytest.raises(VarError, match=r"capture-00001\.layer_stats\.parquet: .* another plan"):
        merge_shards(shards, tmp_path / "out", "code")
    assert not (tmp_path / "out").exists()


def test_a_file_that_was_not_written_here_is_refused(tmp_path):
    shards = [write_shard(tmp_path, shard) for shard in range(3)]
    pq.write_table(pq.read_table(shards[1]["layer_stats"]).replace_schema_metadata(), shards[1]["layer_stats"])
    with pytest.raises(VarError, match=r"capture-00001\.layer_stats\.parquet: carries no provenance record"):
        merge_shards(shards, tmp_path / "out", "code")


def test_many_files_are_merged_group_by_group(tmp_path, monkeypatch):
    shards = [write_shard(tmp_path, shard, shards=11) for shard in range(11)]
    merge_shards(shards, tmp_path / "at_once", "code")
    monkeypatch.setattr(stage, "AT_ONCE", 3)
    (tmp_path / "in_groups" / ".merging-of-a-killed-job").mkdir(parents=True)
    merge_shards(shards, tmp_path / "in_groups", "code")
    assert sorted(path.name for path in (tmp_path / "in_groups").iterdir()) == sorted(f"{k}.parquet" for k in SCHEMAS)
    for kind in SCHEMAS:
        one, other = (pq.read_table(tmp_path / way / f"{kind}.parquet") for way in ("at_once", "in_groups"))
        check_same_statistics({kind: one}, {kind: other}, "in groups", FLOAT64)
        provenance = [read_provenance(tmp_path / way / f"{kind}.parquet") for way in ("at_once", "in_groups")]
        assert provenance[0] == provenance[1]
