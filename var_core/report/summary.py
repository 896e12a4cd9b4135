"""The one-page summary of a run."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from var_core.evaluation.report import classic_lines
from var_core.files import read_json, write_text
from var_core.hypotheses.meaning import meanings
from var_core.hypotheses.results import Verdicts, read_verdicts
from var_core.report.table import as_csv, as_markdown, markdown_table, number


def write_summary(
    verdicts: Path,
    manifest: Path,
    training: Path | None,
    policy: Path | None,
    output: Path,
    tuning: Path | None = None,
    systems: Path | None = None,
) -> None:
    """Write ``summary.md`` and ``summary.csv``.

    Parameters
    ----------
    verdicts : Path
        The run's ``verdicts.json``.
    manifest : Path
        The manifest of its packed corpus.
    training : Path or None
        ``training.json`` of a model that the workflow trained.
    policy : Path or None
        ``verdict.json`` of the policy's evaluation.
    output : Path
        Folder for both files.
    tuning : Path or None, optional
        ``summary.json`` of the search for its settings.
    systems : Path or None, optional
        ``verdict.json`` on what predictable routing is worth.
    """
    results = read_verdicts(verdicts)
    rows = results.headline()
    sections = [
        f"# {results.run}",
        *meanings(results).values(),
        "## Verdicts",
        "Pooled over layers; intervals are at "
        f"{100 * (rows[0].confidence or 0.95):.0f} % confidence, *null* is the same statistic where there is nothing "
        "to find. Rows by layer, notes and methods are in `hypotheses/report.txt` and in the table `hypotheses`.",
        as_markdown(rows),
        *([] if policy is None else _policy(read_json(policy))),
        *([] if tuning is None else _tuning(read_json(tuning))),
        *([] if systems is None else _systems(read_json(systems))),
        "## What it rests on",
        _samples(results, read_json(manifest)),
    ]
    if training is not None:
        sections += ["## The model", _model(read_json(training))]
    sections += ["## Made from", _provenance(results)]
    write_text(output / "summary.md", "\n\n".join(sections) + "\n")
    write_text(output / "summary.csv", as_csv(results.results))


def _samples(results: Verdicts, manifest: dict[str, Any]) -> str:
    counted = [f"* {name.replace('_', ' ')}: {value:,}" for name, value in sorted(results.samples.items())]
    length = manifest["sequence_length"]
    sequences = "as recorded" if length is None else f"{length} tokens"
    return "\n".join([f"* sequence length: {sequences}", *counted])


def _policy(verdict: dict[str, Any]) -> list[str]:
    """What the policy does, beside its controls."""
    parts = [
        "## The routing policy",
        f"{verdict['sentence']}.",
        "On the same held-out text, at each arm the share of decisions without the router (coverage), the agreement "
        "of these with it, and what they cost; what each arm is stands in `evaluation/report.txt`.",
        markdown_table(verdict["arms"]),
        "What the first proof of concept asked:",
        markdown_table(classic_lines(verdict["classic"])),
    ]
    if verdict["gains"]:
        parts += [
            "Held-out set agreement that tables by pairs of tokens gain over tables by token id alone, at equal "
            "coverage:",
            markdown_table(verdict["gains"]),
        ]
    return parts


def _tuning(summary: dict[str, Any]) -> list[str]:
    """What the search for the policy's settings came to."""
    return [
        "## The search for its settings",
        f"{summary['sentence'].capitalize()}. {summary['constraints']}.",
        "Points of the front, estimated by replaying the calibration split and measured in the model on the tuning "
        "split; the chosen one stands in bold.",
        front_table(summary["front"]),
    ]


def _systems(verdict: dict[str, Any]) -> list[str]:
    """What predictable routing is worth, on which hardware, and how sure that is."""
    return [
        "## What predictable routing is worth",
        verdict["headline"],
        "\n".join(f"* {line}" for line in verdict["text"]),
    ]


def front_table(front: Sequence[Mapping[str, Any]]) -> str:
    """Points of a measured front, as Markdown."""
    by_point: dict[str, dict[str, Mapping[str, Any]]] = {}
    for row in front:
        by_point.setdefault(row["point"], {})[row["measure"]] = row
    head = "| point | learned share, estimated | measured | loss difference, estimated | measured |"
    lines = [head, "| --- | --- | --- | --- | --- |"]
    for point, rows in by_point.items():
        share, loss = rows["learned_share"], rows["loss_difference"]
        ends = "" if loss["low"] is None else f" [{number(loss['low'], 4)}, {number(loss['high'], 4)}]"
        name = f"**{point}**" if share["chosen"] else point
        values = [number(each[kind], 4) for each in (share, loss) for kind in ("estimated", "measured")]
        lines.append("| " + " | ".join([name, *values]) + f"{ends} |")
    return "\n".join(lines)


def _model(training: dict[str, Any]) -> str:
    heldout = training["heldout"]
    columns = {"all": heldout, **heldout["domains"]}
    lines = [
        f"Trained by this workflow on {training['tokens']:,} tokens; {training['parameters']:,} parameters. Perplexity "
        f"on {heldout['predicted_tokens']:,} held-out tokens, the same for all three:",
        "",
        "| predictor | " + " | ".join(columns) + " |",
        "| --- |" + " --- |" * len(columns),
    ]
    for predictor in sorted(heldout["perplexity"], key=heldout["perplexity"].__getitem__):
        values = (number(part["perplexity"][predictor], 1) for part in columns.values())
        lines.append(f"| {predictor} | " + " | ".join(values) + " |")
    return "\n".join(lines)


def _provenance(results: Verdicts) -> str:
    entries = [
        f"* {key}: `{value}`" for key, value in sorted(results.provenance.items()) if not isinstance(value, dict)
    ]
    versions = ", ".join(f"{name} {version}" for name, version in sorted(results.versions.items()))
    return "\n".join([*entries, f"* versions: {versions}"])
