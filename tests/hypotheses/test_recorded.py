"""What was not recorded is not tested, and said; what was is tested as ever."""

import pytest

from var_core.hypotheses.data import RunData
from var_core.hypotheses.domains import domain_recall_results
from var_core.hypotheses.h1 import h1_results
from var_core.hypotheses.h2 import h2_results
from var_core.hypotheses.h3 import h3_results
from var_core.hypotheses.h4 import h4_outcome
from var_core.hypotheses.meaning import meaning
from var_core.hypotheses.multiplicity import judged
from var_core.hypotheses.recorded import Recorded
from var_core.hypotheses.results import Verdicts
from var_core.hypotheses.text import report_text

RUN = "simulated/text"
DOMAINS = ("code", "prose")
LOSSES = {
    "logits": "UPDATE token_stats SET router_entropy_mean = NULL; "
    "UPDATE shard_token_stats SET router_entropy_mean = NULL",
    "weights": "UPDATE expert_counts SET first = NULL; UPDATE shard_expert_counts SET first = NULL; "
    "UPDATE traces SET weights = NULL",
    "heldout": "UPDATE tokens SET heldout_count = 0; DELETE FROM expert_counts WHERE split = 'heldout'; "
    "DELETE FROM token_stats WHERE split = 'heldout'; DELETE FROM traces",
    "token_ids": "DELETE FROM tokens; DELETE FROM token_stats; DELETE FROM expert_counts; DELETE FROM traces; "
    "DELETE FROM shard_token_stats; DELETE FROM shard_expert_counts",
}


def results_of(connection, config):
    data = RunData(connection, RUN)
    fast_path = h4_outcome(data, config)
    rows = [*h1_results(data, config), *h2_results(data, config), *h3_results(data, config), *fast_path.results]
    return judged(rows), fast_path


@pytest.fixture(scope="module")
def lacking(simulated, quick):
    """A function that gives the results of a simulated run without some of its parts."""
    known = {}

    def results(*parts):
        if parts not in known:
            connection = simulated(tokens=6000, layers=1)
            loads = "SELECT run, split, layer, expert, sum(chosen)::BIGINT AS chosen FROM expert_counts GROUP BY ALL"
            connection.execute(f"CREATE TABLE expert_load AS {loads}")
            for part in parts:
                connection.execute(LOSSES[part])
            known[parts] = results_of(connection, quick)
        return known[parts]

    return results


def test_without_router_logits_only_what_needs_them_is_not_tested(lacking):
    whole, without = lacking()[0], lacking("logits")[0]
    reason = "not tested: router logits were not recorded"
    untested = [row for row in without if row.note == reason]
    assert {(row.hypothesis, row.form) for row in untested} == {
        ("H1", "as stated"), ("H1", "corrected"), ("H4", "as stated"),
    }  # fmt: skip
    assert all(row.statistic is None and row.verdict == "inconclusive" for row in untested)
    rest = [row for row in without if row.note != reason]
    assert rest == [
        row for row in whole if "mean_router_entropy" not in row.measure and not row.measure.startswith("coverage, n")
    ]


def test_without_weights_there_are_no_first_choices(lacking):
    whole, without = lacking()[0], lacking("weights")[0]
    assert not [row for row in without if "top1_agreement" in row.measure]
    [share] = [row for row in without if row.measure == "mean modal_share"]
    assert share.statistic is None and "nobody knows first choices" in share.note
    same = [row for row in whole if row.measure in ("mean set_recall", "recall_at_k", "set_agreement")]
    values = {(row.variant, row.measure, row.layer): row.statistic for row in without}
    assert same and all(values[row.variant, row.measure, row.layer] == row.statistic for row in same)


def test_without_anything_held_out_each_domain_is_predicted_from_the_others(lacking):
    results, fast_path = lacking("heldout")
    pooled = {(row.hypothesis, row.variant): row for row in results if row.form == "corrected" and row.layer is None}
    left_out = pooled["H3", "on domains left out"]
    assert left_out.n == 2 and left_out.statistic > left_out.null_mean + 0.05
    assert left_out.low is None and "fewer than 10 domains" in left_out.note and left_out.verdict == "inconclusive"
    for key in (("H3", "on held-out text"), ("H4", "by agreement")):
        assert pooled[key].statistic is None and pooled[key].note == "not tested: nothing was held out"
    assert fast_path.decisions == 0 and not fast_path.curves


def across_domains(connection, quick):
    rows = domain_recall_results(RunData(connection, RUN), quick)
    [row] = [row for row in rows if row.layer is None]
    return row


def test_phases_of_the_same_requests_are_left_out_together(simulated, quick):
    connection = simulated(tokens=6000, layers=1)
    connection.execute(LOSSES["heldout"])
    apart = across_domains(connection, quick)
    for table in ("token_stats", "expert_counts"):
        phase = "if(token_id % 2 = 0, ':prefill', ':decode')"
        connection.execute(f"UPDATE {table} SET domain = domain || {phase} WHERE domain = '{DOMAINS[0]}'")
    assert len(RunData(connection, RUN).domains) == 3
    assert across_domains(connection, quick) == apart
    connection.execute(f"DELETE FROM expert_counts WHERE domain = '{DOMAINS[1]}'")
    connection.execute(f"DELETE FROM token_stats WHERE domain = '{DOMAINS[1]}'")
    alone = across_domains(connection, quick)
    reason = f"nothing was held out, and there is no domain besides {DOMAINS[0]} to predict it from"
    assert alone.statistic is None and alone.note == f"not tested: {reason}"


def test_an_interval_takes_ten_domains(simulated, quick):
    connection = simulated(tokens=6000, layers=1)
    connection.execute(LOSSES["heldout"])
    shifted = "(expert + if(token_id % 10 = part, 1, 0)) % 8"
    for count in (9, 10):
        again = connection.cursor()
        again.execute("BEGIN")
        for table, change in (("token_stats", ""), ("expert_counts", f", {shifted} AS expert")):
            rows = f"SELECT * REPLACE ('part ' || part AS domain {change}) FROM {table}, range({count}) AS parts(part)"
            again.execute(f"CREATE OR REPLACE TABLE {table} AS {rows}")
        row = across_domains(again, quick)
        again.execute("ROLLBACK")
        assert row.n == count and (row.low is not None) == (count == 10)
        assert ("fewer than 10 domains" in row.note) == (count == 9)
    assert row.low < row.statistic < row.high and "10 left-out domains" in row.interval_method


def test_routing_that_ignores_the_token_is_not_predicted_from_other_domains(simulated, quick):
    connection = simulated(tokens=6000, layers=1, token_effect=0.0)
    connection.execute(LOSSES["heldout"])
    [row] = [
        row for row in h3_results(RunData(connection, RUN), quick)
        if row.variant == "on domains left out" and row.layer is None
    ]  # fmt: skip
    assert abs(row.statistic - row.null_mean) < 0.02


def test_without_token_ids_only_the_load_is_tested(lacking):
    whole, without = lacking()[0], lacking("token_ids")[0]
    tested = [row for row in without if row.statistic is not None]
    assert {(row.hypothesis, row.variant) for row in tested} == {("H2", "concentration of expert load")}
    assert {row.hypothesis for row in without} == {"H1", "H2", "H3", "H4"}
    assert {row.note for row in tested} == {"token ids were not recorded, so there is no interval"}
    loads = {(row.measure, row.layer): row for row in whole if row.variant == "concentration of expert load"}
    assert all(abs(row.statistic - loads[row.measure, row.layer].statistic) < 0.2 for row in tested)


@pytest.mark.parametrize("parts", [("logits",), ("weights",), ("heldout",), ("token_ids",), ("logits", "heldout")])
def test_report_and_meaning_say_what_is_missing(lacking, parts):
    results, fast_path = lacking(*parts)
    verdicts = Verdicts(
        run=RUN, provenance={}, versions={}, samples={}, results=results, curves=fast_path.curves,
        transfers=fast_path.transfers,
    )  # fmt: skip
    text = report_text(verdicts)
    assert "ot tested: " in text and "None" not in text and "nan" not in text
    said = {name: meaning(verdicts, name) for name in ("H1", "H2", "H3", "H4")}
    if parts == ("token_ids",):
        assert all(said[name] == "Not tested: token ids were not recorded." for name in ("H1", "H3", "H4"))
    if parts == ("logits",):
        assert said["H1"].endswith("Partly not tested: router logits were not recorded.")


def test_reasons_are_told_once():
    recorded = Recorded(token_ids=True, logits=False, weights=True, heldout=False)
    assert recorded.missing("logits", "heldout") == "router logits were not recorded; nothing was held out"
    assert recorded.missing("token_ids", "weights") is None
    nothing = Recorded(token_ids=False, logits=False, weights=False, heldout=False)
    assert nothing.missing("token_ids", "logits") == "token ids were not recorded"
