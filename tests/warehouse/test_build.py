"""The database file: whole or not at all, all runs in it, and usable from anywhere."""

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import duckdb
import pytest

from var_core.errors import VarError
from var_core.warehouse.build import build_warehouse
from var_core.warehouse.files import RunFiles
from var_core.warehouse.schema import TABLE_KEYS

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def runs(results, small, other):
    return [RunFiles.in_results(results, run.model, run.corpus) for run in (small, other)]


@pytest.fixture
def project(simulated_run, tmp_path, monkeypatch):
    """A project folder with one small run, as the working folder."""
    monkeypatch.chdir(tmp_path)
    return simulated_run(layers=2, vocabulary=20, sequences={"capture": 12, "heldout": 6}).write(Path("results"))


def content(path, root=None):
    with duckdb.connect(path, read_only=True) as connection:
        if root:
            connection.execute(f"SET file_search_path = '{root}'")
        return {
            table: connection.execute(f"SELECT * FROM {table}").fetchall()
            for table in (*TABLE_KEYS, "hypotheses", "traces", "shard_token_stats")
        }


def test_two_runs_with_other_experts_k_and_vocabularies_lie_side_by_side(database):
    with duckdb.connect(database, read_only=True) as connection:
        connection.execute(f"SET file_search_path = '{database.parent.parent}'")
        assert connection.execute("SELECT run, experts, top_k, layers FROM runs ORDER BY run").fetchall() == [
            ("sim-a/text", 8, 2, 3),
            ("sim-b/web.v1", 12, 4, 2),
        ]
        tokens = connection.execute("SELECT run, count(*) FROM tokens GROUP BY run ORDER BY run").fetchall()
        assert tokens == [("sim-a/text", 63), ("sim-b/web.v1", 38)]
        experts = connection.execute("SELECT run, max(expert) FROM expert_load GROUP BY run ORDER BY run").fetchall()
        assert experts == [("sim-a/text", 7), ("sim-b/web.v1", 11)]
        traced = connection.execute("SELECT DISTINCT run FROM traces").fetchall()
        assert traced == [("sim-a/text",)]


def test_nothing_but_the_file_is_left(database):
    assert {path.name for path in database.parent.iterdir()} == {"models", "sim-a", "sim-b", "var.duckdb"}


def test_the_same_files_give_the_same_rows_in_the_same_order(runs, database, tmp_path):
    again = tmp_path / "again.duckdb"
    build_warehouse(runs, again, 500, "c0de", threads=2)
    assert content(again) == content(database, root=database.parent.parent)


def test_a_run_is_the_same_alone_and_beside_another(runs, database, tmp_path):
    alone = tmp_path / "alone.duckdb"
    build_warehouse(runs[1:], alone, 500, "c0de")
    together = {
        table: [row for row in rows if row[0] == runs[1].run]
        for table, rows in content(database, root=database.parent.parent).items()
        if table not in ("training", "hypotheses")
    }
    found = content(alone)
    assert found.pop("training") == found.pop("hypotheses") == []
    assert found == together


def test_paths_are_relative_and_traces_are_found_from_elsewhere_with_a_search_path(project, tmp_path, monkeypatch):
    absolute = RunFiles.in_results(tmp_path / "results", project.model, project.corpus)
    build_warehouse([absolute], Path("results/var.duckdb"), 300, "c0de")
    moved = tmp_path / "moved"
    moved.mkdir()
    Path("results").rename(moved / "results")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    with duckdb.connect(moved / "results" / "var.duckdb", read_only=True) as connection:
        assert connection.execute("SELECT count(*) FROM v_token_stats").fetchall()[0][0] > 0
        with pytest.raises(duckdb.IOException):
            connection.execute("SELECT count(*) FROM traces").fetchall()
        connection.execute(f"SET file_search_path = '{moved}'")
        assert connection.execute("SELECT count(*) FROM traces").fetchall() == [(192,)]
        assert connection.execute("SELECT count(DISTINCT shard) FROM shard_token_stats").fetchall() == [(3,)]


def test_a_failing_build_leaves_the_old_file_as_it_was(project, tmp_path):
    output = Path("results/var.duckdb")
    build_warehouse([project], output, 300, "c0de")
    before, beside = output.read_bytes(), sorted(output.parent.iterdir())
    with pytest.raises(VarError, match="no token id"):
        vocabulary = project.vocabulary
        _cut_vocabulary(vocabulary)
        build_warehouse([project], output, 300, "c0de")
    assert output.read_bytes() == before and sorted(output.parent.iterdir()) == beside


def _cut_vocabulary(path):
    import pyarrow.parquet as pq

    pq.write_table(pq.read_table(path).slice(0, 5), path)


def test_a_build_that_is_killed_leaves_the_old_file_and_the_next_one_cleans_up(project, tmp_path):
    output = Path("results/var.duckdb")
    build_warehouse([project], output, 300, "c0de")
    before = output.read_bytes()
    script = textwrap.dedent(
        """
        import sys, time
        from pathlib import Path
        from var_core.warehouse import build
        from var_core.warehouse.files import RunFiles

        def stop_here(connection, run, traced):
            connection.execute("CREATE TABLE ballast AS SELECT range AS i FROM range(100000)")
            print("loaded", flush=True)
            time.sleep(60)

        build.check_run = stop_here
        build.build_warehouse(
            [RunFiles.in_results(Path("results"), "sim-a", "text")], Path("results/var.duckdb"), 300, "c0de"
        )
        """
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, env=environment, text=True) as build:
        assert build.stdout.readline() == "loaded\n"
        assert output.read_bytes() == before
        build.send_signal(signal.SIGKILL)
    left = [path for path in output.parent.iterdir() if path.name.startswith(".var.duckdb.")]
    assert left and output.read_bytes() == before
    build_warehouse([project], output, 300, "c0de")
    assert not [path for path in output.parent.iterdir() if path.name.startswith(".")]
    assert content(output)["runs"]


def test_a_log_that_somebody_left_beside_the_old_file_is_not_replayed_into_the_new(project):
    output = Path("results/var.duckdb")
    build_warehouse([project], output, 300, "c0de")
    script = (
        "import duckdb, os; c = duckdb.connect('results/var.duckdb'); c.execute('SET wal_autocheckpoint = \\'1GB\\'');"
        "c.execute('CREATE TABLE mine AS SELECT 1 AS x'); os._exit(0)"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
    assert Path("results/var.duckdb.wal").exists()
    build_warehouse([project], output, 300, "c0de")
    assert not Path("results/var.duckdb.wal").exists()
    assert content(output)["runs"]


def test_a_reader_keeps_the_file_that_it_opened(project):
    output = Path("results/var.duckdb")
    build_warehouse([project], output, 300, "c0de")
    with duckdb.connect(output, read_only=True) as reader:
        build_warehouse([project], output, 300, "other code")
        assert '"warehouse_code":"c0de"' in reader.execute("SELECT provenance FROM runs").fetchall()[0][0]
    assert '"warehouse_code":"other code"' in content(output)["runs"][0][-1]


def test_too_little_memory_is_told_and_leaves_nothing(project, tmp_path):
    with pytest.raises(VarError, match=r"v\.duckdb: 1 MB are too little to build it \(.*\); give the warehouse"):
        build_warehouse([project], tmp_path / "out" / "v.duckdb", 1, "c0de")
    assert not list((tmp_path / "out").iterdir())


def test_the_same_run_twice_and_no_run_are_refused(project, tmp_path):
    with pytest.raises(VarError, match="sim-a/text is given twice"):
        build_warehouse([project, project], tmp_path / "v.duckdb", 300, "c")
    with pytest.raises(VarError, match="none is given"):
        build_warehouse([], tmp_path / "v.duckdb", 300, "c")
    assert not (tmp_path / "v.duckdb").exists()


def test_training_columns_of_runs_are_united_and_progress_is_told(project, tmp_path, simulated_run, caplog):
    caplog.set_level("INFO", logger="var_core")
    second = simulated_run(model="sim-c", layers=2, vocabulary=20, sequences={"capture": 12, "heldout": 6})
    files = second.write(Path("results"))
    (tmp_path / "results/models/sim-c/training.csv").write_text("step,loss,gradient_norm\n1,2.5,0.25\n")
    build_warehouse([project, files], tmp_path / "v.duckdb", 300, "c")
    with duckdb.connect(tmp_path / "v.duckdb", read_only=True) as connection:
        rows = connection.execute("SELECT run, step, tokens, gradient_norm FROM training ORDER BY run, step").fetchall()
    assert rows == [("sim-a/text", 1, 96, 1), ("sim-a/text", 2, 192, 0.5), ("sim-c/text", 1, None, 0.25)]
    assert "build v.duckdb: 8 of 8 steps" in caplog.text
