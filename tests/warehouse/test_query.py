"""The command that runs a query by its title."""

import io
import subprocess
import sys
from pathlib import Path

import pytest

from var_core.errors import VarError
from var_core.warehouse.queries import read_queries
from var_core.warehouse.query import DEFAULT_PAGE, find_query, format_table, main, run_query


def run(*arguments):
    output = io.StringIO()
    return main([str(argument) for argument in arguments], output), output.getvalue()


def test_titles_are_listed_without_an_argument(database):
    status, text = run(database)
    assert status == 0 and text.splitlines() == list(read_queries(DEFAULT_PAGE))


def test_a_query_is_printed_as_a_table(database):
    status, text = run(database, "load imbalance BY layer")
    lines = text.splitlines()
    assert status == 0 and lines[0].split()[:3] == ["run", "layer", "experts"] and set(lines[1]) == {"-", " "}
    assert len(lines) == 2 + 5 and lines[2].startswith("sim-a/text")


def test_csv_has_all_digits(database):
    _, text = run(database, "H2: rank and frequency", "--csv")
    header, first, *_ = text.splitlines()
    assert header == "run,types,slope,r_squared" and len(first.split(",")[3]) > 12


def test_traces_are_found_from_another_folder(database, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    # Another project lies here, and must not be mistaken for the database's own.
    other = tmp_path / "results" / "sim-a" / "text" / "capture" / "heldout-00000.trace.parquet"
    other.parent.mkdir(parents=True)
    other.write_text("not a trace")
    status, text = run(database, "H4: agreement of a token table")
    assert status == 0 and text.count("sim-a/text") == 4
    assert Path.cwd() == tmp_path


def test_an_unknown_title_suggests_the_nearest(database, capsys):
    status, text = run(database, "Load imbalance per layer")
    assert status == 1 and not text
    assert capsys.readouterr().err.splitlines() == [
        "error: no query is called 'Load imbalance per layer'; did you mean 'Load imbalance by layer'?"
    ]


def test_part_of_a_title_is_enough_for_a_suggestion():
    with pytest.raises(VarError, match="did you mean 'The very long title of some query about load'"):
        find_query({"The very long title of some query about load": "SELECT 1"}, "load")
    with pytest.raises(VarError, match="give none to list all"):
        find_query({"A": "SELECT 1"}, "zzzzzz")


def test_a_missing_database_or_page_is_named(tmp_path, database, capsys):
    assert run(tmp_path / "none.duckdb", "Runs")[0] == 1
    assert run(database, "Runs", "--queries", tmp_path / "none.md")[0] == 1
    first, second = capsys.readouterr().err.splitlines()
    assert first == f"error: {tmp_path / 'none.duckdb'}: no such database; run the warehouse stage to build it"
    assert "none.md: no such file" in second


def test_a_file_that_is_no_database_and_missing_traces_are_named(tmp_path, database):
    broken = tmp_path / "broken.duckdb"
    broken.write_bytes(b"nothing like it" * 500)
    with pytest.raises(VarError, match=r"broken\.duckdb: "):
        run_query(broken, "SELECT 1")
    with pytest.raises(VarError, match=r"var\.duckdb: .*trace\.parquet"):
        run_query(database, "SELECT count(*) FROM traces", root=tmp_path)


def test_a_query_cannot_write(database):
    before = database.read_bytes()
    with pytest.raises(Exception, match="read-only"):
        run_query(database, "DELETE FROM runs")
    assert database.read_bytes() == before


def test_tables_are_aligned_with_numbers_to_the_right():
    text = format_table(["name", "value"], [("a", 1.23456789), ("long name", None), ("b\nc", 10)])
    assert text.splitlines() == [
        "name         value",
        "---------  -------",
        "a          1.23457",
        "long name",
        "b\\nc            10",
    ]
    assert format_table(["a", "b"], []).splitlines() == ["a  b", "-  -"]


def test_it_runs_as_a_module(database):
    done = subprocess.run(
        [sys.executable, "-m", "var_core.warehouse.query", str(database), "Runs"],
        capture_output=True, text=True, cwd=DEFAULT_PAGE.parents[1], check=True,
    )  # fmt: skip
    assert "sim-b/web.v1" in done.stdout and not done.stderr
