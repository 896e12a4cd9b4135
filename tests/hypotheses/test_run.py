import duckdb
import pytest

from var_core.config.hypotheses import HypothesesConfig
from var_core.errors import VarError
from var_core.hypotheses import run as stage
from var_core.hypotheses.results import CLAIMS, read_verdicts

RUN = "simulated/text"


@pytest.fixture(scope="module")
def output(informative, quick, tmp_path_factory):
    folder = tmp_path_factory.mktemp("verdicts")
    stage.test_hypotheses(informative, RUN, quick, folder, "digest")
    return folder


@pytest.fixture(scope="module")
def verdicts(output):
    return read_verdicts(output / "verdicts.json")


def test_verdicts_say_what_they_were_made_from(verdicts, quick):
    assert verdicts.run == RUN
    assert verdicts.provenance["code"] == "digest"
    assert HypothesesConfig.model_validate(verdicts.provenance["config"]) == quick
    assert verdicts.provenance["run"]["model"] == "simulated"
    assert {"python", "var_core", "numpy", "scipy", "powerlaw", "duckdb"} <= set(verdicts.versions)
    assert verdicts.samples["layers"] == 2
    assert verdicts.samples["token types"] == 299
    assert verdicts.samples["special token types left out"] == 1
    assert verdicts.samples["capture shards"] == 6
    assert verdicts.samples["held-out documents"] == 120


def test_all_hypotheses_have_verdicts_in_both_forms(verdicts):
    for name in CLAIMS:
        rows = [row for row in verdicts.headline() if row.hypothesis == name]
        assert {row.form for row in rows} == {"as stated", "corrected"}
        assert all(row.verdict != "reported" for row in rows)
    assert any(row.p_adjusted is not None for row in verdicts.results)


def test_every_claim_has_a_null_or_says_what_it_lacks(verdicts):
    for row in verdicts.headline():
        assert row.null is not None or "lognormal sample passes too" in row.note


def test_the_same_data_give_the_same_bytes(informative, quick, output, tmp_path):
    stage.test_hypotheses(informative, RUN, quick, tmp_path, "digest")
    for path in output.iterdir():
        assert (tmp_path / path.name).read_bytes() == path.read_bytes(), path.name


def test_another_seed_changes_draws_and_not_statistics(informative, quick, verdicts, tmp_path):
    other = stage.test_hypotheses(informative, RUN, quick.model_copy(update={"seed": 1}), tmp_path, "digest")
    pairs = list(zip(verdicts.results, other.results, strict=True))
    fixed = [(a.statistic, b.statistic) for a, b in pairs if a.hypothesis != "H4"]
    assert all(a == b for a, b in fixed)
    assert any(a.null_mean != b.null_mean for a, b in pairs)


def test_report_holds_every_pooled_row_and_what_it_means(output, verdicts):
    text = (output / "report.txt").read_text()
    for name, claim in CLAIMS.items():
        assert f"{name}: {claim}" in text
    for row in verdicts.results:
        assert row.measure in text and row.variant in text
    flat = " ".join(text.split())
    stated = next(row for row in verdicts.headline() if row.hypothesis == "H3" and row.form == "as stated")
    assert f"mean modal_in_topk is {stated.statistic:.3f}" in flat
    assert f"As stated: {stated.verdict.upper()}." in flat
    assert "Transfer between domains" in text
    assert "nan" not in text.lower().split()


def test_a_failed_test_leaves_no_files(quick, simulated, tmp_path):
    connection = simulated(types=20, documents=8, tokens=300)
    connection.execute("DELETE FROM traces")
    with pytest.raises(VarError, match="no held-out trace"):
        stage.test_hypotheses(connection, RUN, quick, tmp_path / "out", "digest")
    assert not (tmp_path / "out").exists()


def test_an_unknown_run_is_named(informative, quick, tmp_path):
    with pytest.raises(VarError, match="run nobody/nothing"):
        stage.test_hypotheses(informative, "nobody/nothing", quick, tmp_path, "digest")


def test_the_least_data_give_verdicts_and_no_error(simulated, quick, tmp_path):
    """One layer, one shard, one document, and types that all occur a few times."""
    connection = simulated(types=12, documents=1, shards=1, tokens=40, layers=1)
    verdicts = stage.test_hypotheses(connection, RUN, quick, tmp_path, "digest")
    assert {row.verdict for row in verdicts.headline()} <= {"inconclusive", "reported", "not supported"}
    assert (tmp_path / "report.txt").stat().st_size > 1000


def test_a_database_without_the_tables_is_no_silent_success(quick, tmp_path):
    with duckdb.connect() as empty, pytest.raises(duckdb.Error):
        stage.test_hypotheses(empty, RUN, quick, tmp_path, "digest")
