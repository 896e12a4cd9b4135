import numpy as np
import pandas as pd
import pytest

from var_core.hypotheses.data import RunData
from var_core.hypotheses.h2 import h2_results
from var_core.hypotheses.multiplicity import judged

RUN = "simulated/text"
STATED = "r_squared(ln rank, ln frequency)"


@pytest.fixture(scope="module")
def results(informative, quick):
    return judged(h2_results(RunData(informative, RUN), quick))


def test_a_zipfian_text_is_supported_as_stated(results, pick):
    row = pick(results, measure=STATED)
    assert row.statistic > 0.9 and row.low > 0.8 and row.verdict == "supported"
    assert pick(results, measure="slope(ln rank, ln frequency)").statistic == pytest.approx(-1, abs=0.1)
    assert row.layer is None


@pytest.fixture
def text_with(simulated):
    """A function that gives a run whose token types have these frequencies, in two shards."""

    def build(frequencies):
        connection = simulated(types=len(frequencies), layers=1, tokens=1000, documents=20, shards=2)
        rows = pd.DataFrame({"token_id": np.arange(len(frequencies)), "n": frequencies})
        connection.register("frequencies", rows)
        connection.execute(
            "DELETE FROM token_stats; INSERT INTO token_stats"
            " SELECT 'simulated/text', 'capture', 'code', 0, token_id, n, 1.0 FROM frequencies;"
            "UPDATE tokens SET capture_count = 1;"
            "DELETE FROM shard_token_stats; INSERT INTO shard_token_stats BY NAME SELECT run, split, domain, layer,"
            " token_id, shard, if(shard = 0, n - n // 2, n // 2) AS n, router_entropy_mean"
            " FROM token_stats, (VALUES (0), (1)) AS s (shard) WHERE shard = 0 OR n > 1"
        )
        return RunData(connection, RUN)

    return build


def test_a_lognormal_text_passes_as_stated_but_not_when_corrected(text_with, quick, pick):
    data = text_with(np.ceil(np.exp(np.random.default_rng(0).normal(3, 1.5, size=3000))).astype(int))
    rows = judged(h2_results(data, quick))
    assert pick(rows, measure=STATED).statistic > 0.8
    comparison = pick(rows, variant="against lognormal, all types")
    assert comparison.verdict == "not supported" and comparison.statistic < -3
    assert pick(rows, variant="goodness of fit of a power law").verdict != "supported"


def test_a_good_fit_alone_supports_nothing(results, pick):
    row = pick(results, variant="goodness of fit of a power law")
    assert row.p > 0.1 and row.statistic < row.threshold and row.verdict == "inconclusive"
    assert not row.supportable


def test_a_bad_fit_refutes(text_with, quick, pick):
    rows = judged(h2_results(text_with(np.random.default_rng(2).integers(1, 400, size=2500)), quick))
    row = pick(rows, variant="goodness of fit of a power law")
    assert row.p == pytest.approx(1 / 20) and row.verdict == "not supported"
    assert pick(rows, measure=STATED).verdict == "not supported"


def test_concentration_of_load_is_reported_by_layer_beside_what_even_load_gives(results, pick, simulated, quick):
    for layer in (0, 1, None):
        row = pick(results, measure="load max/mean", layer=layer)
        assert row.statistic > 1.1 and row.low < row.statistic < row.high and row.null_mean == 1
        assert row.verdict == "reported"
    mean = np.mean([pick(results, measure="load gini", layer=layer).statistic for layer in (0, 1)])
    assert pick(results, measure="load gini", layer=None).statistic == pytest.approx(mean)
    even = judged(
        h2_results(RunData(simulated(token_effect=0.0, load_effect=0.0, layers=1, tokens=20_000), RUN), quick)
    )
    assert pick(even, measure="load max/mean", layer=0).statistic < 1.05
    assert pick(even, measure="load entropy / ln E", layer=0).statistic > 0.999


def test_too_few_types_have_no_power_law(simulated, quick, pick):
    rows = judged(h2_results(RunData(simulated(types=20, tokens=3000, layers=1), RUN), quick))
    row = pick(rows, variant="goodness of fit of a power law")
    assert row.statistic is None and row.verdict == "reported" and "too few" in row.note
    assert pick(rows, variant="against lognormal, all types").verdict == "inconclusive"
