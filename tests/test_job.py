"""The surroundings of a stage, in a process of its own as a workflow runs it."""

import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

HEAD = """
import logging, sys, warnings
from var_core.errors import VarError
from var_core.job import logged
from var_core.progress import Progress

with logged(sys.argv[1]):
"""


def run(log: Path, body: str, **streams) -> subprocess.CompletedProcess[str]:
    script = HEAD + "\n".join(f"    {line}" for line in body.splitlines()) + "\n"
    command = [sys.executable, "-c", script, str(log)]
    return subprocess.run(command, text=True, timeout=60, **({"capture_output": True} | streams))


@pytest.fixture
def log(tmp_path):
    return tmp_path / "logs" / "stage.log"


def test_a_stage_that_ends_well_says_nothing(log):
    done = run(log, "logging.getLogger('var_core.stage').debug('detail')")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert log.read_text() == ""


def test_what_the_user_can_mend_is_one_line(log):
    done = run(log, "raise VarError('c.yaml: runs: is missing')")
    assert done.returncode == 1
    assert done.stderr == "error: c.yaml: runs: is missing\n"
    text = log.read_text()
    assert "error: c.yaml: runs: is missing" in text
    assert "Traceback" not in text


def test_a_message_with_line_breaks_and_percent_signs_is_still_one_line(log):
    done = run(log, "raise VarError('a.txt: 5 % of it\\n  is not\\nUTF-8 %s')")
    assert done.stderr == "error: a.txt: 5 % of it is not UTF-8 %s\n"


def test_an_error_raised_for_another_hides_the_other(log):
    done = run(log, "try:\n    int('x')\nexcept ValueError as fault:\n    raise VarError('bad number') from fault")
    assert (done.returncode, done.stderr) == (1, "error: bad number\n")
    assert "Traceback" not in log.read_text()


def test_a_fault_of_the_program_keeps_its_traceback(log):
    done = run(log, "def stage():\n    raise RuntimeError('a bug')\nstage()")
    assert done.returncode == 1
    assert "error: " not in done.stderr.splitlines()[0]
    assert "RuntimeError: a bug" in done.stderr
    text = log.read_text()
    assert "Traceback" in text
    assert "in stage" in text
    assert "RuntimeError: a bug" in text


def test_the_log_holds_records_warnings_and_progress(log):
    body = (
        "logging.getLogger('var_core.stage').info('read 3 files')\n"
        "warnings.warn('old setting')\n"
        "with Progress(4, 'token', 'work') as bar:\n    bar.advance(4)"
    )
    done = run(log, body)
    assert done.returncode == 0
    text = log.read_text()
    assert "INFO var_core.stage: read 3 files" in text
    assert "old setting" in text
    assert "work: 4 of 4 tokens" in text
    # A scheduler keeps standard error: our lines go there too, other libraries' do not.
    assert "read 3 files" in done.stderr
    assert "work: 4 of 4 tokens" in done.stderr
    assert "old setting" not in done.stderr


def test_records_of_other_libraries_stay_in_the_log(log):
    done = run(log, "logging.getLogger('transformers').warning('something')")
    assert done.stderr == ""
    assert "WARNING transformers: something" in log.read_text()


def test_a_second_try_starts_a_new_log(log):
    run(log, "raise VarError('first')")
    run(log, "raise VarError('second')")
    assert "first" not in log.read_text()


def test_on_a_terminal_the_error_is_one_line_too(log):
    master, terminal = pty.openpty()
    try:
        done = run(
            log, "raise VarError('bad number')", capture_output=False, stdout=subprocess.DEVNULL, stderr=terminal
        )
        shown = os.read(master, 10_000).decode()
    finally:
        os.close(terminal)
        os.close(master)
    assert done.returncode == 1
    assert shown.splitlines() == ["error: bad number"]


def test_two_stages_in_one_process_have_a_log_each(log):
    other = log.with_name("other.log")
    script = (
        "import logging, sys\n"
        "from var_core.job import logged\n"
        "for path, word in zip(sys.argv[1:], ('first', 'second')):\n"
        "    with logged(path):\n"
        "        logging.getLogger('var_core.stage').info(word)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(log), str(other)], capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, "first\nsecond\n")
    assert "first" in log.read_text()
    assert "second" not in log.read_text()
    assert "first" not in other.read_text()
    assert "second" in other.read_text()
