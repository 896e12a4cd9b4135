"""A policy's decisions, pass after pass: what it remembers between passes, and what it works out before each."""

import torch

from var_core.policy.budget import Budget
from var_core.policy.cache import ContextCache
from var_core.policy.decide import Given, Route, Step, Ways, choose_ways, give
from var_core.policy.limited import Limited, choose_limited_ways
from var_core.policy.memory import Found, Remembered
from var_core.policy.sequences import Tokens
from var_core.policy.settings import PolicySettings
from var_core.policy.tables import NO_ROW, PolicyTables


class Decider:
    """Decides at all layers of a running model, or at those that are replayed.

    Parameters
    ----------
    tables : PolicyTables
        Of L layers, on the device on which is decided.
    settings : PolicySettings

    Attributes
    ----------
    active : torch.Tensor
        bool [L], on the host: layers whose tables, cache and budget are used; the others are their routers' alone.
    remembered : Remembered or None
        Decisions in contexts that were met; None without a cache.
    recent : torch.Tensor or None
        int64 [S, context_window - 1], on the host: token ids before the pass that is running, of which
        :meth:`var_core.policy.sequences.Tokens.contexts` makes the keys of the cache; None without a cache.
    """

    def __init__(self, tables: PolicyTables, settings: PolicySettings) -> None:
        self._tables, self._settings = tables, settings
        self._layers = len(tables.experts)
        self._threshold = 0.0 if settings.cache is None else settings.cache.confidence_threshold
        self._sequences = 0
        self._cache: ContextCache | None = None
        self.remembered: Remembered | None = None
        self.recent: torch.Tensor | None = None
        self._budget: Budget | None = None
        self._limited: Limited | None = None
        self._step: Step | None = None
        self.active = torch.ones(self._layers, dtype=torch.bool)

    @property
    def step(self) -> Step:
        """What was worked out before the pass that is running."""
        assert self._step is not None
        return self._step

    def begin(self, sequences: int) -> None:
        """Forget everything, but for what a shared cache holds: new sequences begin."""
        cache, budget = self._settings.cache, self._settings.budget
        if cache is not None:
            if self._cache is None or not (cache.shared or sequences == self._sequences):
                self._cache = ContextCache(cache.limits, sequences, cache.shared)
                entries = cache.limits.capacity * (1 if cache.shared else sequences)
                device = self._tables.experts.device
                self.remembered = Remembered.nothing(self._layers, entries, self._tables.top_k, device)
            elif cache.shared:
                self._cache.begin(sequences)
            else:
                assert self.remembered is not None
                self._cache.forget()
                self.remembered.forget()
        if budget is not None:
            self._budget = Budget(budget.max_learned_share, budget.window, self._layers, sequences)
        self._sequences = sequences

    def look(self, tokens: Tokens, also: torch.Tensor | None = None) -> None:
        """Work out what can be known of a pass before its first router runs.

        Parameters
        ----------
        tokens : Tokens
        also : torch.Tensor or None, optional
            bool [L, T] or [1, T]: tokens that the routers are asked about in any case.
        """
        tables = self._tables
        device = tables.experts.device
        parts = (tokens.ids, tokens.previous, tokens.position)
        rows = tables.rows(*(part.flatten().to(device, non_blocking=True) for part in parts))
        fast_row = tables.usable_row(rows)
        found = None
        if self._cache is not None:
            self.recent = torch.from_numpy(self._cache.recent.copy())
            looked_up = self._cache.look_up(*(part.numpy() for part in (tokens.ids, tokens.starts, tokens.counts)))
            found = Found.of(looked_up, self._cache.writers, device)
        known = None
        if found is not None and self.remembered is not None and self._budget is None:
            known = self.remembered.confidence[:, found.entry]
        if not self.active.numpy().all():
            idle = ~self.active[:, None].to(device)
            fast_row = fast_row.masked_fill(idle, NO_ROW)
            known = None if known is None else known.masked_fill(idle, float("nan"))
        counts = tokens.counts.flatten()
        if also is not None:
            also = also.to(device, non_blocking=True)
        on_device = counts.to(device, non_blocking=True)
        self._step = Step.of(on_device, fast_row, len(tokens.ids), found, known, self._threshold, also)
        if self._budget is not None:
            self._limited = Limited.of(self._budget, counts.numpy(), found, tables.any_row(rows))

    def choose(self, layer: int, route: Route) -> Ways:
        """Choose the way of each token at a layer."""
        # A layer that an audit has switched off is its router's alone, whatever the budget says.
        if self._limited is not None and self.active[layer]:
            return choose_limited_ways(layer, self.step, self._limited, self.remembered, self._threshold, route)
        return choose_ways(layer, self.step, self._threshold, route)

    def give(self, layer: int, ways: Ways, experts: torch.Tensor, weights: torch.Tensor) -> Given:
        """Put a layer's decisions together; `experts`, int64 [T, k], and `weights` are what the router decided."""
        return give(layer, self.step, ways, self._tables, self.remembered, experts, weights)

    def remember(self, layer: int, ways: Ways, given: Given) -> None:
        """Keep what a layer decided in contexts that were new."""
        if self.remembered is not None and self.step.found is not None:
            self.remembered.update(layer, self.step.found, given.experts, given.weights, ways.way, ways.confidence)
