import csv
import io

import pytest

from var_core.hypotheses.results import Result, Verdicts, write_verdicts
from var_core.report.show import main
from var_core.report.table import HEADER, as_csv, as_markdown, as_text

ROWS = (
    Result(
        hypothesis="H1", form="as stated", variant="as stated", layer=None, measure="spearman", statistic=0.123456789,
        low=0.1, high=0.2, confidence=0.95, null_mean=0.0, n=1234, n_unit="token types", threshold=-0.4,
        direction="below", verdict="not supported", note="a, b | c",
    ),
    Result(hypothesis="H2", form="detail", variant="x|y", layer=1, measure="m", statistic=None, n=5, n_unit="things"),
)  # fmt: skip


def verdicts(rows=ROWS):
    return Verdicts(run="m/c", provenance={"code": "x"}, versions={}, samples={}, results=rows, curves=(), transfers=())


def test_text_is_aligned_and_says_what_was_asked_for():
    header, first, second = as_text(ROWS).splitlines()
    column = header.index("threshold")
    assert first[column:].startswith("< -0.4") and "0.100 to 0.200" in first and "1,234 token types" in first
    assert second[column] == "-" and second.endswith("reported")


def test_markdown_has_as_many_cells_as_its_header():
    lines = as_markdown(ROWS).splitlines()
    assert len(lines) == 4
    assert {line.replace("\\|", "").count("|") for line in lines} == {len(HEADER) + 1}


def test_csv_keeps_every_digit_and_field():
    rows = list(csv.DictReader(io.StringIO(as_csv(ROWS))))
    assert float(rows[0]["statistic"]) == 0.123456789 and rows[0]["note"] == "a, b | c"
    assert set(rows[0]) == set(Result.model_fields)
    assert rows[1]["statistic"] == "" and rows[1]["layer"] == "1"


def test_show_prints_headlines_and_places(tmp_path, capsys):
    write_verdicts(verdicts(), tmp_path / "m" / "c" / "hypotheses")
    (tmp_path / "var.duckdb").touch()
    assert main([str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert "m/c" in printed and "not supported" in printed and "x|y" not in printed
    assert f"DuckDB file: {tmp_path / 'var.duckdb'}" in printed and "report.html" not in printed


def test_show_without_results_is_one_line(tmp_path, capsys):
    assert main([str(tmp_path)]) == 1
    assert capsys.readouterr().err == f"error: {tmp_path}: holds no verdicts; run snakemake first\n"


@pytest.mark.parametrize("layer", [None, 0])
def test_a_row_by_layer_is_no_headline(layer):
    row = ROWS[0].model_copy(update={"layer": layer})
    assert (row in verdicts((row,)).headline()) == (layer is None)
