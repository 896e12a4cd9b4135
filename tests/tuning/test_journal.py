"""The journal on a shared file system: what killed processes leave behind, and several writers at once."""

import json
import logging
import os
import subprocess
import sys
import time
from pathlib import Path

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock

from var_core.errors import VarError
from var_core.tuning.journal import Journal, claiming, mend, quiet

pytestmark = pytest.mark.filterwarnings("ignore:The value of `grace_period`")
ROOT = Path(__file__).parents[2]
WRITER = """
import sys
from pathlib import Path
import optuna
from var_core.tuning.journal import Journal, quiet

journal, name, attributes = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
with quiet():
    study = optuna.load_study(study_name="shared", storage=Journal(journal))
    trial = study.ask()
    for number in range(attributes):
        trial.set_user_attr(f"{name}{number}", number)
"""
WAITER = """
import sys
from optuna.storages.journal import JournalFileSymlinkLock

JournalFileSymlinkLock("folder/journal", 1).acquire()
"""


def begin(path):
    with quiet():
        return optuna.create_study(study_name="shared", storage=Journal(path, 1), load_if_exists=True)


def ran(code, *arguments, **options):
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.Popen([sys.executable, "-c", code, *map(str, arguments)], env=environment, **options)


@pytest.mark.parametrize("torn", [b'{"op_code":4,"worker', b"\x00" * 9000])
def test_a_torn_line_is_cut_off_before_the_next_is_written(tmp_path, torn, caplog):
    path = tmp_path / "journal"
    begin(path).add_trial(optuna.trial.create_trial(value=1.0))
    whole = path.read_bytes()
    path.write_bytes(whole + torn)
    study = begin(path)
    assert [trial.value for trial in study.trials] == [1.0]
    study.add_trial(optuna.trial.create_trial(value=2.0))
    assert path.read_bytes().startswith(whole)
    assert all(json.loads(line) for line in path.read_bytes().splitlines())
    assert [trial.value for trial in begin(path).trials] == [1.0, 2.0]
    assert f"cutting off {len(torn)} bytes" in caplog.text


def test_without_mending_a_torn_line_makes_the_journal_unreadable(tmp_path):
    path = tmp_path / "journal"
    begin(path)
    path.write_bytes(path.read_bytes() + b'{"op_code":4,"worker')
    study = optuna.load_study(
        study_name="shared", storage=JournalStorage(JournalFileBackend(str(path), JournalFileOpenLock(str(path))))
    )
    study.set_user_attr("a", 1)
    with pytest.raises(json.JSONDecodeError):
        study.set_user_attr("b", 1)


@pytest.mark.parametrize(
    ("content", "left"), [(b"", b""), (b"a", b""), (b"a\n", b"a\n"), (b"a\nb", b"a\n"), (b"\n" + b"b" * 10000, b"\n")]
)
def test_mending_leaves_whole_lines(tmp_path, content, left):
    path = tmp_path / "journal"
    path.write_bytes(content)
    mend(path)
    assert path.read_bytes() == left


def test_the_lock_of_a_killed_process_is_taken_over_also_of_a_relative_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = Path("folder/journal")
    study = begin(path)
    Path("folder/journal.lock").touch()
    started = time.monotonic()
    study.set_user_attr("a", 1)
    assert 1 <= time.monotonic() - started < 10
    assert begin(path).user_attrs == {"a": 1}
    assert sorted(each.name for each in tmp_path.joinpath("folder").iterdir()) == ["journal"]


def test_a_symbolic_link_as_the_lock_would_be_waited_for_for_ever(tmp_path):
    """Why Optuna's default is not used; the grace period is one second."""
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "journal").touch()
    (folder / "journal.lock").symlink_to("folder/journal")
    process = ran(WAITER, cwd=tmp_path, stderr=subprocess.DEVNULL)
    try:
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(timeout=6)
    finally:
        process.kill()
        process.wait()


def test_a_killed_process_holds_up_claims_for_the_grace_period(tmp_path):
    path = tmp_path / "journal"
    (tmp_path / "journal.claims.lock").touch()
    started = time.monotonic()
    with claiming(path, 1):
        assert 1 <= time.monotonic() - started < 10
        assert (tmp_path / "journal.claims.lock").exists()
    assert list(tmp_path.iterdir()) == []


def test_two_processes_that_write_at_once_lose_nothing(tmp_path):
    path = tmp_path / "journal"
    begin(path)
    processes = [ran(WRITER, path, name, 150) for name in "ab"]
    assert [process.wait(timeout=120) for process in processes] == [0, 0]
    # Every line can be read, and each process's own trial has all that it wrote.
    assert all(json.loads(line) for line in path.read_text().splitlines())
    written = [trial.user_attrs for trial in begin(path).trials]
    assert sorted(written, key=str) == [{f"{name}{number}": number for number in range(150)} for name in "ab"]


def test_what_is_written_together_is_appended_in_one_go_and_read_by_all(tmp_path):
    path = tmp_path / "journal"
    journal = Journal(path, 1)
    with quiet():
        study = optuna.create_study(study_name="shared", storage=journal)
    trial = study.ask()
    before = path.read_bytes()
    with journal.together():
        assert trial.suggest_float("x", 0, 1) == trial.params["x"]
        trial.set_user_attr("a", 1)
        study.tell(trial, 0.5)
        assert path.read_bytes() == before
    assert [(each.params, each.user_attrs, each.value) for each in begin(path).trials] == [
        (trial.params, {"a": 1}, 0.5)
    ]
    with pytest.raises(ZeroDivisionError), journal.together():
        study.set_user_attr("b", 1)
        raise ZeroDivisionError
    study.set_user_attr("c", 1)
    assert begin(path).user_attrs == {"c": 1}


@pytest.mark.parametrize("content", ["this is\nnot a journal\n", '{"op_code": 77}\n', "[1]\n[2]\n"])
def test_a_file_that_is_no_journal_is_one_line(tmp_path, content):
    path = tmp_path / "journal"
    path.write_text(content)
    with pytest.raises(VarError, match="not readable as a journal of trials") as error:
        Journal(path)
    assert str(path) in str(error.value) and "\n" not in str(error.value)


def test_quiet_is_over_with_its_block(capfd):
    with quiet():
        assert optuna.logging.get_verbosity() == logging.WARNING
        optuna.create_study(sampler=optuna.samplers.TPESampler(multivariate=True, group=True))
    assert capfd.readouterr().err == ""
    assert optuna.logging.get_verbosity() == logging.INFO
