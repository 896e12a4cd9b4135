"""The page of reruns, written from the rows that are tested.

``PYTHONPATH=tests python -m workflow_runs.page docs/reference/reruns.md``
"""

import sys
from pathlib import Path

from var_core.files import write_text
from workflow_runs.rows import BOTH, JOBS, POLICY, ROWS, VERDICTS, Row

_HEAD = "| I change | command | what runs | of | because |\n|---|---|---|---|---|"

_SHARDS = JOBS["tiny"]["capture_traced_shard"]

_INTRODUCTION = f"""Each row is a test (`tests/workflow/test_reruns.py`): the rules named run, and no other does.
Rows with a star are not only planned there but run. The workflow of the tests has finished, and has two runs of
{_SHARDS} shards each: `tiny` on `topics`, a model that the workflow trains on text of Python's, and `pinned` on `own`,
a model of the hub at a commit on local text files. `snakemake -n` says the same of your own, with reasons.

*Policy, evaluation and systems* are {", ".join(f"`{rule}`" for rule in POLICY)};
*verdicts and after* are {", ".join(f"`{rule}`" for rule in VERDICTS)};
`build_warehouse` is one job over all runs."""

_NOTES = """## What is compared

* **Settings**: each rule has the settings that change its results among its parameters, and no others.
* **Code**: a digest of what runs in the script and in every module of `var_core` that it imports is a parameter too.
* **Files**: by time, then by checksum up to `--max-checksum-file-size` (1 MB unless it is set). After a copy that does
  not keep times, raise it, or run `snakemake --touch` once.
* **Scripts**: also by time, whatever their content. `--rerun-triggers mtime params input software-env`, on the command
  line or as `rerun-triggers` in a profile, leaves that out; edits are found by the digest.
* **What is missing** is made again when something that is asked for needs it. So a deleted shard is made again by
  `snakemake capture`, not by `snakemake` while the statistics merged from it are up to date. Files come out byte for
  byte the same, so nothing runs after that; shards over the size above have only their time compared: raise it then."""


def render() -> str:
    """Write the page."""
    parts = [
        "<!-- Written by `make docs` from the rows that are tested (tests/workflow_runs/rows.py). -->",
        "# What runs again",
        _INTRODUCTION,
    ]
    for title, rows in ROWS.items():
        parts += [f"## {title}", "\n".join([_HEAD, *map(_line, rows)])]
    return "\n\n".join([*parts, _NOTES]) + "\n"


def _line(row: Row) -> str:
    star = " \\*" if row.executed else ""
    command = " ".join(("snakemake", *row.command))
    runs = "" if not row.rules else "each run" if row.runs == BOTH else f"`{row.runs[0]}`"
    return f"| {row.change}{star} | `{command}` | {_rules(row)} | {runs} | {row.why} |"


def _rules(row: Row) -> str:
    left, together = list(row.rules), []
    for title, group in (("policy, evaluation and systems", POLICY), ("verdicts and after", VERDICTS)):
        if set(group) <= set(left):
            left = [rule for rule in left if rule not in group]
            together.append(title)
    names = [*(_counted(row, rule) for rule in left), *together]
    return ", ".join(names) or "nothing"


def _counted(row: Row, rule: str) -> str:
    every = sum(JOBS[run].get(rule, 0) for run in BOTH)
    return f"`{rule}` ({row.part[rule]} of {every})" if rule in row.part else f"`{rule}`"


if __name__ == "__main__":
    write_text(Path(sys.argv[1]), render())
