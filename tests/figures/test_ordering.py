import numpy as np

from var_core.figures.ordering import related, similar_rows


def neighbours(order, groups):
    """Pairs of neighbours that are of the same group."""
    return int((np.diff(groups[order]) == 0).sum())


def test_rows_that_are_alike_become_neighbours():
    random = np.random.default_rng(0)
    groups = random.permutation(np.repeat(np.arange(4), 6))
    profiles = 5.0 * np.eye(4)[groups] + 0.1 * random.normal(size=(24, 4))
    order = similar_rows(profiles)
    assert sorted(order) == list(range(24))
    assert neighbours(order, groups) == 20 > neighbours(np.arange(24), groups)


def test_experts_that_go_together_become_neighbours():
    random = np.random.default_rng(1)
    groups = random.permutation(np.repeat(np.arange(3), 5))
    strength = 2.0 * (groups[:, None] == groups) + 0.1 * random.random((15, 15))
    order = related(strength + strength.T)
    assert sorted(order) == list(range(15))
    assert neighbours(order, groups) == 12


def test_one_and_two_rows_have_an_order():
    assert similar_rows(np.ones((1, 3))).tolist() == [0]
    assert sorted(similar_rows(np.ones((2, 3)))) == [0, 1]
