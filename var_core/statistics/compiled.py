"""Counting on a CPU: the loops over decisions, compiled by numba.

Tensor operations pass over a batch dozens of times; these loops pass over it a few times, and only the scores cost E
steps a decision: all counting costs k, or k squared for pairs. What they do is defined by the tensor operations of
the accumulator, which run on a GPU; tests hold the two to each other. Sums are taken in the order of the tokens, so
results do not depend on the number of threads.
"""

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import numba
import numpy as np
from numpy.typing import NDArray

_Function = TypeVar("_Function", bound=Callable[..., Any])
Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
Wholes = NDArray[np.int64]
Flags = NDArray[np.bool_]


# Sums may be reordered to use vector instructions; NaN keeps its meaning, but where it is known not to matter.
_AS_WRITTEN = frozenset({"contract"})
_REORDERED = frozenset({"reassoc", "contract", "nsz"})
_ANY_NAN = _REORDERED | {"nnan"}
_LN2_HIGH, _LN2_LOW = np.float32(355 / 512), np.float32(np.log(2.0) - 355 / 512)
_LOG2_E = np.float32(1 / np.log(2.0))
_SMALLEST = np.float32(-87.0)


def _compiled(function: _Function, fastmath: frozenset[str] = _REORDERED) -> _Function:
    options: dict[str, Any] = {"nogil": True, "fastmath": set(fastmath), "error_model": "numpy"}
    try:
        return numba.njit(cache=True, **options)(function)
    except RuntimeError:  # nowhere to keep the compiled code: neither beside this file nor in the user's cache
        return numba.njit(**options)(function)


@functools.partial(_compiled, fastmath=_AS_WRITTEN)
def _exponential(x: np.float32) -> np.float32:
    """Exponential of a number that is at most 0, to the last digit but one; 0 below -87, also for minus infinity.

    Written out because loops over it become vector instructions, which calls of the C library do not:
    e^x = 2^n e^r with |r| <= ln(2) / 2, where Taylor's polynomial of degree 7 is right to 5e-9.
    """
    bounded = _SMALLEST if x < _SMALLEST else x
    n = np.floor(bounded * _LOG2_E + np.float32(0.5))
    r = (bounded - n * _LN2_HIGH) - n * _LN2_LOW
    y = np.float32(1 / 5040)
    y = y * r + np.float32(1 / 720)
    y = y * r + np.float32(1 / 120)
    y = y * r + np.float32(1 / 24)
    y = y * r + np.float32(1 / 6)
    y = y * r + np.float32(0.5)
    y = y * r + np.float32(1.0)
    y = y * r + np.float32(1.0)
    y *= np.int32((np.int32(n) + 127) << 23).view(np.float32)
    return np.float32(0.0) if x < _SMALLEST else y


@functools.partial(_compiled, fastmath=_ANY_NAN)
def _largest(values: Floats) -> np.float32:
    """Largest of some numbers; anything if one is NaN, which their sum tells."""
    largest = values[0]
    for place in range(1, len(values)):
        largest = max(largest, values[place])
    return largest


@_compiled
def decision_values(
    begin: int,
    end: int,
    scores: Floats,
    experts: Wholes,
    own: Wholes,
    finite: Flags,
    entropy: Doubles,
    confidence: Doubles,
    margin: Doubles,
) -> None:
    """Router entropy, confidence and margin of every decision; see :mod:`var_core.statistics.quantities`.

    With s the scores, m the place of the largest, and Z = sum exp(s_e - s_m), p_e = exp(s_e - s_m) / Z, so the
    entropy is ln Z - sum p_e (s_e - s_m): both terms are at least 0, and nothing cancels.

    Parameters
    ----------
    begin, end : int
        The layers to work on; so for all functions here.
    scores : numpy.ndarray
        Logarithms of the scores up to a constant, [L, T, E].
    experts : numpy.ndarray
        [L, T, k], E for an empty slot.
    own : numpy.ndarray
        Experts of each layer, [L].
    finite : numpy.ndarray
        [L, T]; set to False where the entropy is not finite.
    entropy, confidence, margin : numpy.ndarray
        Results, [L, T].
    """
    tokens, width = scores.shape[1:]
    relative = np.empty(width, dtype=np.float32)
    for layer in range(begin, end):
        count = own[layer]
        for token in range(tokens):
            peak = _largest(scores[layer, token, :count])
            total, spread = np.float32(0.0), np.float32(0.0)
            for expert in range(count):
                difference = scores[layer, token, expert] - peak
                relative[expert] = _exponential(difference)
                total += relative[expert]
                spread += relative[expert] * difference
            value = np.log(total) - spread / total
            finite[layer, token] &= -np.inf < value < np.inf
            entropy[layer, token] = value
            confidence[layer, token] = 1.0 / total
            smallest = np.float32(2.0) * total
            for slot in range(experts.shape[2]):
                expert = experts[layer, token, slot]
                if expert < width:
                    smallest = min(smallest, relative[expert])
                    relative[expert] = 0.0
            margin[layer, token] = (smallest - _largest(relative[:count])) / total


@_compiled
def finite_weights(begin: int, end: int, weights: Floats, finite: Flags) -> None:
    """Set decisions, [L, T], to False that have a NaN or infinite weight among their [L, T, k]."""
    for layer in range(begin, end):
        for token in range(weights.shape[1]):
            for slot in range(weights.shape[2]):
                finite[layer, token] &= -np.inf < weights[layer, token, slot] < np.inf


@_compiled
def first_choices(
    begin: int, end: int, experts: Wholes, weights: Floats, kept: Flags, width: int, first: Wholes
) -> None:
    """The expert with the largest weight of every decision, ties to the lower id; E for what does not count."""
    tokens, slots = experts.shape[1:]
    for layer in range(begin, end):
        for token in range(tokens):
            choice, largest = experts[layer, token, 0], weights[layer, token, 0]
            for slot in range(1, slots):
                expert, weight = experts[layer, token, slot], weights[layer, token, slot]
                if expert < width and (weight > largest or (weight == largest and expert < choice)):
                    choice, largest = expert, weight
            first[layer, token] = choice if kept[layer, token] else width


@_compiled
def count_tokens(
    begin: int,
    end: int,
    rows: Wholes,
    start: Wholes,
    cells: int,
    width: int,
    kept: Flags,
    values: Doubles,
    experts: Wholes,
    weights: Floats,
    first: Wholes,
    moments: Doubles,
    chosen: NDArray[np.int32],
    firsts: NDArray[np.int32],
    weight_sum: Doubles,
) -> None:
    """Count decisions by token id and layer: Welford's update of the moments, and the experts chosen.

    Parameters
    ----------
    rows : numpy.ndarray
        Row of every token, [T].
    start : numpy.ndarray
        First cell of each layer within a row, [L].
    cells : int
        Cells of a row.
    width : int
        E.
    kept : numpy.ndarray
        Which decisions count, [L, T].
    values : numpy.ndarray
        Quantities, [Q, L, T]; Q is 0 where logits were not recorded.
    experts, weights : numpy.ndarray
        [L, T, k]; the weights may have no tokens: they were not recorded then.
    first : numpy.ndarray
        [L, T], or no tokens.
    moments, chosen, firsts, weight_sum : numpy.ndarray
        The state, see :class:`var_core.statistics.token_state.TokenState`.
    """
    quantities, weighted = len(values), weights.shape[1] > 0
    for layer in range(begin, end):
        for token in range(len(rows)):
            if not kept[layer, token]:
                continue
            row = rows[token]
            n = moments[row, layer, 0] + 1.0
            moments[row, layer, 0] = n
            for q in range(quantities):
                deviation = values[q, layer, token] - moments[row, layer, 1 + q]
                mean = moments[row, layer, 1 + q] + deviation / n
                moments[row, layer, 1 + q] = mean
                moments[row, layer, 1 + quantities + q] += deviation * (values[q, layer, token] - mean)
            base = row * cells + start[layer]
            for slot in range(experts.shape[2]):
                expert = experts[layer, token, slot]
                if expert < width:
                    chosen[base + expert] += 1
                    if weighted:
                        weight_sum[base + expert] += weights[layer, token, slot]
            if weighted:
                firsts[base + first[layer, token]] += 1


@_compiled
def count_layers(
    begin: int,
    end: int,
    experts: Wholes,
    width: int,
    finite: Flags,
    kept: Flags,
    counts: Wholes,
    coactivation: Wholes,
    next_chosen: Wholes,
) -> None:
    """Count decisions by layer, and pairs of experts within a layer and with the next.

    Parameters
    ----------
    experts : numpy.ndarray
        [L, T, k].
    width : int
        E.
    finite, kept : numpy.ndarray
        [L, T].
    counts : numpy.ndarray
        Tokens, nonfinite and dropped of each layer, [3, L].
    coactivation, next_chosen : numpy.ndarray
        [L, E, E].
    """
    layers, tokens, slots = experts.shape
    for layer in range(begin, end):
        for token in range(tokens):
            if not kept[layer, token]:
                counts[2 if finite[layer, token] else 1, layer] += 1
                continue
            counts[0, layer] += 1
            following = layer + 1 < layers and kept[layer + 1, token]
            for one in range(slots):
                expert = experts[layer, token, one]
                if expert == width:
                    continue
                for other in range(slots):
                    if experts[layer, token, other] < width:
                        coactivation[layer, expert, experts[layer, token, other]] += 1
                    if following and experts[layer + 1, token, other] < width:
                        next_chosen[layer, expert, experts[layer + 1, token, other]] += 1


@_compiled
def count_sequences(
    begin: int,
    end: int,
    experts: Wholes,
    first: Wholes,
    width: int,
    kept: Flags,
    continues: Flags,
    order: Wholes,
    repeats: Wholes,
    next_first: Wholes,
    next_first_shuffled: Wholes,
) -> None:
    """Count choices shared by consecutive tokens, and joint first choices of adjacent layers.

    Parameters
    ----------
    experts : numpy.ndarray
        [L, T, k].
    first : numpy.ndarray
        [L, T], E for what does not count; or no tokens, where weights were not recorded.
    width : int
        E.
    kept : numpy.ndarray
        [L, T].
    continues : numpy.ndarray
        Whether the next token is in the same document and sequence, [T].
    order : numpy.ndarray
        For each place in a sequence, the place whose choice the next layer is shuffled to, [length].
    repeats : numpy.ndarray
        Pairs, first_repeats, any_repeats and slot_overlaps of each layer, [4, L].
    next_first, next_first_shuffled : numpy.ndarray
        [L, E, E].
    """
    layers, tokens, slots = experts.shape
    weighted, length = first.shape[1] > 0, len(order)
    is_chosen = np.zeros(width + 1, dtype=np.bool_)
    for layer in range(begin, end):
        for token in range(tokens - 1):
            if not (continues[token] and kept[layer, token] and kept[layer, token + 1]):
                continue
            for slot in range(slots):
                is_chosen[experts[layer, token, slot]] = True
            is_chosen[width] = False
            overlap = 0
            for slot in range(slots):
                overlap += is_chosen[experts[layer, token + 1, slot]]
            for slot in range(slots):
                is_chosen[experts[layer, token, slot]] = False
            repeats[0, layer] += 1
            repeats[1, layer] += weighted and first[layer, token] == first[layer, token + 1]
            repeats[2, layer] += overlap > 0
            repeats[3, layer] += overlap
        if not weighted or layer + 1 == layers:
            continue
        for token in range(tokens):
            own = first[layer, token]
            if own == width:
                continue
            place = token % length
            after, shuffled = first[layer + 1, token], first[layer + 1, token - place + order[place]]
            if after < width:
                next_first[layer, own, after] += 1
            if shuffled < width:
                next_first_shuffled[layer, own, shuffled] += 1
