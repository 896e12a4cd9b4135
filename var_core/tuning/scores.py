"""How far the experts and weights that a policy gives are from the router's own: compiled, one number a decision."""

import numpy as np
from numpy.typing import NDArray

from var_core.statistics.compiled import Doubles, Flags, Floats, Wholes, compiled

SAME, RECALL, MISPLACED = range(3)
"""Columns of scores: whether the set is the router's; share of its experts that are in it; share of its weights that go
to other experts, or to none."""

ShortExperts = NDArray[np.int16]
Ways = NDArray[np.int8]


@compiled
def score_rows(
    row: Wholes,
    table_experts: ShortExperts,
    table_weights: Floats,
    experts: ShortExperts,
    weights: Floats,
    empty: int,
    live: bool,
    scores: Floats,
) -> None:
    """Score rows of a table against recorded decisions.

    Parameters
    ----------
    row : numpy.ndarray
        int64 [N]: the row that speaks for each decision.
    table_experts, table_weights : numpy.ndarray
        int16 and float32 [R, k].
    experts, weights : numpy.ndarray
        int16 and float32 [N, k]: what the router decided.
    empty : int
        Experts of this number and above are empty slots.
    live : bool
        Whether the router weights what the table gives, so that only what it lacks is misplaced.
    scores : numpy.ndarray
        float32 [N, 3], written.
    """
    for place in range(len(row)):
        own = row[place]
        _score(table_experts[own], table_weights[own], experts[place], weights[place], empty, live, scores[place])


@compiled
def score_origins(
    origin: Wholes, hit: Flags, experts: ShortExperts, weights: Floats, empty: int, live: bool, scores: Floats
) -> None:
    """Score what the router decided when a context was met first against what it decides now, where there is a hit."""
    for place in range(len(origin)):
        if hit[place]:
            own = origin[place]
            _score(experts[own], weights[own], experts[place], weights[place], empty, live, scores[place])


@compiled
def _score(
    given: ShortExperts,
    shares: Floats,
    learned: ShortExperts,
    weights: Floats,
    empty: int,
    live: bool,
    score: Floats,
) -> None:
    filled = found = given_filled = 0
    total = misplaced = kept = 0.0
    for slot in range(len(given)):
        given_filled += given[slot] < empty
    for slot in range(len(learned)):
        if learned[slot] >= empty:
            continue
        filled += 1
        total += weights[slot]
        share = 0.0
        for other in range(len(given)):
            if given[other] == learned[slot]:
                found += 1
                share = shares[other]
                kept += weights[slot]
                break
        misplaced += abs(weights[slot] - share)
    for slot in range(len(given)):
        if given[slot] >= empty:
            continue
        known = False
        for other in range(len(learned)):
            known |= learned[other] == given[slot]
        if not known:
            misplaced += abs(shares[slot])
    score[0] = 1.0 if found == filled and given_filled == filled else 0.0
    score[1] = found / max(filled, 1)
    if total <= 0:
        score[2] = 0.0
    elif live:
        score[2] = 1 - kept / total
    else:
        # Half the distance in total variation: weight taken from one expert and given to another counts once.
        score[2] = misplaced / (2 * total)


@compiled
def add_up(way: Ways, by_table: Floats, by_cache: Floats, length: int, sums: Doubles) -> None:
    """Add up the decisions of each sequence, of so many places, by way, and their scores.

    Parameters
    ----------
    way : numpy.ndarray
        int8 [S * T]: a :class:`var_core.policy.ways.Way`; -1 where nothing was recorded.
    by_table, by_cache : numpy.ndarray
        float32 [S * T, 3]: scores of fast decisions, and of cached ones.
    length : int
        T.
    sums : numpy.ndarray
        float64 [S, 3, 4], added to: by way, in the order of the numbers of the ways: decisions, then the scores.
    """
    for sequence in range(len(sums)):
        own = sums[sequence]
        for place in range(sequence * length, (sequence + 1) * length):
            kind = way[place]
            if kind < 0:
                continue
            own[kind, 0] += 1.0
            if kind == 1:
                for score in range(3):
                    own[kind, 1 + score] += by_table[place, score]
            elif kind == 2:
                for score in range(3):
                    own[kind, 1 + score] += by_cache[place, score]
            else:
                own[kind, 1] += 1.0
                own[kind, 2] += 1.0
