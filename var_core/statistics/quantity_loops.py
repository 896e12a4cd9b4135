"""What is computed from every decision, as loops: see :mod:`var_core.statistics.quantities` for the definitions."""

import functools

import numpy as np

from var_core.statistics.compiled import AS_WRITTEN, REORDERED, Doubles, Flags, Floats, Wholes, compiled

_LN2 = np.float32(np.log(2.0))
_LN2_HIGH, _LN2_LOW = np.float32(355 / 512), np.float32(np.log(2.0) - 355 / 512)
_LOG2_E = np.float32(1 / np.log(2.0))
_SQRT2 = np.float32(np.sqrt(2.0))
_SMALLEST = np.float32(-87.0)
_FEW_EXPERTS = 32
"""Experts up to which decisions are worked on side by side."""
_LANES = 16
"""Decisions that are worked on side by side: two vectors of the common width, so that one hides the other's waits."""


@functools.partial(compiled, fastmath=AS_WRITTEN)
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


@functools.partial(compiled, fastmath=AS_WRITTEN)
def _logarithm(x: np.float32) -> np.float32:
    """Natural logarithm of a number of at least 1, to the last digit but one; meaningless for NaN and infinity.

    With x = 2^n m and sqrt(1/2) < m <= sqrt(2), ln m = 2 artanh(s) with s = (m - 1) / (m + 1), |s| < 0.172, where the
    series up to s^9 is right to 1e-9.
    """
    bits = np.float32(x).view(np.int32)
    n = (bits >> 23) - 127
    m = np.int32((bits & 0x7FFFFF) | 0x3F800000).view(np.float32)
    large = m > _SQRT2
    m = m * np.float32(0.5) if large else m
    n = n + 1 if large else n
    s = (m - np.float32(1.0)) / (m + np.float32(1.0))
    z = s * s
    y = np.float32(2 / 9)
    y = y * z + np.float32(2 / 7)
    y = y * z + np.float32(2 / 5)
    y = y * z + np.float32(2 / 3)
    return np.float32(n) * _LN2 + s * (np.float32(2.0) + z * y)


@compiled
def _largest(values: Floats, count: int, largest: Floats) -> None:
    """Largest of the first `count` rows of `values`, lane by lane; anything where one is NaN."""
    for lane in range(_LANES):
        largest[lane] = values[0, lane]
    for expert in range(1, count):
        for lane in range(_LANES):
            largest[lane] = max(largest[lane], values[expert, lane])


@compiled
def _exponentials(
    values: Floats, count: int, peak: Floats, total: Floats, spread: Floats, part: Floats, part_spread: Floats
) -> None:
    """Put exp(x - peak) in the place of every x, and sum exp(x - peak) and exp(x - peak) (x - peak), lane by lane.

    Eight at a time, in `part`, and then these sums: rounding grows with the number of terms in a row.
    """
    for lane in range(_LANES):
        total[lane], spread[lane] = 0.0, 0.0
    for start in range(0, count, 8):
        for lane in range(_LANES):
            part[lane], part_spread[lane] = 0.0, 0.0
        for expert in range(start, min(start + 8, count)):
            for lane in range(_LANES):
                difference = values[expert, lane] - peak[lane]
                relative = _exponential(difference)
                values[expert, lane] = relative
                part[lane] += relative
                part_spread[lane] += relative * difference
        for lane in range(_LANES):
            total[lane] += part[lane]
            spread[lane] += part_spread[lane]


@compiled
def _read(scores: Floats, layer: int, start: int, stop: int, count: int, block: Floats) -> None:
    """Lay scores of some tokens out with a lane a token; lanes without one hold zeros."""
    if stop - start < _LANES:
        block[:] = 0.0
    for token in range(start, stop):
        for expert in range(count):
            block[expert, token - start] = scores[layer, token, expert]


@compiled
def _take_chosen(
    block: Floats, experts: Wholes, layer: int, start: int, stop: int, total: Floats, smallest: Floats
) -> None:
    """Smallest of the chosen lane by lane, and zeros in their place; above all others where nothing is chosen."""
    for token in range(start, stop):
        lane = token - start
        least = np.float32(2.0) * total[lane]
        for slot in range(experts.shape[2]):
            expert = experts[layer, token, slot]
            if expert < len(block):
                least = min(least, block[expert, lane])
                block[expert, lane] = 0.0
        smallest[lane] = least


@compiled
def _values_side_by_side(
    begin: int, end: int, scores: Floats, experts: Wholes, own: Wholes, finite: Flags, values: Doubles
) -> None:
    """Sixteen decisions at a time, a lane each: fast for few experts, since nothing is reduced across a vector."""
    tokens, width = scores.shape[1:]
    block = np.zeros((width, _LANES), dtype=np.float32)
    # Not one array with rows: the compiler would have to fear that they overlap.
    peak, total, spread = np.ones(_LANES, np.float32), np.ones(_LANES, np.float32), np.ones(_LANES, np.float32)
    smallest, others = np.ones(_LANES, np.float32), np.ones(_LANES, np.float32)
    for layer in range(begin, end):
        count = own[layer]
        for start in range(0, tokens, _LANES):
            stop = min(start + _LANES, tokens)
            _read(scores, layer, start, stop, count, block)
            _largest(block, count, peak)
            _exponentials(block, count, peak, total, spread, smallest, others)
            _take_chosen(block, experts, layer, start, stop, total, smallest)
            _largest(block, count, others)
            for lane in range(_LANES):
                confidence = np.float32(1.0) / total[lane]
                peak[lane] = _logarithm(total[lane]) - spread[lane] * confidence
                total[lane] = confidence
                others[lane] = (smallest[lane] - others[lane]) * confidence
            for lane in range(stop - start):
                values[0, layer, start + lane] = peak[lane]
            for lane in range(stop - start):
                values[1, layer, start + lane] = total[lane]
            for lane in range(stop - start):
                values[2, layer, start + lane] = others[lane]
            for lane in range(stop - start):
                finite[layer, start + lane] &= -np.inf < peak[lane] < np.inf


@functools.partial(compiled, fastmath=REORDERED | {"nnan"})
def _largest_of(values: Floats) -> np.float32:
    """Largest of some numbers; anything if one is NaN, which their sum tells."""
    largest = values[0]
    for place in range(1, len(values)):
        largest = max(largest, values[place])
    return largest


@compiled
def _values_one_by_one(
    begin: int, end: int, scores: Floats, experts: Wholes, own: Wholes, finite: Flags, values: Doubles
) -> None:
    """One decision after another, with vectors along the experts: fast for many of these."""
    tokens, width = scores.shape[1:]
    relative = np.empty(width, dtype=np.float32)
    for layer in range(begin, end):
        count = own[layer]
        for token in range(tokens):
            peak = _largest_of(scores[layer, token, :count])
            total, spread = np.float32(0.0), np.float32(0.0)
            for expert in range(count):
                difference = scores[layer, token, expert] - peak
                relative[expert] = _exponential(difference)
                total += relative[expert]
                spread += relative[expert] * difference
            entropy = np.log(total) - spread / total
            smallest = np.float32(2.0) * total
            for slot in range(experts.shape[2]):
                expert = experts[layer, token, slot]
                if expert < width:
                    smallest = min(smallest, relative[expert])
                    relative[expert] = 0.0
            finite[layer, token] &= -np.inf < entropy < np.inf
            values[0, layer, token] = entropy
            values[1, layer, token] = 1.0 / total
            values[2, layer, token] = (smallest - _largest_of(relative[:count])) / total


@compiled
def decision_values(
    begin: int, end: int, scores: Floats, experts: Wholes, own: Wholes, finite: Flags, values: Doubles
) -> None:
    """Router entropy, confidence and margin of every decision.

    With s the scores, m the place of the largest, and Z = sum exp(s_e - s_m), p_e = exp(s_e - s_m) / Z, so the
    entropy is ln Z - sum p_e (s_e - s_m): both terms are at least 0, and nothing cancels. A NaN or infinite score
    makes the second term NaN.

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
    values : numpy.ndarray
        Results, [3, L, T].
    """
    if scores.shape[2] > _FEW_EXPERTS:
        _values_one_by_one(begin, end, scores, experts, own, finite, values)
    else:
        _values_side_by_side(begin, end, scores, experts, own, finite, values)


@compiled
def choose(
    begin: int, end: int, experts: Wholes, weights: Floats, width: int, finite: Flags, kept: Flags, first: Wholes
) -> None:
    """Which decisions count, and their first choice: the expert with the largest weight, ties to the lower id.

    Parameters
    ----------
    experts, weights : numpy.ndarray
        [L, T, k]; the weights may have no tokens: they were not recorded then, and there is no first choice.
    width : int
        E.
    finite : numpy.ndarray
        [L, T]; set to False where a weight is not finite.
    kept : numpy.ndarray
        Result, [L, T]: what is finite and gives the token to an expert.
    first : numpy.ndarray
        Result, [L, T]: E for what does not count.
    """
    tokens, slots = experts.shape[1:]
    weighted = weights.shape[1] > 0
    for layer in range(begin, end):
        for token in range(tokens):
            choice = experts[layer, token, 0]
            # Empty slots come last, so the first one says whether the token went anywhere.
            counts = finite[layer, token] and choice < width
            if weighted:
                largest = weights[layer, token, 0]
                all_finite = -np.inf < largest < np.inf
                for slot in range(1, slots):
                    expert, weight = experts[layer, token, slot], weights[layer, token, slot]
                    all_finite &= -np.inf < weight < np.inf
                    if expert < width and (weight > largest or (weight == largest and expert < choice)):
                        choice, largest = expert, weight
                finite[layer, token] &= all_finite
                counts &= all_finite
                first[layer, token] = choice if counts else width
            kept[layer, token] = counts


@compiled
def all_within(experts: Wholes, width: int) -> bool:
    """Whether all ids are between 0 and `width`, which stands for an empty slot."""
    outside = 0
    for expert in experts.reshape(-1):
        outside += int((expert < 0) | (expert > width))
    return outside == 0
