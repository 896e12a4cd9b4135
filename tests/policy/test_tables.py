"""Which row of a policy's tables owns a decision, and what follows from it."""

import numpy as np
import pytest
import torch

from var_core.policy.fitting import Entries
from var_core.policy.tables import assemble, keep_pairs, pair_keys, token_only

V, E = 4, 5


def entries(*keys):
    experts = np.array([[key % E, (key + 1) % E] for key in keys]).reshape(len(keys), 2)
    return Entries(np.array(keys, np.int64), np.ones(len(keys), np.int64), experts, np.full((len(keys), 2), 0.5))


@pytest.fixture
def tables():
    """Two layers; token 3 has no entry, the second layer has fewer pairs; rows 4, 5 and 6 are pairs."""
    pairs = entries(1 * V + 0, 2 * V + 3, V * V + 0), entries(2 * V + 3)
    return assemble(V, E, [entries(0, 1, 2)] * 2, [entries(0)] * 2, pairs, (0, 1))


TOKENS = torch.tensor([0, 0, 3, 3, 0, 9])
PREVIOUS = torch.tensor([1, 2, 2, 1, -1, 1])
POSITION = torch.tensor([5, 5, 5, 5, 0, 5])
OWNERS = [[4, 0, 5, -1, 6, -1], [0, 0, 5, -1, 0, -1]]


def test_a_decision_is_its_pairs_else_its_tokens(tables):
    rows = tables.rows(TOKENS, PREVIOUS, POSITION)
    assert rows.owner.tolist() == OWNERS
    assert tables.any_row(rows).tolist() == [[7 if row < 0 else row for row in each] for each in OWNERS]


def test_only_the_owner_says_whether_it_is_taken(tables):
    tables.usable[:] = True
    rows = tables.rows(TOKENS, PREVIOUS, POSITION)
    assert tables.usable_row(rows).tolist() == OWNERS
    tables.usable[:, 4] = False  # an exception: the token's own row, which may be used, is not asked
    assert tables.usable_row(rows).tolist() == [[-1, *OWNERS[0][1:]], OWNERS[1]]
    assert tables.any_row(rows)[0, 0] == 4
    tables.usable[:, :4] = False
    assert tables.usable_row(rows).tolist() == [[-1, -1, 5, -1, 6, -1], [-1, -1, 5, -1, -1, -1]]


def test_what_a_dropped_pair_owned_is_its_tokens(tables):
    tables.agreement[:] = torch.arange(8.0)
    kept = keep_pairs(tables, np.array([[True, False, True], [True, False, False]]))
    assert kept.pairs.tolist() == [1 * V + 0, V * V + 0]
    assert kept.agreement[0].tolist() == [0, 1, 2, 3, 4, 6, 7]
    rows = kept.rows(TOKENS, PREVIOUS, POSITION)
    # The second layer never had these entries, and saying that it keeps one does not give it one.
    assert rows.owner.tolist() == [[4, 0, -1, -1, 5, -1], [0, 0, -1, -1, 0, -1]]
    for row, experts in ((4, 4), (5, 16)):
        assert kept.experts[0, row].tolist() == [experts % E, (experts + 1) % E]
    alone = token_only(tables)
    assert alone.experts.shape[1] == V + 1
    assert alone.rows(TOKENS, PREVIOUS, POSITION).owner.tolist() == [[0, 0, -1, -1, 0, -1]] * 2
    assert alone.experts[:, -1].tolist() == tables.experts[:, -1].tolist()


def test_contexts_are_the_token_before_and_early_positions():
    positions = torch.tensor([0, 1, 4])
    keys = pair_keys(
        torch.tensor([2, 2, 2, 2, 2, -1, 7, 2]), torch.tensor([-1, 3, 3, 3, -1, 3, 3, V]),
        torch.tensor([0, 1, 3, 4, 9, 9, 9, 9]), positions, V,
    )  # fmt: skip
    assert keys.tolist() == [V * V + 2, (V + 1) * V + 2, (V + 1) * V + 2, 3 * V + 2, -1, -1, -1, -1]
    everywhere = pair_keys(torch.tensor([2, 2]), torch.tensor([-1, 3]), torch.tensor([0, 0]), positions[:0], V)
    assert everywhere.tolist() == [-1, 3 * V + 2]
