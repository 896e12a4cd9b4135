import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import PreTrainedModel

from moe_models import VOCABULARY, build_model
from var_core.errors import VarError
from var_core.models.perplexity import SequenceScores, predicted_tokens, score_sequences, scores_of

DOCUMENT = np.array([[3] * 5 + [4] * 1 + [7] * 10, [7] * 4 + [8] * 12, [9] * 16], dtype=np.int32)


@pytest.fixture
def input_ids() -> np.ndarray:
    return np.random.default_rng(0).integers(0, VOCABULARY, DOCUMENT.shape).astype(np.int32)


def nll_document_by_document(model: PreTrainedModel, input_ids: np.ndarray) -> list[list[float]]:
    """-ln p of every predicted token, each part of a document run through the model on its own."""
    losses: list[list[float]] = []
    for row, documents in zip(input_ids, DOCUMENT, strict=True):
        losses.append([])
        for number in np.unique(documents):
            tokens = torch.from_numpy(row[documents == number].astype(np.int64))
            log_probabilities = model(tokens[None], use_cache=False).logits[0].double().log_softmax(-1)
            losses[-1] += [-log_probabilities[i, tokens[i + 1]].item() for i in range(len(tokens) - 1)]
    return losses


def test_packed_scores_are_those_of_separate_documents(moe_model: PreTrainedModel, input_ids: np.ndarray) -> None:
    expected = nll_document_by_document(moe_model, input_ids)
    scores = score_sequences(moe_model, input_ids, DOCUMENT, batch_sequences=2)
    assert scores.predicted.tolist() == [len(row) for row in expected] == [13, 14, 15]
    np.testing.assert_allclose(scores.nll_sum, [sum(row) for row in expected], rtol=1e-5)
    assert scores.perplexity == pytest.approx(math.exp(sum(map(sum, expected)) / 42), rel=1e-5)


def test_other_documents_matter_when_they_are_not_isolated(input_ids: np.ndarray) -> None:
    model = build_model("mixtral")
    isolated = score_sequences(model, input_ids, DOCUMENT, 3)
    joined = score_sequences(model, input_ids, DOCUMENT, 3, isolate_documents=False)
    np.testing.assert_array_equal(isolated.predicted, joined.predicted)
    assert (np.abs(isolated.nll_sum - joined.nll_sum) > 1e-4).tolist() == [True, True, False]


@pytest.mark.parametrize("batch_sequences", [1, 2, 5])
def test_batch_size_does_not_matter(input_ids: np.ndarray, batch_sequences: int) -> None:
    model, done = build_model("mixtral"), []
    scores = score_sequences(model, input_ids, DOCUMENT, batch_sequences, advance=done.append)
    np.testing.assert_allclose(scores.nll_sum, score_sequences(model, input_ids, DOCUMENT, 3).nll_sum, rtol=1e-5)
    assert sum(done) == input_ids.size


def test_model_that_knows_nothing_has_the_vocabulary_as_perplexity(input_ids: np.ndarray) -> None:
    model = build_model("mixtral")
    model.lm_head.weight.zero_()
    assert score_sequences(model, input_ids, DOCUMENT, 2).perplexity == pytest.approx(VOCABULARY, rel=1e-6)


def test_loss_that_is_not_finite_names_the_sequence(input_ids: np.ndarray) -> None:
    model = build_model("mixtral")
    unused = min(set(range(VOCABULARY)) - set(input_ids.flatten().tolist()))
    model.get_input_embeddings().weight[unused] = torch.nan
    input_ids[1, 3] = unused
    with pytest.raises(VarError, match=r"sequence 1: .*NaN or infinite"):
        score_sequences(model, input_ids, DOCUMENT, 2)


def test_predicted_tokens_follow_one_of_their_own_document() -> None:
    document = np.array([[1, 1, 2, 2, 2], [2, 3, 4, 4, 5]])
    assert predicted_tokens(document).astype(int).tolist() == [[0, 1, 0, 1, 1], [0, 0, 0, 1, 0]]


@given(st.lists(st.lists(st.integers(0, 2), min_size=4, max_size=4), min_size=1, max_size=5))
def test_scores_add_up_over_any_parts(rows: list[list[int]]) -> None:
    document = np.sort(np.array(rows), axis=1)
    nll = np.random.default_rng(0).exponential(size=document.shape)
    predicted = predicted_tokens(document)
    scores = scores_of(nll, predicted)
    np.testing.assert_allclose(scores.nll_sum.sum(), nll[predicted].sum())
    assert scores.predicted.sum() == predicted.sum()
    first = np.arange(len(rows)) < len(rows) // 2
    parts = [scores.subset(first), scores.subset(~first)]
    assert sum(int(part.predicted.sum()) for part in parts) == predicted.sum()
    np.testing.assert_array_equal(np.concatenate([part.nll_sum for part in parts]), scores.nll_sum)


def test_perplexity_weighs_tokens_and_not_sequences() -> None:
    scores = SequenceScores(np.array([math.log(2), 3 * math.log(8)]), np.array([1, 3]))
    assert scores.mean_nll == pytest.approx(10 / 4 * math.log(2))
    assert scores.perplexity == pytest.approx(2**2.5)
