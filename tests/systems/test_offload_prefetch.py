"""Predictions of experts: from tables, from the layer before, at random."""

import numpy as np
import pytest
import torch

from moe_models import VOCABULARY
from policy_subject import Subject
from systems_decisions import decisions_of
from var_core.errors import VarError
from var_core.policy.tables import PolicyTables
from var_core.systems.offload.prefetch import NextLayer, NoPrediction, RandomExperts, TokenTable
from var_core.systems.predictions import fit_next_layer


def text(*ids: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """A sequence's tokens with those before them and their positions."""
    tokens = torch.tensor(ids)
    return tokens, torch.cat((torch.tensor([-1]), tokens[:-1])), torch.arange(len(ids))


@pytest.fixture(scope="module")
def subject() -> Subject:
    return Subject.of("mixtral")


def test_a_token_is_predicted_the_experts_of_its_row(subject):
    ids = torch.randint(20, (4, 30), generator=torch.Generator().manual_seed(3))
    tables = subject.table(ids, subject.decisions(ids))
    predictor = TokenTable(tables, subject.layout.experts)
    known, other, unknown = int(ids[0, 0]), int(ids[0, 1]), VOCABULARY - 1
    rows = [[set(tables.experts[layer, token].tolist()) for token in (known, other)] for layer in range(3)]
    one = predictor.begins(*text(known))
    both = predictor.begins(*text(known, unknown, other))
    for layer in range(3):
        assert set(one[layer]) == rows[layer][0]
        assert both[layer] == sorted(rows[layer][0] | rows[layer][1])
    assert [len(each) for each in one] == [2, 2, 2]
    assert list(predictor.begins(*text(unknown))) == [[], [], []]
    assert predictor.decided(0, [1, 2]) == ()


def test_empty_slots_of_a_row_are_no_experts(subject):
    ids = torch.randint(20, (4, 30), generator=torch.Generator().manual_seed(3))
    tables = subject.table(ids, subject.decisions(ids))
    tables.experts[:, :, 1] = subject.layout.experts
    predicted = TokenTable(tables, subject.layout.experts).begins(*text(int(ids[0, 0])))
    assert [each == [int(tables.experts[layer, ids[0, 0], 0])] for layer, each in enumerate(predicted)] == [True] * 3


def test_rows_are_those_of_the_policy_in_every_context(subject):
    """With pairs and early positions: the compiled look-up against that of the tables."""
    random = np.random.default_rng(0)
    V, P, L, k, width = 12, 30, 3, 2, subject.layout.experts
    starts = torch.tensor([0, 2, 5])
    pairs = torch.from_numpy(np.sort(random.choice((V + 2) * V, P, replace=False)))
    rows = V + P + 1
    tables = PolicyTables(
        pairs, starts, torch.from_numpy(random.integers(0, width + 1, (L, rows, k)).astype(np.int16)),
        torch.zeros(L, rows, k), torch.from_numpy(random.random((L, rows)) < 0.6), torch.zeros(L, rows),
        torch.zeros(L, rows, dtype=torch.bool),
    )  # fmt: skip
    predictor = TokenTable(tables, width)
    for _ in range(300):
        token, before, place = (
            torch.from_numpy(random.integers(low, high, 2)) for low, high in ((-1, V + 2), (-1, V + 2), (0, 9))
        )
        owner = tables.rows(token, before, place).owner
        for layer, found in enumerate(predictor.begins(token, before, place)):
            expected = tables.experts[layer][owner[layer][owner[layer] >= 0]].unique().tolist()
            assert found == [expert for expert in expected if expert < width]


def test_the_next_layer_is_predicted_by_what_went_together():
    # Expert e of layer 0 goes with e + 1 at layer 1, and that with e + 2 at layer 2.
    first = np.array([[0, 1], [2, 3], [3, 0], [1, 2]])
    experts = np.stack((first, (first + 1) % 4, (first + 3) % 4), axis=1)
    together = fit_next_layer(decisions_of(experts, 4))
    assert together[0, 0].tolist() == [0.5, 1, 0.5, 0]  # two tokens chose 0: with 1 and 2, with 0 and 1
    predictor = NextLayer(together)
    assert predictor.decided(0, [0]) == [1]
    assert predictor.decided(1, [1]) == [3]
    assert set(predictor.decided(0, [2, 3])) == {0, 3}
    assert predictor.decided(2, [1]) == ()
    assert list(predictor.begins(*text(5))) == [(), (), ()]


def test_nothing_is_predicted_that_never_went_together():
    assert NextLayer(np.zeros((1, 4, 4), np.int64)).decided(0, [0, 1]) == []


def test_counts_of_another_shape_are_refused():
    with pytest.raises(VarError, match=r"shape \(2, 4\), not \(L - 1, E, E\)"):
        NextLayer(np.zeros((2, 4), np.int64))


def test_random_experts_are_k_a_token_and_all_alike():
    predictor = RandomExperts(2, 8, 3)
    counts = np.zeros(8)
    for _ in range(2000):
        for experts in predictor.begins(*text(1)):
            assert len(set(experts)) == 3
            counts[experts] += 1
    # 1500 each is expected; the standard deviation is about 31.
    assert abs(counts - 4000 * 3 / 8).max() < 160
    assert 3 <= len(predictor.begins(*text(1, 2))[0]) <= 6


def test_no_prediction_predicts_nothing():
    assert list(NoPrediction(2).begins(*text(1))) == [(), ()]
