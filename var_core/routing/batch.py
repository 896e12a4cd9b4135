"""What a model's routers decide: the shape of the decisions, and the decisions of one batch of tokens."""

from dataclasses import dataclass
from typing import Literal, get_args

import torch

from var_core.errors import VarError

Scoring = Literal["softmax", "sigmoid", "sqrtsoftplus", "probabilities"]
"""How a router's logits become scores, before these are made to sum to 1: softmax; sigmoid; the square root of
softplus; or not at all, because what the router returns are probabilities already."""


@dataclass(frozen=True)
class LayerRouter:
    """The shape of one MoE layer's decisions.

    Attributes
    ----------
    experts : int
        E, the outcomes that the router can choose: the experts, and identity or skip outcomes where a family has them.
    top_k : int
        k, slots of a decision.
    scoring : str
        How logits become scores, see :data:`Scoring`.
    """

    experts: int
    top_k: int
    scoring: Scoring = "softmax"

    def __post_init__(self) -> None:
        if not 1 <= self.top_k <= self.experts:
            raise VarError(f"a router of {self.experts} experts cannot choose {self.top_k}")
        if self.scoring not in get_args(Scoring):
            raise VarError(f"router scoring {self.scoring!r} is not one of {', '.join(get_args(Scoring))}")


@dataclass(frozen=True)
class RouterLayout:
    """The shape of the decisions of all L MoE layers.

    Attributes
    ----------
    layers : tuple of LayerRouter
        In the order of :attr:`var_core.routing.sites.Site.layer`.
    """

    layers: tuple[LayerRouter, ...]

    @classmethod
    def uniform(cls, layers: int, experts: int, top_k: int, scoring: Scoring = "softmax") -> "RouterLayout":
        """All layers alike."""
        return cls((LayerRouter(experts, top_k, scoring),) * layers)

    @property
    def experts(self) -> int:
        """Largest E of a layer: the width that batches are padded to."""
        return max(layer.experts for layer in self.layers)

    @property
    def top_k(self) -> int:
        """Largest k of a layer: the number of slots that batches are padded to."""
        return max(layer.top_k for layer in self.layers)

    def __len__(self) -> int:
        return len(self.layers)


@dataclass(frozen=True)
class RoutedBatch:
    """The decisions of one forward pass, for L layers, T tokens, E experts, k slots (E and k the layout's largest).

    Attributes
    ----------
    logits : torch.Tensor or None
        Router logits, [L, T, E], in the model's precision, minus infinity where a layer has fewer experts; None
        where they were not recorded.
    experts : torch.Tensor
        Experts that the experts module was given, int64 [L, T, k], in its order. An empty slot holds E: the slots
        that a layer with a smaller k does not have, and all slots of a token that a capacity limit dropped.
    weights : torch.Tensor or None
        Weights that it was given, [L, T, k], 0 in empty slots; None where they were not recorded.
    """

    logits: torch.Tensor | None
    experts: torch.Tensor
    weights: torch.Tensor | None
