"""The JSON file that all benchmarks write into, and the table that is printed of it.

Figures stand at its top under their keys; under ``sections`` every benchmark says what it was run with and which keys
are its own, so that one benchmark can be run again without the others.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from var_core.benchmarks.timing import FEWEST_ROUNDS, Figure
from var_core.files import read_json, write_json

SECTIONS = "sections"


@dataclass(frozen=True)
class Section:
    """What one benchmark has to say.

    Attributes
    ----------
    name : str
    environment : dict
        See :func:`var_core.benchmarks.environment.environment`.
    about : dict
        What was run: sizes, inputs, what the keys mean.
    figures : dict
        Key -> figure, or why there is none: ``"not run: ..."``.
    """

    name: str
    environment: dict[str, Any]
    about: dict[str, Any]
    figures: dict[str, Figure | str]


def put(path: Path, section: Section) -> None:
    """Write a section into the file, in place of what it held of that section."""
    document = read_json(path) if path.is_file() else {SECTIONS: {}}
    for key in document[SECTIONS].get(section.name, {}).get("keys", ()):
        document.pop(key, None)
    document |= {key: _record(value) for key, value in section.figures.items()}
    document[SECTIONS][section.name] = {
        "environment": section.environment,
        "about": section.about,
        "keys": list(section.figures),
    }
    write_json(path, document)


def _record(value: Figure | str) -> dict[str, Any] | str:
    return value if isinstance(value, str) else value.record()


def not_run(reason: str) -> str:
    """What stands in place of a figure that could not be measured."""
    return f"not run: {reason}"


def rows(document: Mapping[str, Any], section: str) -> Iterator[tuple[str, ...]]:
    """Rows of a section's figures: key, median, minimum, maximum, n, unit, against."""
    for key in document[SECTIONS][section]["keys"]:
        value = document[key]
        if isinstance(value, str):
            yield key, value, "", "", "", "", ""
        else:
            numbers = (readable(value[name]) for name in ("median", "minimum", "maximum"))
            yield key, *numbers, str(value["n"]), value["unit"], value["against"] or ""


def readable(value: float) -> str:
    """A number with three digits that count, and thousands set apart."""
    if value and abs(value) < 0.01:
        return f"{value:.2g}"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}" if abs(value) >= 10 else f"{value:.3f}"


def too_few_rounds(document: Mapping[str, Any]) -> bool:
    """Whether something was timed in too few rounds to be reported."""
    rounds = [section["about"].get("rounds", FEWEST_ROUNDS) for section in document[SECTIONS].values()]
    return any(number < FEWEST_ROUNDS for number in rounds)


HEADER = ("key", "median", "minimum", "maximum", "n", "unit", "against")


def as_text(document: Mapping[str, Any]) -> str:
    """All figures as an aligned table for a terminal."""
    lines = [HEADER, *(row for section in document[SECTIONS] for row in rows(document, section))]
    measured = [line for line in lines if line[1:2] and not line[1].startswith("not run")]
    widths = [max(len(line[column]) for line in measured) for column in range(len(HEADER))]
    widths[0] = max(len(line[0]) for line in lines)
    text = ["  ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)).rstrip() for line in lines]
    if too_few_rounds(document):
        text.append(f"figures over fewer than {FEWEST_ROUNDS} rounds are no measurement: raise --rounds")
    return "\n".join(text)


def as_markdown(document: Mapping[str, Any], section: str) -> str:
    """One section's figures as a Markdown table."""
    lines = [HEADER, tuple("---" for _ in HEADER), *rows(document, section)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
