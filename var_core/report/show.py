"""Print the verdicts of all runs and where everything is: ``python -m var_core.report.show results``."""

import sys
from pathlib import Path

from var_core.errors import VarError
from var_core.evaluation.report import aligned, classic_lines
from var_core.files import read_json
from var_core.hypotheses.results import read_verdicts
from var_core.report.table import as_text


def show(results: Path) -> str:
    """Return the verdict table of every run under `results`, and the paths of report, figures and database.

    Raises
    ------
    VarError
        If there are no verdicts yet.
    """
    found = sorted(results.glob("*/*/hypotheses/verdicts.json"))
    if not found:
        raise VarError(f"{results}: holds no verdicts; run snakemake first")
    blocks = []
    for path in found:
        verdicts = read_verdicts(path)
        blocks.append(f"{verdicts.run}\n\n{as_text(verdicts.headline())}")
    blocks += [policy_block(path) for path in sorted(results.glob("*/*/evaluation/verdict.json"))]
    blocks += [systems_block(path) for path in sorted(results.glob("*/*/systems/verdict.json"))]
    places = {
        "report": [results / "report.html"],
        "summary": sorted(results.glob("*/*/report/summary.md")),
        "figures": sorted({path.parent for path in results.glob("*/*/figures/*.png")}),
        "DuckDB file": [results / "var.duckdb"],
    }
    lines = [f"{name + ':':<13}{path}" for name, paths in places.items() for path in paths if path.exists()]
    return "\n\n".join([*blocks, "\n".join(lines)])


def policy_block(path: Path) -> str:
    """What the policy of a run does, beside its controls, and in one line."""
    verdict = read_json(path)
    run = "/".join(path.parts[-4:-2])
    tables = [aligned(verdict["arms"]), aligned(classic_lines(verdict["classic"]))]
    parts = [f"{run}: routing policy", *("\n".join(line.rstrip() for line in table) for table in tables)]
    tuning = path.parents[1] / "tuning" / "summary.json"
    if tuning.exists():
        parts.append(f"Its settings: {read_json(tuning)['sentence']}.")
    return "\n\n".join([*parts, f"What VAR can do for {run}: {verdict['sentence']}."])


def systems_block(path: Path) -> str:
    """What predictable routing is worth for a run, in words."""
    verdict = read_json(path)
    run = "/".join(path.parts[-4:-2])
    return "\n\n".join([f"{run}: what predictable routing is worth", *verdict["text"], verdict["headline"]])


def main(arguments: list[str]) -> int:
    """Run the command line; return the exit status."""
    try:
        print(show(Path(arguments[0] if arguments else "results")))
    except VarError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
