"""Perplexity of a causal language model on packed sequences, kept sequence by sequence."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from var_core.corpus.shards import position_ids
from var_core.errors import VarError


@dataclass(frozen=True)
class SequenceScores:
    """Summed loss and number of predicted tokens of every sequence.

    Two models scored on the same sequences predict the same tokens, so their scores can be paired.

    Attributes
    ----------
    nll_sum : numpy.ndarray
        Sum of -ln p over the predicted tokens of each sequence, float64 [S], in nats.
    predicted : numpy.ndarray
        Number of predicted tokens of each sequence, int64 [S].
    """

    nll_sum: npt.NDArray[np.float64]
    predicted: npt.NDArray[np.int64]

    @property
    def mean_nll(self) -> float:
        """Mean of -ln p over all predicted tokens, in nats a token."""
        return float(self.nll_sum.sum() / self.predicted.sum())

    @property
    def perplexity(self) -> float:
        """The exponential of :attr:`mean_nll`."""
        return math.exp(self.mean_nll)

    def subset(self, sequences: npt.NDArray[Any]) -> "SequenceScores":
        """Scores of some sequences, given by a mask or by numbers."""
        return SequenceScores(self.nll_sum[sequences], self.predicted[sequences])


def predicted_tokens(document: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    """Which tokens of packed sequences are predicted, for every model and baseline alike.

    A token is predicted if the token before it is in the same sequence and of the same document. Not predicted are
    therefore the first token of every sequence and the first token of every document (or part of a document) within
    one: the context that a model would need for them is not there, or is another document's.

    Parameters
    ----------
    document : numpy.ndarray
        Document of every token, [S, T].

    Returns
    -------
    numpy.ndarray
        bool [S, T].
    """
    predicted = np.zeros(document.shape, dtype=np.bool_)
    predicted[:, 1:] = document[:, 1:] == document[:, :-1]
    return predicted


def scores_of(nll: npt.NDArray[Any], predicted: npt.NDArray[np.bool_]) -> SequenceScores:
    """Sum the losses of the predicted tokens by sequence.

    Parameters
    ----------
    nll : numpy.ndarray
        -ln p of every token, [S, T]; read only where `predicted`.
    predicted : numpy.ndarray
        bool [S, T].
    """
    sums = np.where(predicted, nll, 0).sum(axis=1, dtype=np.float64)
    return SequenceScores(sums, predicted.sum(axis=1, dtype=np.int64))


def score_sequences(
    model: Any,
    input_ids: npt.NDArray[Any],
    document: npt.NDArray[Any],
    batch_sequences: int,
    isolate_documents: bool = True,
    advance: Callable[[int], None] | None = None,
    scored: npt.NDArray[np.bool_] | None = None,
) -> SequenceScores:
    """Score a causal language model on packed sequences.

    Parameters
    ----------
    model : transformers.PreTrainedModel
        A causal language model with its head, in evaluation mode.
    input_ids : numpy.ndarray
        Token ids, [S, T].
    document : numpy.ndarray
        Document of every token, [S, T].
    batch_sequences : int
        Sequences a forward pass.
    isolate_documents : bool, optional
        Positions restart and attention stops where a document starts; False: a token also sees the documents before
        its own in the sequence. The tokens that are predicted are the same (:func:`predicted_tokens`).
    advance : callable, optional
        Called after each forward pass with the number of tokens done.
    scored : numpy.ndarray, optional
        bool [S, T]: only these tokens count; the others are their context, as in sliding windows.

    Returns
    -------
    SequenceScores
        In the order of `input_ids`.

    Raises
    ------
    VarError
        If the loss of a predicted token is NaN or infinite.
    """
    predicted = predicted_tokens(document)
    if scored is not None:
        predicted &= scored
    device = model.get_input_embeddings().weight.device
    parts: list[SequenceScores] = []
    for start in range(0, len(input_ids), batch_sequences):
        rows = slice(start, start + batch_sequences)
        tokens = torch.from_numpy(np.ascontiguousarray(input_ids[rows], dtype=np.int64)).to(device)
        positions = torch.from_numpy(position_ids(document[rows])).to(device) if isolate_documents else None
        nll = _token_nll(model, tokens, positions)
        if not np.isfinite(nll[predicted[rows]]).all():
            row = start + int(np.flatnonzero((~np.isfinite(nll) & predicted[rows]).any(axis=1))[0])
            raise VarError(
                f"sequence {row}: the model's loss is NaN or infinite; load it in a wider dtype (models.<name>.dtype)"
            )
        parts.append(scores_of(nll, predicted[rows]))
        if advance is not None:
            advance(tokens.numel())
    return SequenceScores(
        np.concatenate([part.nll_sum for part in parts]), np.concatenate([part.predicted for part in parts])
    )


@torch.no_grad()
def _token_nll(model: Any, tokens: torch.Tensor, positions: torch.Tensor | None) -> npt.NDArray[np.float32]:
    """-ln p of every token given those before it, [S, T]; the first of each sequence has none and is 0.

    Without a cache, because with one transformers does not look for restarting positions and would let attention
    cross documents.
    """
    logits = model(input_ids=tokens, position_ids=positions, use_cache=False).logits
    nll = torch.zeros(tokens.shape, dtype=torch.float32, device=tokens.device)
    for row in range(len(tokens)):  # one sequence at a time, so that float32 copies of the logits stay small
        nll[row, 1:] = torch.nn.functional.cross_entropy(logits[row, :-1].float(), tokens[row, 1:], reduction="none")
    return nll.cpu().numpy()
