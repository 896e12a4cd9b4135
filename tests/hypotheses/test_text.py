import pytest

from var_core.hypotheses import run as stage
from var_core.hypotheses.results import CLAIMS
from var_core.hypotheses.text import report_text, sentences

RUN = "simulated/text"


@pytest.fixture(scope="module")
def verdicts(blind, quick, tmp_path_factory):
    return stage.test_hypotheses(blind, RUN, quick, tmp_path_factory.mktemp("verdicts"), "digest")


def with_row(verdicts, **changes):
    """The same verdicts with one row changed: H1 as stated, pooled."""
    rows = [
        row.model_copy(update=changes) if (row.hypothesis, row.form, row.layer) == ("H1", "as stated", None) else row
        for row in verdicts.results
    ]
    return verdicts.model_copy(update={"results": tuple(rows)})


def test_numbers_are_written_as_a_reader_expects(verdicts):
    said = sentences(with_row(verdicts, statistic=-0.0001, p=0.0, p_adjusted=0.0), "H1")[0]
    assert "is 0.000 (95 % interval" in said and "p < 1e-99" in said
    said = sentences(with_row(verdicts, statistic=-43.21, p=0.012, p_adjusted=0.024), "H1")[0]
    assert "is -43.21" in said and "p = 0.024" in said


def test_what_is_not_defined_is_said_to_be_so(verdicts):
    changed = with_row(
        verdicts, statistic=None, low=None, high=None, note="too few token types", verdict="inconclusive"
    )
    assert "is not defined here (too few token types)" in sentences(changed, "H1")[0]
    assert "None" not in report_text(changed)
    assert "is undefined, where -0.40 or less" in " ".join(report_text(changed).split())


def test_the_report_of_a_blind_router_says_that_there_is_nothing_to_find(verdicts):
    text = " ".join(report_text(verdicts).split())
    assert "0.0 % of unseen decisions can be left to a token table" in text
    assert text.count("SUPPORTED") == text.count("NOT SUPPORTED") + text.count("As stated: SUPPORTED. r_squared")
    for name in CLAIMS:
        assert text.count(f"{name}: ") == 1


def test_one_domain_has_no_transfer_table(verdicts):
    one = verdicts.model_copy(update={"transfers": tuple(row for row in verdicts.transfers if row.source == "code")})
    assert "Transfer" in report_text(verdicts) and "Transfer" not in report_text(one)
