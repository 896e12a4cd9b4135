"""Choosing ways under a budget of learned decisions."""

from dataclasses import dataclass

import numpy as np
import torch

from var_core.policy.budget import Budget, spend
from var_core.policy.decide import Numbers, Route, Step, Ways
from var_core.policy.memory import UNTRUSTED, Found, Remembered
from var_core.policy.ways import NOT_COUNTED, Way


@dataclass(frozen=True)
class Limited:
    """A budget, and what is known of a pass's tokens on the host for it to be spent.

    Attributes
    ----------
    budget : Budget
    counts : numpy.ndarray
        bool [T].
    hit : numpy.ndarray
        bool [T].
    origin : numpy.ndarray
        int64 [T]; -1 where the entry was not written in this pass.
    any_row : torch.Tensor
        int64 [L, T]: the table's row that has to do when nothing better may be used.
    """

    budget: Budget
    counts: np.ndarray
    hit: np.ndarray
    origin: np.ndarray
    any_row: torch.Tensor

    @classmethod
    def of(cls, budget: Budget, counts: np.ndarray, found: Found | None, any_row: torch.Tensor) -> "Limited":
        """Take to the host what the cache's bookkeeping says."""
        if found is None:
            return cls(budget, counts, np.zeros(len(counts), np.bool_), np.full(len(counts), -1, np.int64), any_row)
        origin = torch.where(found.here, found.origin, -1)
        return cls(budget, counts, found.hit.cpu().numpy(), origin.cpu().numpy(), any_row)


def choose_limited_ways(
    layer: int, step: Step, limited: Limited, remembered: Remembered | None, threshold: float, route: Route
) -> Ways:
    """Choose ways when learned decisions are limited: one token after another, in compiled code.

    Parameters
    ----------
    layer, step, threshold, route
        As of :func:`var_core.policy.decide.choose_ways`; the step's ways do not follow from what is remembered.
    limited : Limited
    remembered : Remembered or None
    """
    budget, device = limited.budget, step.counts.device
    confidence = route(step.places[layer])
    known = np.full(len(step.counts), UNTRUSTED, np.float32)
    if remembered is not None and step.found is not None:
        known = remembered.confidence[layer][step.found.entry].cpu().numpy()
    fast = step.way[layer] == int(Way.FAST)
    way = np.full(len(step.counts), NOT_COUNTED, np.int8)
    spend(
        limited.counts, fast.cpu().numpy(), limited.hit, limited.origin, known, confidence.float().cpu().numpy(),
        float(np.float32(threshold)), step.sequences, budget.learned[layer], budget.places[layer], budget.most, way,
    )  # fmt: skip
    learned, quick, cached = (int((way == int(each)).sum()) for each in Way)
    row = torch.where(fast, step.row[layer], limited.any_row[layer])
    numbers = Numbers(learned, quick, cached)
    return Ways(torch.from_numpy(way).to(device), row, step.asked[layer], numbers, confidence)
