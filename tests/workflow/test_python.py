"""The stages from plain Python, as the page on it says: its own code block is run."""

import json
import subprocess
import sys

import pytest

from var_core.code_digest import import_closure
from workflow_runs.letters import write_letters
from workflow_runs.project import ROOT

pytestmark = pytest.mark.workflow


@pytest.fixture(scope="module")
def program():
    page = (ROOT / "docs/how-to/python.md").read_text(encoding="utf-8")
    return page.split("```python\n")[1].split("```")[0]


def test_the_page_s_program_makes_a_whole_run_without_snakemake(program, tmp_path):
    write_letters(tmp_path / "text")
    ending = "import sys\nassert 'snakemake' not in sys.modules\n"
    result = subprocess.run(
        [sys.executable, "-c", program + ending], cwd=tmp_path, capture_output=True, text=True, stdin=subprocess.DEVNULL
    )
    assert result.returncode == 0, result.stderr[-3000:]
    assert {line.split()[0] for line in result.stdout.splitlines()} == {"H1", "H2", "H3", "H4", "entries"}
    run = tmp_path / "results/tiny/letters"
    verdicts = json.loads((run / "hypotheses/verdicts.json").read_text(encoding="utf-8"))
    assert verdicts["provenance"]["code"] == "notebook"
    for kind in ("png", "svg", "pdf", "txt"):
        assert (run / f"figures/fast_path_coverage.{kind}").stat().st_size > 0


def test_the_page_calls_what_the_workflow_s_scripts_call(program, tmp_path):
    page = tmp_path / "page.py"
    page.write_text(program)
    stages = ("write_documents", "train_demo_model", "pack_sequences", "capture_shard", "merge_statistics")
    needed = {
        module
        for stage in (*stages, "measure_segments", "test_hypotheses", "draw_figure", "make_policy")
        for module in import_closure(ROOT / f"workflow_scripts/{stage}.py")
    }
    assert needed - set(import_closure(page)) <= {"var_core.job", "var_core.gpus"}, "what only jobs need"
