"""Choosing the way of every decision of a layer: one implementation for a running model and for recorded decisions.

The router is asked only about the tokens that need it. What it would have said of the others is never looked at, so
that replaying a recording, where everything is known, decides as the running model does.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from var_core.policy.budget import Budget, spend
from var_core.policy.cache import Lookups
from var_core.policy.tables import NO_ROW, PolicyTables
from var_core.policy.ways import NOT_COUNTED, Way

UNTRUSTED = float("-inf")
"""Confidence of a remembered decision that was not the router's."""

Route = Callable[[torch.Tensor], torch.Tensor]
"""Ask the router about some tokens, bool [T]; returns its confidence, float [T], of which only theirs counts."""


@dataclass(frozen=True)
class Step:
    """What is known of the T tokens of a forward pass before its first router runs.

    Attributes
    ----------
    counts : torch.Tensor
        bool [T]: False for padding.
    fast_row : torch.Tensor
        int64 [L, T]: the table's row that the fast path takes; -1 for none.
    any_row : torch.Tensor
        int64 [L, T]: the row that has to do when nothing better may be used.
    origin, slot, memory : torch.Tensor or None
        int64 [T]: as :class:`var_core.policy.cache.Lookups`, and which memory the slot is in; None without a cache.
    hit : torch.Tensor or None
        bool [T].
    wrote : torch.Tensor or None
        int64 [3, W]: memory, slot and token of what this step's tokens wrote and was not written over.
    sequences : int
        Rows of the batch, T / S tokens each.
    """

    counts: torch.Tensor
    fast_row: torch.Tensor
    any_row: torch.Tensor
    origin: torch.Tensor | None
    slot: torch.Tensor | None
    memory: torch.Tensor | None
    hit: torch.Tensor | None
    wrote: torch.Tensor | None
    sequences: int

    @classmethod
    def of(
        cls,
        counts: torch.Tensor,
        fast_row: torch.Tensor,
        any_row: torch.Tensor,
        sequences: int,
        lookups: Lookups | None = None,
        writers: np.ndarray | None = None,
    ) -> "Step":
        """Take what the cache's bookkeeping says to the device of the tables."""
        if lookups is None or writers is None:
            return cls(counts, fast_row, any_row, None, None, None, None, None, sequences)
        rows, length = lookups.slot.shape
        memory = np.repeat(np.arange(rows) % len(writers), length)
        slot, token = lookups.slot.ravel(), np.flatnonzero(~lookups.hit.ravel() & (lookups.slot.ravel() >= 0))
        token = token[writers[memory[token], slot[token]] == token]
        triples = np.stack([memory[token], slot[token], token])
        arrays = (lookups.origin.ravel(), slot, memory, lookups.hit.ravel(), triples)
        origin, slots, memories, hit, wrote = (torch.from_numpy(array).to(counts.device) for array in arrays)
        return cls(counts, fast_row, any_row, origin, slots, memories, hit, wrote, sequences)


@dataclass
class Remembered:
    """What one layer decided when the entries of the cache were written.

    Attributes
    ----------
    experts : torch.Tensor
        int64 [M, C, k].
    weights : torch.Tensor
        float32 [M, C, k].
    confidence : torch.Tensor
        float32 [M, C]: the router's; minus infinity where the decision was not its own.
    """

    experts: torch.Tensor
    weights: torch.Tensor
    confidence: torch.Tensor

    @classmethod
    def nothing(cls, memories: int, capacity: int, top_k: int, device: torch.device) -> "Remembered":
        """Before the first token."""
        shape = (memories, capacity)
        return cls(
            torch.zeros((*shape, top_k), dtype=torch.int64, device=device),
            torch.zeros((*shape, top_k), device=device),
            torch.full(shape, UNTRUSTED, device=device),
        )

    def update(self, step: Step, given: "Given", confidence: torch.Tensor) -> None:
        """Take over what this step's tokens wrote."""
        assert step.wrote is not None
        memory, slot, place = step.wrote
        learned = given.way[place] == Way.LEARNED
        k = given.experts.shape[1]
        self.experts[..., :k][memory, slot] = given.experts[place]
        self.weights[..., :k][memory, slot] = given.weights[place].float()
        self.confidence[memory, slot] = torch.where(learned, confidence[place].float(), UNTRUSTED)


@dataclass(frozen=True)
class Given:
    """A layer's decisions for T tokens.

    Attributes
    ----------
    experts : torch.Tensor
        int64 [T, k].
    weights : torch.Tensor
        [T, k].
    way : torch.Tensor
        int8 [T]: a :class:`var_core.policy.ways.Way`; -1 for padding, which is left to the router.
    """

    experts: torch.Tensor
    weights: torch.Tensor
    way: torch.Tensor


@dataclass(frozen=True)
class Ways:
    """How each of T tokens is decided at a layer.

    Attributes
    ----------
    way : torch.Tensor
        int8 [T].
    row : torch.Tensor
        int64 [T]: the table's row, for the fast path.
    confidence : torch.Tensor
        float32 [T]: the router's, of tokens that it was asked about.
    asked : torch.Tensor
        bool [T]: which those are.
    """

    way: torch.Tensor
    row: torch.Tensor
    confidence: torch.Tensor
    asked: torch.Tensor


def choose_ways(
    layer: int,
    step: Step,
    remembered: Remembered | None,
    threshold: float,
    route: Route,
    also: torch.Tensor | None = None,
    budget: Budget | None = None,
) -> Ways:
    """Choose the way of each token at a layer.

    Parameters
    ----------
    layer : int
    step : Step
    remembered : Remembered or None
        The layer's; None without a cache.
    threshold : float
        Confidence of the router below which what it decided is not used again.
    route : callable
        See :data:`Route`.
    also : torch.Tensor or None, optional
        bool [T]: tokens that the router is asked about in any case.
    budget : Budget or None, optional
        Limit of learned decisions at this layer.
    """
    fast = step.counts & (step.fast_row[layer] >= 0)
    undecided = step.counts & ~fast
    way = torch.where(step.counts, int(Way.LEARNED), NOT_COUNTED).to(torch.int8)
    way = way.masked_fill(fast, int(Way.FAST))
    row = torch.where(fast, step.fast_row[layer], NO_ROW)
    asked = ~step.counts if also is None else also | ~step.counts
    if budget is not None:
        asked = asked | undecided
        confidence = route(asked)
        way, row = _within(budget, layer, step, remembered, threshold, confidence, fast)
        return Ways(way, row, confidence, asked)
    if remembered is None or step.hit is None:
        asked = asked | undecided
        return Ways(way, row, route(asked), asked)
    assert step.origin is not None
    reused = undecided & step.hit
    here = reused & (step.origin >= 0)
    origin = step.origin.clamp(min=0)
    known = _remembered_confidence(step, remembered)
    # Whoever wrote an entry in this step is undecided, or what it wrote cannot be trusted.
    trusted_if_confident = here & undecided[origin]
    asked = asked | (undecided & ~reused) | (reused & ~here & (known < threshold)) | (here & ~undecided[origin])
    confidence = route(asked)
    doubted = trusted_if_confident & (confidence[origin] < threshold)
    if bool(doubted.any()):
        more = route(doubted & ~asked)
        confidence = torch.where(doubted & ~asked, more, confidence)
        asked = asked | doubted
    cached = (reused & ~here & (known >= threshold)) | (trusted_if_confident & ~doubted)
    return Ways(way.masked_fill(cached, int(Way.CACHED)), row, confidence, asked)


def _remembered_confidence(step: Step, remembered: Remembered) -> torch.Tensor:
    """Confidence of the entry that each token finds from an earlier step, float32 [T]."""
    assert step.slot is not None and step.memory is not None
    return remembered.confidence[step.memory, step.slot.clamp(min=0)]


def _within(
    budget: Budget,
    layer: int,
    step: Step,
    remembered: Remembered | None,
    threshold: float,
    confidence: torch.Tensor,
    fast: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Ways and rows of a layer when learned decisions are limited: one token after another, in compiled code."""
    tokens = len(step.counts)
    nobody = np.full(tokens, -1, np.int64)
    origin, hit, known = nobody, np.zeros(tokens, np.bool_), np.full(tokens, UNTRUSTED, np.float32)
    if remembered is not None and step.hit is not None and step.origin is not None:
        origin, hit = step.origin.cpu().numpy(), step.hit.cpu().numpy()
        known = _remembered_confidence(step, remembered).cpu().numpy()
    way = np.full(tokens, NOT_COUNTED, np.int8)
    spend(
        step.counts.cpu().numpy(), fast.cpu().numpy(), hit, origin, known, confidence.float().cpu().numpy(),
        float(np.float32(threshold)), step.sequences, budget.learned[layer], budget.places[layer], budget.most, way,
    )  # fmt: skip
    ways = torch.from_numpy(way).to(step.counts.device)
    forced = (ways == int(Way.FAST)) & ~fast
    row = torch.where(fast, step.fast_row[layer], torch.where(forced, step.any_row[layer], NO_ROW))
    return ways, row


def give(
    layer: int,
    step: Step,
    ways: Ways,
    tables: PolicyTables,
    remembered: Remembered | None,
    experts: torch.Tensor,
    weights: torch.Tensor,
) -> Given:
    """Put a layer's decisions together.

    Parameters
    ----------
    layer, step, ways, tables, remembered
        As chosen.
    experts, weights : torch.Tensor
        [T, k]: what the router decided; only tokens with the learned way count.
    """
    fast, cached = ways.way == int(Way.FAST), ways.way == int(Way.CACHED)
    row, k = ways.row.clamp(min=0), experts.shape[1]
    given = torch.where(fast[:, None], tables.experts[layer][row, :k].long(), experts.long())
    shares = torch.where(fast[:, None], tables.weights[layer][row, :k].to(weights.dtype), weights)
    if remembered is not None and step.hit is not None:
        assert step.origin is not None and step.slot is not None and step.memory is not None
        here, origin = (step.origin >= 0)[:, None], step.origin.clamp(min=0)
        at = (step.memory, step.slot.clamp(min=0))
        as_before = torch.where(here, given[origin], remembered.experts[at][:, :k])
        weights_before = torch.where(here, shares[origin], remembered.weights[at][:, :k].to(weights.dtype))
        given = torch.where(cached[:, None], as_before, given)
        shares = torch.where(cached[:, None], weights_before, shares)
    return Given(given, shares, ways.way)
