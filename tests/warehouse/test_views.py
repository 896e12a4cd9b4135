"""Every view against the decisions themselves, and against the measures computed in numpy."""

from math import comb

import duckdb
import numpy as np
import pytest

from var_core.statistics import measures
from var_core.statistics.tables import QUANTITIES
from var_core.warehouse.files import RunFiles
from var_core.warehouse.run import open_run
from var_core.warehouse.schema import create_tables, create_views

SPLITS = ("capture", "heldout")
SPECIAL = [0, 1]


@pytest.fixture(scope="module", params=["alone", "first of two", "second of two"])
def case(request, results, database, small, other):
    """(connection, run): alone in memory, and each of two unlike runs in the database."""
    run = other if request.param == "second of two" else small
    if request.param == "alone":
        connection = open_run(RunFiles.in_results(results, run.model, run.corpus))
    else:
        connection = duckdb.connect(database, read_only=True)
        connection.execute("SET threads = 2")
    with connection:
        yield connection, run


def rows(case, view, split=None, order="ALL"):
    """Rows of a view for the run of the case, as numpy columns."""
    connection, run = case
    where = f"run = '{run.name}'" + (f" AND split = '{split}'" if split else "")
    return connection.execute(f"SELECT * FROM {view} WHERE {where} ORDER BY {order}").fetchnumpy()


def dense(case, columns, name, *keys):
    """Scatter a column into an array over layers, tokens or experts; NaN where the view has no row."""
    run = case[1]
    sizes = {"layer": run.layers, "token_id": run.vocabulary, "domain": len(run.domains)}
    domains = {name: index for index, name in enumerate(sorted(run.domains))}
    places = [np.array([domains[d] for d in columns[key]]) if key == "domain" else columns[key] for key in keys]
    values = np.full([sizes.get(key, run.experts) for key in keys], np.nan)
    values[tuple(np.asarray(place, dtype=int) for place in places)] = np.ma.filled(columns[name].astype(float), np.nan)
    return values


def counts(case, split):
    run = case[1]
    return run.decisions[split].counts(run.vocabulary, run.experts)


@pytest.mark.parametrize("split", SPLITS)
def test_moments_pooled_over_domains_are_those_of_all_decisions_at_once(case, split):
    decisions, got = case[1].decisions[split], rows(case, "v_token_stats", split)
    for q, quantity in enumerate(QUANTITIES):
        for layer in range(case[1].layers):
            mine = got["layer"] == layer
            for place in np.flatnonzero(mine):
                values = decisions.quantities[q, layer, decisions.token == got["token_id"][place]]
                assert got["n"][place] == len(values)
                assert got[f"mean_{quantity}"][place] == pytest.approx(values.mean(), rel=1e-12)
                assert got[f"{quantity}_m2"][place] == pytest.approx(values.var() * len(values), rel=1e-9, abs=1e-12)
                if len(values) > 1:
                    assert got[f"{quantity}_variance"][place] == pytest.approx(values.var(ddof=1), rel=1e-9)
                    error = values.std(ddof=1) / np.sqrt(len(values))
                    assert got[f"{quantity}_standard_error"][place] == pytest.approx(error, rel=1e-9)
                else:
                    assert np.ma.getmaskarray(got[f"{quantity}_variance"])[place]
            assert set(got["token_id"][mine]) == set(decisions.token)


def test_phases_of_a_domain_are_not_predicted_from_each_other():
    with duckdb.connect() as connection:
        create_tables(connection)
        create_views(connection)
        connection.execute("INSERT INTO layers VALUES ('r', 0, '', 4, 1)")
        connection.execute("INSERT INTO tokens SELECT 'r', unnest(range(3)), '', false, 1, 0")
        recall = "SELECT domain, tokens, token_table_recall_at_k FROM v_domain_recall ORDER BY domain"
        insert = "INSERT INTO expert_counts SELECT 'r', 'capture', $domain, 0, unnest(range(3)), $expert, 20, 20, 0"
        for phase in ("prefill", "decode", "mixed"):
            connection.execute(insert, {"domain": f"chat:{phase}", "expert": 1})
        assert not connection.execute(recall).fetchall()
        connection.execute(insert, {"domain": "code", "expert": 2})
        assert connection.execute(recall).fetchall() == [("chat", 180, 0.0), ("code", 60, 0.0)]


@pytest.mark.parametrize("split", SPLITS)
def test_expert_counts_pooled_over_domains(case, split):
    chosen, first = counts(case, split)
    got = rows(case, "v_expert_counts", split)
    keys = ("layer", "token_id", "expert")
    np.testing.assert_array_equal(np.nan_to_num(dense(case, got, "chosen", *keys)), chosen)
    np.testing.assert_array_equal(np.nan_to_num(dense(case, got, "first", *keys)), first)
    assert got["weight_sum"].sum() == pytest.approx(case[1].layers * len(case[1].decisions[split].token), rel=1e-6)


@pytest.mark.parametrize("split", SPLITS)
def test_routing_of_tokens(case, split):
    run, (chosen, first) = case[1], counts(case, split)
    got = rows(case, "v_token_routing", split)

    def view(name):
        return dense(case, got, name, "layer", "token_id")

    n = first.sum(-1)
    np.testing.assert_array_equal(np.nan_to_num(view("n")), n)
    entropy = measures.selection_entropy(chosen)
    np.testing.assert_allclose(view("selection_entropy"), entropy, rtol=1e-12)
    norm = measures.selection_entropy_norm(entropy, run.experts, run.top_k)
    np.testing.assert_allclose(view("selection_entropy_norm"), norm, atol=1e-12)
    np.testing.assert_array_equal(view("modal_share"), measures.modal_share(first, n))
    np.testing.assert_array_equal(view("modal_in_topk"), measures.modal_in_topk(chosen, n))
    np.testing.assert_array_equal(view("set_recall"), measures.set_recall(chosen, run.top_k))
    modal = np.where(n > 0, measures.most_used(first, 1)[..., 0], np.nan)
    np.testing.assert_array_equal(view("modal_expert"), modal)
    np.testing.assert_array_equal(np.nan_to_num(view("experts_used")), (chosen > 0).sum(-1))
    np.testing.assert_array_equal(np.unique(got["token_id"][got["special"]]), SPECIAL)


@pytest.mark.parametrize("split", SPLITS)
def test_frequency_ranks(case, split):
    from scipy.stats import rankdata

    got = rows(case, "v_token_frequency", split, order="rank")
    n = np.bincount(case[1].decisions[split].token, minlength=case[1].vocabulary)
    n[SPECIAL] = 0
    order = np.argsort(-n, kind="stable")[: (n > 0).sum()]
    np.testing.assert_array_equal(got["token_id"], order)
    np.testing.assert_array_equal(got["rank"], np.arange(1, len(order) + 1))
    np.testing.assert_array_equal(got["average_rank"], rankdata(-n[order]))
    np.testing.assert_allclose(got["share"], n[order] / n.sum(), rtol=1e-15)
    np.testing.assert_allclose(got["cumulative_share"], n[order].cumsum() / n.sum(), rtol=1e-15)


@pytest.mark.parametrize("split", SPLITS)
def test_vocabulary_specialization_leaves_special_and_rare_tokens_out(case, split):
    chosen, first = (np.delete(each, SPECIAL, axis=1) for each in counts(case, split))
    got = rows(case, "v_vocabulary_specialization", split)
    n = first.sum(-1)
    expected = [measures.vocabulary_specialization(chosen[layer], n[layer]) for layer in range(case[1].layers)]
    np.testing.assert_allclose(got["vocabulary_specialization"], expected, rtol=1e-12)
    np.testing.assert_array_equal(got["types"], (n >= 10).sum(-1))
    with_special = counts(case, split)[0].sum(1).max(-1) / len(case[1].decisions[split].token)
    np.testing.assert_allclose(got["load_limit"], with_special, rtol=1e-15)


@pytest.mark.parametrize("split", SPLITS)
def test_coverage_by_frequency_and_entropy_as_stated(case, split):
    run, got = case[1], rows(case, "v_entropy_coverage", split)
    decisions = run.decisions[split]
    n = np.bincount(decisions.token, minlength=run.vocabulary)
    n[SPECIAL] = 0
    eligible_somewhere = 0
    for layer in range(run.layers):
        entropy = np.bincount(decisions.token, decisions.quantities[0, layer], run.vocabulary) / np.maximum(n, 1)
        eligible = (n > 50) & (entropy < 0.5)
        eligible_somewhere += eligible.sum()
        assert got["eligible_types"][layer] == eligible.sum()
        assert got["coverage"][layer] == pytest.approx(n[eligible].sum() / n.sum(), rel=1e-15)
        assert got["types"][layer] == (n > 0).sum()
    assert eligible_somewhere  # else the test could not fail


def test_thresholds_of_eligibility_are_strict():
    with duckdb.connect() as connection:
        create_tables(connection)
        create_views(connection)
        for token, (n, entropy) in enumerate([(50, 0.1), (51, 0.4999), (51, 0.5), (1000, 0.1)]):
            connection.execute(f"INSERT INTO tokens VALUES ('r', {token}, '', {token == 3}, {n}, 0)")
            connection.execute(
                f"INSERT INTO token_stats VALUES ('r', 'capture', 'd', 0, {token}, {n}, {entropy}, 0, 0, 0, 0, 0)"
            )
        got = connection.execute("SELECT eligible_types, eligible_occurrences, occurrences FROM v_entropy_coverage")
        assert got.fetchall() == [(1, 51, 152)]


@pytest.mark.parametrize("split", SPLITS)
def test_tables_predict_what_numpy_says(case, split):
    run = case[1]
    fitted, fitted_first = (np.delete(each, SPECIAL, axis=1) for each in counts(case, "capture"))
    scored, scored_first = (np.delete(each, SPECIAL, axis=1) for each in counts(case, split))
    by_layer, by_token = rows(case, "v_table_recall", split), rows(case, "v_token_recall", split)
    n = fitted_first.sum(-1)
    for layer in range(run.layers):
        table = measures.token_table(fitted[layer], n[layer], run.top_k)
        blind = measures.global_table(fitted[layer], run.top_k)
        recall = measures.table_recall(table, scored[layer])
        assert by_layer["token_table_recall_at_k"][layer] == pytest.approx(recall, rel=1e-14)
        assert by_layer["global_table_recall_at_k"][layer] == pytest.approx(
            measures.table_recall(blind, scored[layer]), rel=1e-14
        )
        first_table = measures.token_table(fitted_first[layer], n[layer], 1)
        assert by_layer["token_table_top1_agreement"][layer] == pytest.approx(
            measures.table_recall(first_table, scored_first[layer]), rel=1e-14
        )
        assert by_layer["global_table_top1_agreement"][layer] == pytest.approx(
            measures.table_recall(measures.global_table(fitted_first[layer], 1), scored_first[layer]), rel=1e-14
        )
        occurrences = scored_first[layer].sum(-1)
        assert by_layer["own_entry_share"][layer] == occurrences[n[layer] >= 10].sum() / occurrences.sum()
        mine = by_token["layer"] == layer
        own = measures.recalled_slots(measures.most_used(fitted[layer], run.top_k), scored[layer]) * (n[layer] > 0)
        shifted = by_token["token_id"][mine] - len(SPECIAL)
        np.testing.assert_array_equal(by_token["table_slots"][mine], own[shifted])
        np.testing.assert_array_equal(by_token["fitted_n"][mine], n[layer][shifted])
        np.testing.assert_array_equal(by_token["slots"][mine], run.top_k * occurrences[shifted])
    assert (by_layer["chance_recall_at_k"] == run.top_k / run.experts).all()
    assert (by_layer["chance_top1_agreement"] == 1 / run.experts).all()
    # Routing was simulated with a taste by token, so the token table must win, and it must do so on unseen text.
    assert (by_layer["token_table_recall_at_k"] > 1.2 * by_layer["global_table_recall_at_k"]).all()


def test_tokens_that_were_never_fitted_are_scored_with_the_global_table(case):
    by_token = rows(case, "v_token_recall", "heldout")
    unknown = by_token["fitted_n"] == 0
    assert (by_token["table_slots"][unknown] == 0).all()
    rare = by_token["fitted_n"] < 10
    assert rare.any()
    mixed = np.where(rare, by_token["global_slots"], by_token["table_slots"])
    by_layer = rows(case, "v_table_recall", "heldout")
    for layer, recall in enumerate(by_layer["token_table_recall_at_k"]):
        mine = by_token["layer"] == layer
        assert recall == pytest.approx(mixed[mine].sum() / by_token["slots"][mine].sum(), rel=1e-15)


def test_ties_in_tables_go_to_the_lower_expert(case):
    chosen = np.delete(counts(case, "capture")[0], SPECIAL, axis=1)
    got = rows(case, "v_token_table", "capture")
    tied = 0
    for layer, token, experts in zip(got["layer"], got["token_id"], got["experts"], strict=True):
        row = chosen[layer, token - len(SPECIAL)]
        expected = measures.most_used(row, case[1].top_k)
        assert list(experts) == list(expected)
        tied += np.sort(row)[-case[1].top_k] == np.sort(row)[-case[1].top_k - 1]
    assert tied  # else ties were not tested
    blind = rows(case, "v_global_table", "capture")
    for layer, experts in zip(blind["layer"], blind["experts"], strict=True):
        assert list(experts) == list(measures.global_table(chosen[layer], case[1].top_k))


@pytest.mark.parametrize("split", SPLITS)
def test_load(case, split):
    load = counts(case, split)[0].sum(axis=1)
    got = rows(case, "v_load", split)
    for layer in range(case[1].layers):
        assert got["load_max_over_mean"][layer] == pytest.approx(measures.load_max_over_mean(load[layer]), rel=1e-14)
        assert got["load_cv"][layer] == pytest.approx(measures.load_variation(load[layer]), rel=1e-12)
        assert got["load_entropy_norm"][layer] == pytest.approx(measures.load_entropy_norm(load[layer]), rel=1e-12)
        assert got["busiest_expert"][layer] == load[layer].argmax()
        assert got["never_chosen"][layer] == (load[layer] == 0).sum()


@pytest.mark.parametrize("split", SPLITS)
def test_domain_specialization(case, split):
    run, decisions = case[1], case[1].decisions[split]
    got = rows(case, "v_domain_specialization", split)
    share = dense(case, got, "domain_specialization", "domain", "layer", "expert")
    lift = dense(case, got, "lift", "domain", "layer", "expert")
    hot = decisions.hot(run.experts)
    for place, domain in enumerate(sorted(run.domains)):
        expected = hot[:, decisions.domain == domain].mean(axis=1)
        np.testing.assert_allclose(share[place], expected, rtol=1e-14)
        np.testing.assert_allclose(lift[place], measures._ratio(expected, hot.mean(axis=1)), rtol=1e-12)
    assert (got["chance"] == run.top_k / run.experts).all()


@pytest.mark.parametrize("split", SPLITS)
def test_coactivation(case, split):
    run, decisions = case[1], case[1].decisions[split]
    got = rows(case, "v_coactivation", split)
    conditional = dense(case, got, "coactivation", "layer", "expert", "other_expert")
    lift = dense(case, got, "lift", "layer", "expert", "other_expert")
    hot = decisions.hot(run.experts)
    off_diagonal = ~np.eye(run.experts, dtype=bool)
    for layer in range(run.layers):
        pairs = hot[layer].T @ hot[layer]
        np.testing.assert_allclose(
            conditional[layer][off_diagonal], measures.coactivation(pairs)[off_diagonal], rtol=1e-14
        )
        expected = measures.coactivation_lift(pairs, len(decisions.token))
        np.testing.assert_allclose(lift[layer][off_diagonal], expected[off_diagonal], rtol=1e-12)
        assert np.isnan(conditional[layer].diagonal()).all()


@pytest.mark.parametrize("split", SPLITS)
def test_mutual_information_between_layers(case, split):
    run, decisions = case[1], case[1].decisions[split]
    got = rows(case, "v_crosslayer_mi", split)
    assert list(got["next_layer"]) == list(range(1, run.layers))
    for layer in range(run.layers - 1):
        joint = np.zeros((run.experts, run.experts), dtype=np.int64)
        np.add.at(joint, (decisions.first[layer], decisions.first[layer + 1]), 1)
        assert got["mi_observed"][layer] == pytest.approx(measures.mutual_information(joint), rel=1e-10)
        assert got["tokens"][layer] == len(decisions.token)
    np.testing.assert_allclose(got["crosslayer_mi"], got["mi_observed"] - got["mi_shuffled"])
    # Both layers follow the token, so they tell of each other; shuffled, nearly nothing is left.
    assert (got["mi_shuffled"] < 0.5 * got["mi_observed"]).all()


@pytest.mark.parametrize("split", SPLITS)
def test_next_layer_shares(case, split):
    run, hot = case[1], case[1].decisions[split].hot(case[1].experts)
    got = rows(case, "v_crosslayer", split)
    share = dense(case, got, "next_share", "layer", "expert", "next_expert")
    lift = dense(case, got, "lift", "layer", "expert", "next_expert")
    for layer in range(run.layers - 1):
        expected = measures.shares(hot[layer].T @ hot[layer + 1]) * run.top_k
        np.testing.assert_allclose(share[layer], expected, rtol=1e-12)
        np.testing.assert_allclose(lift[layer], measures._ratio(expected, hot[layer + 1].mean(axis=0)), rtol=1e-12)


@pytest.mark.parametrize("split", SPLITS)
def test_repeats_and_their_chance_levels(case, split):
    run, decisions = case[1], case[1].decisions[split]
    got = rows(case, "v_repeats", split)
    follows = (np.diff(decisions.sequence) == 0) & (np.diff(decisions.document) == 0)
    hot = decisions.hot(run.experts)
    for layer in range(run.layers):
        common = (hot[layer, :-1] * hot[layer, 1:]).sum(-1)[follows]
        same = (decisions.first[layer, :-1] == decisions.first[layer, 1:])[follows]
        assert got["pairs"][layer] == follows.sum()
        assert got["first_repeat"][layer] == same.mean()
        assert got["any_repeat"][layer] == pytest.approx((common > 0).mean(), rel=1e-15)
        assert got["slot_overlap"][layer] == pytest.approx(common.mean() / run.top_k, rel=1e-14)
        load = hot[layer].mean(axis=0)
        assert got["slot_overlap_by_load"][layer] == pytest.approx((load**2).sum() / run.top_k, rel=1e-12)
    assert (got["first_repeat_chance"] == 1 / run.experts).all()
    chance = 1 - comb(run.experts - run.top_k, run.top_k) / comb(run.experts, run.top_k)
    np.testing.assert_allclose(got["any_repeat_chance"], chance, rtol=1e-12)
    assert (got["slot_overlap_chance"] == run.top_k / run.experts).all()
