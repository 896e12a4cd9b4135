"""The import stage: its files say what was recorded, nothing else, and in one split only."""

import hashlib
import json
import subprocess
import sys
import weakref
from dataclasses import replace

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from recorded_routing import EXPERTS, LAYERS, TOP_K, decision_rows, decisions, route_rows, sglang_dump, write_route_csv
from var_core.config.corpus import TraceCorpus
from var_core.config.models import TraceModel
from var_core.errors import VarError
from var_core.models.fetch import fetch_model
from var_core.parquet import read_provenance
from var_core.statistics.accumulator import Accumulator
from var_core.traces.importers import scratch
from var_core.traces.importers.counting import ShardCount
from var_core.traces.importers.outputs import ImportTask
from var_core.traces.importers.stage import import_trace

SHARDS = {"capture": 2, "heldout": 2}


@pytest.fixture
def imported(tmp_path):
    """A function that imports a corpus and gives the folder of its results."""

    def run(patterns, format, name="results", model=None, max_state_bytes=None, **settings):
        folder = tmp_path / name
        config = TraceModel(source="trace", **{"experts": EXPERTS, "top_k": TOP_K, **(model or {})})
        record = folder / "models/mine/model.json"
        fetch_model("mine", config, record, "c0de")
        corpus = TraceCorpus(source="trace", format=format, domains={"text": patterns}, **settings)
        run = folder / "mine/log"
        traced = ("capture", "heldout")
        task = ImportTask(
            "mine/log", config, corpus, record, SHARDS, traced, 0, run / "corpus", run / "capture", "c0de"
        )
        import_trace(replace(task, max_state_bytes=max_state_bytes))
        return run

    return run


def tables(run, kind, split=None):
    paths = sorted((run / "capture").glob(f"{split or ''}*.{kind}.parquet"))
    return [pq.read_table(path).to_pandas() for path in paths]


@pytest.fixture
def documents(tmp_path):
    """Forty documents of 1 to 60 tokens over two domains, as one Parquet file."""
    random = np.random.default_rng(5)
    made = {}
    for number in range(40):
        tokens = int(random.integers(1, 60))
        made[f"d{number}"] = (*decisions(tokens, number), random.integers(0, 50, tokens))
    half = dict(list(made.items())[:20]), dict(list(made.items())[20:])
    rows = [decision_rows(part, domain=domain) for part, domain in zip(half, ("code", "prose"), strict=True)]
    pd.concat(rows).to_parquet(tmp_path / "rows.parquet")
    return made


def test_traces_and_counts_are_those_that_were_recorded(imported, documents, tmp_path):
    run = imported([str(tmp_path / "rows.parquet")], "parquet")
    names = pq.read_table(run / "corpus/documents.parquet").to_pandas().set_index("document")
    seen = {}
    for trace in tables(run, "trace"):
        assert trace["router_entropy"].isna().all()
        for number, rows in trace.groupby("document"):
            name = names.name[number].rsplit(":", 1)[1]
            experts, weights, token_ids = documents[name]
            seen[name] = number
            shape = (len(experts), LAYERS, TOP_K)
            assert np.array_equal(np.stack(rows["experts"]).reshape(shape), experts)
            assert np.array_equal(np.stack(rows["weights"]).reshape(shape), weights)
            assert rows["token_id"].to_list() == np.repeat(token_ids, LAYERS).tolist()
            assert (np.diff(rows["position"].to_numpy()[::LAYERS]) == 1).all()
    assert seen.keys() == documents.keys()
    chosen = np.zeros((LAYERS, 50, EXPERTS), dtype=np.int64)
    for experts, _, token_ids in documents.values():
        for layer in range(LAYERS):
            np.add.at(chosen[layer], (np.repeat(token_ids, TOP_K), experts[:, layer].ravel()), 1)
    counted = np.zeros_like(chosen)
    for part in tables(run, "expert_counts"):
        np.add.at(counted, (part["layer"], part["token_id"], part["expert"]), part["chosen"])
    assert np.array_equal(counted, chosen)
    pairs = sum(part["pairs"].sum() for part in tables(run, "layer_stats"))
    assert pairs == LAYERS * sum(len(experts) - 1 for experts, _, _ in documents.values())


def test_a_document_is_in_one_split_and_one_shard_by_its_name_alone(imported, documents, tmp_path):
    run = imported([str(tmp_path / "rows.parquet")], "parquet")
    table = pq.read_table(run / "corpus/documents.parquet").to_pandas()
    for _, row in table.iterrows():
        place = int.from_bytes(hashlib.sha256(row.group.encode()).digest()[:8], "big") / 2**64
        assert row.split == ("capture" if place < 0.6 else "heldout")
    owners = {}
    for path in (run / "capture").glob("*.trace.parquet"):
        for number in set(pq.read_table(path)["document"].to_pylist()):
            assert owners.setdefault(number, path.name) == path.name
            assert path.name.startswith(table.split[number])
    assert len(set(owners.values())) == 4


def test_the_same_files_give_the_same_bytes(imported, documents, tmp_path):
    runs = [imported([str(tmp_path / "rows.parquet")], "parquet", name) for name in ("one", "two")]
    digests = [{path.name: path.read_bytes() for path in run.rglob("*.*") if path.is_file()} for run in runs]
    assert len(digests[0]) == 4 * 4 + 3 and digests[0] == digests[1]


def test_long_recordings_are_cut_and_short_ones_put_together(imported, documents, tmp_path, monkeypatch):
    whole = imported([str(tmp_path / "rows.parquet")], "parquet", "whole")
    monkeypatch.setattr(scratch, "LEAST_TOKENS", 8)
    monkeypatch.setattr(scratch, "_STATE_VALUES", 25 * LAYERS * EXPERTS)
    cut = imported([str(tmp_path / "rows.parquet")], "parquet", "cut")
    longest = [max(part.groupby("sequence")["position"].max()) for part in tables(cut, "trace")]
    assert max(longest) == 24
    for one, other in zip(tables(whole, "expert_counts"), tables(cut, "expert_counts"), strict=True):
        assert one.equals(other)


def test_statistics_that_are_put_aside_on_the_way_are_the_same(imported, documents, tmp_path, monkeypatch):
    whole = imported([str(tmp_path / "rows.parquet")], "parquet", "whole")
    monkeypatch.setattr(scratch, "LEAST_TOKENS", 8)
    put_aside = []
    own = ShardCount._put_aside
    monkeypatch.setattr(ShardCount, "_put_aside", lambda self, domain: (put_aside.append(domain), own(self, domain)))
    limited = imported([str(tmp_path / "rows.parquet")], "parquet", "limited", max_state_bytes=30_000)
    for kind in ("token_stats", "expert_counts", "layer_stats"):
        for one, other in zip(tables(whole, kind), tables(limited, kind), strict=True):
            shuffled = [column for column in one if column.endswith("shuffled")]  # drawn a sequence, which are others
            pd.testing.assert_frame_equal(one.drop(columns=shuffled), other.drop(columns=shuffled))
    assert len(put_aside) > 2 * 4  # more often than once a domain and shard


def test_one_state_is_in_memory_at_a_time(imported, documents, tmp_path, monkeypatch):
    alive, most = weakref.WeakSet(), []
    own = Accumulator.__init__

    def counted(self, *arguments, **more):
        alive.add(self)
        most.append(len(alive))
        own(self, *arguments, **more)

    monkeypatch.setattr(Accumulator, "__init__", counted)
    imported([str(tmp_path / "rows.parquet")], "parquet")
    assert most == [1] * 4


def test_what_a_source_lacks_is_null(imported, tmp_path):
    torch.save(
        sglang_dump([(1, [30, 20], range(50), decisions(50)[0]), (2, None, range(9), decisions(9)[0])]),
        tmp_path / "d.pt",
    )
    run = imported([str(tmp_path / "*.pt")], "sglang", heldout=0)
    stats = next(part for part in tables(run, "layer_stats") if len(part))
    prefill, decode = (stats[stats.domain == f"text:{phase}"] for phase in ("prefill", "decode"))
    assert prefill["pairs"].tolist() == [48, 48] and decode["pairs"].tolist() == [0, 0]
    assert stats["first"].isna().all() and stats["weight_sum"].isna().all()
    assert stats["coactivation"].notna().all()
    assert next(part for part in tables(run, "token_stats") if len(part))["router_entropy_mean"].isna().all()
    trace = next(part for part in tables(run, "trace") if len(part))
    assert trace["weights"].isna().all() and (trace["token_id"] >= 0).all()


def test_prefill_and_decode_of_a_turn_share_a_split(imported, tmp_path):
    rows = [row for turn in range(30) for row in route_rows(decisions(4, turn), decisions(3, 99 + turn), turn)]
    write_route_csv(tmp_path / "r.csv.gz", rows)
    run = imported([str(tmp_path / "r.csv.gz")], "route_csv")
    table = pq.read_table(run / "corpus/documents.parquet").to_pandas()
    assert set(table.domain) == {"text:prefill", "text:decode"} and len(table) == 60
    assert (table.groupby("group")["split"].nunique() == 1).all() and set(table.split) == {"capture", "heldout"}
    for stats in tables(run, "layer_stats"):
        last = stats[(stats.domain == "text:prefill") & (stats.layer == LAYERS - 1)]
        assert (last["dropped"] == 3 * last["tokens"]).all()
    assert not len(pq.read_table(run / "corpus/vocabulary.parquet"))


def test_sums_go_into_the_capture_split_a_domain_a_shard(imported, tmp_path):
    rows = {"layer": [0, 0, 0], "token_id": [7] * 3, "expert": [1, 2, 3], "count": [2] * 3}
    parts = [pa.table({**rows, "domain": [domain] * 3}) for domain in ("a", "b", "c")]
    pq.write_table(pa.concat_tables(parts), tmp_path / "counts.parquet")
    run = imported([str(tmp_path / "counts.parquet")], "token_counts")
    shards = [sorted(set(part["domain"])) for part in tables(run, "token_stats", "capture")]
    assert shards == [["a", "c"], ["b"]]
    assert not sum(map(len, tables(run, "token_stats", "heldout"))) and not sum(map(len, tables(run, "trace")))
    assert json.loads((run / "corpus/manifest.json").read_text())["sequence_length"] is None


def test_provenance_names_the_plan_and_the_layers(imported, documents, tmp_path):
    run = imported([str(tmp_path / "rows.parquet")], "parquet")
    records = [read_provenance(path) for path in sorted((run / "capture").glob("capture-*.layer_stats.parquet"))]
    assert len({record["plan"] for record in records}) == 1 and [record["shard"] for record in records] == [0, 1]
    assert [site["layer"] for site in records[0]["sites"]] == [0, 1]
    assert records[0]["content"] != records[1]["content"]
    assert sum(record["tokens"] for record in records) == sum(
        part["tokens"].sum() // LAYERS for part in tables(run, "layer_stats", "capture")
    )


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({"layers": 5}, r"row 3: position 1, layer 0 is not the next one; every position must have its 5 layers"),
        ({"vocabulary": 20}, r"row \d+: token id \d+ is outside the 20 of models.mine.vocabulary"),
        ({"tokenizer": "nowhere"}, r"models.mine.tokenizer: nowhere: no folder with a tokenizer"),
    ],
)
def test_a_refusal_leaves_nothing_behind(imported, documents, tmp_path, model, message):
    with pytest.raises(VarError, match=message):
        imported([str(tmp_path / "rows.parquet")], "parquet", model=model)
    assert not list(tmp_path.glob("results/mine/**/*.parquet")) and not list(tmp_path.glob("results/mine/**/.import*"))


def group_in(split, heldout=0.4):
    """Name of a document, the only one of rows.parquet, that falls into a split."""
    for number in range(100):
        digest = hashlib.sha256(f"text/rows.parquet:d{number}".encode()).digest()
        if (int.from_bytes(digest[:8], "big") / 2**64 >= 1 - heldout) == (split == "heldout"):
            return f"d{number}"
    raise AssertionError


def test_a_recording_that_is_held_out_as_a_whole_is_one_line(imported, tmp_path):
    decision_rows({group_in("heldout"): (*decisions(12), np.arange(12))}).to_parquet(tmp_path / "rows.parquet")
    message = (
        r"corpora.log: all of its 12 tokens are held out, .*; add files, or set corpora.log.heldout: 0 \(now 0.4\)$"
    )
    with pytest.raises(VarError, match=message):
        imported([str(tmp_path / "rows.parquet")], "parquet")
    assert imported([str(tmp_path / "rows.parquet")], "parquet", "all", heldout=0).exists()


def test_folders_of_killed_processes_are_removed_and_those_in_use_are_not(imported, documents, tmp_path):
    capture = tmp_path / "results/mine/log/capture"
    dead, used = capture / ".import-dead", capture / ".import-used"
    for folder in (dead, used):
        folder.mkdir(parents=True)
        (folder / "part.arrow").write_text("a copy of the recording")
    hold = "import fcntl, os, sys, time; handle = os.open(sys.argv[1], os.O_RDONLY); "
    hold += "fcntl.flock(handle, fcntl.LOCK_EX); print(flush=True); time.sleep(600)"
    holders = [
        subprocess.Popen([sys.executable, "-c", hold, folder], stdout=subprocess.PIPE) for folder in (dead, used)
    ]
    try:
        for holder in holders:
            holder.stdout.readline()
        holders[0].kill()
        holders[0].wait()
        imported([str(tmp_path / "rows.parquet")], "parquet")
        assert list(capture.glob(".import-*")) == [used] and (used / "part.arrow").exists()
    finally:
        for holder in holders:
            holder.kill()
            holder.wait()
            holder.stdout.close()


def test_recordings_of_two_kinds_are_not_mixed(imported, tmp_path):
    decision_rows({"a": (*decisions(3), np.zeros(3))}).to_parquet(tmp_path / "a.parquet")
    decision_rows({"b": (*decisions(3), np.zeros(3))}).drop(columns="weights").to_parquet(tmp_path / "b.parquet")
    with pytest.raises(VarError, match=r"b.parquet: row 1: has no weights, unlike before it"):
        imported([str(tmp_path / "*.parquet")], "parquet")
