import numpy as np
import pytest

from var_core.hypotheses.agreement import MEASURES, halve
from var_core.hypotheses.data import RunData
from var_core.hypotheses.h4 import h4_outcome
from var_core.hypotheses.multiplicity import judged
from var_core.hypotheses.resampling import jackknife_interval

RUN = "simulated/text"
COVERED = "coverage at set_agreement >= 0.8"
LAYERS = (0, 1, None)


@pytest.fixture(scope="module")
def outcome(informative, quick):
    return h4_outcome(RunData(informative, RUN), quick)


@pytest.fixture(scope="module")
def results(outcome):
    return judged(outcome.results)


@pytest.fixture(scope="module")
def of_blind(blind, quick):
    return h4_outcome(RunData(blind, RUN), quick)


@pytest.fixture(scope="module")
def sure(simulated, quick):
    """A router that nearly always decides by the token, and differently in each domain."""
    return h4_outcome(RunData(simulated(token_effect=25.0, domain_effect=25.0), RUN), quick)


def test_coverage_as_stated_is_that_of_the_tables(informative, results, pick):
    for layer in (0, 1):
        eligible = informative.sql(
            "SELECT sum(n) FILTER (n > 50 AND entropy < 0.5) / sum(n) FROM ("
            " SELECT token_id, sum(n) AS n, sum(n * router_entropy_mean) / sum(n) AS entropy FROM token_stats"
            f" WHERE split = 'capture' AND layer = {layer} AND token_id <> 0 GROUP BY token_id)"
        ).fetchall()[0][0]
        row = pick(results, form="as stated", layer=layer)
        assert row.statistic == pytest.approx(eligible or 0, abs=1e-12)
        assert 0 <= row.low <= row.statistic <= row.high <= 1
    assert pick(results, form="as stated", layer=None).statistic == pytest.approx(
        np.mean([pick(results, form="as stated", layer=layer).statistic for layer in (0, 1)])
    )


def test_low_entropy_everywhere_is_supported_as_stated(simulated, quick, pick):
    connection = simulated(tokens=20_000, layers=1)
    for table in ("token_stats", "shard_token_stats"):
        connection.execute(f"UPDATE {table} SET router_entropy_mean = 0.1")
    row = pick(judged(h4_outcome(RunData(connection, RUN), quick).results), form="as stated", layer=0)
    assert row.statistic > 0.5 and row.verdict == "supported"
    assert row.null_mean == pytest.approx(row.statistic) and row.p == 1  # shuffled entropies are as low


def test_coverage_as_stated_is_compared_with_shuffled_entropies(simulated, quick, pick):
    connection = simulated(types=200, tokens=40_000, layers=1, exponent=0.5)
    for table in ("token_stats", "shard_token_stats"):
        connection.execute(f"UPDATE {table} SET router_entropy_mean = if(token_id < 40, 0.1, 1.0)")
    row = pick(judged(h4_outcome(RunData(connection, RUN), quick).results), form="as stated", layer=0)
    frequent, everything = connection.sql(
        "SELECT sum(n) FILTER (n > 50)::DOUBLE, sum(n)::DOUBLE FROM (SELECT token_id, sum(n) AS n FROM token_stats"
        " WHERE split = 'capture' AND token_id > 0 GROUP BY token_id)"
    ).fetchall()[0]
    assert row.null_mean == pytest.approx(39 / 199 * frequent / everything, abs=0.02)
    assert row.statistic > row.null_mean + 5 * row.null_sd and row.p == pytest.approx(1 / 201)


def test_interval_as_stated_is_the_jackknife_of_the_whole_procedure(simulated, quick, pick):
    connection = simulated(types=200, tokens=8000, layers=1, exponent=0.3, shards=4)
    for table in ("token_stats", "shard_token_stats"):
        connection.execute(f"UPDATE {table} SET router_entropy_mean = if(token_id % 2 = 0, 0.1, 1.0)")
    left_out = [
        connection.sql(
            "SELECT sum(n) FILTER (n > 50 AND token_id % 2 = 0)::DOUBLE / sum(n) FROM ("
            " SELECT token_id, sum(n) AS n FROM shard_token_stats WHERE split = 'capture' AND token_id > 0"
            f" AND shard <> {shard} GROUP BY token_id)"
        ).fetchall()[0][0]
        for shard in range(4)
    ]
    row = pick(judged(h4_outcome(RunData(connection, RUN), quick).results), form="as stated", layer=0)
    assert (row.low, row.high) == pytest.approx(
        jackknife_interval(row.statistic, np.array(left_out), 0.95).within(0, 1), abs=1e-12
    )


def test_a_blind_router_can_be_covered_nowhere(of_blind, pick):
    results = judged(of_blind.results)
    for layer in LAYERS:
        row = pick(results, measure=COVERED, layer=layer)
        assert row.statistic < 0.01 and row.verdict == "not supported" and row.p > 0.5
        table = pick(results, variant="token table, all held-out text", measure="recall_at_k", layer=layer)
        everyone = pick(results, variant="global table, all held-out text", measure="recall_at_k", layer=layer)
        assert table.statistic == pytest.approx(everyone.statistic, abs=0.02)
        assert everyone.null_mean == pytest.approx(2 / 8)


def test_an_informed_table_beats_the_global_one_and_the_shuffled_one(results, pick):
    for measure in MEASURES:
        for layer in LAYERS:
            table = pick(results, variant="token table, all held-out text", measure=measure, layer=layer)
            everyone = pick(results, variant="global table, all held-out text", measure=measure, layer=layer)
            assert table.low > everyone.high
            assert table.statistic > table.null_mean + 4 * table.null_sd
            assert table.p == pytest.approx(1 / 25)


def test_a_sure_router_is_supported_by_agreement_and_keeps_the_promise(simulated, quick, pick):
    outcome = h4_outcome(RunData(simulated(token_effect=25.0), RUN), quick)
    results = judged(outcome.results)
    for layer in LAYERS:
        row = pick(results, measure=COVERED, layer=layer)
        assert row.statistic > 0.9 and row.verdict == "supported" and row.null_mean < 0.1
        realised = pick(results, measure="set_agreement of the covered", layer=layer)
        assert realised.high >= 0.8


def test_a_promise_that_is_not_kept_supports_nothing(simulated, quick, pick):
    """The test documents are routed by another router than the calibration documents."""
    connection = simulated(token_effect=25.0, layers=1)
    once = quick.model_copy(update={"halvings": 1})
    data = RunData(connection, RUN)
    tested = data.heldout_documents[halve(data.heldout_documents, data.heldout_groups, once.seed).fold < 0]
    connection.execute(
        "UPDATE traces SET experts = list_transform(experts, lambda e: ((e + token_id) % 8)::SMALLINT)"
        " WHERE list_contains($tested, document)",
        {"tested": tested.tolist()},
    )
    row = pick(judged(h4_outcome(RunData(connection, RUN), once).results), measure=COVERED, layer=0)
    assert row.low > 0.4 and row.verdict == "inconclusive"
    assert not row.supportable and "did not hold" in row.note


def test_the_interval_knows_that_the_documents_could_have_been_halved_otherwise(simulated, quick, pick):
    """Where one document holds a quarter of the text, the half that it falls into decides; the interval must say so."""
    connection = simulated(token_effect=3.0, layers=1, document_effect=1.5)
    connection.execute("UPDATE traces SET document = (SELECT min(document) FROM traces) WHERE hash(rowid) % 4 = 0")

    def covered(**changes):
        config = quick.model_copy(update=changes)
        return pick(h4_outcome(RunData(connection, RUN), config).results, measure=COVERED, layer=0)

    row = covered(halvings=20)
    others = [covered(halvings=1, seed=seed) for seed in range(1, 9)]
    assert sum(row.low <= other.statistic <= row.high for other in others) >= 7
    assert sum(others[0].low <= other.statistic <= others[0].high for other in others) < 7


def test_curves_end_at_everything_and_agree_with_the_rows(outcome, results, pick):
    assert {(curve.measure, curve.layer) for curve in outcome.curves} == {
        (measure, layer) for measure in MEASURES for layer in LAYERS
    }
    for curve in outcome.curves:
        assert len(curve.coverage) == len(curve.agreement) == len(curve.low) == len(curve.promised) <= 200
        assert curve.coverage[-1] == pytest.approx(1)
        assert (np.diff(curve.coverage) > 0).all() and (np.diff(curve.threshold) < 0).all()
        assert all(
            low <= value <= high for low, value, high in zip(curve.low, curve.agreement, curve.high, strict=True)
        )
        table = pick(results, variant="token table, all held-out text", measure=curve.measure, layer=curve.layer)
        assert curve.agreement[-1] == pytest.approx(table.statistic, abs=0.03)  # its test half
        assert curve.agreement[len(curve.agreement) // 4] > curve.agreement[-1]
        assert np.array(curve.promised[5:]) == pytest.approx(np.array(curve.agreement[5:]), abs=0.12)
        everyone = pick(results, variant="global table, all held-out text", measure=curve.measure, layer=curve.layer)
        assert curve.global_table == pytest.approx(everyone.statistic)


def test_a_table_from_another_domain_is_worse_where_domains_differ(sure, pick):
    for measure in MEASURES:
        for layer in LAYERS:
            agreement = {
                (source, target): pick(sure.transfers, measure=measure, layer=layer, source=source, target=target)
                for source in ("code", "prose")
                for target in ("code", "prose")
            }
            for source, target in (("code", "prose"), ("prose", "code")):
                assert agreement[source, source].agreement > agreement[source, target].agreement + 0.1


def test_transfer_costs_nothing_where_domains_are_alike(outcome, pick):
    home = pick(outcome.transfers, measure="set_agreement", layer=None, source="code", target="code")
    away = pick(outcome.transfers, measure="set_agreement", layer=None, source="code", target="prose")
    assert away.agreement == pytest.approx(home.agreement, abs=0.03)
    n = sum(row.decisions for row in outcome.transfers if row.layer == 0 and row.measure == "recall_at_k")
    assert n == 2 * outcome.decisions / 2  # each decision once for each source, in one of two layers


def test_a_cut_made_on_one_domain_need_not_hold_on_another(sure, pick):
    home = pick(sure.transfers, measure="set_agreement", layer=None, source="code", target="code")
    away = pick(sure.transfers, measure="set_agreement", layer=None, source="code", target="prose")
    assert home.coverage > 0.5 and home.covered_agreement > 0.75
    assert away.covered_agreement < home.covered_agreement - 0.1


@pytest.mark.parametrize("documents", [1, 2, 8])
def test_few_documents_are_inconclusive_and_no_error(simulated, quick, pick, documents):
    outcome = h4_outcome(RunData(simulated(documents=documents, tokens=2000, layers=1, shards=1), RUN), quick)
    row = pick(judged(outcome.results), measure=COVERED, layer=0)
    assert row.low is None and row.verdict == "inconclusive"
