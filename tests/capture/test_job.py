"""Capture of a real (small, random-weight) MoE, compared with statistics by the book over a manual forward."""

import itertools

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from captures import CONFIG, LENGTH, capture, contents, interrupted_at, unfinished, write_shard
from moe_models import COMMON, build_model
from statistics_routed import by_the_book
from var_core.capture.batches import plan_batches
from var_core.capture.micro_shard import MicroShardCapture
from var_core.config.models import FolderModel
from var_core.errors import VarError
from var_core.parquet import read_provenance
from var_core.routing.recorder import Recorder
from var_core.routing.sites import find_sites
from var_core.statistics.tables import SCHEMAS


def test_statistics_are_those_of_a_manual_forward(tmp_path, shard, family, save_model):
    causal = build_model(family)
    outputs = capture(shard, save_model(causal, tmp_path / "model"), tmp_path / "out")
    table = pq.read_table(shard)
    for domain in ("code", "prose"):
        rows = table.filter(pa.compute.equal(table["domain"], domain))
        ids = torch.tensor(rows["input_ids"].to_pylist())
        document = torch.tensor(rows["document"].to_pylist())
        # One document at a time, unpacked: what a user would run to see that document's routing.
        pieces = [
            causal_decisions(causal, ids[s, start:stop])
            for s in range(len(ids))
            for start, stop in borders(document[s])
        ]
        batch = type(pieces[0])(
            *(torch.cat([getattr(p, f) for p in pieces], dim=1) for f in ("logits", "experts", "weights"))
        )
        values, chosen, first, _, coactivation, _, _, repeats = by_the_book(ids, document, batch)
        stats = pq.read_table(outputs.path("token_stats"))
        stats = stats.filter(pa.compute.equal(stats["domain"], domain)).to_pylist()
        assert {(r["layer"], r["token_id"]): r["n"] for r in stats} == {key: len(x) for key, x in values.items()}
        for row in stats:
            x = np.array(values[row["layer"], row["token_id"]])
            got = [row[f"{name}_mean"] for name in ("router_entropy", "confidence", "margin")]
            np.testing.assert_allclose(got, x.mean(axis=0), rtol=2e-4, atol=2e-5)
        counts = pq.read_table(outputs.path("expert_counts"))
        counts = counts.filter(pa.compute.equal(counts["domain"], domain)).to_pylist()
        assert {(r["layer"], r["token_id"], r["expert"]): r["chosen"] for r in counts} == chosen
        assert {(r["layer"], r["token_id"], r["expert"]): r["first"] for r in counts if r["first"]} == first
        layers = pq.read_table(outputs.path("layer_stats")).to_pylist()
        for row in (r for r in layers if r["domain"] == domain):
            assert row["coactivation"] == coactivation[row["layer"]].flatten().tolist()
            assert row["first_repeats"] == repeats[row["layer"]][1]
            assert row["tokens"] == ids.numel()


def causal_decisions(model, ids):
    with torch.inference_mode(), Recorder(find_sites(model)) as recorder:
        model(input_ids=ids[None], use_cache=False)
        return recorder.take()


def borders(document):
    starts = [0, *(torch.nonzero(document[1:] != document[:-1]).flatten() + 1).tolist(), len(document)]
    return list(itertools.pairwise(starts))


def test_every_token_is_counted_once_and_traced_once(tmp_path, shard, model):
    outputs = capture(shard, model, tmp_path / "out")
    stats = pq.read_table(outputs.path("token_stats")).to_pandas()
    assert (stats.groupby("layer")["n"].sum() == 10 * LENGTH).all()
    trace = pq.read_table(outputs.path("trace")).to_pandas()
    keys = list(zip(trace.sequence, trace.position, trace.layer, strict=True))
    assert keys == sorted(set(keys)) and len(keys) == 10 * LENGTH * 3
    ids = np.array(pq.read_table(shard)["input_ids"].to_pylist())
    assert (trace.token_id.to_numpy() == ids[trace.sequence - 40, trace.position]).all()
    assert not unfinished(tmp_path / "out")


@pytest.mark.parametrize(("batches", "checkpointed"), [(1, 1), (2, 2), (3, 2), (4, 4)])
def test_a_resumed_shard_is_byte_identical_and_counts_nothing_twice(
    tmp_path, shard, model, monkeypatch, batches, checkpointed
):
    """Earlier code reloaded its counts and restarted the data: everything was counted twice."""
    whole = contents(capture(shard, model, tmp_path / "whole"))
    with interrupted_at(batches):
        capture(shard, model, tmp_path / "out")
    assert not list((tmp_path / "out").glob("*.parquet")), "nothing half-written"
    original, again = MicroShardCapture._capture, []
    monkeypatch.setattr(
        MicroShardCapture,
        "_capture",
        lambda self, batch, *rest: (again.append(batch.index), original(self, batch, *rest)),
    )
    assert contents(capture(shard, model, tmp_path / "out")) == whole
    assert again[0] == checkpointed, "what a checkpoint holds is not run again"


def test_resuming_reaches_across_domains_and_untraced_shards(tmp_path, shard, model):
    config = CONFIG.model_copy(update={"checkpoint_tokens": 7 * LENGTH})
    whole = capture(shard, model, tmp_path / "whole", config, trace=False)
    with interrupted_at(5):
        capture(shard, model, tmp_path / "out", config, trace=False)
    resumed = capture(shard, model, tmp_path / "out", config, trace=False)
    assert all(whole.path(kind).read_bytes() == resumed.path(kind).read_bytes() for kind in SCHEMAS)
    assert not resumed.path("trace").exists()


def test_a_checkpoint_of_other_settings_is_not_continued(tmp_path, shard, model, caplog):
    with interrupted_at(3):
        capture(shard, model, tmp_path / "out")
    other = CONFIG.model_copy(update={"batch_sequences": 4})
    assert contents(capture(shard, model, tmp_path / "out", other)) == contents(
        capture(shard, model, tmp_path / "whole", other)
    )
    assert "a checkpoint of another plan; not used" in caplog.text
    assert not unfinished(tmp_path / "out")


@pytest.mark.parametrize("traced", [False, True], ids=["a trace is wanted now", "no trace is wanted any more"])
def test_a_checkpoint_without_the_trace_s_rows_is_not_continued_with_them(tmp_path, shard, model, traced):
    """A checkpoint holds no decisions one by one that nobody asked for: the trace would lack its batches."""
    with interrupted_at(3):
        capture(shard, model, tmp_path / "out", trace=traced)
    outputs = capture(shard, model, tmp_path / "out", trace=not traced)
    assert contents(outputs) == contents(capture(shard, model, tmp_path / "whole", trace=not traced))
    assert not unfinished(tmp_path / "out")


def test_shards_of_a_split_may_differ_in_whether_they_are_traced(tmp_path, shard, model):
    traced, plain = (
        capture(shard, model, tmp_path / str(trace), trace=trace).path("token_stats") for trace in (True, False)
    )
    assert traced.read_bytes() == plain.read_bytes(), "statistics and the plan in their provenance"


def test_a_foreign_checkpoint_in_the_state_folder_is_refused(tmp_path, shard, model):
    other = write_shard(tmp_path / "corpus" / "other.parquet", seed=1)
    for path, folder in ((shard, "out"), (other, "other")):
        with interrupted_at(2):
            capture(path, model, tmp_path / folder)
    (mine,), (foreign,) = unfinished(tmp_path / "out"), unfinished(tmp_path / "other")
    for path in mine.iterdir():
        path.unlink()
    for path in foreign.iterdir():
        path.rename(mine / path.name)
    with pytest.raises(VarError, match=r"checkpoint-a\.safetensors: this checkpoint was written under another plan"):
        capture(shard, model, tmp_path / "out")


def test_nonfinite_logits_stop_the_job_naming_layer_and_shard(tmp_path, shard, save_model):
    broken = build_model("mixtral")
    broken.model.embed_tokens.weight[5] = float("nan")
    ids = np.array(pq.read_table(shard)["input_ids"].to_pylist())
    assert (ids == 5).any()
    record = save_model(broken, tmp_path / "model")
    message = r"heldout-00000\.parquet: decisions with NaN or infinite router logits: \d+ at layer 0 \(layers\.0\.mlp"
    with pytest.raises(VarError, match=message):
        capture(shard, record, tmp_path / "out")
    assert not list((tmp_path / "out").glob("*.parquet"))
    allowed = CONFIG.model_copy(update={"max_nonfinite": 10_000})
    outputs = capture(shard, record, tmp_path / "out", allowed)
    rows = pq.read_table(outputs.path("layer_stats")).to_pandas()
    assert (rows.tokens + rows.nonfinite == 5 * LENGTH).all() and rows.nonfinite.sum() > 0
    assert np.isfinite(pq.read_table(outputs.path("token_stats"))["router_entropy_mean"].to_numpy()).all()


@pytest.fixture
def broken(tmp_path, shard, save_model):
    """A model that gives NaN for a token that occurs in both domains."""
    code, prose = np.split(np.array(pq.read_table(shard)["input_ids"].to_pylist()), 2)
    model = build_model("mixtral")
    model.model.embed_tokens.weight[int(np.intersect1d(code, prose)[0])] = float("nan")
    return save_model(model, tmp_path / "broken")


def limited(most):
    return CONFIG.model_copy(update={"max_nonfinite": most})


def left_out_by_domain(outputs):
    rows = pq.read_table(outputs.path("layer_stats")).to_pandas()
    return rows.groupby("domain")["nonfinite"].sum().tolist()


def test_the_limit_on_nonfinite_logits_is_over_all_domains(tmp_path, shard, broken):
    most = limited(10_000)
    whole = capture(shard, broken, tmp_path / "whole", most)
    first, second = left_out_by_domain(whole)
    assert first and second
    assert contents(capture(shard, broken, tmp_path / "just", limited(first + second))) == contents(whole)
    with pytest.raises(VarError, match="NaN or infinite router logits"):
        capture(shard, broken, tmp_path / "over", limited(first + second - 1))


def test_the_limit_on_nonfinite_logits_holds_across_a_resume(tmp_path, shard, broken):
    first, second = left_out_by_domain(capture(shard, broken, tmp_path / "whole", limited(10_000)))
    for most in (first + second - 1, first - 1):  # the second is below what the checkpoint holds already
        folder = tmp_path / str(most)
        with interrupted_at(4):
            capture(shard, broken, folder, limited(10_000))
        with interrupted_at(4):  # a limit that is kept refuses nothing
            capture(shard, broken, folder, limited(first + second))
        with pytest.raises(VarError, match=rf"capture\.max_nonfinite \(now {most}\)"):
            capture(shard, broken, folder, limited(most))
        assert len(unfinished(folder)) == 1, "the limit makes no other plan"


def test_a_dense_model_is_refused(tmp_path, shard, save_model):
    record = save_model(LlamaForCausalLM(LlamaConfig(**COMMON)), tmp_path / "model")
    with pytest.raises(VarError, match="no MoE layers"):
        capture(shard, record, tmp_path / "out")


def test_a_sequence_longer_than_the_model_is_refused(tmp_path, model):
    long = write_shard(tmp_path / "corpus" / "heldout-00000.parquet", length=200)
    with pytest.raises(VarError, match=r"sequences\.length: 200 tokens are more than the 128 positions"):
        capture(long, model, tmp_path / "out")


def test_a_shard_of_another_tokenizer_is_refused(tmp_path, model):
    other = write_shard(tmp_path / "corpus" / "heldout-00000.parquet", tokens=5000)
    with pytest.raises(VarError, match=r"token id \d+ is outside the 97 token ids"):
        capture(other, model, tmp_path / "out")


def test_numbers_that_disagree_with_the_model_are_refused(tmp_path, shard, model):
    wrong = FolderModel(source="folder", path=str(model.parent), expect={"experts": 8, "top_k": 4})
    with pytest.raises(VarError, match=r"expect\.top_k: the configuration says 4, the model has 2"):
        capture(shard, model, tmp_path / "out", model_config=wrong)


def test_provenance_names_what_the_numbers_were_made_from(tmp_path, shard, model):
    record = read_provenance(capture(shard, model, tmp_path / "out").path("token_stats"))
    assert record["run"] == "mine/text" and record["split"] == "heldout" and record["tokens"] == 10 * LENGTH
    assert record["sites"][2] == {
        "layer": 2,
        "path": "layers.2.mlp.experts",
        "experts": 8,
        "top_k": 2,
        "scoring": "softmax",
        "scoring_basis": "fitted",
    }
    assert record["corpus"] == {"name": "text", "digest": "c"} and record["code"] == "code"
    assert set(record["versions"]) == {"torch", "transformers"}


def test_a_model_partly_on_disk_gives_the_same_files(tmp_path, shard, model):
    scratch = str(tmp_path / "scratch")
    divided = FolderModel(
        source="folder", path="x", device_map="auto", max_memory={"cpu": "480KB"}, offload_folder=scratch
    )
    plain = contents(capture(shard, model, tmp_path / "plain"))
    assert contents(capture(shard, model, tmp_path / "divided", model_config=divided)) == plain


def test_quantised_experts_are_another_result(tmp_path, shard, model):
    outputs = {
        kind: capture(
            shard, model, tmp_path / kind, model_config=FolderModel(source="folder", path="x", quantisation=kind)
        )
        for kind in ("none", "int8")
    }
    records = {kind: read_provenance(files.path("token_stats")) for kind, files in outputs.items()}
    assert {kind: record["config"]["quantisation"] for kind, record in records.items()} == {k: k for k in outputs}
    assert records["none"]["plan"] != records["int8"]["plan"]
    assert all(record["config"]["dtype"] == "float32" for record in records.values())


def test_batches_never_cross_a_domain():
    domains = np.array(["a"] * 5 + ["b"] * 3)
    batches = plan_batches(domains, 2, 0, 8)
    assert [(b.domain, b.start, b.stop, b.ends_domain) for b in batches] == [
        ("a", 0, 2, False), ("a", 2, 4, False), ("a", 4, 5, True), ("b", 5, 7, False), ("b", 7, 8, True)
    ]  # fmt: skip
    assert [(b.index, b.domain, b.start, b.stop, b.ends_domain) for b in plan_batches(domains, 4, 3, 7)] == [
        (0, "a", 3, 5, True), (1, "b", 5, 7, True)
    ]  # fmt: skip
