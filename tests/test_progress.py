import logging
import re
import time

import pytest

from var_core import progress
from var_core.progress import Progress

LINE = re.compile(
    r"(?P<what>.+): (?P<done>\d+) of (?P<total>\d+) tokens \((?P<share>\d+) %\), "
    r"(?P<rate>\S+) tokens/s, (?P<left>.+?) to go(, (?P<note>.+))?"
)


def lines(caplog: pytest.LogCaptureFixture) -> list[re.Match[str]]:
    found = [LINE.fullmatch(record.getMessage()) for record in caplog.records if record.name == "var_core.progress"]
    assert all(found), [record.getMessage() for record in caplog.records]
    return found


@pytest.fixture(autouse=True)
def _info(caplog):
    caplog.set_level(logging.INFO, logger="var_core.progress")


def test_the_last_line_says_that_all_is_done(caplog):
    with Progress(200, "token", "capture m/c heldout 1") as bar:
        bar.advance(150)
        bar.advance(50)
    (line,) = lines(caplog)
    assert line["what"] == "capture m/c heldout 1"
    assert (line["done"], line["total"], line["share"], line["left"]) == ("200", "200", "100", "0 s")


def test_the_rate_is_work_by_time(caplog):
    start = time.monotonic()
    with Progress(1000, "token", "work") as bar:
        time.sleep(0.1)
        bar.advance(300)
    seconds = time.monotonic() - start
    rate = float(lines(caplog)[0]["rate"])
    assert 0.9 * 300 / seconds <= rate <= 300 / 0.1


def test_the_remaining_time_is_the_remaining_work_by_the_rate(caplog):
    with Progress(100_000, "token", "work") as bar:
        time.sleep(0.1)
        bar.advance(10)
    line = lines(caplog)[0]
    minutes, seconds = re.fullmatch(r"(\d+) min (\d+) s", line["left"]).groups()
    assert 60 * int(minutes) + int(seconds) == pytest.approx((100_000 - 10) / float(line["rate"]), rel=0.02)


def test_work_of_an_earlier_process_does_not_count_into_the_rate(caplog):
    with Progress(1_000_000, "token", "resumed", done=900_000) as bar:
        time.sleep(0.1)
        bar.advance(100)
    line = lines(caplog)[0]
    assert line["done"] == "900100"
    assert float(line["rate"]) <= 100 / 0.1


def test_a_resumed_job_with_nothing_left_has_nothing_to_go(caplog):
    with Progress(10, "token", "resumed", done=10):
        pass
    assert lines(caplog)[0]["left"] == "0 s"


def test_before_any_work_the_remaining_time_is_unknown(caplog):
    with Progress(10, "token", "work"):
        pass
    assert lines(caplog)[0]["left"] == "unknown time"


def test_no_work_at_all_is_all_done(caplog):
    with Progress(0, "token", "work"):
        pass
    assert (lines(caplog)[0]["share"], lines(caplog)[0]["left"]) == ("100", "0 s")


def test_lines_come_at_intervals_and_not_with_every_step(caplog, monkeypatch):
    monkeypatch.setattr(progress, "_SECONDS_BETWEEN_LINES", 0.05)
    with Progress(10_000, "token", "work") as bar:
        start = time.monotonic()
        while time.monotonic() - start < 0.3:
            bar.advance(1, note="loss 2.5")
            time.sleep(0.001)
    between = lines(caplog)[:-1]
    assert 2 <= len(between) <= 6
    assert {line["note"] for line in between} == {"loss 2.5"}


def test_a_failure_is_no_progress(caplog):
    with pytest.raises(RuntimeError), Progress(10, "token", "work") as bar:
        bar.advance(1)
        raise RuntimeError
    assert lines(caplog) == []


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.2, "0 s"),
        (59.4, "59 s"),
        (59.6, "1 min 0 s"),
        (125, "2 min 5 s"),
        (3599.9, "1 h 0 min"),
        (8100, "2 h 15 min"),
    ],
)
def test_durations_are_written_in_two_units(seconds, words):
    assert progress.duration(seconds) == words


@pytest.mark.parametrize(
    ("rate", "words"), [(123456.7, "123457"), (10, "10"), (2.345, "2.3"), (0.0123, "0.012"), (0, "0")]
)
def test_slow_rates_keep_their_digits(rate, words):
    assert progress._rate(rate) == words


def test_a_terminal_shows_a_bar(capsys, monkeypatch):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    with Progress(10, "token", "training") as bar:
        bar.advance(10, note="loss 2.5")
    assert "training" in capsys.readouterr().err
