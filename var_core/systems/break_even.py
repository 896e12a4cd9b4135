"""When it pays to fetch experts before they are needed: a condition in closed form, and a map of it.

A pass runs L layers. In each, n distinct experts are needed, of which a cache holds a share h; one load takes t.
Without prediction a layer waits for its missing experts, S = n (1 - h) t. With it, as many experts are predicted as
are needed, and a share r of those needed is among them (the recall). What is predicted and missing travels during the
window W in which this layer's experts and the next one's attention are computed; it is as much, for wrong predictions
are missing as often as right ones: S. What was not predicted is loaded when it is needed: (1 - r) S. So a layer waits
max(0, S - W) + (1 - r) S, and prediction saves

    min(S, W) - (1 - r) S - d,

d the time that predicting takes. It pays if and only if the recall is above 1 - min(1, W / S) + d / S. With a link to
spare (S <= W) any recall pays for itself, up to d; the busier the link, the nearer to 1 the recall must be: a predictor
that is right 88 % of the time loses wherever loading takes more than 8 times as long as computing does.

If experts are given without asking the router (the policy decides), nothing that is predicted is wrong: with a share f
decided beforehand, a layer waits max(0, f S - W) + (1 - f) S, and f d' of the router's own time is saved; the price is
the policy's loss, not time. Where all experts are in memory S is 0, and what remains is the router's time.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Doubles = NDArray[np.float64]


@dataclass(frozen=True)
class Layer:
    """What a layer of a pass costs, averaged over layers; all of them seconds, and numbers or arrays that broadcast.

    Attributes
    ----------
    before : numpy.ndarray or float
        Until its experts run: attention, gate, and what lies between.
    experts : numpy.ndarray or float
        Of its distinct experts.
    stall : numpy.ndarray or float
        S: loading those that the cache does not hold.
    deciding : numpy.ndarray or float
        d: of the prediction.
    gate : numpy.ndarray or float
        Of `before`, the router's.
    """

    before: Doubles | float
    experts: Doubles | float
    stall: Doubles | float
    deciding: Doubles | float = 0.0
    gate: Doubles | float = 0.0

    @property
    def window(self) -> Doubles:
        """W: the time in which loads for the next layer travel unnoticed."""
        return np.asarray(self.before + self.experts, np.float64)

    @property
    def plain(self) -> Doubles:
        """Seconds without prediction."""
        return np.asarray(self.window + self.stall)

    def prefetching(self, recall: Doubles | float) -> Doubles:
        """Seconds with as many experts predicted as are needed, a share `recall` of them rightly."""
        waiting = np.maximum(self.stall - self.window, 0) + (1 - recall) * self.stall
        return np.asarray(self.window + self.deciding + waiting)

    def deciding_beforehand(self, share: Doubles | float) -> Doubles:
        """Seconds where a share of the decisions is made by a policy before the pass, in the router's place."""
        own = self.window + self.deciding - share * self.gate
        return np.asarray(own + np.maximum(share * self.stall - self.window, 0) + (1 - share) * self.stall)

    def break_even_recall(self) -> Doubles:
        """The recall above which prefetching pays; above 1 where it never does; NaN where nothing is loaded."""
        stall = np.asarray(self.stall, np.float64)
        with np.errstate(divide="ignore", invalid="ignore"):
            least = 1 - np.minimum(1, self.window / stall) + self.deciding / stall
        return np.where(stall > 0, least, np.nan)

    def speed_up(self, recall: Doubles | float) -> Doubles:
        """Time without prediction over that with it."""
        return np.asarray(self.plain / self.prefetching(recall))
