from pathlib import Path

from var_core.benchmarks import pages
from var_core.benchmarks.__main__ import main
from var_core.files import read_json, write_json

ROOT = Path(__file__).resolve().parents[2]


def test_the_page_is_not_stale():
    assert not pages.stale(), "run make docs"


def test_an_altered_figure_makes_the_page_stale(tmp_path):
    for name in (Path("docs/templates/benchmarks.md.j2"), pages.NUMBERS):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    assert pages.stale(tmp_path)
    pages.write(tmp_path)
    assert not pages.stale(tmp_path)
    numbers = read_json(tmp_path / pages.NUMBERS)
    numbers["capture_over_causal_lm_forward"]["median"] += 0.1
    write_json(tmp_path / pages.NUMBERS, numbers)
    assert pages.stale(tmp_path)


def test_the_figures_of_a_run_are_kept(tmp_path):
    write_json(tmp_path / "capture.json", {"x": "not run: y", "sections": {}})
    pages.record(tmp_path / "capture.json", tmp_path)
    assert read_json(tmp_path / pages.NUMBERS) == {"x": "not run: y", "sections": {}}


def test_a_figure_that_misses_its_target_is_said_to(tmp_path):
    for name in (Path("docs/templates/benchmarks.md.j2"), pages.NUMBERS):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    numbers = read_json(tmp_path / pages.NUMBERS)
    for rounds, median, said in ((9, 0.89, "**met**"), (9, 0.91, "**not met**"), (8, 0.89, "wanted at most 0.9")):
        numbers["capture_over_causal_lm_forward"]["median"] = median
        for section in numbers["sections"].values():
            section["about"]["rounds"] = rounds
        write_json(tmp_path / pages.NUMBERS, numbers)
        text = pages.render(tmp_path)
        line = next(x for x in text.splitlines() if x.startswith("* `capture_over_causal"))
        assert line.endswith(said)
        assert ("no measurement" in text) == (rounds < 9)


def test_the_command_line_checks_the_page():
    assert main(["check"]) == 0
