"""When it pays to fetch experts before they are needed: a condition, and a map of it.

A pass runs L layers. In each, n distinct experts are needed, of which a cache holds a share h; one load takes t.
Without prediction a layer waits for its missing experts, S = n (1 - h) t. With it, as many experts are predicted as
are needed, and a share r of those needed is among them (the recall). Of the right ones a share 1 - h is missing and
loaded ahead, of the wrong ones a share w, which is more: what is not needed has seldom been used of late. What is
loaded ahead travels during the window W in which this layer's experts and the next one's attention are computed; X of n
predicted experts are missing, X binomial with q = r (1 - h) + (1 - r) w, so that even a link that is idle on average is
waited for at some layers. What was not predicted is loaded when it is needed. So a layer waits

    E max(0, X t - W) + (1 - r) S,

and predicting itself takes d. Prefetching pays above the recall at which that is less than S. Where loads are many and
small and wrong predictions are missing no more often than right ones, this is r > 1 - min(1, W / S) + d / S: with a
link to spare (S <= W) any recall pays for itself, up to d; the busier the link, the nearer to 1 the recall must be, and
a predictor that is right 88 % of the time loses wherever loading takes more than 8 times as long as computing does.

If experts are given without asking the router (the policy decides), nothing that is predicted is wrong: with a share f
decided beforehand, q is f (1 - h), and f of the router's own time is saved; the price is the policy's loss, not time.
Where all experts are in memory S is 0, and what remains is the router's time.
"""

from dataclasses import dataclass, fields, replace

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Doubles = NDArray[np.float64]
_RECALLS = np.linspace(0.0, 1.0, 1001)
"""Recalls that the least one that pays is sought among."""


@dataclass(frozen=True)
class Layer:
    """What a layer of a pass costs, averaged over layers: numbers, or arrays that broadcast; times in seconds.

    Attributes
    ----------
    before : numpy.ndarray or float
        Until its experts run: attention, gate, and what lies between.
    experts : numpy.ndarray or float
        Of its distinct experts.
    load : numpy.ndarray or float
        t: of loading one expert.
    needed : float
        n: distinct experts that it needs.
    hit_rate : numpy.ndarray or float
        h: share of these that the cache alone holds.
    wrong_missing : numpy.ndarray or float
        w: share of the wrongly predicted that it does not hold.
    deciding : numpy.ndarray or float
        d: of the prediction.
    gate : numpy.ndarray or float
        Of `before`, the router's.
    """

    before: Doubles | float
    experts: Doubles | float
    load: Doubles | float
    needed: float
    hit_rate: Doubles | float
    wrong_missing: Doubles | float = 1.0
    deciding: Doubles | float = 0.0
    gate: Doubles | float = 0.0

    @property
    def window(self) -> Doubles:
        """W: the time in which loads for the next layer travel unnoticed."""
        return np.asarray(self.before + self.experts, np.float64)

    @property
    def stall(self) -> Doubles:
        """S: loading the experts that the cache does not hold."""
        return np.asarray(self.needed * (1 - self.hit_rate) * self.load, np.float64)

    @property
    def plain(self) -> Doubles:
        """Seconds without prediction."""
        return np.asarray(self.window + self.stall)

    def prefetching(self, recall: Doubles | float) -> Doubles:
        """Seconds with as many experts predicted as are needed, a share `recall` of them rightly."""
        missing = recall * (1 - self.hit_rate) + (1 - recall) * self.wrong_missing
        return np.asarray(self.window + self.deciding + self._late(missing) + (1 - recall) * self.stall)

    def deciding_beforehand(self, share: Doubles | float) -> Doubles:
        """Seconds where a share of the decisions is made by a policy before the pass, in the router's place."""
        own = self.window + self.deciding - share * self.gate
        return np.asarray(own + self._late(share * (1 - self.hit_rate)) + (1 - share) * self.stall)

    def _late(self, missing: Doubles | float) -> Doubles:
        """Mean time that loads take beyond the window: E max(0, X t - W), X binomial."""
        whole, rest = divmod(float(self.needed), 1.0)
        late = self._late_of(int(whole), missing)
        # Between whole numbers of experts, as many layers need the next one up as the mean says.
        return late if not rest else (1 - rest) * late + rest * self._late_of(int(whole) + 1, missing)

    def _late_of(self, number: int, missing: Doubles | float) -> Doubles:
        late = np.zeros(np.broadcast(missing, self.load, self.window).shape)
        for loads in range(1, number + 1):
            probability = stats.binom.pmf(loads, number, np.clip(missing, 0, 1))
            late = late + probability * np.maximum(loads * np.asarray(self.load) - self.window, 0)
        return late

    def break_even_recall(self) -> Doubles:
        """The recall above which prefetching pays; NaN where none does, and where nothing is loaded."""
        each = {one.name: np.asarray(getattr(self, one.name), np.float64)[..., None] for one in fields(self)}
        own = replace(self, **{**each, "needed": self.needed})  # type: ignore[arg-type]
        pays = own.prefetching(_RECALLS) < own.plain
        least = _RECALLS[pays.argmax(axis=-1)]
        return np.where(pays.any(axis=-1), least, np.nan)

    def speed_up(self, recall: Doubles | float) -> Doubles:
        """Time without prediction over that with it."""
        return np.asarray(self.plain / self.prefetching(recall))


def wrong_missing(recall: float, hit_rate: float, prefetched: float) -> float:
    """Share of wrong predictions that were loaded, from what a replay loaded ahead for each expert that was needed."""
    if recall >= 1:
        return 1.0
    return float(np.clip((prefetched - recall * (1 - hit_rate)) / (1 - recall), 0, 1))
