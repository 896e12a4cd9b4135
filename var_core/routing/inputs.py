"""What a model's forward is given so that text, and nothing else, runs through all of its layers."""

import functools
import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from var_core.errors import VarError


def text_inputs(model: nn.Module, input_ids: torch.Tensor, position_ids: torch.Tensor | None = None) -> dict[str, Any]:
    """Keyword arguments for a forward pass over token ids: no cache of keys and values, as far as the model knows it.

    An encoder-decoder is given the same tokens on both sides, so that the layers of both see T tokens.

    Parameters
    ----------
    model : torch.nn.Module
        The model to be called.
    input_ids : torch.Tensor
        Token ids, int64 [S, length].
    position_ids : torch.Tensor or None, optional
        Positions, [S, length]; None: the model's own.

    Raises
    ------
    VarError
        If there are positions and the model takes none.
    """
    names = _parameter_names(type(model).forward)
    inputs: dict[str, Any] = {"input_ids": input_ids}
    if position_ids is not None:
        if "position_ids" not in names:
            raise VarError(
                f"sequences.isolate_documents: model {type(model).__name__} takes no position ids, so that packed "
                "documents cannot be kept apart; set it to false, and a boundary token separates them"
            )
        inputs["position_ids"] = position_ids
    if "use_cache" in names:
        inputs["use_cache"] = False
    if "decoder_input_ids" in names:
        inputs["decoder_input_ids"] = input_ids
    return inputs


def probe_tokens(vocabulary: int, tokens: int, length: int) -> torch.Tensor:
    """Token ids spread evenly over the vocabulary, int64 [S, n]: at least `tokens`, in sequences of 64 at most.

    Parameters
    ----------
    vocabulary : int
        Token ids that the model has.
    tokens : int
        How many are wanted.
    length : int
        Longest sequence that is allowed.
    """
    each = min(64, length, tokens)
    sequences = -(-tokens // each)
    count = sequences * each
    return (torch.arange(count) * max(1, vocabulary // count)).remainder(vocabulary).view(sequences, each)


@functools.cache
def _parameter_names(forward: Callable[..., Any]) -> frozenset[str]:
    return frozenset(inspect.signature(forward).parameters)
