"""What each format's importer yields is what was recorded."""

import numpy as np
import pandas as pd
import pytest
import torch

from recorded_routing import (
    EXPERTS,
    LAYERS,
    TOP_K,
    decision_rows,
    decisions,
    esft_lines,
    route_rows,
    sglang_dump,
    write_esft,
    write_route_csv,
)
from var_core.traces.importers.esft import read_esft
from var_core.traces.importers.parquet import read_parquet
from var_core.traces.importers.recording import Shape, check_recording
from var_core.traces.importers.route_csv import read_route_csv
from var_core.traces.importers.sglang import read_sglang, stat_counts
from var_core.traces.importers.vllm import read_vllm

SHAPE = Shape(EXPERTS, TOP_K, LAYERS, None, "mine")


def read(reader, path, shape=SHAPE, **more):
    found = list(reader([(path, path.name)], "chat", shape, **more))
    for recording in found:
        check_recording(recording, shape)
    assert 0 < found[0].share_read <= found[-1].share_read <= 1
    return found


def test_esft_lines_are_sequences_in_an_archive_or_loose(tmp_path):
    sequences = [decisions(tokens, seed) for seed, tokens in enumerate((5, 1, 30))]
    logs = [esft_lines(sequences, layer) for layer in range(LAYERS)]
    write_esft(tmp_path / "logs.tar.xz", logs)
    found = read(read_esft, tmp_path / "logs.tar.xz")
    loose = []
    for layer, text in enumerate(logs):
        loose.append(tmp_path / f"expert_weights_{layer + 9}.txt")
        loose[-1].write_text(text)
    again = list(read_esft([(path, path.name) for path in reversed(loose)], "chat", SHAPE))
    for recordings in (found, again):
        for recording, (experts, weights) in zip(recordings, sequences, strict=True):
            assert np.array_equal(recording.experts, experts) and np.allclose(recording.weights, weights)
            assert recording.token_ids is None and recording.ordered
    assert [recording.name for recording in found] == [f"chat/logs.tar.xz:{line}" for line in (1, 2, 3)]


def test_route_csv_keeps_prefill_and_decode_apart_and_a_turn_together(tmp_path):
    first, second = (decisions(4), decisions(6, 1)), (decisions(3, 2), decisions(1, 3))
    write_route_csv(tmp_path / "r.csv.gz", route_rows(*first) + route_rows(*second, turn=1))
    found = read(read_route_csv, tmp_path / "r.csv.gz")
    assert [(each.domain, each.group) for each in found] == [
        (f"chat:{phase}", f"chat/r.csv.gz:{turn}") for turn in (0, 1) for phase in ("prefill", "decode")
    ]
    for recording, (experts, weights) in zip(found, (*first, *second), strict=True):
        seen = np.ones(experts.shape[:2], dtype=bool)
        if recording.domain == "chat:prefill":
            seen[:-1, -1] = False  # nobody computed the last layer of these
        assert np.array_equal(recording.experts[seen], experts[seen])
        assert np.allclose(recording.weights[seen], weights[seen])
        assert (recording.experts[~seen] == EXPERTS).all()


@pytest.mark.parametrize("rows_a_batch", [7, 1 << 16])
def test_parquet_rows_are_put_together_across_batches(tmp_path, monkeypatch, rows_a_batch):
    monkeypatch.setattr("var_core.traces.importers.parquet._ROWS", rows_a_batch)
    documents = {name: (*decisions(n, n), np.arange(n) + n) for name, n in (("a", 9), ("b", 1), ("c", 20))}
    rows = decision_rows(documents, model="m", phase="decode", domain="code")
    other = decision_rows({"x": (*decisions(2), np.zeros(2))}, model="other", phase="prefill", domain="code")
    path = tmp_path / "rows.parquet"
    pd.concat([rows, other]).to_parquet(path)
    found = read(read_parquet, path, recorded_model="m")
    assert {recording.domain for recording in found} == {"code:decode"}
    for recording, (experts, weights, token_ids) in zip(found, documents.values(), strict=True):
        assert np.array_equal(recording.experts, experts) and np.array_equal(recording.token_ids, token_ids)
        assert np.array_equal(recording.weights, weights)


def test_parquet_does_without_weights_and_token_ids_and_knows_empty_decisions(tmp_path):
    rows = decision_rows({"a": (*decisions(3), np.zeros(3))}).drop(columns=["weights", "token_id"])
    rows.at[2, "experts"] = []
    rows.to_parquet(tmp_path / "rows.parquet")
    (found,) = read(read_parquet, tmp_path / "rows.parquet")
    assert found.weights is None and found.token_ids is None
    assert (found.experts[1, 0] == EXPERTS).all() and (found.experts[1, 1] < EXPERTS).all()


def test_sglang_prompts_are_told_apart_and_decoded_tokens_are_not(tmp_path):
    prompts, decoded = decisions(7)[0], decisions(3, 1)[0]
    passes = [(1, [5, 2], range(7), prompts), (2, None, range(7, 10), decoded), (4, None, [], decoded[:0])]
    physical = torch.stack([torch.randperm(EXPERTS), torch.randperm(EXPERTS)]).repeat(1, 2)
    torch.save(sglang_dump(passes, physical), tmp_path / "d.pt")
    found = read(read_sglang, tmp_path / "d.pt")
    expected = [physical.numpy()[np.arange(LAYERS)[:, None], each] for each in (prompts[:5], prompts[5:], decoded)]
    assert [(each.domain, each.ordered) for each in found] == [
        ("chat:prefill", True), ("chat:prefill", True), ("chat:decode", False),
    ]  # fmt: skip
    for recording, experts in zip(found, expected, strict=True):
        assert np.array_equal(recording.experts, experts)
    assert np.concatenate([each.token_ids for each in found]).tolist() == list(range(10))
    assert len({each.group for each in found}) == 1  # nobody knows which request a token is of


def test_sglang_dense_layers_are_named_away(tmp_path):
    experts = decisions(4)[0]
    dense = np.concatenate([np.full_like(experts[:, :1], -1), experts], axis=1)
    torch.save(sglang_dump([(1, [4], range(4), dense)]), tmp_path / "d.pt")
    (found,) = read(read_sglang, tmp_path / "d.pt", Shape(EXPERTS, TOP_K, LAYERS, (1, 2), "mine"))
    assert np.array_equal(found.experts, experts)


def test_sglang_stat_dumps_are_summed_over_steps(tmp_path):
    count = torch.zeros((3, LAYERS, EXPERTS), dtype=torch.int32)
    count[:, :, :TOP_K] = torch.tensor([1, 0, 4])[:, None, None]
    torch.save({"rank": 0, "logical_count": count, "average_utilization_rate_over_window": None}, tmp_path / "s.pt")
    assert np.array_equal(stat_counts(tmp_path / "s.pt", SHAPE), count.sum(0).numpy())


@pytest.mark.parametrize("apart", [False, True])
def test_vllm_tells_prompt_from_generated_tokens(tmp_path, apart):
    experts = decisions(9)[0].astype(np.uint8)
    prompt, ids = np.arange(6), np.arange(6, 10)
    parts = (
        {"prompt_routed_experts": experts[:6], "routed_experts": experts[6:]} if apart else {"routed_experts": experts}
    )
    np.savez(tmp_path / "r.npz", prompt_token_ids=prompt, token_ids=ids, **parts)
    found = read(read_vllm, tmp_path / "r.npz")
    assert [each.domain for each in found] == ["chat:prefill", "chat:decode"]
    assert np.array_equal(np.concatenate([each.experts for each in found]), experts)
    assert np.concatenate([each.token_ids for each in found]).tolist() == list(
        range(9)
    )  # the last one was never routed


def test_vllm_array_alone_has_one_domain_and_no_token_ids(tmp_path):
    experts = decisions(9)[0]
    np.save(tmp_path / "r.npy", experts)
    (found,) = read(read_vllm, tmp_path / "r.npy")
    assert found.domain == "chat" and found.token_ids is None and np.array_equal(found.experts, experts)
