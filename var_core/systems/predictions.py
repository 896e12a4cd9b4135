"""What can be known of a layer's experts before its router runs: from the token, its context, or the layer before."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from var_core.errors import VarError
from var_core.policy.cache import CacheLimits, ContextCache
from var_core.policy.recorded import what_was_before
from var_core.policy.tables import PolicyTables
from var_core.systems.accesses import Decisions, Wholes, distinct
from var_core.systems.prefetching import Predicted

Predictor = Literal["previous_token", "next_layer", "token_table", "context_cache", "oracle", "random"]
PREDICTORS: tuple[Predictor, ...] = (
    "previous_token", "next_layer", "token_table", "context_cache", "oracle", "random",
)  # fmt: skip

Chosen = NDArray[np.int16]
"""Experts by token, layer and slot, [T, L, k]; E where a slot is empty."""

_CHUNK_VALUES = 1 << 24


@dataclass(frozen=True)
class Knowledge:
    """What predictors go by, made from other text than that which they are tried on.

    Attributes
    ----------
    tables : PolicyTables or None
    least_agreement : float
        Rows of the tables that promise less are not prefetched.
    cache : CacheLimits or None
        Size of the context cache.
    next_layer : numpy.ndarray or None
        float32 [L - 1, E, E]: see :func:`fit_next_layer`.
    isolate_documents : bool
        Whether the documents of a sequence knew nothing of each other.
    """

    tables: PolicyTables | None = None
    least_agreement: float = 0.0
    cache: CacheLimits | None = None
    next_layer: NDArray[np.float32] | None = None
    isolate_documents: bool = True

    def lacks(self, predictor: Predictor, decisions: Decisions) -> str | None:
        """What a predictor would need and is not there, in words; None if nothing."""
        if predictor in ("token_table", "context_cache") and decisions.token_id is None:
            return "token ids, and the trace has none"
        if predictor == "token_table" and self.tables is None:
            return "the tables of a policy, and the run has none"
        if predictor == "context_cache" and self.cache is None:
            return "a context cache, and the run's policy has none"
        if predictor == "next_layer" and self.next_layer is None:
            return "the order of layers in other text, and no such trace was given"
        return None


def predict(predictor: Predictor, decisions: Decisions, knowledge: Knowledge, seed: int = 0) -> Chosen:
    """Predict the experts of every decision.

    Parameters
    ----------
    predictor : str
        ``previous_token``: those that the layer chose for the token before. ``next_layer``: those that most often
        followed the experts of the layer before; nothing for the first. ``token_table``: those of the row of the
        policy's tables that owns the decision. ``context_cache``: those that were chosen when the same context was met
        before in the sequence. ``oracle``: the true ones. ``random``: any k.
    decisions : Decisions
    knowledge : Knowledge
    seed : int, optional
        Of ``random``.

    Raises
    ------
    VarError
        If the trace or the run lacks what the predictor needs.
    """
    lacking = knowledge.lacks(predictor, decisions)
    if lacking is not None:
        raise VarError(f"{decisions.source}: systems.caches.policies: {predictor} needs {lacking}; leave it out")
    if predictor == "oracle":
        return decisions.experts
    if predictor == "random":
        return _random(decisions, np.random.default_rng(seed))
    if predictor == "previous_token":
        return _previous_token(decisions)
    if predictor == "next_layer":
        assert knowledge.next_layer is not None
        return _next_layer(decisions, knowledge.next_layer)
    if predictor == "token_table":
        return _token_table(decisions, knowledge)
    return _context_cache(decisions, knowledge)


def predicted_passes(chosen: Chosen, pass_of_token: Wholes, passes: int, width: int) -> Predicted:
    """What is predicted of the tokens of each pass together."""
    return Predicted(*distinct(chosen, pass_of_token, passes, width))


def fit_next_layer(decisions: Decisions) -> NDArray[np.float32]:
    """Count which experts follow which, as shares of the uses of the first: float32 [L - 1, E, E]."""
    layers, width = decisions.experts.shape[1], decisions.width
    found = np.zeros((max(layers - 1, 0), width, width), np.float32)
    for layer in range(layers - 1):
        here, there = decisions.experts[:, layer].astype(np.int64), decisions.experts[:, layer + 1].astype(np.int64)
        pairs = here[:, :, None] * (width + 1) + there[:, None, :]
        counts = np.bincount(pairs.ravel(), minlength=(width + 1) ** 2).reshape(width + 1, width + 1)
        uses = np.bincount(here.ravel(), minlength=width + 1)[:width]
        found[layer] = counts[:width, :width] / np.maximum(uses, 1)[:, None]
    return found


def recall(chosen: Chosen, decisions: Decisions) -> float:
    """Share of the experts of all decisions that were predicted for them."""
    right, filled = 0, 0
    for layer in range(decisions.experts.shape[1]):
        true, own = decisions.experts[:, layer], chosen[:, layer]
        there = true < decisions.width
        right += int(((true[:, :, None] == own[:, None, :]).any(axis=2) & there).sum())
        filled += int(there.sum())
    return right / filled if filled else float("nan")


def precision(chosen: Chosen, decisions: Decisions) -> float:
    """Share of the predicted experts that were chosen; NaN where none were predicted."""
    right, named = 0, 0
    for layer in range(decisions.experts.shape[1]):
        true, own = decisions.experts[:, layer], chosen[:, layer]
        there = own < decisions.width
        right += int(((own[:, :, None] == true[:, None, :]).any(axis=2) & there).sum())
        named += int(there.sum())
    return right / named if named else float("nan")


def _previous_token(decisions: Decisions) -> Chosen:
    follows = np.append(False, decisions.sequence[1:] == decisions.sequence[:-1])[: len(decisions)]
    found = np.full_like(decisions.experts, decisions.width)
    found[1:][follows[1:]] = decisions.experts[:-1][follows[1:]]
    return found


def _random(decisions: Decisions, random: np.random.Generator) -> Chosen:
    shape, width = decisions.experts.shape, decisions.width
    found = np.empty(shape, np.int16)
    chunk = max(_CHUNK_VALUES // (shape[1] * width), 1)
    for start in range(0, shape[0], chunk):
        own = found[start : start + chunk]
        draws = random.random((*own.shape[:2], width), dtype=np.float32)
        own[:] = np.argpartition(draws, shape[2] - 1, axis=2)[:, :, : shape[2]]
    return found


def _next_layer(decisions: Decisions, follows: NDArray[np.float32]) -> Chosen:
    tokens, layers, k = decisions.experts.shape
    width = decisions.width
    found = np.full((tokens, layers, k), width, np.int16)
    chunk = max(_CHUNK_VALUES // (k * width), 1)
    for layer in range(1, layers):
        # An empty slot is followed by nothing.
        table = np.concatenate([follows[layer - 1], np.zeros((1, width), np.float32)])
        for start in range(0, tokens, chunk):
            here = decisions.experts[start : start + chunk, layer - 1]
            scores = table[here].sum(axis=1)
            # Of equal scores the lower id, as everywhere.
            best = np.argsort(-scores, axis=1, kind="stable")[:, :k]
            known = np.take_along_axis(scores, best, axis=1) > 0
            found[start : start + chunk, layer] = np.where(known, best, width)
    return found


def _token_table(decisions: Decisions, knowledge: Knowledge) -> Chosen:
    assert knowledge.tables is not None and decisions.token_id is not None
    tables, width = knowledge.tables, decisions.width
    previous, position = what_was_before(
        decisions.sequence, decisions.place, decisions.document, decisions.token_id, knowledge.isolate_documents
    )
    rows = tables.rows(*(torch.from_numpy(values) for values in (decisions.token_id, previous, position)))
    found = np.full(decisions.experts.shape, width, np.int16)
    for layer in range(decisions.experts.shape[1]):
        owner = rows.owner[layer]
        # Without an estimate nothing is promised.
        promised = tables.agreement[layer][owner.clamp(min=0)].nan_to_num(0.0)
        taken = (owner >= 0) & (promised >= knowledge.least_agreement)
        own = tables.experts[layer][owner.clamp(min=0)]
        found[:, layer, : own.shape[1]] = torch.where(taken[:, None], own, width).numpy()
    return found


def _context_cache(decisions: Decisions, knowledge: Knowledge) -> Chosen:
    assert knowledge.cache is not None and decisions.token_id is not None
    _, row = np.unique(decisions.sequence, return_inverse=True)
    lengths = np.bincount(row)
    column = np.arange(len(row)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    shape = (len(lengths), int(lengths.max()) if len(lengths) else 0)
    ids, starts, counts = np.full(shape, -1, np.int64), np.zeros(shape, np.bool_), np.zeros(shape, np.bool_)
    _, position = what_was_before(
        decisions.sequence, decisions.place, decisions.document, decisions.token_id, knowledge.isolate_documents
    )
    ids[row, column], starts[row, column], counts[row, column] = decisions.token_id, position == 0, True
    looked_up = ContextCache(knowledge.cache, shape[0]).look_up(ids, starts, counts)
    flat = np.zeros(shape, np.int64)
    flat[row, column] = np.arange(len(row))
    hit, origin = looked_up.hit[row, column], np.maximum(looked_up.origin[row, column], 0)
    found = np.full_like(decisions.experts, decisions.width)
    found[hit] = decisions.experts[flat.ravel()[origin]][hit]
    return found
