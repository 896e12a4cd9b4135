"""A limit of memory changes when partial sums go to disk, and nothing else."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from statistics_routed import assert_equal_within_rounding, random_decisions
from var_core.errors import VarError
from var_core.routing.batch import RouterLayout
from var_core.statistics.accumulator import Accumulator, TokenBatch
from var_core.statistics.merge import merge_tables
from var_core.statistics.tables import SCHEMAS
from var_core.statistics.token_state import row_bytes

CPU = torch.device("cpu")
LAYOUT = RouterLayout.uniform(3, 6, 2)
VOCABULARY = 5000


def spilled(batches, max_state_bytes):
    """Statistics under a limit, and how often the state went to disk."""
    accumulator = Accumulator(LAYOUT, VOCABULARY, CPU, max_state_bytes=max_state_bytes)
    parts, largest = [], 0
    for index, (tokens, document, batch) in enumerate(batches):
        if not accumulator.has_room(tokens.flatten()):
            parts.append(accumulator.tables("d"))
            accumulator.reset()
        accumulator.update(TokenBatch.from_sequences(tokens, document), batch, index)
        by_token = [accumulator.state()["cells"]]
        largest = max(largest, sum(tensor.numel() * tensor.element_size() for tensor in by_token))
    parts.append(accumulator.tables("d"))
    return {kind: merge_tables(kind, [part[kind] for part in parts]) for kind in SCHEMAS}, len(parts), largest


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 1000), rows=st.integers(30, 200))
def test_a_limit_changes_nothing_but_rounding(seed, rows):
    batches = [random_decisions(seed + i, vocabulary=VOCABULARY) for i in range(12)]
    whole, once, _ = spilled(batches, None)
    limited, parts, largest = spilled(batches, rows * row_bytes(LAYOUT))
    assert once == 1 and parts > 1 and largest <= rows * row_bytes(LAYOUT)
    for kind in SCHEMAS:
        assert_equal_within_rounding(kind, limited[kind], whole[kind])


def test_without_the_reset_the_state_has_no_room_and_says_so():
    accumulator = Accumulator(LAYOUT, VOCABULARY, CPU, max_state_bytes=20 * row_bytes(LAYOUT))
    tokens, document, batch = random_decisions(1, vocabulary=VOCABULARY)
    before = {name: tensor.clone() for name, tensor in accumulator.state().items()}
    with pytest.raises(VarError, match=r"capture\.max_state_mb: statistics of 20 token ids .* a batch has 30"):
        accumulator.update(TokenBatch.from_sequences(tokens, document), batch, 0)
    assert all(torch.equal(tensor, before[name]) for name, tensor in accumulator.state().items())


def test_a_limited_state_continues_where_it_was_saved():
    batches = [random_decisions(i, vocabulary=VOCABULARY) for i in range(4)]
    limit = 150 * row_bytes(LAYOUT)
    whole, half, resumed = (Accumulator(LAYOUT, VOCABULARY, CPU, max_state_bytes=limit) for _ in range(3))
    for index, (tokens, document, batch) in enumerate(batches):
        for accumulator in (whole, half) if index < 2 else (whole,):
            accumulator.update(TokenBatch.from_sequences(tokens, document), batch, index)
    resumed.load_state({name: tensor.clone() for name, tensor in half.state().items()})
    for index in (2, 3):
        tokens, document, batch = batches[index]
        resumed.update(TokenBatch.from_sequences(tokens, document), batch, index)
    for kind, table in whole.tables("d").items():
        assert resumed.tables("d")[kind] == table


def test_a_vocabulary_that_fits_has_a_row_for_every_token():
    accumulator = Accumulator(LAYOUT, VOCABULARY, CPU, max_state_bytes=VOCABULARY * row_bytes(LAYOUT))
    assert accumulator.has_room(torch.arange(VOCABULARY))
    limited = Accumulator(LAYOUT, VOCABULARY, CPU, max_state_bytes=VOCABULARY * row_bytes(LAYOUT) - 1)
    assert not limited.has_room(torch.arange(VOCABULARY)) and limited.has_room(torch.arange(VOCABULARY - 1))


@pytest.mark.parametrize("vocabulary", [0, VOCABULARY])
def test_a_state_has_no_room_for_more_tokens_than_its_counts_can_hold(monkeypatch, vocabulary):
    monkeypatch.setattr("var_core.statistics.accumulator._MOST_TOKENS", 70)
    accumulator = Accumulator(LAYOUT, vocabulary, CPU)
    for index, room in enumerate((True, True, False)):  # 30 tokens each
        tokens, document, batch = random_decisions(index, vocabulary=VOCABULARY)
        assert accumulator.has_room(tokens.flatten()) is room
        accumulator.update(TokenBatch.from_sequences(tokens, document), batch, index)
    accumulator.reset()
    assert accumulator.has_room(tokens.flatten())
