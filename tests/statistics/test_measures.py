import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from var_core.statistics import measures as m

K = 2


def sets_to_counts(sets, types, experts):
    """Counts of decisions given as (type, set of experts)."""
    counts = np.zeros((types, experts), dtype=np.int64)
    for token_type, chosen in sets:
        counts[token_type, chosen] += 1
    return counts


def random_sets(random, decisions, experts, top_k):
    return np.argsort(random.random((decisions, experts)), axis=1)[:, :top_k]


counts_arrays = arrays(np.int64, st.tuples(st.integers(1, 6), st.integers(2, 7)), elements=st.integers(0, 50))


def test_selection_entropy_of_known_counts():
    counts = np.array([[5, 5, 0, 0], [2, 2, 2, 2], [8, 4, 4, 0], [0, 0, 0, 0]])
    entropy = m.selection_entropy(counts)
    assert entropy[:3] == pytest.approx([np.log(2), np.log(4), 1.5 * np.log(2)])
    assert np.isnan(entropy[3])
    assert m.selection_entropy_norm(entropy[:2], 4, K) == pytest.approx([0, 1])
    assert np.isnan(m.selection_entropy_norm(entropy, 2, 2)).all()  # where all experts are chosen nothing is selected


@given(counts_arrays)
def test_selection_entropy_is_between_zero_and_ln_e_and_ignores_the_names_of_experts(counts):
    entropy = m.selection_entropy(counts)
    known = counts.sum(axis=1) > 0
    assert (np.isnan(entropy) == ~known).all()
    assert (entropy[known] >= -1e-12).all() and (entropy[known] <= np.log(counts.shape[1]) + 1e-12).all()
    assert m.selection_entropy(counts[:, ::-1]) == pytest.approx(entropy, nan_ok=True)
    assert m.selection_entropy(counts * 7) == pytest.approx(entropy, nan_ok=True)


def test_chao_shen_removes_most_of_the_plug_in_bias_and_keeps_a_true_difference():
    random = np.random.default_rng(0)
    truth = np.array([0.3, 0.25, 0.15, 0.1, 0.08, 0.06, 0.04, 0.02])
    true_entropy = -(truth * np.log(truth)).sum()
    draws = random.multinomial(15, truth, size=4000)
    plug_in, corrected = m.selection_entropy(draws).mean(), m.chao_shen_entropy(draws).mean()
    assert plug_in < true_entropy - 0.15
    assert abs(corrected - true_entropy) < 0.25 * abs(plug_in - true_entropy)
    concentrated = random.multinomial(15, [0.9, 0.1, 0, 0, 0, 0, 0, 0], size=4000)
    assert m.chao_shen_entropy(concentrated).mean() < 0.5


def test_chao_shen_equals_the_plug_in_where_nothing_was_seen_once():
    counts = np.array([[40, 60, 0], [1000, 0, 0]])
    assert m.chao_shen_entropy(counts) == pytest.approx(m.selection_entropy(counts), abs=1e-9)
    assert np.isnan(m.chao_shen_entropy(np.zeros((1, 3), dtype=int))[0])
    assert np.isfinite(m.chao_shen_entropy(np.array([[1, 1, 0], [1, 0, 0]]))).all()


def test_three_definitions_of_consistency_on_known_counts():
    chosen, first, n = np.array([[6, 3, 2, 1]]), np.array([[3, 2, 1, 0]]), np.array([6])
    assert m.modal_share(first, n) == pytest.approx([3 / 6])
    assert m.modal_in_topk(chosen, n) == pytest.approx([6 / 6])
    assert m.set_recall(chosen, K) == pytest.approx([9 / 12])
    assert np.isnan(m.set_recall(np.zeros((1, 4), dtype=int), K)).all()
    assert np.isnan(m.modal_share(np.zeros((1, 4), dtype=int), np.zeros(1, dtype=int))).all()


def test_consistency_of_a_router_that_ignores_the_token_approaches_its_chance():
    random = np.random.default_rng(1)
    sets = random_sets(random, 40_000, 8, K)
    chosen = np.bincount(sets.ravel(), minlength=8)[None]
    first = np.bincount(sets[:, 0], minlength=8)[None]
    n = np.array([40_000])
    assert m.set_recall(chosen, K)[0] == pytest.approx(2 / 8, abs=0.01)
    assert m.modal_in_topk(chosen, n)[0] == pytest.approx(2 / 8, abs=0.01)
    assert m.modal_share(first, n)[0] == pytest.approx(1 / 8, abs=0.01)


def test_ties_go_to_the_lower_expert():
    assert m.most_used(np.array([[3, 5, 3, 3], [0, 0, 0, 0]]), 2).tolist() == [[1, 0], [0, 1]]


def test_load_measures_of_even_and_collapsed_load():
    even, collapsed = np.full(8, 10), np.array([80, 0, 0, 0, 0, 0, 0, 0])
    assert (m.load_max_over_mean(even), m.load_variation(even), m.load_entropy_norm(even)) == pytest.approx((1, 0, 1))
    assert m.load_gini(even) == pytest.approx(0)
    assert m.load_max_over_mean(collapsed) == pytest.approx(8)
    assert m.load_variation(collapsed) == pytest.approx(np.sqrt(7))
    assert m.load_entropy_norm(collapsed) == pytest.approx(0)
    assert m.load_gini(collapsed) == pytest.approx(7 / 8)
    assert m.load_gini(np.array([1, 3])) == pytest.approx(0.25)


@given(arrays(np.int64, st.integers(2, 10), elements=st.integers(0, 1000)).filter(lambda load: load.sum() > 0))
def test_gini_is_half_the_mean_difference_over_the_mean(load):
    expected = np.abs(load[:, None] - load[None, :]).mean() / (2 * load.mean())
    assert m.load_gini(load) == pytest.approx(expected, abs=1e-12)


def test_vocabulary_specialization_counts_only_types_seen_often_enough():
    chosen = np.array([[10, 8, 2], [9, 9, 0], [3, 2, 2]])
    n = np.array([10, 9, 5])
    assert m.vocabulary_specialization(chosen, n) == pytest.approx(1.0)
    assert m.vocabulary_specialization(chosen, n, minimum=9) == pytest.approx(1.0)
    assert m.vocabulary_specialization(chosen, n, minimum=1) == pytest.approx((1 + 1 + 0.6) / 3)
    assert np.isnan(m.vocabulary_specialization(chosen, n, minimum=11))


def test_domain_specialization_rows_sum_to_k():
    chosen, tokens = np.array([[30, 50, 20], [10, 10, 0]]), np.array([50, 10])
    share = m.domain_specialization(chosen, tokens)
    assert share[0] == pytest.approx([0.6, 1.0, 0.4])
    assert share.sum(axis=1) == pytest.approx([K, K])


def test_token_table_falls_back_to_the_global_experts_for_rare_types():
    chosen = np.array([[0, 0, 10, 10], [9, 0, 0, 9], [100, 90, 5, 5]])
    n = np.array([10, 9, 100])
    table = m.token_table(chosen, n, K)
    assert table.tolist() == [[2, 3], [0, 1], [0, 1]]
    assert m.global_table(chosen, K).tolist() == [0, 1]
    heldout = np.array([[0, 1, 3, 4], [0, 0, 5, 5], [0, 0, 0, 0]])
    assert m.recalled_slots(table, heldout).tolist() == [7, 0, 0]
    assert m.table_recall(table, heldout) == pytest.approx(7 / 18)
    assert m.table_recall(m.global_table(chosen, K), heldout) == pytest.approx(1 / 18)
    assert np.isnan(m.table_recall(table, np.zeros_like(heldout)))


def test_token_table_predicts_unseen_text_only_when_routing_depends_on_the_token():
    random = np.random.default_rng(2)
    types, experts, decisions = 40, 8, 4000
    favourite = random_sets(random, types, experts, K)
    recalls = {}
    for name, follow in (("informed", 0.7), ("blind", 0.0)):
        splits = []
        for _ in range(2):
            token = random.integers(types, size=decisions)
            load = random.random((decisions, experts)) + np.linspace(0, 0.5, experts)
            noise = np.argsort(-load, axis=1)[:, :K]
            sets = np.where(random.random((decisions, 1)) < follow, favourite[token], noise)
            splits.append(sets_to_counts(zip(token, sets, strict=True), types, experts))
        fitted, heldout = splits
        table = m.token_table(fitted, fitted.sum(axis=1) // K, K)
        recalls[name] = m.table_recall(table, heldout) - m.table_recall(m.global_table(fitted, K), heldout)
        in_sample = m.table_recall(table, fitted) - m.table_recall(m.global_table(fitted, K), fitted)
        assert in_sample > 0.002  # on its own text the table always looks better
    assert recalls["informed"] > 0.2
    assert recalls["blind"] < 0.002


def test_coactivation_over_all_pairs_of_a_decision():
    sets = np.array([[0, 1, 2], [0, 1, 3], [0, 2, 3], [0, 1, 2]])
    pairs = np.zeros((5, 5), dtype=int)
    for chosen in sets:
        pairs[np.ix_(chosen, chosen)] += 1
    share = m.coactivation(pairs)
    assert share[1, 2] == pytest.approx(2 / 3) and share[2, 1] == pytest.approx(2 / 3)
    assert share[0, 1] == pytest.approx(3 / 4) and share[1, 0] == pytest.approx(1)
    assert np.isnan(share[4]).all()
    assert m.coactivation_lift(pairs, 4)[1, 2] == pytest.approx(2 * 4 / (3 * 3))


def test_coactivation_lift_of_independent_sets_is_their_chance():
    random = np.random.default_rng(3)
    experts, top_k, decisions = 16, 4, 20_000
    chosen = np.zeros((decisions, experts), dtype=int)
    np.put_along_axis(chosen, random_sets(random, decisions, experts, top_k), 1, axis=1)
    lift = m.coactivation_lift(chosen.T @ chosen, decisions)
    off_diagonal = lift[~np.eye(experts, dtype=bool)]
    assert off_diagonal.mean() == pytest.approx((top_k - 1) * experts / (top_k * (experts - 1)), abs=0.01)


def test_mutual_information_of_equal_and_of_independent_choices():
    assert m.mutual_information(np.diag([5, 5, 5, 5])) == pytest.approx(np.log(4))
    assert m.mutual_information(np.outer([2, 6], [3, 1, 4])) == pytest.approx(0, abs=1e-12)
    both = m.mutual_information(np.stack([np.diag([5, 5]), np.full((2, 2), 3)]))
    assert both == pytest.approx([np.log(2), 0], abs=1e-12)


@given(counts_arrays.filter(lambda counts: counts.sum() > 0))
def test_mutual_information_is_not_negative_and_symmetric(joint):
    information = m.mutual_information(joint)
    assert information >= -1e-12
    assert m.mutual_information(joint.T) == pytest.approx(information, abs=1e-12)


def test_what_contexts_seem_to_tell_about_experts_is_bias_that_the_shuffle_removes():
    """Independent data show a large fall of entropy when it is conditioned on rare contexts."""
    random = np.random.default_rng(4)
    contexts, experts, decisions = 6000, 8, 15_000
    context, expert = random.integers(contexts, size=decisions), random.integers(experts, size=decisions)

    def joint(choices):
        return np.bincount(context * experts + choices, minlength=contexts * experts).reshape(contexts, experts)

    reduction = m.mutual_information(joint(expert)) / np.log(experts)
    assert reduction > 0.5
    assert abs(m.crosslayer_mi(joint(expert), joint(random.permutation(expert)))) < 0.03 * np.log(experts)


def test_crosslayer_information_survives_the_shuffle_where_layers_depend_on_each_other():
    random = np.random.default_rng(5)
    here = random.integers(8, size=20_000)
    there = np.where(random.random(20_000) < 0.5, here, random.integers(8, size=20_000))

    def joint(after):
        return np.bincount(here * 8 + after, minlength=64).reshape(8, 8)

    assert m.crosslayer_mi(joint(there), joint(random.permutation(there))) > 0.3


def test_repeats_of_independent_choices_are_at_their_chance():
    random = np.random.default_rng(6)
    experts, top_k, tokens = 8, 3, 60_000
    sets = random_sets(random, tokens, experts, top_k)
    chosen = np.zeros((tokens, experts), dtype=bool)
    np.put_along_axis(chosen, sets, True, axis=1)
    overlap = (chosen[1:] & chosen[:-1]).sum(axis=1)
    pairs = tokens - 1
    first = m.first_repeat((sets[1:, 0] == sets[:-1, 0]).sum(), pairs)
    assert first == pytest.approx(m.first_repeat_chance(experts), abs=0.005)
    assert m.any_repeat((overlap > 0).sum(), pairs) == pytest.approx(m.any_repeat_chance(experts, top_k), abs=0.005)
    slots = m.slot_overlap(overlap.sum(), pairs, top_k)
    assert slots == pytest.approx(m.slot_overlap_chance(experts, top_k), abs=0.005)
    equal = (overlap == top_k).mean()
    assert equal == pytest.approx(m.set_agreement_chance(experts, top_k), abs=0.005)


def test_chances_of_known_sizes():
    assert m.any_repeat_chance(8, 2) == pytest.approx(1 - 15 / 28)
    assert m.any_repeat_chance(4, 3) == 1.0
    assert m.set_agreement_chance(8, 2) == pytest.approx(1 / 28)
    assert np.isnan(m.first_repeat(0, 0))
