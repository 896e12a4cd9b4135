"""Synthetic routing decisions: token ids as frequent as words are, and random logits."""

from dataclasses import dataclass

import numpy as np
import torch

from var_core.routing.batch import RoutedBatch, RouterLayout
from var_core.statistics.accumulator import TokenBatch

_MANDELBROT = 2.7
_LOGIT_DEVIATION = 1.5
_DOCUMENT_LENGTH = 100


@dataclass(frozen=True)
class Shape:
    """Sizes of a synthetic capture: L layers, V token ids, E experts, k choices, batches of S sequences of T tokens."""

    layers: int
    vocabulary: int
    experts: int
    top_k: int
    sequences: int
    length: int

    @property
    def layout(self) -> RouterLayout:
        """The shape of the decisions."""
        return RouterLayout.uniform(self.layers, self.experts, self.top_k)

    @property
    def tokens(self) -> int:
        """Tokens a batch."""
        return self.sequences * self.length

    @property
    def decisions(self) -> int:
        """Decisions a batch: one a token and layer."""
        return self.layers * self.tokens


@dataclass(frozen=True)
class Decisions:
    """A batch: its tokens, and what was decided for them at every layer."""

    tokens: TokenBatch
    routed: RoutedBatch

    @property
    def token_ids(self) -> torch.Tensor:
        """Token ids, int64 [T]."""
        assert self.tokens.token_ids is not None
        return self.tokens.token_ids

    def rolled(self, shift: int, vocabulary: int) -> "Decisions":
        """The same decisions for other token ids, all moved on by `shift`: a new batch at next to no cost."""
        ids = (self.token_ids + shift).remainder(vocabulary)
        return Decisions(TokenBatch(ids, self.tokens.continues, self.tokens.sequences), self.routed)


def synthetic_batches(shape: Shape, batches: int, seed: int = 0) -> list[Decisions]:
    """Random batches: token ids by the law of Zipf and Mandelbrot (exponent 1), normal logits, top-k selection.

    Parameters
    ----------
    shape : Shape
        Sizes.
    batches : int
        How many.
    seed : int, optional
        Seed of everything.
    """
    random = np.random.default_rng(seed)
    cumulated = np.cumsum(1 / (np.arange(shape.vocabulary) + _MANDELBROT))
    generator = torch.Generator().manual_seed(seed)
    found = []
    for _ in range(batches):
        size = (shape.sequences, shape.length)
        ids = np.searchsorted(cumulated, random.random(size) * cumulated[-1]).astype(np.int64)
        document = np.cumsum(random.random(size) < 1 / _DOCUMENT_LENGTH, axis=1)
        logits = torch.randn((shape.layers, shape.tokens, shape.experts), generator=generator) * _LOGIT_DEVIATION
        weights, experts = torch.softmax(logits, dim=-1).topk(shape.top_k)
        routed = RoutedBatch(logits, experts, weights / weights.sum(-1, keepdim=True))
        tokens = TokenBatch.from_sequences(torch.from_numpy(ids), torch.from_numpy(document))
        found.append(Decisions(tokens, routed))
    return found
