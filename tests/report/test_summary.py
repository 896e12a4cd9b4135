"""What the summary and the terminal say of what predictable routing is worth."""

import csv
import json
from pathlib import Path

import pytest

from var_core.files import read_json
from var_core.hypotheses.results import Verdicts, write_verdicts
from var_core.report import pages
from var_core.report.show import show
from var_core.report.summary import write_summary

VERDICT = {"headline": "It pays on a laptop.", "text": ["Measured: 1.5 times as fast.", "Modelled: off by 5%."]}
NUMBERS = Path(__file__).resolve().parents[2] / pages.NUMBERS


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """A results folder with the demo's verdicts on hypotheses, and one on systems."""
    run = tmp_path / "m" / "c"
    write_verdicts(Verdicts.model_validate(read_json(NUMBERS)["verdicts"]), run / "hypotheses")
    (run / "systems").mkdir()
    (run / "systems" / "verdict.json").write_text(json.dumps(VERDICT))
    (run / "manifest.json").write_text('{"sequence_length": 64}')
    return tmp_path


def summary(run: Path, systems: Path | None) -> str:
    write_summary(run / "hypotheses/verdicts.json", run / "manifest.json", None, None, run / "report", systems=systems)
    return (run / "report" / "summary.md").read_text(encoding="utf-8")


def test_the_summary_says_whether_it_pays_and_how_sure_that_is(results):
    run = results / "m" / "c"
    text = summary(run, run / "systems" / "verdict.json")
    section = text.partition("## What predictable routing is worth\n\n")[2].partition("\n\n## ")[0]
    assert section == "It pays on a laptop.\n\n* Measured: 1.5 times as fast.\n* Modelled: off by 5%."
    assert "predictable routing" not in summary(run, None)
    rows = list(csv.DictReader((run / "report" / "summary.csv").open()))
    assert {row["hypothesis"] for row in rows} == {"H1", "H2", "H3", "H4"}


def test_the_terminal_says_it_too(results):
    printed = show(results)
    assert "m/c: what predictable routing is worth\n\nMeasured: 1.5 times" in printed
    (results / "m" / "c" / "systems" / "verdict.json").unlink()
    assert "predictable routing" not in show(results)
