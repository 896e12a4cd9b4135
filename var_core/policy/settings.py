"""How a policy decides: everything but its tables."""

from dataclasses import dataclass
from typing import Literal

from var_core.policy.cache import CacheLimits

Weights = Literal["stored", "live"]
"""Weights of a table's or remembered experts: those that were stored with them, or what the router gives them now."""


@dataclass(frozen=True)
class CacheSettings:
    """Of the context cache.

    Attributes
    ----------
    limits : CacheLimits
    confidence_threshold : float
        Confidence of the router from which on what it decided in a context is used there again.
    shared : bool
        One cache for all sequences of a batch.
    """

    limits: CacheLimits
    confidence_threshold: float
    shared: bool = False


@dataclass(frozen=True)
class BudgetSettings:
    """Of the limit on learned decisions: their largest share in every window of so many tokens."""

    max_learned_share: float
    window: int


@dataclass(frozen=True)
class PolicySettings:
    """How a policy decides.

    Attributes
    ----------
    weights : {"stored", "live"}
    cache : CacheSettings or None
    budget : BudgetSettings or None
    """

    weights: Weights = "stored"
    cache: CacheSettings | None = None
    budget: BudgetSettings | None = None
