"""Merging files domain by domain and layer by layer gives what merging everything at once gives."""

import itertools

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from statistics_routed import random_decisions
from var_core.errors import VarError
from var_core.parquet import read_provenance
from var_core.routing.batch import RouterLayout
from var_core.statistics import streaming
from var_core.statistics.accumulator import Accumulator, TokenBatch
from var_core.statistics.merge import merge_tables
from var_core.statistics.streaming import write_layers, write_merged
from var_core.statistics.tables import SCHEMAS

DOMAINS = ("prose", "code", "prose", "a", "code", "prose")
"""Of the parts, in no order, as a shard's domains may come."""


def tables_of(seed, domain, vocabulary=20):
    accumulator = Accumulator(RouterLayout.uniform(3, 6, 2), vocabulary, torch.device("cpu"))
    tokens, document, batch = random_decisions(seed, vocabulary=vocabulary)
    accumulator.update(TokenBatch.from_sequences(tokens, document), batch, 0)
    return accumulator.tables(domain)


@pytest.fixture
def tables():
    return [tables_of(seed, domain) for seed, domain in enumerate(DOMAINS)]


def written(folder, tables):
    """Write each part's tables; return the paths by kind."""
    paths = []
    for number, part in enumerate(tables):
        paths.append({kind: folder / f"{kind}-{number}.parquet" for kind in SCHEMAS})
        write_layers(paths[-1], [part])
    return {kind: [part[kind] for part in paths] for kind in SCHEMAS}


@pytest.mark.parametrize("kind", SCHEMAS)
def test_a_stream_merges_to_what_all_at_once_merges_to(tmp_path, tables, kind):
    paths = written(tmp_path, tables)
    write_merged(kind, paths[kind], tmp_path / "merged.parquet", {"stage": "test"})
    merged = pq.read_table(tmp_path / "merged.parquet").replace_schema_metadata(None)
    assert merged.equals(merge_tables(kind, [part[kind] for part in tables]))
    assert merged.schema == SCHEMAS[kind]
    assert read_provenance(tmp_path / "merged.parquet") == {"stage": "test"}
    file = pq.ParquetFile(tmp_path / "merged.parquet")
    groups = [file.read_row_group(i, columns=["domain", "layer"]).to_pylist() for i in range(file.num_row_groups)]
    keys = [(group[0]["domain"], group[0]["layer"]) for group in groups]
    assert keys == list(itertools.product(sorted(set(DOMAINS)), range(3))), "a row group a domain and layer, in order"
    assert all(
        {(row["domain"], row["layer"]) for row in group} == {key} for key, group in zip(keys, groups, strict=True)
    )


@pytest.mark.parametrize("kind", SCHEMAS)
def test_how_the_parts_are_cut_into_row_groups_changes_no_byte(tmp_path, tables, kind):
    paths = written(tmp_path, tables)[kind]
    write_merged(kind, paths, tmp_path / "one.parquet", {})
    for path, size in zip(paths, (1, 2, 7, 100, 3, 5), strict=True):
        pq.write_table(pq.read_table(path), path, row_group_size=size)
    write_merged(kind, paths, tmp_path / "other.parquet", {})
    assert (tmp_path / "one.parquet").read_bytes() == (tmp_path / "other.parquet").read_bytes()


@pytest.mark.parametrize("kind", SCHEMAS)
def test_merging_in_steps_changes_roundings_only(tmp_path, kind, monkeypatch):
    parts = [tables_of(seed, "d") for seed in range(9)]
    paths = written(tmp_path, parts)[kind]
    monkeypatch.setattr(streaming, "_ROWS_AT_ONCE", 1)
    write_merged(kind, paths, tmp_path / "merged.parquet", {})
    merged, whole = pq.read_table(tmp_path / "merged.parquet"), merge_tables(kind, [part[kind] for part in parts])
    for field in SCHEMAS[kind]:
        if pa.types.is_floating(field.type):
            got, expected = (table[field.name].to_numpy() for table in (merged, whole))
            np.testing.assert_allclose(got, expected, rtol=1e-12, atol=1e-12)
        elif field.name != "weight_sum":
            assert merged[field.name].to_pylist() == whole[field.name].to_pylist()


def test_layers_may_come_one_at_a_time(tmp_path, tables):
    one, other = tmp_path / "one.parquet", tmp_path / "other.parquet"
    kind = "token_stats"
    write_layers({kind: one}, [tables[0]])
    table = tables[0][kind]
    layers = [{kind: table.filter(pa.compute.equal(table["layer"], layer))} for layer in range(3)]
    write_layers({kind: other}, layers)
    assert one.read_bytes() == other.read_bytes()


def test_no_rows_merge_to_no_rows(tmp_path):
    empty = {kind: schema.empty_table() for kind, schema in SCHEMAS.items()}
    paths = written(tmp_path, [empty, empty])
    for kind in SCHEMAS:
        write_merged(kind, paths[kind], tmp_path / "merged.parquet", {})
        merged = pq.read_table(tmp_path / "merged.parquet")
        assert merged.num_rows == 0 and merged.schema.equals(SCHEMAS[kind])


def test_a_part_that_is_no_parquet_is_named(tmp_path, tables):
    paths = written(tmp_path, tables)["token_stats"]
    paths[2].write_bytes(b"PAR1, or so it says")
    with pytest.raises(VarError, match=r"token_stats-2\.parquet: not readable as Parquet"):
        write_merged("token_stats", paths, tmp_path / "merged.parquet", {})
    assert not (tmp_path / "merged.parquet").exists()


def test_memory_is_that_of_one_layer(tmp_path):
    """Peak of Arrow's memory, which holds all rows here, while 16 layers of 5 parts are merged."""
    layers, rows = 16, 20_000
    parts = []
    for number in range(5):
        generator = np.random.default_rng(number)
        columns = {
            "domain": pa.array(["d"] * (layers * rows)),
            "layer": np.repeat(np.arange(layers), rows),
            "token_id": np.tile(np.arange(rows), layers),
            "n": generator.integers(1, 9, layers * rows),
        }
        arrays = [
            pa.array(columns[field.name] if field.name in columns else generator.random(layers * rows), field.type)
            for field in SCHEMAS["token_stats"]
        ]
        parts.append(tmp_path / f"{number}.parquet")
        write_layers({"token_stats": parts[-1]}, [{"token_stats": pa.table(arrays, schema=SCHEMAS["token_stats"])}])
    peaks = {}
    default = pa.default_memory_pool()
    for name, merge in (
        ("stream", lambda: write_merged("token_stats", parts, tmp_path / "merged.parquet", {})),
        ("at once", lambda: merge_tables("token_stats", [pq.read_table(path) for path in parts])),
    ):
        pool = pa.proxy_memory_pool(default)
        pa.set_memory_pool(pool)
        try:
            merge()
        finally:
            pa.set_memory_pool(default)
        peaks[name] = pool.max_memory()
    print(peaks)
    assert peaks["stream"] < peaks["at once"] / 5, peaks
