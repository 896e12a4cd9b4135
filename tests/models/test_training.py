from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers.models.mixtral.modeling_mixtral import load_balancing_loss_func

from var_core.config.models import DemoModel
from var_core.corpus.packing import PackedDomain
from var_core.models import training
from var_core.models.packed import Sequences
from var_core.models.training import (
    Training,
    TrainingStep,
    add_gradients,
    batch_numbers,
    build_model,
    learning_rate,
    load_balancing_loss,
)

VOCABULARY = 300
CONFIG = DemoModel(
    source="demo",
    corpus="any",
    vocabulary=VOCABULARY,
    layers=2,
    hidden=16,
    intermediate=24,
    heads=2,
    experts=4,
    sequence_length=16,
    max_position=32,
    batch_sequences=4,
    steps=10,
)


@pytest.fixture
def sequences() -> Sequences:
    """Two domains of random documents, 29 sequences of 16 tokens."""
    rng = np.random.default_rng(0)

    def domain(first: int, documents: int) -> PackedDomain:
        lengths = rng.integers(1, 40, documents)
        tokens = rng.integers(0, VOCABULARY, lengths.sum()).astype(np.int32)
        numbers = np.arange(first, first + documents, dtype=np.int32)
        return PackedDomain(16, tokens, numbers, np.cumsum(lengths))

    return Sequences({"a": domain(0, 20), "b": domain(20, 5)})


def weights_of(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: weight.detach().clone() for name, weight in model.named_parameters()}


def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    assert one.keys() == other.keys()
    return all(torch.equal(one[name], other[name]) for name in one)


def trained(
    sequences: Sequences, checkpoint: Path, config: DemoModel = CONFIG, key: str = "key", report: Any = None
) -> tuple[dict[str, torch.Tensor], list[TrainingStep]]:
    model = build_model(config, VOCABULARY, 0)
    run = Training(model, sequences, config, checkpoint, key)
    run.run(report)
    return weights_of(model), run.curve


def test_initial_weights_depend_on_the_seed_only() -> None:
    before = torch.get_rng_state()
    first = weights_of(build_model(CONFIG, VOCABULARY, 0))
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(3)
    assert equal(first, weights_of(build_model(CONFIG, VOCABULARY, 0)))
    assert not equal(first, weights_of(build_model(CONFIG.model_copy(update={"seed": 1}), VOCABULARY, 0)))


def test_model_has_the_configured_shape() -> None:
    config = build_model(CONFIG, VOCABULARY, 7).config
    assert (config.num_hidden_layers, config.num_local_experts, config.num_experts_per_tok) == (2, 4, 2)
    assert (config.vocab_size, config.max_position_embeddings, config.bos_token_id) == (VOCABULARY, 32, 7)
    assert not config.output_router_logits  # with it, generate fails on padded batches


def test_learning_rate_rises_and_falls_as_stated() -> None:
    config = CONFIG.model_copy(update={"steps": 200, "learning_rate": 1.0})
    rates = np.array([learning_rate(step, config) for step in range(200)])
    np.testing.assert_allclose(rates[:10], np.arange(1, 11) / 10)
    assert rates.argmax() in (9, 10) and rates.max() == 1
    assert (np.diff(rates[10:]) < 0).all()
    assert rates[-1] == pytest.approx(0.1)
    assert rates[10 + 189 // 2] == pytest.approx(0.55, abs=0.01)
    assert learning_rate(0, config.model_copy(update={"steps": 1})) == 1


def test_every_epoch_takes_every_sequence_once_in_a_new_order() -> None:
    numbers = np.concatenate([batch_numbers(step, 29, CONFIG) for step in range(29)])  # 4 epochs of 29
    epochs = numbers.reshape(4, 29)
    assert (np.sort(epochs, axis=1) == np.arange(29)).all()
    assert len({tuple(epoch) for epoch in epochs}) == 4
    other = CONFIG.model_copy(update={"seed": 1})
    assert not np.array_equal(batch_numbers(0, 29, CONFIG), batch_numbers(0, 29, other))
    assert batch_numbers(3, 2, CONFIG).tolist().count(0) == 2  # fewer sequences than a batch takes


@pytest.mark.parametrize("logit_rows", [7, 1024])
def test_gradients_are_those_of_the_plain_loss(
    sequences: Sequences, monkeypatch: pytest.MonkeyPatch, logit_rows: int
) -> None:
    monkeypatch.setattr(training, "_LOGIT_ROWS", logit_rows)
    model = build_model(CONFIG, VOCABULARY, 0)
    input_ids, document = sequences.rows(np.arange(6))
    loss, balance = add_gradients(model, input_ids, document, CONFIG)
    gradients = {name: weight.grad.clone() for name, weight in model.named_parameters()}
    model.zero_grad()
    # The same again, document by document, by the library's own loss.
    total, predicted, router_logits = torch.zeros(()), 0, []
    for row, numbers in zip(input_ids, document, strict=True):
        parts = []
        for number in dict.fromkeys(numbers.tolist()):
            tokens = torch.from_numpy(row[numbers == number].astype(np.int64))[None]
            outputs = model(input_ids=tokens, output_router_logits=True)
            parts.append(outputs.router_logits)
            if tokens.numel() > 1:
                total = total + model.loss_function(outputs.logits, tokens, VOCABULARY) * (tokens.numel() - 1)
                predicted += tokens.numel() - 1
        router_logits.append([torch.cat(layer) for layer in zip(*parts, strict=True)])
    layers = tuple(torch.cat(layer) for layer in zip(*router_logits, strict=True))
    expected_balance = torch.stack([load_balancing_loss_func((layer,), 4, 2) for layer in layers]).mean()
    (total / predicted + CONFIG.load_balancing * expected_balance).backward()
    assert loss == pytest.approx(total.item() / predicted, rel=1e-5)
    assert balance == pytest.approx(expected_balance.item(), rel=1e-5)
    for name, weight in model.named_parameters():
        torch.testing.assert_close(gradients[name], weight.grad, rtol=1e-4, atol=1e-6)


def test_balance_is_k_when_even_and_more_when_one_layer_is_not() -> None:
    even = torch.eye(4).repeat(8, 1) * 20 + torch.eye(4).roll(1, 0).repeat(8, 1) * 19  # each expert twice in four
    assert load_balancing_loss((even,), 2).item() == pytest.approx(2, abs=0.01)
    low, high = torch.tensor([9.0, 9, 0, 0]).repeat(32, 1), torch.tensor([0.0, 0, 9, 9]).repeat(32, 1)
    assert load_balancing_loss((low, high), 2).item() == pytest.approx(4, abs=0.01)
    assert load_balancing_loss_func((low, high), 4, 2).item() == pytest.approx(2, abs=0.01)  # pooled: does not see it


def test_loss_falls_and_the_curve_says_so(sequences: Sequences, tmp_path: Path) -> None:
    config = CONFIG.model_copy(update={"steps": 40, "learning_rate": 0.02})
    _, curve = trained(sequences, tmp_path / "checkpoint", config)
    assert [row.step for row in curve] == list(range(1, 41))
    assert [row.tokens for row in curve] == [64 * step for step in range(1, 41)]
    assert curve[0].loss == pytest.approx(np.log(VOCABULARY), abs=0.1)
    assert curve[-1].loss < curve[0].loss - 1
    assert [row.learning_rate for row in curve] == [learning_rate(step, config) for step in range(40)]


def test_same_seed_gives_the_same_weights_bit_for_bit(sequences: Sequences, tmp_path: Path) -> None:
    weights, curve = trained(sequences, tmp_path / "first")
    again, same_curve = trained(sequences, tmp_path / "second")
    assert equal(weights, again) and same_curve == curve
    other, _ = trained(sequences, tmp_path / "other", CONFIG.model_copy(update={"seed": 1}))
    assert not equal(weights, other)
    assert not torch.are_deterministic_algorithms_enabled()


class InterruptedHereError(Exception):
    pass


def interrupt_after(step: int) -> Any:
    def report(row: TrainingStep) -> None:
        if row.step == step:
            raise InterruptedHereError

    return report


@pytest.fixture
def frequent_checkpoints(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(training, "CHECKPOINT_STEPS", 3)
    yield


@pytest.mark.parametrize("stop", [1, 3, 5, 9])
def test_resumed_training_is_the_undisturbed_one(
    frequent_checkpoints: None, sequences: Sequences, tmp_path: Path, stop: int
) -> None:
    weights, curve = trained(sequences, tmp_path / "undisturbed")
    checkpoint = tmp_path / "checkpoint"
    with pytest.raises(InterruptedHereError):
        trained(sequences, checkpoint, report=interrupt_after(stop))
    done: list[int] = []
    resumed_weights, resumed_curve = trained(sequences, checkpoint, report=lambda row: done.append(row.step))
    assert done == list(range(stop // 3 * 3 + 1, 11))
    assert equal(weights, resumed_weights)
    assert resumed_curve == curve


@pytest.mark.parametrize("damage", ["other key", "truncated", "overwritten"])
def test_checkpoint_of_another_training_or_a_damaged_one_is_not_used(
    frequent_checkpoints: None, sequences: Sequences, tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    checkpoint = tmp_path / "checkpoint"
    with pytest.raises(InterruptedHereError):
        trained(sequences, checkpoint, report=interrupt_after(4))
    if damage == "truncated":
        checkpoint.write_bytes(checkpoint.read_bytes()[:-10])
    elif damage == "overwritten":
        checkpoint.write_bytes(b"nothing")
    done: list[int] = []
    key = "other" if damage == "other key" else "key"
    weights, _ = trained(sequences, checkpoint, key=key, report=lambda row: done.append(row.step))
    assert done == list(range(1, 11))
    assert "training starts anew" in caplog.text
    assert equal(weights, trained(sequences, tmp_path / "undisturbed")[0])
