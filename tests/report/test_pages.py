import subprocess
import sys
from pathlib import Path

import pytest

from var_core.errors import VarError
from var_core.files import read_json
from var_core.hypotheses.results import Verdicts
from var_core.report import pages
from var_core.report.rulegraph import normalised

ROOT = Path(__file__).resolve().parents[2]


def test_no_page_is_stale():
    assert pages.stale() == [], "run make docs"


def test_an_altered_number_makes_its_pages_stale(tmp_path):
    for name in ("docs/templates", "docs/demo"):
        (tmp_path / name).mkdir(parents=True)
        for path in (ROOT / name).iterdir():
            (tmp_path / name / path.name).write_bytes(path.read_bytes())
    for page, text in pages.render(tmp_path).items():
        (tmp_path / page).write_text(text, encoding="utf-8")
    assert pages.stale(tmp_path) == []
    numbers = read_json(tmp_path / pages.NUMBERS)
    numbers["training"]["heldout"]["perplexity"]["model"] += 1
    pages.write_json(tmp_path / pages.NUMBERS, numbers)
    assert pages.stale(tmp_path) == [Path("README.md"), Path("docs/tutorial.md")]


def test_a_number_that_is_not_there_is_an_error_not_a_gap():
    verdicts = Verdicts.model_validate(read_json(ROOT / pages.NUMBERS)["verdicts"])
    with pytest.raises(VarError, match="0 rows for H9"):
        pages._finder(verdicts)("H9", "as stated")


@pytest.mark.workflow
def test_the_rule_graph_is_the_workflow_s():
    command = [sys.executable, "-m", "snakemake", "--rulegraph", "mermaid-js"]
    printed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=True)
    assert normalised(printed.stdout) == (ROOT / pages.RULE_GRAPH).read_text(encoding="utf-8")
