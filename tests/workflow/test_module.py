"""The workflow as a module of another one, with its own configuration, under a prefix, beside rules of its own."""

import os
import shutil
import subprocess
import sys

import pytest

from workflow_runs.letters import write_letters
from workflow_runs.project import ROOT, executed, read_plan
from workflow_runs.rows import JOBS, OF_A_RUN, POLICY

pytestmark = pytest.mark.workflow

OUTER = ROOT / "tests/workflow/outer"


@pytest.fixture(scope="module")
def snakemake(tmp_path_factory):
    """A function that runs the outer workflow, in a folder in which nothing of this project lies."""
    folder = tmp_path_factory.mktemp("outer")
    shutil.copytree(OUTER, folder, dirs_exist_ok=True)
    write_letters(folder / "text")

    def run(*arguments):
        command = [
            sys.executable,
            "-m",
            "snakemake",
            "--cores",
            "2",
            "--config",
            f"var={ROOT / 'Snakefile'}",
            *arguments,
        ]
        environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
        return subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True, stdin=subprocess.DEVNULL
        )

    run.folder = folder
    return run


CAPTURED = {
    "var_write_documents": 1,
    "var_train_demo_model": 1,
    "var_pack_sequences": 1,
    "var_capture_traced_shard": 3,
    "var_merge_statistics": 2,
}
ANALYSED = {
    "var_capture_traced_shard": 2,
    "var_measure_segments": 1,
    "var_test_hypotheses": 1,
    **{f"var_{rule}": OF_A_RUN[rule] for rule in POLICY},
    "var_draw_figure": JOBS["tiny"]["draw_figure"],
    "var_write_summary": 1,
    "var_build_warehouse": 1,
    "count_verdicts": 1,
}


@pytest.mark.slow
def test_it_runs_under_the_prefix_and_what_ran_does_not_run_again(snakemake):
    assert executed(snakemake("--until", "var_merge_statistics")) == CAPTURED
    results = snakemake.folder / "study/routing/results"
    assert (results / "tiny/letters/statistics/heldout/layer_stats.parquet").stat().st_size > 0
    assert {path.name for path in snakemake.folder.iterdir()} == {".snakemake", "Snakefile", "config", "study", "text"}
    planned = snakemake("--dry-run")
    assert planned.returncode == 0, planned.stderr
    assert "localrules" not in planned.stderr
    assert read_plan(planned.stdout + planned.stderr).jobs == ANALYSED


@pytest.mark.slow
def test_it_runs_to_the_end_with_figures_and_a_report(snakemake):
    assert snakemake().returncode == 0
    result = snakemake("--report", "report.html")
    assert result.returncode == 0, result.stderr
    figures = snakemake.folder / "study/routing/results/tiny/letters/figures"
    for caption in figures.glob("*.txt"):
        assert caption.with_suffix(".png").stat().st_size > 0
    assert (snakemake.folder / "study/verdicts.txt").exists()
    assert read_plan(snakemake("--dry-run").stdout).jobs == {}


def test_a_misspelt_key_of_the_module_s_configuration_is_one_line(snakemake):
    result = snakemake("--dry-run", "--config", "routing={captur: {}}", f"var={ROOT / 'Snakefile'}")
    assert result.returncode != 0
    lines = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1 and lines[0].endswith("captur: unknown key; did you mean capture?"), result.stderr
