import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from var_core.hypotheses.agreement import (
    BINS,
    CLUSTERS,
    Coverage,
    credible_agreement,
    fit_global,
    fit_table,
    halve,
    measure_coverage,
    scores,
)
from var_core.hypotheses.data import ExpertCounts, Heldout, expert_masks


def heldout_of(types, sets, experts, first=None):
    n = len(types)
    return Heldout(
        np.asarray(types, dtype=np.int32),
        np.zeros(n, dtype=np.int32),
        np.zeros(n, dtype=np.int16),
        expert_masks(np.asarray(sets), experts),
        np.asarray([row[0] for row in sets] if first is None else first, dtype=np.int16),
    )


COUNTS = ExpertCounts(
    np.array([12, 3, 100]),
    np.array([[0, 0, 12, 12], [3, 3, 0, 0], [100, 90, 5, 5]]),
    np.array([[0, 0, 5, 7], [3, 0, 0, 0], [70, 30, 0, 0]]),
)


def test_scores_of_known_decisions():
    table = fit_table(COUNTS, 2, 10)
    assert table.first.tolist() == [3, 0, 0]
    heldout = heldout_of([0, 0, 1, 1, 2], [[3, 2], [2, 0], [0, 1], [1, 3], [2, 3]], 4)
    score = scores(heldout, table, 2)
    assert score["recall_at_k"].tolist() == [1, 0.5, 1, 0.5, 0]
    assert score["set_agreement"].tolist() == [1, 0, 1, 0, 0]
    assert score["top1_agreement"].tolist() == [1, 0, 1, 0, 0]
    everyone = scores(heldout, fit_global(COUNTS, 2), 2)
    assert everyone["recall_at_k"].tolist() == [0, 0.5, 1, 0.5, 0]


@given(st.integers(0, 10_000), st.sampled_from([(8, 2), (64, 8), (65, 3), (130, 6)]))
@settings(max_examples=25)
def test_scores_are_what_set_arithmetic_gives(seed, size):
    experts, top_k = size
    random = np.random.default_rng(seed)
    counts = ExpertCounts(
        np.array([20, 20, 5]), random.integers(1, 20, size=(3, experts)), random.integers(1, 9, size=(3, experts))
    )
    types = random.integers(3, size=40)
    sets = np.argsort(random.random((40, experts)), axis=1)[:, :top_k]
    table = fit_table(counts, top_k, 10)
    score = scores(heldout_of(types, sets, experts), table, top_k)
    order = np.argsort(-counts.chosen, axis=1, kind="stable")[:, :top_k]
    order[2] = np.argsort(-counts.chosen.sum(axis=0), kind="stable")[:top_k]
    for decision in range(40):
        shared = set(order[types[decision]]) & set(sets[decision])
        assert score["recall_at_k"][decision] == pytest.approx(len(shared) / top_k)
        assert score["set_agreement"][decision] == (len(shared) == top_k)


def test_shuffled_tables_keep_the_entries_and_leave_rare_types_alone():
    random = np.random.default_rng(0)
    counts = ExpertCounts(
        np.append(np.full(50, 20), np.full(5, 2)), random.integers(1, 99, (55, 8)), random.integers(1, 99, (55, 8))
    )
    table = fit_table(counts, 2, 10)
    shuffled = table.shuffled(counts.n >= 10, random)
    assert sorted(shuffled.masks[:50, 0]) == sorted(table.masks[:50, 0])
    assert (shuffled.masks[50:] == table.masks[50:]).all()
    assert (shuffled.masks[:50] != table.masks[:50]).mean() > 0.5


def apart(documents):
    """Documents from 0, each a group of its own."""
    hashes = np.random.default_rng(0).integers(2**64, size=documents, dtype=np.uint64)
    return np.arange(documents, dtype=np.int32), hashes


def test_groups_are_halved_by_their_own_hash_and_the_seed_alone():
    documents, groups = apart(400)
    some, all_of_them = halve(documents[::2], groups[::2], 3), halve(documents, groups, 3)
    assert (some.fold == all_of_them.fold[::2]).all()
    shares = [(all_of_them.fold == part).mean() for part in (-1, 0, 1)]
    assert shares == pytest.approx([0.5, 0.25, 0.25], abs=0.08)
    for other in (halve(documents, groups, 4), halve(documents, groups, 3, repeat=1)):
        assert (other.fold != all_of_them.fold).mean() > 0.3
    tested = all_of_them.fold < 0
    assert sorted(set(all_of_them.test_cluster[tested])) == list(range(all_of_them.test_clusters))
    assert (all_of_them.test_cluster[~tested] == -1).all()
    assert all_of_them.place(np.array([7, 0])).tolist() == [7, 0]


def test_documents_of_a_group_are_never_in_two_halves_or_clusters():
    documents, groups = apart(120)
    together = np.repeat(groups[:40], 3)
    halving = halve(documents, together, 0)
    assert halving.groups == 40
    for name in ("fold", "cluster", "test_cluster"):
        assert (getattr(halving, name).reshape(40, 3) == getattr(halving, name)[::3, None]).all()
    assert (halve(documents, groups, 0).fold.reshape(40, 3) != halving.fold[::3, None]).any()


def test_many_groups_are_resampled_in_clusters():
    many = halve(*apart(5 * CLUSTERS), 0)
    assert many.clusters == many.test_clusters == CLUSTERS
    assert many.cluster.max() == many.test_cluster.max() == CLUSTERS - 1


def test_credible_agreement_lies_between_the_own_mean_and_the_mean_of_all():
    random = np.random.default_rng(1)
    truth, n = random.beta(4, 2, size=500), random.integers(0, 60, size=500)
    agreed = random.binomial(n, truth).astype(float)
    estimate = credible_agreement(agreed, agreed, n)
    mean = agreed.sum() / n.sum()
    own = agreed[n > 0] / n[n > 0]
    assert (np.abs(estimate[n > 0] - own) <= np.abs(own - mean) + 1e-12).all()
    assert estimate[n == 0] == pytest.approx(mean)
    assert np.mean((estimate[n > 0] - truth[n > 0]) ** 2) < 0.8 * np.mean((own - truth[n > 0]) ** 2)


def test_credible_agreement_of_an_unseen_type_is_the_mean_where_occurrences_never_differ():
    n = np.array([5, 7, 0])
    agreed = np.array([5.0, 0.0, 0.0])
    np.testing.assert_allclose(credible_agreement(agreed, agreed, n), [1.0, 0.0, 5 / 12])


def test_credible_agreement_of_types_that_are_all_alike_is_their_mean():
    random = np.random.default_rng(2)
    n = np.full(300, 10)
    agreed = random.binomial(n, 0.6).astype(float)
    assert np.ptp(credible_agreement(agreed, agreed, n)) < 0.15 * np.ptp(agreed / n)
    assert credible_agreement(np.zeros(3), np.zeros(3), np.zeros(3, dtype=int)).tolist() == [0, 0, 0]


def coverage_of(truth, per_type, seed, documents=60, repeat=0):
    """Simulated decisions: agreement of each type by `truth`."""
    random = np.random.default_rng(seed)
    types = np.repeat(np.arange(len(truth)), per_type)
    score = (random.random(len(types)) < truth[types]).astype(float)
    split = halve(*apart(documents), 0, repeat=repeat)
    document = random.integers(documents, size=len(types))
    return measure_coverage(
        score, types, len(truth), split.fold[document], split.test_cluster[document], split.test_clusters
    )


@pytest.mark.parametrize("per_type", [10, 30, 100])
def test_the_promise_is_kept_on_average(per_type):
    """Also where types are seen so seldom that the luckiest look far better than they are."""
    decisions, realised, promised = 0.0, 0.0, []
    for seed in range(25):
        truth = np.random.default_rng(100 + seed).beta(3, 2, size=400)
        coverage = coverage_of(truth, per_type, seed, repeat=seed)
        cut = coverage.cut(0.8)
        covered, agreed, _ = coverage.covered(cut)
        decisions, realised = decisions + covered.sum(), realised + agreed.sum()
        promised.append(coverage.promise(np.array([cut]))[0])
    assert decisions > 300
    assert np.nanmean(promised) == pytest.approx(0.8, abs=0.03)
    assert realised / decisions > 0.8 - 2 * np.sqrt(0.16 / decisions)


def test_coverage_is_near_the_best_possible():
    truth = np.random.default_rng(3).beta(3, 2, size=400)
    coverage = coverage_of(truth, 300, 3)
    best = np.sort(truth)[::-1]
    possible = (np.cumsum(best) / np.arange(1, 401) >= 0.8).mean()
    assert coverage.share(coverage.cut(0.8)) == pytest.approx(possible, abs=0.06)


def test_random_experts_cover_nothing_at_a_high_target():
    shares = [(c := coverage_of(np.full(400, 1 / 28), 50, seed)).share(c.cut(0.9)) for seed in range(5)]
    assert max(shares) < 0.01


def test_everything_is_covered_where_all_agree():
    coverage = coverage_of(np.ones(50), 20, 0)
    assert coverage.share(coverage.cut(0.99)) == 1.0
    assert coverage.promise(np.array([coverage.cut(0.99)]))[0] == pytest.approx(1)


def test_a_higher_target_never_covers_more():
    coverage = coverage_of(np.random.default_rng(4).beta(3, 2, size=200), 50, 4)
    shares = [coverage.share(coverage.cut(target)) for target in np.linspace(0.05, 0.99, 40)]
    assert (np.diff(shares) <= 0).all()


def test_pooled_coverage_uses_what_one_layer_has_to_spare():
    good, poor = coverage_of(np.full(100, 0.95), 100, 5), coverage_of(np.full(100, 0.7), 100, 6)
    assert poor.share(poor.cut(0.8)) < 0.05
    pooled = good + poor
    assert pooled.share(pooled.cut(0.8)) > 0.9


def test_nothing_to_calibrate_on_covers_nothing():
    nothing = np.zeros(BINS)
    coverage = Coverage(nothing, nothing, nothing, np.ones((3, BINS)), np.ones((3, BINS)))
    assert coverage.cut(0.5) == BINS and coverage.share(BINS) == 0
    assert np.isnan(coverage.promise(np.array([BINS]))).all()
