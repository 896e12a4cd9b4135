"""Running out of memory: the batch is repeated in halves and counted once."""

import pytest
import torch

from captures import CONFIG, LENGTH, assert_same_up_to_rounding, capture, contents, write_shard
from var_core.capture import memory
from var_core.capture.memory import Halving, is_out_of_memory, joined, of_tokens, out_of_memory_in_one_line
from var_core.capture.micro_shard import MicroShardCapture
from var_core.errors import VarError
from var_core.routing.batch import RoutedBatch
from var_core.statistics.accumulator import Accumulator

CPU = torch.device("cpu")
WIDE = CONFIG.model_copy(update={"batch_sequences": 5})


def models_that_hold(monkeypatch, sequences, error):
    """Let the models of captures raise an error from their forward above a number of sequences.

    A real module's real hook, in the place where a GPU's allocator raises; this machine need not have one. It is put
    in after the checks on attach, which run on texts of their own.
    """
    run = MicroShardCapture.run

    def raise_above(module, arguments):
        if arguments[0].shape[0] > sequences:
            raise error

    def run_small(self, *arguments):
        self._subject._loaded.model.layers[1].mlp.register_forward_pre_hook(raise_above)
        run(self, *arguments)

    monkeypatch.setattr(MicroShardCapture, "run", run_small)


ERRORS = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: you tried 8 bytes"),
    MemoryError(),
]


@pytest.mark.parametrize("error", ERRORS, ids=["gpu", "cpu", "python"])
@pytest.mark.parametrize("sequences", [1, 2, 4])
def test_a_batch_too_large_for_memory_is_halved_and_counted_once(
    tmp_path, shard, model, monkeypatch, caplog, sequences, error
):
    whole = capture(shard, model, tmp_path / "whole", WIDE)
    models_that_hold(monkeypatch, sequences, error)
    halved = capture(shard, model, tmp_path / "halved", WIDE)
    assert_same_up_to_rounding(whole, halved)
    warnings = [record.message for record in caplog.records if "ran out in the forward pass" in record.message]
    assert "over 5 sequences; repeated with 2, and so from here on" in warnings[0]
    assert len(warnings) == (2 if sequences == 1 else 1), "said once, and then known"


def test_below_one_sequence_the_message_says_what_to_change(tmp_path, shard, model, monkeypatch):
    models_that_hold(monkeypatch, 0, ERRORS[0])
    with pytest.raises(
        VarError, match=r"memory of cpu ran out in the forward pass over 1 sequence of 16 tokens"
    ) as caught:
        capture(shard, model, tmp_path / "out", WIDE)
    for key in ("sequences.length", "dtype", "capture.device", "capture.batch_sequences"):
        assert key in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_cannot_be_halved_is_one_line_too():
    with pytest.raises(VarError, match="memory ran out in loading; lower"), out_of_memory_in_one_line("loading"):
        raise MemoryError
    with pytest.raises(RuntimeError, match="something else"), out_of_memory_in_one_line("loading"):
        raise RuntimeError("something else")


def test_halving_ends_with_one_sequence():
    def work(rows):
        raise MemoryError

    with pytest.raises(VarError, match=r"memory of cpu ran out in work over 1 sequence of 16 tokens; lower sequences"):
        Halving(8, LENGTH, CPU).map(work, slice(0, 8), "work")


@pytest.mark.parametrize("fails", [(0,), (1,), (3,), (0, 2)])
def test_memory_that_runs_out_in_the_middle_of_counting_counts_nothing_twice(
    tmp_path, model, monkeypatch, caplog, fails
):
    """The accumulator fails after it has counted a part; only what the last checkpoint holds is trusted then."""
    shard = write_shard(tmp_path / "corpus.parquet", sequences=20)
    config = CONFIG.model_copy(update={"batch_sequences": 5, "checkpoint_tokens": 10 * LENGTH})
    whole = capture(shard, model, tmp_path / "whole", config)
    update, calls = Accumulator.update, []

    def update_and_fail(self, *arguments):
        quantities = update(self, *arguments)
        calls.append(1)
        if len(calls) - 1 in fails:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return quantities

    monkeypatch.setattr(Accumulator, "update", update_and_fail)
    again = capture(shard, model, tmp_path / "again", config)
    assert_same_up_to_rounding(whole, again, shuffled_alike=False)
    assert caplog.text.count("ran out in counting") == len(fails) and "back to the last checkpoint" in caplog.text


def test_counting_that_fails_over_one_sequence_ends_the_job(tmp_path, shard, model, monkeypatch):
    def fail(self, *arguments):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(Accumulator, "update", fail)
    with pytest.raises(VarError, match=r"memory of cpu ran out in counting over 1 sequence of 16 tokens"):
        capture(shard, model, tmp_path / "out")


def test_pieces_that_cannot_be_joined_are_counted_one_by_one(tmp_path, shard, model, monkeypatch, caplog):
    whole = capture(shard, model, tmp_path / "whole", WIDE)
    models_that_hold(monkeypatch, 2, ERRORS[0])

    def join_or_fail(pieces):
        if len(pieces) > 1:
            raise ERRORS[0]
        return joined(pieces)

    monkeypatch.setattr(memory, "joined", join_or_fail)
    caplog.set_level("INFO")
    assert_same_up_to_rounding(whole, capture(shard, model, tmp_path / "pieces", WIDE), shuffled_alike=False)
    assert caplog.text.count("ran out in joining the decisions of 3 pieces; they are counted one by one") == 2


@pytest.mark.parametrize("where", ["has_room", "tables_by_layer", "state"])
def test_memory_that_runs_out_beside_the_counting_is_one_line(tmp_path, shard, model, monkeypatch, where):
    def fail(self, *arguments):
        raise ERRORS[0]

    with monkeypatch.context() as patch:
        patch.setattr(Accumulator, where, fail)
        with pytest.raises(
            VarError, match=r"memory ran out in keeping the statistics .*; lower sequences\.length"
        ) as caught:
            capture(shard, model, tmp_path / "out")
    assert "\n" not in str(caught.value) and "capture.max_state_mb" in str(caught.value)
    assert contents(capture(shard, model, tmp_path / "out")) == contents(capture(shard, model, tmp_path / "whole"))


def test_other_errors_are_not_taken_for_a_lack_of_memory(tmp_path, shard, model, monkeypatch):
    models_that_hold(monkeypatch, 2, RuntimeError("shapes do not match"))
    with pytest.raises(RuntimeError, match="shapes do not match"):
        capture(shard, model, tmp_path / "out", WIDE)
    assert not is_out_of_memory(RuntimeError("CUDA error: device-side assert triggered"))


def test_the_cpu_s_own_error_is_known():
    """A real one: no machine has so much memory."""
    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 60, dtype=torch.uint8)
    assert is_out_of_memory(caught.value), caught.value


@pytest.mark.parametrize("most", [1, 2, 3, 7, 8, 100])
def test_every_row_is_worked_on_once_and_in_order(most):
    done = []

    def work(rows):
        if rows.stop - rows.start > most:
            raise MemoryError
        done.extend(range(rows.start, rows.stop))
        return rows.stop - rows.start

    sizes = Halving(8, LENGTH, CPU).map(work, slice(3, 24), "work")
    assert done == list(range(3, 24)) and max(sizes) <= most and sum(sizes) == 21


def test_pieces_join_to_what_they_were_cut_from():
    batch = RoutedBatch(torch.rand(3, 10, 8), torch.randint(8, (3, 10, 2)), None)
    pieces = [of_tokens(batch, slice(start, start + 4)) for start in (0, 4, 8)]
    again = joined(pieces)
    assert torch.equal(again.logits, batch.logits) and torch.equal(again.experts, batch.experts)
    assert again.weights is None


def test_without_halving_the_bytes_do_not_depend_on_how_often_was_checkpointed(tmp_path, model):
    shard = write_shard(tmp_path / "corpus.parquet", sequences=20)
    ways = [CONFIG.model_copy(update={"checkpoint_tokens": tokens}) for tokens in (1, 5 * LENGTH, 10**9)]
    results = [contents(capture(shard, model, tmp_path / str(i), way)) for i, way in enumerate(ways)]
    assert results[0] == results[1] == results[2]
