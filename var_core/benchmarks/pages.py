"""The page of measured figures in the documentation, written from a recorded run of the benchmarks."""

from pathlib import Path
from typing import Any

from var_core.benchmarks.document import SECTIONS, as_markdown, readable, too_few_rounds
from var_core.files import read_json, write_json, write_text
from var_core.report.pages import ROOT, page_templates

NUMBERS = Path("docs/benchmarks/capture.json")
PAGE = Path("docs/benchmarks.md")
_TEMPLATE = "benchmarks.md.j2"
_MB = 1 << 20


def record(measured: Path, root: Path = ROOT) -> None:
    """Keep the figures of a run for the page."""
    write_json(root / NUMBERS, read_json(measured))


def render(root: Path = ROOT) -> str:
    """Return the text of the page."""
    document = read_json(root / NUMBERS)
    environment = page_templates(root)
    environment.filters |= {"readable": readable, "megabytes": _megabytes}
    context: dict[str, Any] = {
        "figures": {key: value for key, value in document.items() if key != SECTIONS},
        "tables": {section: as_markdown(document, section) for section in document[SECTIONS]},
        "sections": document[SECTIONS],
        "too_few_rounds": too_few_rounds(document),
    }
    return environment.get_template(_TEMPLATE).render(context)


def _megabytes(value: float) -> str:
    return f"{value / _MB:,.0f} MB"


def write(root: Path = ROOT) -> None:
    """Write the page anew."""
    write_text(root / PAGE, render(root))


def stale(root: Path = ROOT) -> bool:
    """Whether the page is not what its template and the recorded figures give."""
    page = root / PAGE
    return not page.is_file() or page.read_text(encoding="utf-8") != render(root)
