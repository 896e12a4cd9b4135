"""Files written by the code of the earlier stages, with decisions left out because they were not finite."""

import json

import numpy as np
import pyarrow as pa
import pytest
import torch

from statistics_routed import random_decisions
from var_core.corpus.schema import VOCABULARY
from var_core.parquet import write_table
from var_core.routing.batch import RouterLayout
from var_core.statistics.accumulator import Accumulator, TokenBatch
from var_core.statistics.merge import merge_tables
from var_core.statistics.stage import merge_shards
from var_core.statistics.tables import SCHEMAS
from var_core.traces.batch import trace_rows
from var_core.warehouse.build import build_warehouse
from var_core.warehouse.checks import check_run
from var_core.warehouse.files import RunFiles
from var_core.warehouse.query import run_query
from var_core.warehouse.run import open_run

SITES = [{"layer": layer, "path": f"layers.{layer}.experts", "experts": 6, "top_k": 2} for layer in range(3)]
SHARED = {
    "run": "m/c", "model": {"name": "m", "revision": None, "digest": "d"}, "corpus": {"name": "c", "digest": "e"},
    "sites": SITES, "sequence_length": 10, "config": {}, "code": "c",
}  # fmt: skip


def write_shard(folder, split, shard):
    """One shard of two domains, captured batch by batch; the first domain has two decisions that are NaN."""
    provenance = {**SHARED, "stage": "capture", "plan": f"plan of {split}", "split": split, "shard": shard,
                  "shards": 2, "content": str(shard), "tokens": 60}  # fmt: skip
    domains, traces = [], []
    for index, domain in enumerate(("a", "b")):
        tokens, document, batch = random_decisions(1000 * shard + index + (split == "heldout") * 77)
        if domain == "a":
            batch.logits[1, 3:5] = torch.nan
        accumulator = Accumulator(RouterLayout.uniform(3, 6, 2), 20, torch.device("cpu"))
        quantities = accumulator.update(TokenBatch.from_sequences(tokens, document), batch, index)
        sequence = np.arange(3) + 3 * index + 6 * shard
        traces.append(trace_rows(sequence, tokens.numpy(), document.numpy(), domain, batch, quantities, 6))
        domains.append(accumulator.tables(domain))
    paths = {kind: folder / "capture" / f"{split}-{shard:05d}.{kind}.parquet" for kind in (*SCHEMAS, "trace")}
    for kind in SCHEMAS:
        write_table(paths[kind], merge_tables(kind, [tables[kind] for tables in domains]), provenance)
    if split == "heldout":
        write_table(paths["trace"], pa.concat_tables(map(pa.Table.from_batches, [[t] for t in traces])), provenance)
    return {kind: paths[kind] for kind in SCHEMAS}


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    results = tmp_path_factory.mktemp("project") / "results"
    folder = results / "m" / "c"
    for split in ("capture", "heldout"):
        merge_shards([write_shard(folder, split, shard) for shard in range(2)], folder / "statistics" / split, "code")
    rows = [{"token_id": i, "token": str(i), "special": i == 0} for i in range(20)]
    write_table(folder / "corpus" / "vocabulary.parquet", pa.Table.from_pylist(rows, VOCABULARY), {})
    (folder / "corpus" / "manifest.json").write_text("{}")
    (results / "models" / "m").mkdir(parents=True)
    (results / "models" / "m" / "model.json").write_text(json.dumps({"model": "m", "source": "folder", "digest": "d"}))
    return results


def test_they_pass_all_checks_and_answer_questions(results):
    build_warehouse([RunFiles.in_results(results, "m", "c")], results / "var.duckdb", 300, "code")
    columns, rows = run_query(results / "var.duckdb", "FROM v_table_recall WHERE split = 'heldout' ORDER BY layer")
    assert len(rows) == 3 and columns[0] == "run"
    _, [(sequences,)] = run_query(results / "var.duckdb", "SELECT count(DISTINCT sequence) FROM traces")
    assert sequences == 12


def test_decisions_that_were_left_out_are_counted_as_such(results):
    files = RunFiles.in_results(results, "m", "c")
    with open_run(files) as connection:
        check_run(connection, "m/c", files.traced_splits)
        left_out = "SELECT layer, sum(tokens), sum(nonfinite) FROM decisions WHERE split = 'capture' GROUP BY layer"
        assert connection.execute(left_out + " ORDER BY layer").fetchall() == [(0, 120, 0), (1, 116, 4), (2, 120, 0)]
        assert connection.execute("SELECT capture_tokens, heldout_tokens FROM runs").fetchall() == [(120, 120)]
        occurrences = connection.execute("SELECT sum(capture_count), sum(heldout_count) FROM tokens").fetchall()
        assert occurrences == [(120, 120)]
        nan = "SELECT count(*) FROM v_token_stats WHERE isnan(mean_router_entropy) OR isnan(router_entropy_m2)"
        assert connection.execute(nan).fetchall() == [(0,)]
