"""How good a freshly trained model is: its perplexity beside n-gram baselines', and how it loads its experts."""

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from var_core.corpus.packing import PackedDomain
from var_core.models.baselines import BigramModel, UnigramModel, fit_bigram, fit_unigram
from var_core.models.packed import Sequences, all_tokens
from var_core.models.perplexity import SequenceScores, score_sequences
from var_core.progress import Progress

_BATCH_SEQUENCES = 32


def compare_with_baselines(
    model: Any,
    train: Mapping[str, PackedDomain],
    heldout: Mapping[str, PackedDomain],
    vocabulary: int,
    max_tokens: int,
    name: str,
) -> dict[str, Any]:
    """Score a model and n-gram baselines on the same held-out tokens.

    The baselines are fitted on all tokens of the train split. Of the held-out sequences at most `max_tokens` tokens
    are scored: the same share of every domain, at even distances.

    Parameters
    ----------
    model : transformers.PreTrainedModel
        The trained model, in evaluation mode.
    train, heldout : mapping
        Domain -> its sequences.
    vocabulary : int
        Number of token ids.
    max_tokens : int
        Limit on scored tokens (at least one sequence is scored).
    name : str
        The model's name, for the progress bar.

    Returns
    -------
    dict
        ``heldout``: sequences, predicted tokens and perplexities, in all and by domain; ``baselines``: what they were
        fitted on and how; ``expert_load``: largest and smallest share of a layer's decisions over their mean.
    """
    length = next(iter(heldout.values())).length
    sequences = Sequences(heldout)
    chosen = sequences.spread(max(1, max_tokens // length))
    input_ids, document = sequences.rows(chosen)
    unigram, bigram, fitted_on = fit_baselines(train, vocabulary)
    with (
        expert_choices(model) as choices,
        Progress(input_ids.size, "token", f"held-out perplexity of {name}") as progress,
    ):
        scores = {"model": score_sequences(model, input_ids, document, _BATCH_SEQUENCES, advance=progress.advance)}
    scores |= {"unigram": unigram.score(input_ids, document), "bigram": bigram.score(input_ids, document)}
    return {
        "heldout": {
            **_summary(scores, np.ones(len(chosen), dtype=np.bool_)),
            "domains": {
                domain: _summary(scores, sequences.domain[chosen] == domain)
                for domain in heldout
                if (sequences.domain[chosen] == domain).any()
            },
        },
        "baselines": {
            "tokens": fitted_on,
            "unigram": {"smoothing": "add-alpha", "alpha": 1.0},
            "bigram": {"smoothing": "interpolated Kneser-Ney", "discount": bigram.discount},
        },
        "expert_load": [
            {"max_over_mean": float(load.max() / load.mean()), "min_over_mean": float(load.min() / load.mean())}
            for load in choices
        ],
    }


def fit_baselines(train: Mapping[str, PackedDomain], vocabulary: int) -> tuple[UnigramModel, BigramModel, int]:
    """Fit both baselines on all tokens of the train split; also return the number of these tokens."""
    tokens, document = all_tokens(train)
    return fit_unigram(tokens, vocabulary), fit_bigram(tokens, document, vocabulary), len(tokens)


def _summary(scores: Mapping[str, SequenceScores], sequences: npt.NDArray[np.bool_]) -> dict[str, Any]:
    parts = {kind: score.subset(sequences) for kind, score in scores.items()}
    predicted = int(parts["model"].predicted.sum())
    return {
        "sequences": int(sequences.sum()),
        "predicted_tokens": predicted,
        "perplexity": {kind: part.perplexity for kind, part in parts.items()} if predicted else None,
    }


@contextlib.contextmanager
def expert_choices(model: Any) -> Iterator[list[npt.NDArray[np.int64]]]:
    """Count how often each expert of a Mixtral is chosen while the block runs.

    Yields
    ------
    list of numpy.ndarray
        For each layer, the number of choices of each expert, int64 [E]; complete when the block ends.
    """
    routers = [layer.mlp.gate for layer in model.model.layers]
    counts = [np.zeros(router.num_experts, dtype=np.int64) for router in routers]

    def count_into(total: npt.NDArray[np.int64]) -> Any:
        def hook(module: torch.nn.Module, inputs: Any, outputs: Any) -> None:
            total[:] += np.bincount(outputs[2].flatten().cpu().numpy(), minlength=len(total))

        return hook

    handles = [router.register_forward_hook(count_into(total)) for router, total in zip(routers, counts, strict=True)]
    try:
        yield counts
    finally:
        for handle in handles:
            handle.remove()
