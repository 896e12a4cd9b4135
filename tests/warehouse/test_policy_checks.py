"""Tables on a run's policy that disagree are refused, naming run and table."""

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from changed_tables import ChangedTables, no_rows, setting, without
from var_core.errors import VarError
from var_core.warehouse.check import Check
from var_core.warehouse.policy_checks import POLICY_CHECKS


@pytest.fixture(scope="module")
def sound(simulated_run, tmp_path_factory):
    run = simulated_run(layers=2, vocabulary=20, sequences={"capture": 12, "heldout": 6})
    return run.write(tmp_path_factory.mktemp("results"))


@pytest.fixture
def check(sound):
    """Check a run with changed tables; the files are put back afterwards."""
    with ChangedTables(sound, sound.evaluation) as check:
        yield check


def test_a_sound_run_passes(check):
    check()


def test_a_difference_of_rounding_is_none(check):
    check(evaluations=setting("value", lambda value: value + 5e-10, arm="policy", layer=1, measure="learned_share"))


@pytest.mark.parametrize(
    ("table", "change", "message"),
    [
        (
            "evaluations",
            setting("value", lambda value: value + 2e-9, arm="policy", layer=1, measure="learned_share"),
            "table evaluations: the shares of the ways of arm policy, layer 1, sum to 1.000000002, and not to 1",
        ),
        (
            "evaluations",
            without(arm="classic", layer=None, measure="cache_share"),
            "table evaluations: the shares of the ways of arm classic, layer all, sum to ",
        ),
        (
            "evaluations",
            setting("value", lambda value: value + 0.01, arm="token_table", layer=None, measure="coverage"),
            "table evaluations: arm token_table, layer all, has coverage ",
        ),
        (
            "evaluations",
            setting("low", lambda low: 9.0, arm="policy", layer=None, measure="relative_loss"),
            "table evaluations: arm policy, measure relative_loss, has an interval from 9.0 to ",
        ),
        (
            "evaluations",
            setting("high", lambda high: None, arm="policy", layer=0, measure="set_agreement"),
            "table evaluations: arm policy, measure set_agreement, has an interval from .* to None",
        ),
        ("evaluations", without(layer=1), "table evaluations: arm .* has ways of 1 layers, but the run has 2"),
        (
            "evaluations",
            lambda table: pa.concat_tables([table, table.filter(pc.is_null(table["layer"])).slice(0, 1)]),
            "table evaluations: more than one row for run sim-a/text, arm plain, layer None, measure loss",
        ),
        ("evaluations", no_rows, "table certificates: has 4 promises, but the policy's evaluation has 0 rows"),
        ("certificates", no_rows, "table certificates: has 0 promises, but the policy's evaluation has "),
        (
            "certificates",
            setting("bound", lambda bound: 0.99, promise="set_agreement", layer=1),
            "table certificates: promise set_agreement, layer 1, is at least 0.99, but 0.72 was seen",
        ),
        (
            "certificates",
            setting("bound", lambda bound: 0.1, promise="learned_share"),
            "table certificates: promise learned_share, layer all, is at most 0.1, but 0.3 was seen",
        ),
        (
            "certificates",
            setting("direction", lambda direction: "about", promise="learned_share"),
            "table certificates: promise learned_share, layer all, is about 0.4",
        ),
        ("policies", without(layer=0), "table policies: layer 0 is in only one of this table and table layers"),
        ("policies", no_rows, "table policies: layer 0 is in only one of this table and table layers"),
        (
            "policies",
            setting("pair_usable", lambda usable: 91, layer=1),
            "table policies: layer 1 uses 11 of 40 tokens and 91 of 90 pairs",
        ),
        (
            "policy_gains",
            setting("gain", lambda gain: gain + 1e-6, layer=0, measure="recall_at_k", coverage=0.5),
            "table policy_gains: layer 0, measure recall_at_k, coverage 0.5, has gain ",
        ),
        (
            "policy_frequencies",
            setting("decisions", lambda decisions: decisions + 1, arm="policy", layer=1, from_count=10),
            "table policy_frequencies: arm policy, tokens of 10 occurrences on, has 520 decisions, but 521 at its",
        ),
        (
            "transfer",
            without(made_on="code", evaluated_on="web", measure="loss_difference"),
            "table transfer: has no loss for the policy of domain code on domain web",
        ),
    ],
)
def test_a_table_that_disagrees_is_named(check, table, change, message):
    with pytest.raises(VarError, match=f"run sim-a/text, {message}") as error:
        check(**{table: change})
    assert "\n" not in str(error.value) and "run its stages again" in str(error.value)


def test_a_policy_of_token_tables_and_a_corpus_of_one_domain_have_no_gains_and_no_transfer(check):
    check(policy_gains=no_rows, transfer=no_rows)


def test_every_check_is_of_a_table_on_policies():
    tables = {"policies", "evaluations", "policy_gains", "policy_frequencies", "certificates", "transfer"}
    assert {check.table for check in POLICY_CHECKS} == tables and all(isinstance(c, Check) for c in POLICY_CHECKS)
