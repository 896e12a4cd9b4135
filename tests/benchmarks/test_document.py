import pytest

from var_core.benchmarks.document import Section, as_markdown, as_text, not_run, put, readable
from var_core.benchmarks.timing import figure
from var_core.files import read_json


def section(name, rounds=9, **figures):
    return Section(name, {"cores": 2}, {"rounds": rounds}, figures)


def test_a_section_written_again_replaces_its_own_keys_and_no_others(tmp_path):
    path = tmp_path / "capture.json"
    put(path, section("a", x=figure([1.0, 2.0, 3.0], "ratio", "plain"), gone=figure([1.0], "MB")))
    put(path, section("b", y=not_run("no GPU")))
    put(path, section("a", x=figure([5.0], "ratio", "plain")))
    document = read_json(path)
    assert document["x"] == {
        "median": 5.0, "minimum": 5.0, "maximum": 5.0, "n": 1, "unit": "ratio", "against": "plain",
    }  # fmt: skip
    assert document["y"] == "not run: no GPU"
    assert set(document) == {"x", "y", "sections"}
    assert document["sections"]["a"] == {"environment": {"cores": 2}, "about": {"rounds": 9}, "keys": ["x"]}


def test_the_table_has_every_key_and_says_when_rounds_are_too_few(tmp_path):
    path = tmp_path / "capture.json"
    put(path, section("a", many=figure([0.5] * 9, "ratio", "plain"), none=not_run("no GPU")))
    assert [line.split()[0] for line in as_text(read_json(path)).splitlines()] == ["key", "many", "none"]
    put(path, section("b", 8, few=figure([0.5] * 8, "ratio", "plain")))
    assert as_text(read_json(path)).splitlines()[-1].startswith("figures over fewer than 9 rounds")
    assert as_markdown(read_json(path), "a").splitlines()[2] == "| many | 0.500 | 0.500 | 0.500 | 9 | ratio | plain |"


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0041234, "0.0041"), (0.91234, "0.912"), (12.345, "12.3"), (123456.7, "123,457"), (0, "0.000")],
)
def test_numbers_are_readable(value, text):
    assert readable(value) == text
