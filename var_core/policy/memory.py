"""What the layers decided when the entries of the context cache were written."""

from dataclasses import dataclass

import numpy as np
import torch

from var_core.policy.cache import Lookups
from var_core.policy.ways import Way
from var_core.statistics.compiled import Wholes

UNTRUSTED = float("-inf")
"""Confidence of a remembered decision that was not the router's."""


@dataclass(frozen=True)
class Found:
    """What the cache's bookkeeping says of the T tokens of a pass, the same for all layers.

    Entries are numbered through all memories: memory * capacity + slot.

    Attributes
    ----------
    hit : torch.Tensor
        bool [T].
    here : torch.Tensor
        bool [T]: hits of an entry that was written in this pass.
    origin : torch.Tensor
        int64 [T]: the token of this pass that wrote the entry; 0 where none did.
    entry : torch.Tensor
        int64 [T]; 0 for tokens that do not count.
    wrote, writer : torch.Tensor
        int64 [W]: entries that this pass's tokens wrote, and which of the tokens did last.
    any_hit, any_here : bool
        Whether there are such tokens.
    """

    hit: torch.Tensor
    here: torch.Tensor
    origin: torch.Tensor
    entry: torch.Tensor
    wrote: torch.Tensor
    writer: torch.Tensor
    any_hit: bool
    any_here: bool

    @classmethod
    def of(cls, lookups: Lookups, writers: Wholes, device: torch.device) -> "Found":
        """Take it to the device of the tables.

        Parameters
        ----------
        lookups : Lookups
        writers : numpy.ndarray
            As :attr:`var_core.policy.cache.ContextCache.writers`.
        device : torch.device
        """
        rows, length = lookups.slot.shape
        memories, capacity = writers.shape
        memory = np.repeat(np.arange(rows) % memories, length)
        slot, hit, origin = lookups.slot.ravel(), lookups.hit.ravel(), lookups.origin.ravel()
        entry = np.where(slot >= 0, memory * capacity + slot, 0)
        token = np.flatnonzero(~hit & (slot >= 0))
        token = token[writers.ravel()[entry[token]] == token]
        here = hit & (origin >= 0)
        arrays = (hit, here, np.maximum(origin, 0), entry, entry[token], token)
        own = [torch.from_numpy(array).to(device, non_blocking=True) for array in arrays]
        return cls(own[0], own[1], own[2], own[3], own[4], own[5], bool(hit.any()), bool(here.any()))


@dataclass(frozen=True)
class Remembered:
    """What the L layers decided when the N entries of all memories were written.

    Attributes
    ----------
    experts : torch.Tensor
        int16 [L, N, k].
    weights : torch.Tensor
        float32 [L, N, k].
    confidence : torch.Tensor
        float32 [L, N]: the router's; minus infinity where the decision was not its own.
    """

    experts: torch.Tensor
    weights: torch.Tensor
    confidence: torch.Tensor

    @classmethod
    def nothing(cls, layers: int, entries: int, top_k: int, device: torch.device) -> "Remembered":
        """Before the first token."""
        shape = (layers, entries)
        # Usable in any mode later, whichever this is called in.
        with torch.inference_mode(False):
            return cls(
                torch.zeros((*shape, top_k), dtype=torch.int16, device=device),
                torch.zeros((*shape, top_k), device=device),
                torch.full(shape, UNTRUSTED, device=device),
            )

    def forget(self) -> None:
        """Go back to before the first token."""
        # Whose confidence is this low is never looked at.
        self.confidence.fill_(UNTRUSTED)

    def update(
        self,
        layer: int,
        found: Found,
        experts: torch.Tensor,
        weights: torch.Tensor,
        way: torch.Tensor,
        confidence: torch.Tensor,
    ) -> None:
        """Take over what this pass's tokens wrote at a layer.

        Parameters
        ----------
        layer : int
        found : Found
        experts, weights : torch.Tensor
            [T, k]: what was decided.
        way : torch.Tensor
            int8 [T].
        confidence : torch.Tensor
            float [T]: the router's.
        """
        entry, token = found.wrote, found.writer
        if not token.numel():
            return
        k = experts.shape[1]
        sure = confidence[token].float().masked_fill(way[token] != int(Way.LEARNED), UNTRUSTED)
        self.experts[layer, :, :k].index_copy_(0, entry, experts[token].to(torch.int16))
        self.weights[layer, :, :k].index_copy_(0, entry, weights[token].float())
        self.confidence[layer].index_copy_(0, entry, sure)
