"""The workflow as a module of another one, with its own configuration, under a prefix, beside rules of its own."""

import os
import shutil
import subprocess
import sys

import pytest

from workflow_runs.project import ROOT, executed, read_plan

pytestmark = pytest.mark.workflow

OUTER = ROOT / "tests/workflow/outer"


@pytest.fixture(scope="module")
def snakemake(tmp_path_factory):
    """A function that runs the outer workflow, in a folder in which nothing of this project lies."""
    folder = tmp_path_factory.mktemp("outer")
    shutil.copytree(OUTER, folder, dirs_exist_ok=True)
    (folder / "text").mkdir()
    for number in range(60):
        (folder / f"text/{number}.txt").write_text(f"Dear {number},\nI write to say what number {number} says. " * 20)

    def run(*arguments, snakefile=str(ROOT / "Snakefile")):
        # Options that take several values take what follows them.
        command = [sys.executable, "-m", "snakemake", "--cores", "2", "--config", f"var={snakefile}", *arguments]
        environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
        return subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True, stdin=subprocess.DEVNULL
        )

    run.folder = folder
    return run


def test_it_runs_under_the_prefix_and_nothing_lies_elsewhere(snakemake):
    ran = executed(snakemake("--until", "var_merge_statistics"))
    assert ran == {
        "var_write_documents": 1,
        "var_train_demo_model": 1,
        "var_pack_sequences": 1,
        "var_capture_shard": 2,
        "var_capture_traced_shard": 1,
        "var_merge_statistics": 2,
    }
    results = snakemake.folder / "study/routing/results"
    assert (results / "tiny/letters/statistics/heldout/layer_stats.parquet").stat().st_size > 0
    assert sorted(path.name for path in snakemake.folder.iterdir()) == [".snakemake", "Snakefile", "config", "study", "text"]


def test_the_rest_is_planned_and_nothing_that_ran_runs_again(snakemake):
    result = snakemake("--dry-run", "--rerun-incomplete")
    assert result.returncode == 0, result.stderr
    assert "localrules" not in result.stderr
    text = result.stdout + result.stderr
    plan = read_plan(text)
    assert plan.jobs == {}
