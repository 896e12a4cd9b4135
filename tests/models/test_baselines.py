import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from var_core.models.baselines import absolute_discount, fit_bigram, fit_unigram
from var_core.models.perplexity import predicted_tokens

V = 6
TOKENS = st.lists(st.integers(0, V - 1), min_size=2, max_size=60).map(np.array)
BORDERS = st.lists(st.booleans(), min_size=60, max_size=60).map(np.array)


def kneser_ney_by_hand(tokens: np.ndarray, document: np.ndarray, vocabulary: int) -> np.ndarray:
    """The formula as it is printed, with dictionaries and loops; p[h, w]."""
    pairs = Counter(
        (int(tokens[i]), int(tokens[i + 1])) for i in range(len(tokens) - 1) if document[i] == document[i + 1]
    )

    def discount(counts: list[int]) -> float:
        n1, n2 = counts.count(1), counts.count(2)
        return n1 / (n1 + 2 * n2) if n1 and n2 else 0.5

    contexts_of = Counter(w for _, w in pairs)
    d, d_lower = discount(list(pairs.values())), discount(list(contexts_of.values()))
    p = np.zeros((vocabulary, vocabulary))
    for w in range(vocabulary):
        lower = 1 / vocabulary
        if pairs:
            lower = max(contexts_of[w] - d_lower, 0) / len(pairs) + d_lower * len(contexts_of) / len(pairs) / vocabulary
        for h in range(vocabulary):
            after = {x: count for (context, x), count in pairs.items() if context == h}
            total = sum(after.values())
            p[h, w] = lower
            if total:
                p[h, w] = max(after.get(w, 0) - d, 0) / total + d * len(after) / total * lower
    return p


def all_pairs(vocabulary: int) -> tuple[np.ndarray, np.ndarray]:
    return np.arange(vocabulary)[:, None], np.arange(vocabulary)[None, :]


@settings(deadline=None)
@given(TOKENS, BORDERS)
def test_bigram_is_the_printed_formula_and_sums_to_one(tokens: np.ndarray, borders: np.ndarray) -> None:
    document = np.cumsum(borders[: len(tokens)])
    p = fit_bigram(tokens, document, V).probability(*all_pairs(V))
    np.testing.assert_allclose(p.sum(axis=1), 1, atol=1e-12)
    assert (p > 0).all()
    np.testing.assert_allclose(p, kneser_ney_by_hand(tokens, document, V), atol=1e-12)


@given(TOKENS, st.floats(0.01, 10))
def test_unigram_is_the_printed_formula_and_sums_to_one(tokens: np.ndarray, alpha: float) -> None:
    p = np.exp(fit_unigram(tokens, V, alpha).log_probability)
    assert p.sum() == pytest.approx(1)
    for token in range(V):
        assert p[token] == pytest.approx((np.sum(tokens == token) + alpha) / (len(tokens) + alpha * V))


def test_pairs_across_documents_are_not_counted() -> None:
    tokens = np.array([0, 1, 2, 3, 0, 1])
    joined = fit_bigram(tokens, np.zeros(6, dtype=int), V)
    apart = fit_bigram(tokens, np.array([0, 0, 1, 1, 2, 2]), V)
    assert joined.pairs[:-1].tolist() == [0 * V + 1, 1 * V + 2, 2 * V + 3, 3 * V + 0]
    assert apart.pairs[:-1].tolist() == [0 * V + 1, 2 * V + 3]


def test_lower_order_counts_contexts_and_not_occurrences() -> None:
    # "Francisco" (1) is frequent but follows only "San" (0); 2 is rarer and follows many tokens.
    tokens = np.array([0, 1] * 20 + [3, 2, 4, 2, 5, 2, 0, 2])
    model = fit_bigram(tokens, np.zeros(len(tokens), dtype=int), V)
    assert np.sum(tokens == 1) > np.sum(tokens == 2)
    assert model.lower[2] > model.lower[1]


@pytest.mark.parametrize(
    ("counts", "expected"),
    [([1, 1, 2, 5], 2 / 4), ([1, 1, 1, 1, 2], 4 / 6), ([1, 1], 0.5), ([2, 3], 0.5), ([], 0.5)],
)
def test_discount(counts: list[int], expected: float) -> None:
    assert absolute_discount(np.array(counts, dtype=int)) == pytest.approx(expected)


@pytest.fixture(scope="module")
def chain() -> tuple[np.ndarray, np.ndarray, float]:
    """Tokens of a Markov chain over 50 states, with its transition matrix's entropy rate as perplexity."""
    rng = np.random.default_rng(5)
    steps = rng.dirichlet(np.full(50, 0.1), size=50)
    cumulated = steps.cumsum(axis=1)
    tokens, draws = np.zeros(60_000, dtype=np.int64), rng.random(60_000)
    for i in range(1, len(tokens)):
        tokens[i] = min(np.searchsorted(cumulated[tokens[i - 1]], draws[i]), 49)
    nll = -np.log(steps[tokens[:-1], tokens[1:]])
    return tokens, np.zeros(60_000, dtype=np.int64), math.exp(nll.mean())


def perplexities(tokens: np.ndarray, document: np.ndarray) -> tuple[float, float]:
    """Unigram's and bigram's perplexity on the last third, fitted on the rest."""
    train, rows = slice(0, 40_000), (-1, 100)
    heldout, in_document = tokens[40_000:].reshape(rows), document[40_000:].reshape(rows)
    unigram = fit_unigram(tokens[train], 50)
    bigram = fit_bigram(tokens[train], document[train], 50)
    return unigram.score(heldout, in_document).perplexity, bigram.score(heldout, in_document).perplexity


def test_bigram_comes_close_to_the_truth_where_there_is_one(chain: tuple[np.ndarray, np.ndarray, float]) -> None:
    tokens, document, truth = chain
    unigram, bigram = perplexities(tokens, document)
    assert truth < bigram < 1.05 * truth < 0.5 * unigram


def test_bigram_gains_nothing_on_shuffled_text(chain: tuple[np.ndarray, np.ndarray, float]) -> None:
    tokens, document, _ = chain
    unigram, bigram = perplexities(np.random.default_rng(1).permutation(tokens), document)
    assert unigram <= bigram < 1.1 * unigram


def test_scores_are_of_the_tokens_that_every_model_predicts() -> None:
    tokens = np.array([0, 1, 2, 0, 1, 2, 0, 1, 5, 3])
    bigram = fit_bigram(tokens, np.zeros(10, dtype=int), V)
    unigram = fit_unigram(tokens, V)
    input_ids, document = np.array([[0, 1, 2, 0], [3, 3, 4, 1]]), np.array([[0, 0, 1, 1], [1, 2, 2, 2]])
    p, q = bigram.probability(*all_pairs(V)), np.exp(unigram.log_probability)
    np.testing.assert_allclose(
        bigram.score(input_ids, document).nll_sum,
        [-math.log(p[0, 1] * p[2, 0]), -math.log(p[3, 4] * p[4, 1])],
    )
    np.testing.assert_allclose(
        unigram.score(input_ids, document).nll_sum, [-math.log(q[1] * q[0]), -math.log(q[4] * q[1])]
    )
    for model in (unigram, bigram):
        assert (model.score(input_ids, document).predicted == predicted_tokens(document).sum(axis=1)).all()
