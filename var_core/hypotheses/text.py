"""The verdicts as text that a person reads: a sentence and a table for each hypothesis."""

import textwrap
from collections import Counter
from collections.abc import Iterable

from var_core.hypotheses.meaning import meaning
from var_core.hypotheses.recorded import NOT_TESTED
from var_core.hypotheses.results import CLAIMS, HypothesisName, Result, Verdicts

_WIDTH = 110
_SMALLEST_P = 1e-99
_COLUMNS = ("test", "statistic", "value", "interval", "p", "null", "claim", "verdict", "layers")


def report_text(verdicts: Verdicts) -> str:
    """Write the report: what was asked, what came out, and how far it can be trusted."""
    counts = ", ".join(f"{count:,} {name}" for name, count in verdicts.samples.items())
    parts = [f"Hypotheses of {verdicts.run}", "=" * len(f"Hypotheses of {verdicts.run}"), "", f"{counts}.", ""]
    parts += [_HOW_TO_READ, ""]
    for name in CLAIMS:
        rows = [row for row in verdicts.results if row.hypothesis == name]
        parts += [f"{name}: {CLAIMS[name]}", "-" * (len(name) + 2 + len(CLAIMS[name])), ""]
        parts += [*textwrap.wrap(meaning(verdicts, name), _WIDTH), ""]
        for sentence in sentences(verdicts, name):
            parts += textwrap.wrap(sentence, _WIDTH, initial_indent="* ", subsequent_indent="  ")
        parts += ["", *_table(rows), "", *_notes(rows), ""]
    parts += _transfer_table(verdicts)
    return "\n".join(line.rstrip() for line in parts) + "\n"


_HOW_TO_READ = (
    "A verdict is 'supported' when the whole confidence interval lies on the claimed side of the threshold (and\n"
    "the p-value, adjusted over layers by Benjamini-Hochberg, is small where one is asked for), 'not supported'\n"
    "when it lies on the other side, and 'inconclusive' in between or with too little data. 'null' is what the\n"
    "statistic would be if there were nothing to find. 'layers' are the lowest and highest value of any layer,\n"
    "and how many layers got which verdict."
)


def sentences(verdicts: Verdicts, name: HypothesisName) -> list[str]:
    """Say in words what came out as stated and in the corrected forms, pooled over layers."""
    lines = []
    for row in verdicts.headline():
        if row.hypothesis == name:
            lines.append(f"{row.form[0].upper()}{row.form[1:]}{_variant(row)}: {row.verdict.upper()}. {_numbers(row)}")
    return lines


def _variant(row: Result) -> str:
    return "" if row.variant == row.form else f" ({row.variant})"


def _numbers(row: Result) -> str:
    """One sentence with the row's statistic, interval, threshold, null, p and n."""
    if row.statistic is None and row.note.startswith(NOT_TESTED):
        return f"{row.measure} is {row.note}."
    if row.statistic is None:
        return f"{row.measure} is not defined here ({row.note or 'too little data'})."
    said = f"{row.measure} is {_value(row.statistic)}"
    if row.low is not None and row.high is not None and row.high > row.low:
        said += f" ({100 * (row.confidence or 0):g} % interval {_value(row.low)} to {_value(row.high)})"
    if row.threshold is not None:
        said += f", asked for {row.direction} {_value(row.threshold)}"
    if row.null_mean is not None:
        said += f"; under the null ({row.null}) it is {_value(row.null_mean)}"
    if row.p is not None:
        p = row.p if row.p_adjusted is None else row.p_adjusted
        said += f", p {'= ' if p >= _SMALLEST_P else ''}{_p(p)}"
    return f"{said}. n = {row.n:,} {row.n_unit}{'; ' + row.note if row.note else ''}."


def _table(rows: list[Result]) -> list[str]:
    """One line for each test: its pooled row, and the range over layers."""
    cells = [_COLUMNS]
    for row in (row for row in rows if row.layer is None):
        layers = [each for each in rows if each.layer is not None and _test(each) == _test(row)]
        cells.append(
            (
                row.variant,
                row.measure,
                _value(row.statistic),
                "" if row.low is None or row.low == row.high else f"[{_value(row.low)}, {_value(row.high)}]",
                "" if row.p is None else _p(row.p),
                "" if row.null_mean is None else _value(row.null_mean) + _spread(row),
                "" if row.threshold is None else f"{'>' if row.direction == 'above' else '<'} {_value(row.threshold)}",
                row.verdict,
                _over_layers(layers),
            )
        )
    widths = [max(len(line[column]) for line in cells) for column in range(len(_COLUMNS))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in cells]
    return [lines[0], "  ".join("-" * width for width in widths), *lines[1:]]


def _test(row: Result) -> tuple[str, str]:
    return row.variant, row.measure


def _spread(row: Result) -> str:
    return "" if row.null_sd is None else f" ± {_value(row.null_sd)}"


def _over_layers(rows: list[Result]) -> str:
    known = [row.statistic for row in rows if row.statistic is not None]
    if not known:
        return ""
    verdicts = Counter(row.verdict for row in rows if row.verdict != "reported")
    tally = ", ".join(f"{count} {verdict}" for verdict, count in sorted(verdicts.items()))
    return f"{_value(min(known))} to {_value(max(known))}" + (f"; {tally}" if tally else "")


def _notes(rows: Iterable[Result]) -> list[str]:
    """Notes of the pooled rows that the sentences did not give; rows with the same note share a line."""
    notes: dict[str, list[str]] = {}
    for row in rows:
        if row.layer is None and row.form == "detail" and row.note:
            notes.setdefault(row.note, []).append(f"{row.variant}, {row.measure}")
    lines = []
    for note, tests in notes.items():
        lines += textwrap.wrap(
            f"{'; '.join(tests)}: {note}.", _WIDTH, initial_indent="Note on ", subsequent_indent="  "
        )
    return lines


def _transfer_table(verdicts: Verdicts) -> list[str]:
    """Agreement across domains, pooled over layers."""
    rows = [row for row in verdicts.transfers if row.layer is None]
    domains = list(dict.fromkeys(row.source for row in rows))
    if len(domains) < 2:
        return []
    lines = ["Transfer between domains (rows: the table is from; columns: it is used on; pooled over layers)"]
    lines += ["-" * len(lines[0]), ""]
    for measure in dict.fromkeys(row.measure for row in rows):
        known = {(row.source, row.target): row for row in rows if row.measure == measure}
        width = max(len(domain) for domain in domains) + 2
        lines.append(f"{measure:<{width + 8}}" + "".join(f"{domain:>{width}}" for domain in domains))
        for source in domains:
            values = [known[source, target].agreement for target in domains]
            lines.append(f"{source:<{width + 8}}" + "".join(f"{_value(value):>{width}}" for value in values))
        lines.append("")
    return lines


def _value(value: float | None) -> str:
    """Three or four significant digits, without an exponent where that is readable."""
    if value is None:
        return "-"
    # Adding 0.0 turns -0.0 into 0.0.
    return f"{round(value, 3) + 0.0:.3f}" if abs(value) < 10 else f"{value:,.4g}"


def _p(value: float) -> str:
    """Two significant digits; a p-value that only rounding made 0 is not called 0."""
    return f"{value:.2g}" if value >= _SMALLEST_P else f"< {_SMALLEST_P:g}"
