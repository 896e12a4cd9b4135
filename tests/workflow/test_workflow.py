"""The real DAG on a very small configuration: it finishes, reruns to nothing, and an edit reruns what uses it."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import duckdb
import pytest
import yaml

from var_core.warehouse.queries import read_queries
from var_core.warehouse.reference import reference_page
from workflow_runs.project import ROOT, SMALL, Project

pytestmark = pytest.mark.workflow


def test_the_whole_dag_makes_what_it_says(project):
    run = project.folder / "results/tiny/topics"
    for name in ("hypotheses/verdicts.json", "hypotheses/report.txt", "report/summary.md", "report/summary.csv"):
        assert (run / name).stat().st_size > 0
    with duckdb.connect(project.folder / "results/var.duckdb", read_only=True) as database:
        query = "SELECT sum(n) FROM token_stats WHERE split = 'capture' AND layer = 0"
        assert 25_000 < database.execute(query).fetchall()[0][0] <= 30_000
        assert database.execute("SELECT count(DISTINCT hypothesis) FROM hypotheses").fetchall() == [(4,)]


def test_a_second_run_has_nothing_to_do(project):
    result = project.snakemake()
    assert result.returncode == 0 and "Nothing to be done" in result.stdout + result.stderr


def test_the_report_is_made_from_the_results(project):
    result = project.snakemake("--report", "results/report.html")
    assert result.returncode == 0, result.stderr[-3000:]
    page = (project.folder / "results/report.html").read_text()
    # The page holds captions as HTML in JSON, so words are compared.
    shown = words(re.sub(r"<[^>]*>|&#?\w+;|\\u[0-9a-f]{4}|\\n", " ", page))
    captions = sorted((project.folder / "results/tiny/topics/figures").glob("*.txt"))
    assert captions
    for caption in captions:
        own = words(caption.read_text(encoding="utf-8"))
        assert re.search(r"\d", own) and own in shown, caption


def words(text: str) -> str:
    return " ".join(re.findall(r"[A-Za-z0-9]+", text))


def fails(project: Project, values: dict, *arguments: str) -> str:
    """Run with other settings; return the one line that says what is wrong."""
    (project.folder / "bad.yaml").write_text(yaml.safe_dump(values))
    result = project.snakemake("--configfile", "bad.yaml", *arguments)
    assert result.returncode != 0
    lines = [line for line in (result.stdout + result.stderr).splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, result.stdout + result.stderr
    return lines[0]


def test_a_misspelt_key_is_one_line(project):
    assert fails(project, SMALL | {"captur": {}}).endswith("captur: unknown key; did you mean capture?")


def test_a_missing_path_is_one_line_and_leaves_nothing(project):
    corpora = SMALL["corpora"] | {
        "mine": {"source": "files", "format": "text", "domains": {"prose": ["no/such/*.txt"]}}
    }
    runs = [{"model": "tiny", "corpus": "mine"}]
    line = fails(project, SMALL | {"corpora": corpora, "runs": runs})
    assert "corpora.mine.domains.prose" in line and "no/such/*.txt" in line
    assert not list((project.folder / "results/corpora/mine").glob("*"))


def test_edited_and_added_text_is_read_again_and_a_key_given_twice_is_refused(project):
    text = project.folder / "text"
    text.mkdir()
    for number in range(60):
        (text / f"{number}.txt").write_text(f"Document {number} says something of its own.")
    corpora = SMALL["corpora"] | {"own": {"source": "files", "format": "text", "domains": {"prose": ["text/*.txt"]}}}
    runs = [{"model": "tiny", "corpus": "own"}]
    (project.folder / "own.yaml").write_text(yaml.safe_dump(SMALL | {"corpora": corpora, "runs": runs}))
    written = ("--configfile", "own.yaml", "--until", "write_documents", "--", "results/corpora/own/manifest.json")
    assert project.snakemake(*written).returncode == 0
    assert project.planned(*written) == set()
    (text / "60.txt").write_text("One more.")
    assert project.planned(*written) == {"write_documents"}
    (text / "60.txt").unlink()
    (text / "3.txt").write_text("Edited.")
    assert project.planned(*written) == {"write_documents"}
    (project.folder / "twice.yaml").write_text("capture: {seed: 1, seed: 2}\n")
    result = project.snakemake("--dry-run", "--configfile", "small.yaml", "twice.yaml")
    assert result.returncode != 0
    assert "twice.yaml:1: not valid YAML (key seed is given twice)" in result.stderr


def test_a_changed_model_folder_is_recorded_again(project):
    results = project.folder / "results/models"
    folder = shutil.copytree(results / "tiny", project.folder / "copied", copy_function=shutil.copyfile)
    models = {"copied": {"source": "folder", "path": "copied"}}
    values = SMALL | {"models": SMALL["models"] | models, "runs": [{"model": "copied", "corpus": "topics"}]}
    (project.folder / "folder.yaml").write_text(yaml.safe_dump(values))
    (results / "copied").mkdir()
    record = Path(shutil.copyfile(results / "tiny/model.json", results / "copied/model.json"))
    dry = ("--configfile", "folder.yaml", "--", "results/models/copied/model.json")
    assert project.planned(*dry) == set()
    later = record.stat().st_mtime + 10
    os.utime(folder / "model.safetensors", (later, later))
    assert project.planned(*dry) == {"fetch_model"}


def test_a_sequence_longer_than_the_model_is_one_line_and_leaves_nothing(project):
    def files():
        folder = project.folder / "results/tiny/topics/corpus"
        return {path.name: path.read_bytes() for path in folder.iterdir()}

    before = files()
    line = fails(project, SMALL | {"sequences": {"length": 128}}, "--", "corpus")
    assert "sequences.length: 128" in line
    assert before and files() == before


def test_the_reference_of_tables_is_the_database_s(project):
    with duckdb.connect(project.folder / "results/var.duckdb", read_only=True) as database:
        assert reference_page(database) == (ROOT / "docs/reference/tables.md").read_text(encoding="utf-8")


def test_every_ready_query_runs_on_the_real_database(project):
    page = ROOT / "docs/queries.md"
    program = [sys.executable, "-m", "var_core.warehouse.query", "--queries", str(page), "results/var.duckdb"]
    for title in read_queries(page):
        command = [*program, title]
        result = subprocess.run(command, cwd=project.folder, capture_output=True, text=True)
        assert result.returncode == 0, result.stderr


def test_every_verdict_can_be_made_again_from_the_database_alone(project):
    """As the tutorial says, run by run, to the last digit."""
    page = (ROOT / "docs/tutorial.md").read_text(encoding="utf-8")
    program = page.split("```python\n")[1].split("```")[0].replace("demo-moe/python-stdlib", "tiny/topics")
    result = subprocess.run(
        [sys.executable, "-c", program], cwd=project.folder, capture_output=True, text=True, stdin=subprocess.DEVNULL
    )
    assert result.stdout.split()[-1:] == ["True"], result.stdout + result.stderr
