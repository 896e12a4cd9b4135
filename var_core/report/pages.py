"""Pages of the documentation whose numbers come from a run.

``python -m var_core.report.pages record results`` keeps the numbers of the demo run in ``docs/demo/numbers.json``;
``… render`` writes every page from its template in ``docs/templates/`` and those numbers; ``… check`` says which
pages are stale. No number in them is typed by hand.
"""

import math
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jinja2

from var_core.errors import VarError
from var_core.evaluation.report import classic_lines
from var_core.files import read_json, write_json, write_text
from var_core.hypotheses.results import Result, Verdicts, read_verdicts
from var_core.report.summary import front_table
from var_core.report.table import as_markdown, markdown_table, number

ROOT = Path(__file__).resolve().parent.parent.parent
NUMBERS = Path("docs/demo/numbers.json")
FIGURES = ("fast_path_coverage", "frequency_entropy", "policy_quality", "tuning_front", "cache_hits", "break_even")
RULE_GRAPH = Path("docs/demo/rulegraph.mmd")
TEMPLATES = Path("docs/templates")
PAGES = {"README.md.j2": Path("README.md"), "tutorial.md.j2": Path("docs/tutorial.md")}


def record(results: Path, model: str = "demo-moe", corpus: str = "python-stdlib", root: Path = ROOT) -> None:
    """Keep what the pages need of the demo run: its numbers, and the figures that they show, in ``docs/demo/``.

    Parameters
    ----------
    results : Path
        The ``results`` folder of a finished demo run.
    model, corpus : str, optional
        The run.
    root : Path, optional
        The project's root.
    """
    folder = results / model / corpus
    verdicts = read_verdicts(folder / "hypotheses" / "verdicts.json")
    numbers = {
        "verdicts": verdicts.model_copy(update={"curves": ()}).model_dump(mode="json"),
        "documents": read_json(results / "corpora" / corpus / "manifest.json"),
        "corpus": _without_shards(read_json(folder / "corpus" / "manifest.json")),
        "training": read_json(results / "models" / model / "training.json"),
        "policy": read_json(folder / "evaluation" / "verdict.json"),
        "policy_settings": read_json(folder / "policy" / "policy.json")["settings"],
        "certificate": read_json(folder / "policy" / "certificate.json"),
        "tuning": read_json(folder / "tuning" / "summary.json"),
        "systems": {key: read_json(folder / "systems" / "verdict.json")[key] for key in ("text", "headline")},
    }
    write_json(root / NUMBERS, numbers)
    for figure in FIGURES:
        shutil.copyfile(folder / "figures" / f"{figure}.png", root / NUMBERS.parent / f"{figure}.png")


def _without_shards(manifest: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in manifest.items() if key != "shards"}


def page_templates(root: Path = ROOT) -> jinja2.Environment:
    """The templates of generated pages; a name that a template uses and nobody gives is an error."""
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(root / TEMPLATES),
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
        trim_blocks=True,
        lstrip_blocks=True,
        autoescape=False,
    )


def render(root: Path = ROOT) -> dict[Path, str]:
    """Return the text of every page by its path relative to the root."""
    numbers = read_json(root / NUMBERS)
    verdicts = Verdicts.model_validate(numbers["verdicts"])
    environment = page_templates(root)
    environment.filters |= {"number": number, "percent": _percent, "count": lambda value: f"{value:,}", "log": math.log}
    context = {
        **numbers,
        "verdict_table": as_markdown(verdicts.headline()),
        "arm_table": markdown_table(numbers["policy"]["arms"]),
        "classic_table": markdown_table(classic_lines(numbers["policy"]["classic"])),
        "front_table": front_table(numbers["tuning"]["front"]),
        "gain_table": markdown_table(numbers["policy"]["gains"]),
        "row": _finder(verdicts),
        "rule_graph": (root / RULE_GRAPH).read_text(encoding="utf-8").strip(),
    }
    return {page: environment.get_template(name).render(context) for name, page in PAGES.items()}


def _percent(value: float, digits: int = 0) -> str:
    return f"{100 * value:.{digits}f} %"


def _finder(verdicts: Verdicts) -> Callable[..., Result]:
    """Return a function that finds the one row of a hypothesis, test, measure and layer."""

    def row(hypothesis: str, variant: str, measure: str | None = None, layer: int | None = None) -> Result:
        found = [
            result
            for result in verdicts.results
            if (result.hypothesis, result.variant, result.layer) == (hypothesis, variant, layer)
            and measure in (None, result.measure)
        ]
        if len(found) != 1:
            raise VarError(f"{len(found)} rows for {hypothesis}, {variant!r}, {measure!r}, layer {layer}; one needed")
        return found[0]

    return row


def stale(root: Path = ROOT) -> list[Path]:
    """Pages whose text is not what their template and the recorded numbers give."""
    pages = render(root)
    return [p for p, text in pages.items() if not (root / p).is_file() or (root / p).read_text("utf-8") != text]


def main(arguments: list[str]) -> int:
    """Run the command line; return the exit status."""
    match arguments:
        case ["record", results]:
            record(Path(results))
        case ["render"]:
            for page, text in render().items():
                write_text(ROOT / page, text)
        case ["check"]:
            old = stale()
            for page in old:
                print(f"error: {page} is stale; run make docs", file=sys.stderr)
            return 1 if old else 0
        case _:
            print("usage: python -m var_core.report.pages record RESULTS | render | check", file=sys.stderr)
            return 2
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except VarError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
