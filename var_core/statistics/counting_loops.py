"""Counting decisions, as loops. Sums are taken in the order of the tokens, whatever the number of threads."""

import numpy as np
from numpy.typing import NDArray

from var_core.statistics.compiled import Doubles, Flags, Floats, ShortWholes, Wholes, compiled, prefetch

_AHEAD = 8
"""Tokens whose cells are fetched ahead: about as many as a cell takes to come."""
_FEW_SLOTS = 4
"""Slots up to which comparing all pairs is faster than marking what was chosen."""


@compiled
def count_tokens(
    begin: int,
    end: int,
    rows: Wholes,
    kept: Flags,
    values: Doubles,
    experts: Wholes,
    weights: Floats,
    first: Wholes,
    cells: Doubles,
    counts: ShortWholes,
    weight_sum_at: int,
    width: int,
) -> None:
    """Count decisions by token id and layer: Welford's update of the moments, and the experts chosen.

    Parameters
    ----------
    begin, end : int
        The layers to work on; so for all functions here.
    rows : numpy.ndarray
        Row of every token, [T].
    kept : numpy.ndarray
        Which decisions count, [L, T].
    values : numpy.ndarray
        Quantities, [Q, L, T]; Q is 0 where logits were not recorded.
    experts, weights : numpy.ndarray
        [L, T, k]; the weights may have no tokens: they were not recorded then.
    first : numpy.ndarray
        [L, T], or no tokens.
    cells : numpy.ndarray
        The state, [rows, L, C]; see :class:`var_core.statistics.token_state.TokenState`.
    counts : numpy.ndarray
        The same memory as whole numbers, [rows, L, 2 C].
    weight_sum_at : int
        Where in a cell the sums of weights begin.
    width : int
        E.
    """
    quantities, slots, weighted = len(values), experts.shape[2], weights.shape[1] > 0
    layers, words = cells.shape[1], cells.shape[2]
    # Flat: an index is computed once a decision, not once an access.
    word, count = cells.reshape(-1), counts.reshape(-1)
    for layer in range(begin, end):
        for token in range(len(rows)):
            later = min(token + _AHEAD, len(rows) - 1)
            ahead = (rows[later] * layers + layer) * words
            prefetch(word, ahead)
            ahead += weight_sum_at
            for slot in range(slots):
                expert = experts[layer, later, slot]
                prefetch(word, ahead + expert)
                prefetch(word, ahead + width + expert // 2)
            if not kept[layer, token]:
                continue
            cell = (rows[token] * layers + layer) * words
            n = word[cell] + 1.0
            word[cell] = n
            share = 1.0 / n
            for q in range(quantities):
                value, mean = values[q, layer, token], cell + 1 + q
                deviation = value - word[mean]
                moved = word[mean] + deviation * share
                word[mean] = moved
                word[mean + quantities] += deviation * (value - moved)
            cell += weight_sum_at
            chosen = 2 * (cell + width)
            for slot in range(slots):
                expert = experts[layer, token, slot]
                if expert < width:
                    count[chosen + expert] += 1
                    if weighted:
                        word[cell + expert] += weights[layer, token, slot]
            if weighted:
                count[chosen + width + first[layer, token]] += 1


@compiled
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


@compiled
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
        pairs, first_repeats, any_repeats, slot_overlaps = 0, 0, 0, 0
        for token in range(tokens - 1):
            if not (continues[token] and kept[layer, token] and kept[layer, token + 1]):
                continue
            overlap = 0
            if slots <= _FEW_SLOTS:
                for one in range(slots):
                    expert = experts[layer, token, one]
                    for other in range(slots):
                        overlap += (expert < width) & (expert == experts[layer, token + 1, other])
            else:
                for slot in range(slots):
                    is_chosen[experts[layer, token, slot]] = True
                is_chosen[width] = False
                for slot in range(slots):
                    overlap += is_chosen[experts[layer, token + 1, slot]]
                for slot in range(slots):
                    is_chosen[experts[layer, token, slot]] = False
            pairs += 1
            any_repeats += overlap > 0
            slot_overlaps += overlap
            if weighted:
                first_repeats += first[layer, token] == first[layer, token + 1]
        repeats[0, layer] += pairs
        repeats[1, layer] += first_repeats
        repeats[2, layer] += any_repeats
        repeats[3, layer] += slot_overlaps
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


@compiled
def read_cells(
    words: Doubles, counts: ShortWholes, at: Wholes, token: ShortWholes, moments: int, experts: int
) -> tuple[Doubles, ShortWholes, NDArray[np.int16], Wholes, Wholes, Doubles]:
    """Read what is known of some token ids at one layer.

    Parameters
    ----------
    words, counts : numpy.ndarray
        The state, as 8-byte words and as 4-byte whole numbers; flat.
    at : numpy.ndarray
        First words of the cells to read.
    token : numpy.ndarray
        Their token ids.
    moments : int
        Words of a cell that hold n and the moments; the sums of weights begin behind them.
    experts : int
        E.

    Returns
    -------
    tuple of numpy.ndarray
        n and the moments, [moments, cells]; then of every expert that was chosen, in the order of cells and experts:
        token id, expert, times chosen, times first, and sum of weights.
    """
    filled = 0
    for index in range(len(at)):
        later = at[min(index + _AHEAD, len(at) - 1)]
        for word in range(0, moments + 2 * experts, 8):
            prefetch(words, later + word)
        chosen_at = 2 * (at[index] + moments + experts)
        for expert in range(experts):
            filled += counts[chosen_at + expert] > 0
    columns = np.empty((moments, len(at)), np.float64)
    of_token, of_expert = np.empty(filled, np.int32), np.empty(filled, np.int16)
    chosen, first, weight_sum = np.empty(filled, np.int64), np.empty(filled, np.int64), np.empty(filled, np.float64)
    place = 0
    for index in range(len(at)):
        cell = at[index]
        for column in range(moments):
            columns[column, index] = words[cell + column]
        chosen_at = 2 * (cell + moments + experts)
        for expert in range(experts):
            if counts[chosen_at + expert] > 0:
                of_token[place], of_expert[place] = token[index], expert
                chosen[place] = counts[chosen_at + expert]
                first[place] = counts[chosen_at + experts + expert]
                weight_sum[place] = words[cell + moments + expert]
                place += 1
    return columns, of_token, of_expert, chosen, first, weight_sum


@compiled
def sums_by_expert(
    expert: NDArray[np.int16], first: Wholes, weight_sum: Doubles, experts: int
) -> tuple[Wholes, Doubles]:
    """Sum times first and weights by expert, [E] each, in the order of the rows."""
    firsts, weights = np.zeros(experts, np.int64), np.zeros(experts, np.float64)
    for row in range(len(expert)):
        firsts[expert[row]] += first[row]
        weights[expert[row]] += weight_sum[row]
    return firsts, weights
