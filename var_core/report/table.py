"""Plain tables of verdicts, for the terminal, for Markdown and for CSV."""

import csv
import io
from collections.abc import Sequence

from var_core.hypotheses.results import Result

HEADER = ("hypothesis", "form", "test", "statistic", "interval", "threshold", "null", "n", "verdict")


def number(value: float | None, digits: int = 3) -> str:
    """Write a number for reading; a dash where there is none."""
    return "-" if value is None else f"{value:.{digits}f}"


def cells(row: Result) -> tuple[str, ...]:
    """Put one result into the columns of :data:`HEADER`."""
    interval = "-" if row.low is None or row.low == row.high else f"{number(row.low)} to {number(row.high)}"
    sign = {"above": "> ", "below": "< ", None: ""}[row.direction]
    threshold = "-" if row.threshold is None else f"{sign}{row.threshold:.3g}"
    return (
        row.hypothesis,
        row.form,
        row.variant,
        number(row.statistic),
        interval,
        threshold,
        number(row.null_mean),
        f"{row.n:,} {row.n_unit}",
        row.verdict,
    )


def as_text(rows: Sequence[Result]) -> str:
    """Align the rows in columns for a terminal."""
    lines = [HEADER, *(cells(row) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(HEADER))]
    return "\n".join("  ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)).rstrip() for line in lines)


def as_markdown(rows: Sequence[Result]) -> str:
    """A Markdown table of the rows."""
    return markdown_table([HEADER, *(cells(row) for row in rows)])


def markdown_table(lines: Sequence[Sequence[str]]) -> str:
    """A Markdown table of cells; the first line is its head."""
    ruled = [lines[0], ["---"] * len(lines[0]), *lines[1:]]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in ruled)


def as_csv(rows: Sequence[Result]) -> str:
    """All fields of the rows, unrounded, as CSV."""
    stream = io.StringIO()
    writer = csv.DictWriter(stream, fieldnames=list(Result.model_fields), lineterminator="\n")
    writer.writeheader()
    writer.writerows(row.model_dump() for row in rows)
    return stream.getvalue()
