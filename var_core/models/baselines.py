"""Unigram and bigram language models: what a trained model must beat on the same tokens."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from var_core.models.perplexity import SequenceScores, predicted_tokens, scores_of

Ids = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class UnigramModel:
    """Probabilities of tokens without context.

    Attributes
    ----------
    log_probability : numpy.ndarray
        ln p of every token id, float64 [V].
    """

    log_probability: Floats

    def score(self, input_ids: npt.NDArray[Any], document: npt.NDArray[Any]) -> SequenceScores:
        """Score packed sequences on the tokens that any model predicts there (see ``predicted_tokens``)."""
        return scores_of(-self.log_probability[input_ids], predicted_tokens(document))


def fit_unigram(tokens: npt.NDArray[Any], vocabulary: int, alpha: float = 1.0) -> UnigramModel:
    """Fit a unigram model with add-alpha smoothing: p(w) = (c(w) + alpha) / (N + alpha V).

    Parameters
    ----------
    tokens : numpy.ndarray
        Token ids to count, [N].
    vocabulary : int
        Number of token ids, V.
    alpha : float, optional
        Added to every count; above 0.
    """
    counts = np.bincount(tokens, minlength=vocabulary) + alpha
    return UnigramModel(np.log(counts / counts.sum()))


@dataclass(frozen=True)
class BigramModel:
    """Interpolated Kneser-Ney bigram model.

    Attributes
    ----------
    pairs : numpy.ndarray
        The pairs (h, w) that were seen, as h V + w, ascending, and last V squared, which no pair has, so that a search
        always ends at an entry; int64 [P + 1].
    discounted : numpy.ndarray
        (c(h, w) - D) / c(h) of each of them, and last 0; float64 [P + 1].
    left_over : numpy.ndarray
        Share of h's probability that goes to the lower order: D N1+(h, .) / c(h), and 1 for an h never seen as a
        context; float64 [V].
    lower : numpy.ndarray
        The lower order's probability of every token id, float64 [V].
    discount : float
        D.
    """

    pairs: Ids
    discounted: Floats
    left_over: Floats
    lower: Floats
    discount: float

    def probability(self, previous: npt.NDArray[Any], token: npt.NDArray[Any]) -> Floats:
        """p(token | previous), elementwise; broadcasts."""
        wanted = previous.astype(np.int64) * len(self.lower) + token
        place = np.searchsorted(self.pairs, wanted)
        seen = np.where(self.pairs[place] == wanted, self.discounted[place], 0.0)
        return seen + self.left_over[previous] * self.lower[token]

    def score(self, input_ids: npt.NDArray[Any], document: npt.NDArray[Any]) -> SequenceScores:
        """Score packed sequences on the tokens that any model predicts there (see ``predicted_tokens``)."""
        nll = np.zeros(input_ids.shape)
        nll[:, 1:] = -np.log(self.probability(input_ids[:, :-1], input_ids[:, 1:]))
        return scores_of(nll, predicted_tokens(document))


def fit_bigram(tokens: npt.NDArray[Any], document: npt.NDArray[Any], vocabulary: int) -> BigramModel:
    """Fit an interpolated Kneser-Ney bigram model.

    With absolute discount D, p(w | h) = max(c(h, w) - D, 0) / c(h) + D N1+(h, .) / c(h) p_lower(w). The lower order is
    not the token's frequency but the share of different contexts that it was seen after, N1+(., w) / N1+(., .), itself
    discounted in the same way and interpolated with the uniform distribution, so that no token has probability 0.

    Parameters
    ----------
    tokens : numpy.ndarray
        Token ids in order, [N].
    document : numpy.ndarray
        Document of every token, [N]; pairs across a border are not counted.
    vocabulary : int
        Number of token ids, V.

    References
    ----------
    Kneser and Ney 1995, "Improved backing-off for m-gram language modeling"; Chen and Goodman 1999, "An empirical
    study of smoothing techniques for language modeling", for the interpolated form and D = n1 / (n1 + 2 n2).
    """
    within = document[1:] == document[:-1]
    pairs, counts = np.unique(
        tokens[:-1][within].astype(np.int64) * vocabulary + tokens[1:][within], return_counts=True
    )
    context, token = np.divmod(pairs, vocabulary)
    discount = absolute_discount(counts)
    context_count = np.bincount(context, weights=counts, minlength=vocabulary)
    context_types = np.bincount(context, minlength=vocabulary)
    left_over = np.ones(vocabulary)
    np.divide(discount * context_types, context_count, out=left_over, where=context_count > 0)
    return BigramModel(
        pairs=np.append(pairs, vocabulary**2),
        discounted=np.append((counts - discount) / context_count[context], 0.0),
        left_over=left_over,
        lower=_lower_order(np.bincount(token, minlength=vocabulary)),
        discount=discount,
    )


def _lower_order(continuations: npt.NDArray[Any]) -> Floats:
    """Discount the numbers of different contexts of each token, and share the rest out evenly."""
    vocabulary, total = len(continuations), continuations.sum()
    if not total:
        return np.full(vocabulary, 1 / vocabulary)
    discount = absolute_discount(continuations)
    left_over = discount * np.count_nonzero(continuations) / total
    lower: Floats = np.maximum(continuations - discount, 0) / total + left_over / vocabulary
    return lower


def absolute_discount(counts: npt.NDArray[Any]) -> float:
    """D = n1 / (n1 + 2 n2), with n1 and n2 the numbers of counts that are 1 and 2.

    Where one of the two is 0 the estimate is 0 or 1, which would leave nothing for what was not seen, or nothing of
    what was seen once; 0.5 then.
    """
    once, twice = np.count_nonzero(counts == 1), np.count_nonzero(counts == 2)
    return float(once / (once + 2 * twice)) if once and twice else 0.5
