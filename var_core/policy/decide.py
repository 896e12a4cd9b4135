"""Choosing the way of every decision of a layer: one implementation for a running model and for recorded decisions.

The router is asked only about the tokens that need it. What it would have said of the others is never looked at, so
that replaying a recording, where everything is known, decides as the running model does.

What can be known before the first router runs is worked out once a pass, for all layers at once, and how many tokens
of each kind a layer has is then known on the host: a layer waits for its device only where cached decisions of this
very pass may turn out not to be trusted, or where there is a budget.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from var_core.policy.memory import Found, Remembered
from var_core.policy.tables import PolicyTables
from var_core.policy.ways import NOT_COUNTED, Way

Route = Callable[[torch.Tensor | None], torch.Tensor]
"""Ask the router about some tokens, int64 [N], or about all; returns its confidence, float [T], of which only that of
tokens that it has been asked about counts."""


@dataclass(frozen=True)
class Numbers:
    """How many tokens a layer decides each way; known on the host."""

    learned: int
    fast: int
    cached: int

    @property
    def replaced(self) -> bool:
        """Whether any decision is not the router's own."""
        return self.fast + self.cached > 0


@dataclass(frozen=True)
class Ways:
    """How each of T tokens is decided at a layer.

    Attributes
    ----------
    way : torch.Tensor
        int8 [T]: a :class:`var_core.policy.ways.Way`; -1 for padding, which is left to the router.
    row : torch.Tensor
        int64 [T]: the table's row, for the fast path; 0 elsewhere.
    asked : torch.Tensor
        bool [T]: tokens that the router is asked about.
    numbers : Numbers
    confidence : torch.Tensor
        float [T]: the router's, of tokens that it was asked about.
    """

    way: torch.Tensor
    row: torch.Tensor
    asked: torch.Tensor
    numbers: Numbers
    confidence: torch.Tensor


@dataclass(frozen=True)
class Given:
    """A layer's decisions for T tokens: experts, int64 [T, k], and their weights, [T, k]."""

    experts: torch.Tensor
    weights: torch.Tensor


@dataclass(frozen=True)
class Step:
    """What is known of the T tokens of a pass at L layers before its first router runs.

    Attributes
    ----------
    counts : torch.Tensor
        bool [T]: False for padding.
    sequences : int
        Rows of the batch, T / S tokens each.
    way : torch.Tensor
        int8 [L, T]: ways as they are, if nothing that they rest on turns out not to be trusted.
    row : torch.Tensor
        int64 [L, T].
    asked : torch.Tensor
        bool [L, T]: tokens that the router is asked about first.
    places : tuple
        For each layer their numbers, int64 [N]; None for all tokens.
    hopeful : torch.Tensor or None
        bool [L, T]: cached, if the router turns out to be confident where the entry is written; None if there are none.
    hopes : tuple of int
        How many these are, a layer each.
    numbers : tuple of Numbers
        Of each layer, of ways as they are in ``way``.
    found : Found or None
        Of the cache.
    """

    counts: torch.Tensor
    sequences: int
    way: torch.Tensor
    row: torch.Tensor
    asked: torch.Tensor
    places: tuple[torch.Tensor | None, ...]
    hopeful: torch.Tensor | None
    hopes: tuple[int, ...]
    numbers: tuple[Numbers, ...]
    found: Found | None

    @classmethod
    def of(
        cls,
        counts: torch.Tensor,
        fast_row: torch.Tensor,
        sequences: int,
        found: Found | None = None,
        known: torch.Tensor | None = None,
        threshold: float = 0.0,
        also: torch.Tensor | None = None,
    ) -> "Step":
        """Work out what can be known.

        Parameters
        ----------
        counts : torch.Tensor
            bool [T].
        fast_row : torch.Tensor
            int64 [L, T]: the table's row that the fast path takes; -1 for none.
        sequences : int
        found : Found or None, optional
            What the cache's bookkeeping says.
        known : torch.Tensor or None, optional
            float [L, T]: confidence of the entries that tokens find from earlier passes, NaN where a layer may use
            none at all; None if ways do not follow from it, because nothing is found or a budget decides.
        threshold : float, optional
            Confidence of the router below which what it decided is not used again.
        also : torch.Tensor or None, optional
            bool [L, T] or [1, T]: tokens that the router is asked about in any case.
        """
        fast = counts & (fast_row >= 0)
        undecided = counts & ~fast
        way = _where(fast, Way.FAST) + _where(~counts, NOT_COUNTED)
        asked, kinds = ~fast, [counts.expand_as(fast), fast]
        hopeful = None
        if found is not None and known is not None and found.any_hit:
            reused = undecided & found.hit & ~known.isnan()
            cached = reused & ~found.here & (known >= threshold)
            if found.any_here:
                # Whoever wrote an entry in this pass is undecided, or what it wrote cannot be trusted.
                hopeful = reused & found.here & undecided[:, found.origin]
                cached = cached | hopeful
            way, asked = way + _where(cached, Way.CACHED), asked & ~cached
            kinds.append(cached)
        asked = asked if also is None else asked | also
        return cls._counted(counts, sequences, way, fast_row.clamp(min=0), asked, hopeful, kinds, found)

    @classmethod
    def _counted(
        cls,
        counts: torch.Tensor,
        sequences: int,
        way: torch.Tensor,
        row: torch.Tensor,
        asked: torch.Tensor,
        hopeful: torch.Tensor | None,
        kinds: list[torch.Tensor],
        found: Found | None,
    ) -> "Step":
        """Take to the host how many there are of each kind, all layers at once."""
        masks = [asked, *kinds] if hopeful is None else [asked, hopeful, *kinds]
        # Several times faster than sums of the usual kind, and no pass has so many tokens.
        sums = torch.stack([mask.sum(dim=1, dtype=torch.int32) for mask in masks], dim=1).tolist()
        hopes = (0,) * len(sums) if hopeful is None else tuple(each[1] for each in sums)
        numbers = []
        for each in sums:
            counted, quick, *cached = each[1 if hopeful is None else 2 :]
            numbers.append(Numbers(counted - quick - sum(cached), quick, sum(cached)))
        places = _places(asked, [each[0] for each in sums])
        return cls(counts, sequences, way, row, asked, places, hopeful, hopes, tuple(numbers), found)


def _where(mask: torch.Tensor, number: int) -> torch.Tensor:
    """A number where a mask says, else 0, which is the learned way; sums of these are faster than filling in."""
    return mask.to(torch.int8) * int(number)


def _places(asked: torch.Tensor, number: list[int]) -> tuple[torch.Tensor | None, ...]:
    """Numbers of the tokens that each layer asks about; None for all tokens."""
    tokens = asked.shape[1]
    if all(each == tokens for each in number):
        return (None,) * len(number)
    parts = asked.nonzero()[:, 1].split(number)
    return tuple(None if part.numel() == tokens else part for part in parts)


def choose_ways(layer: int, step: Step, threshold: float, route: Route) -> Ways:
    """Choose the way of each token at a layer.

    Parameters
    ----------
    layer : int
    step : Step
    threshold : float
        As in the step.
    route : callable
        See :data:`Route`.
    """
    way, row, asked, numbers = step.way[layer], step.row[layer], step.asked[layer], step.numbers[layer]
    confidence = route(step.places[layer])
    if step.hopeful is None or not step.hopes[layer]:
        return Ways(way, row, asked, numbers, confidence)
    assert step.found is not None
    doubted = step.hopeful[layer] & ~(confidence[step.found.origin] >= threshold)
    number = int(doubted.sum())
    if number:
        if step.places[layer] is not None:
            confidence = route((doubted & ~asked).nonzero()[:, 0])
        way, asked = way - _where(doubted, Way.CACHED), asked | doubted
        numbers = replace(numbers, learned=numbers.learned + number, cached=numbers.cached - number)
    return Ways(way, row, asked, numbers, confidence)


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
    k = experts.shape[1]
    if ways.numbers.fast:
        quick = tables.experts[layer].index_select(0, ways.row)[:, :k].to(experts.dtype)
        shares = tables.weights[layer].index_select(0, ways.row)[:, :k].to(weights.dtype)
        if ways.numbers.fast < ways.way.numel():
            fast = (ways.way == int(Way.FAST))[:, None]
            quick, shares = torch.where(fast, quick, experts), torch.where(fast, shares, weights)
        experts, weights = quick, shares
    if ways.numbers.cached:
        assert remembered is not None and step.found is not None
        found, cached = step.found, (ways.way == int(Way.CACHED))[:, None]
        before = remembered.experts[layer].index_select(0, found.entry)[:, :k].to(experts.dtype)
        shares = remembered.weights[layer].index_select(0, found.entry)[:, :k].to(weights.dtype)
        if found.any_here:
            here = found.here[:, None]
            before = torch.where(here, experts[found.origin], before)
            shares = torch.where(here, weights[found.origin], shares)
        experts, weights = torch.where(cached, before, experts), torch.where(cached, shares, weights)
    return Given(experts, weights)
