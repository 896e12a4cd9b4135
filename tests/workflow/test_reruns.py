"""Every row of the table of reruns, on a finished workflow of two runs; nothing but what the row names may run."""

import re
import shutil
from pathlib import Path

import pytest
import yaml

from workflow_runs.change import changed
from workflow_runs.page import render
from workflow_runs.project import ROOT, SMALL, Project, executed
from workflow_runs.rows import BOTH, JOBS, ROWS, Row

ALL_ROWS = [row for rows in ROWS.values() for row in rows]
TWO_RUNS = {
    "runs": [*SMALL["runs"], {"model": "pinned", "corpus": "own"}],
    "models": {"pinned": {"source": "hub", "repo": "owner/model", "revision": "1" * 40}},
    "corpora": {"own": {"source": "files", "format": "text", "domains": {"prose": ["text/*.txt"]}}},
}
WORDS = {"tiny": {"tiny", "topics"}, "pinned": {"pinned", "own"}}
"""What a job of a run says of itself; the names of model and corpus."""
CONFIGURATION = ("--configfile", "small.yaml", "two.yaml")


@pytest.fixture(scope="module")
def two_runs(project: Project) -> Project:
    """A finished workflow of two runs; the second has files of the first, marked as its own by ``--touch``."""
    results = project.folder / "results"
    (project.folder / "text").mkdir()
    for number in range(5):
        (project.folder / f"text/{number}.txt").write_text(f"Document {number}.")
    (project.folder / "two.yaml").write_text(yaml.safe_dump(TWO_RUNS))
    for source, copy in (
        ("tiny/topics", "pinned/own"),
        ("models/tiny", "models/pinned"),
        ("corpora/topics", "corpora/own"),
    ):
        shutil.copytree(results / source, results / copy)
    (results / "models/pinned/training.csv").unlink()
    result = project.snakemake(*CONFIGURATION, "--touch", "--forceall")
    assert result.returncode == 0, result.stdout + result.stderr
    return project


def name(row: Row) -> str:
    return " ".join((row.change, *row.command))


@pytest.mark.parametrize("row", ALL_ROWS, ids=name)
def test_what_runs_again_is_what_the_table_says(two_runs, row):
    with changed(two_runs.folder, row) as more:
        plan = two_runs.plan(*CONFIGURATION, *more, *split_targets(row.command))
    assert plan.jobs == row.jobs()
    others = {word for run in BOTH if run not in row.runs for word in WORDS[run]}
    assert not [message for message in plan.messages if others & set(re.findall(r"\S+(?=,)|\S+", message))]


def split_targets(command: tuple[str, ...]) -> tuple[str, ...]:
    """Put ``--`` before targets, which an option with several values would take for its own."""
    last = command[-1] if command else ""
    is_target = bool(last) and (len(command) == 1 or command[-2] == "--force")
    return (*command[:-1], "--", last) if is_target else command


def test_the_workflow_has_the_jobs_that_the_table_counts(two_runs):
    counted = {rule: sum(JOBS[run].get(rule, 0) for run in BOTH) for run in BOTH for rule in JOBS[run]}
    assert two_runs.plan(*CONFIGURATION, "--forceall").jobs == counted | {"build_warehouse": 1}


@pytest.mark.parametrize("row", [row for row in ALL_ROWS if row.executed], ids=name)
def test_what_really_runs_is_what_the_table_says(finished, tmp_path, row):
    project = finished.copy(tmp_path)
    before = contents(project, row)
    with changed(project.folder, row) as more:
        configuration = ("--configfile", "small.yaml", *more)
        ran = executed(project.snakemake(*configuration, *split_targets(row.command)))
        assert ran == row.jobs(("tiny",))
        assert project.plan(*configuration, *split_targets(row.command)).jobs == {}
        if row.delete:
            assert project.plan().jobs == {}
            assert contents(project, row) == before


def contents(project: Project, row: Row) -> dict[Path, bytes]:
    """Files that the row deletes."""
    return {path: path.read_bytes() for pattern in row.delete for path in project.folder.glob(pattern)}


def test_the_page_is_the_rows():
    page = ROOT / "docs/reference/reruns.md"
    assert page.read_text(encoding="utf-8") == render(), "run make docs"
