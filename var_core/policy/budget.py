"""A hard limit on learned decisions: at every layer, in every window of so many tokens of a sequence."""

import math

import numpy as np

from var_core.errors import VarError
from var_core.policy.ways import Way
from var_core.statistics.compiled import Flags, Floats, Wholes, compiled

_FAST, _LEARNED, _CACHED = int(Way.FAST), int(Way.LEARNED), int(Way.CACHED)


class Budget:
    """How many decisions the router may still make.

    Parameters
    ----------
    share : float
        Largest share of learned decisions, 0 to 1, in every window.
    window : int
        Tokens of a window.
    layers, sequences : int
        L and S.

    Attributes
    ----------
    most : int
        Learned decisions a window.
    learned : numpy.ndarray
        bool [L, S, window]: whether the latest decisions were learned, as a ring.
    places : numpy.ndarray
        int64 [L, S]: decisions so far.
    """

    def __init__(self, share: float, window: int, layers: int, sequences: int) -> None:
        if not 0 <= share <= 1:
            raise VarError(f"policy.budget.max_learned_share is {share:g}; it must lie between 0 and 1")
        if window < 1:
            raise VarError(f"policy.budget.window is {window}; it must be at least 1 token")
        # What is meant by 0.15 of 20 is 3, whatever the nearest float of 0.15 is.
        self.most = math.floor(share * window + 1e-9)
        self.learned = np.zeros((layers, sequences, window), np.bool_)
        self.places = np.zeros((layers, sequences), np.int64)


@compiled
def spend(
    counts: Flags,
    fast: Flags,
    hit: Flags,
    origin: Wholes,
    known: Floats,
    confidence: Floats,
    threshold: float,
    sequences: int,
    learned: Flags,
    places: Wholes,
    most: int,
    way: np.ndarray,
) -> None:
    """Choose ways in the order of the tokens, learned ones as long as the budget lasts.

    When it does not last: what was decided by the router in the same context, however confident it was; else a table.

    Parameters
    ----------
    counts, fast, hit, origin, known, confidence : numpy.ndarray
        [T]: which tokens count; which the fast path takes; what the cache says, and the confidence of entries from
        earlier steps; the router's confidence.
    threshold : float
        Of confidence.
    sequences : int
        S.
    learned, places : numpy.ndarray
        The layer's part of the budget, updated.
    most : int
        Learned decisions a window.
    way : numpy.ndarray
        int8 [T], -1 throughout; filled in.
    """
    length, window = len(counts) // sequences, learned.shape[1]
    for sequence in range(sequences):
        ring = learned[sequence]
        used = 0
        for flag in ring:
            used += flag
        for token in range(sequence * length, (sequence + 1) * length):
            if not counts[token]:
                continue
            place = places[sequence] % window
            places[sequence] += 1
            # What falls out of the window that ends here no longer counts.
            used -= ring[place]
            ring[place] = False
            if fast[token]:
                way[token] = _FAST
                continue
            there, sure = False, False
            if hit[token]:
                if origin[token] >= 0:
                    there = way[origin[token]] == _LEARNED
                    sure = there and confidence[origin[token]] >= threshold
                else:
                    there = known[token] > -np.inf
                    sure = there and known[token] >= threshold
            if sure:
                way[token] = _CACHED
            elif used < most:
                way[token] = _LEARNED
                ring[place] = True
                used += 1
            else:
                way[token] = _CACHED if there else _FAST
