import itertools
import json

import pyarrow.parquet as pq
import pytest

from var_core.errors import VarError
from var_core.hypotheses.results import (
    RESULTS,
    Curve,
    Result,
    Transfer,
    Verdicts,
    decide,
    read_verdicts,
    write_verdicts,
)
from var_core.parquet import read_provenance


def row(**changes):
    values = {
        "hypothesis": "H3",
        "form": "as stated",
        "variant": "as stated",
        "layer": None,
        "measure": "a share",
        "statistic": 0.5,
        "low": 0.4,
        "high": 0.6,
        "n": 10,
        "n_unit": "token types",
        "threshold": 0.3,
        "direction": "above",
    }
    return Result(**(values | changes))


ENDS = [(0.1, 0.2), (0.1, 0.3), (0.2, 0.4), (0.3, 0.4), (0.4, 0.5), (0.3, 0.3)]


@pytest.mark.parametrize("direction", ["above", "below"])
@pytest.mark.parametrize("ends", ENDS)
def test_every_case_of_the_verdict(direction, ends):
    """The rule, written down a second time as a list of cases."""
    low, high = ends
    claimed = low > 0.3 if direction == "above" else high < 0.3
    refuted = high <= 0.3 if direction == "above" else low >= 0.3
    assert not (claimed and refuted)
    for supportable, p_below, p in itertools.product([True, False], [None, 0.05], [None, 0.01, 0.05, 0.5]):
        verdict = decide(
            row(
                low=low,
                high=high,
                direction=direction,
                supportable=supportable,
                p_below=p_below,
                p=p,
                p_adjusted=p,
            )
        )
        if refuted:
            assert verdict == "not supported"
        elif claimed and supportable and (p_below is None or p == 0.01):
            assert verdict == "supported"
        else:
            assert verdict == "inconclusive"


def test_the_adjusted_p_counts_and_not_the_raw_one():
    assert decide(row(p=0.001, p_adjusted=0.2, p_below=0.05)) == "inconclusive"


@pytest.mark.parametrize("missing", [{"statistic": None}, {"low": None}, {"high": None}])
def test_too_little_data_is_inconclusive(missing):
    assert decide(row(**missing)) == "inconclusive"


def test_without_a_claim_a_row_is_only_reported():
    assert decide(row(threshold=None, direction=None)) == "reported"


def verdicts():
    return Verdicts(
        run="model/corpus",
        provenance={"stage": "hypotheses", "code": "abc"},
        versions={"numpy": "2"},
        samples={"layers": 1},
        results=(row(), row(layer=0, verdict="supported"), row(form="detail"), row(low=None, note="so", null="none")),
        curves=(
            Curve(
                measure="set_agreement",
                layer=None,
                threshold=(0.9, 0.5),
                coverage=(0.2, 1.0),
                agreement=(0.95, None),
                low=(0.9, None),
                high=(1.0, None),
                promised=(0.94, 0.5),
                global_table=0.1,
                shuffled_labels=None,
                chance=0.03,
            ),
        ),
        transfers=(
            Transfer(
                measure="set_agreement",
                layer=0,
                source="a",
                target="b",
                agreement=0.5,
                decisions=9,
                coverage=0.1,
                covered_agreement=None,
            ),
        ),
    )


def test_files_hold_what_was_written(tmp_path):
    written = verdicts()
    write_verdicts(written, tmp_path)
    assert read_verdicts(tmp_path / "verdicts.json") == written
    table = pq.read_table(tmp_path / "verdicts.parquet")
    assert table.schema.remove_metadata().equals(RESULTS)
    assert [Result(**values) for values in table.to_pylist()] == list(written.results)
    assert read_provenance(tmp_path / "verdicts.parquet") == written.provenance
    first = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    write_verdicts(written, tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == first


def test_headline_has_pooled_rows_without_details():
    assert [(each.layer, each.form) for each in verdicts().headline()] == [(None, "as stated")] * 2


def test_verdicts_that_are_not_verdicts_are_refused_with_the_key(tmp_path):
    path = tmp_path / "verdicts.json"
    write_verdicts(verdicts(), tmp_path)
    value = json.loads(path.read_text())
    value["results"][1]["verdict"] = "proven"
    path.write_text(json.dumps(value))
    with pytest.raises(VarError, match=r"verdicts\.json: results\.1\.verdict: "):
        read_verdicts(path)
    with pytest.raises(VarError, match="no such file"):
        read_verdicts(tmp_path / "absent.json")


def test_results_cannot_be_changed_or_misspelt():
    with pytest.raises(ValueError, match="frozen"):
        row().statistic = 1.0
    with pytest.raises(ValueError, match="statistics"):
        row(statistics=1.0)
