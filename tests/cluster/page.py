"""The page of faults, made of the records of a test run: ``python -m cluster.page [record]``."""

import json
import sys
from pathlib import Path
from typing import Any

from cluster.record import merged

ROOT = Path(__file__).resolve().parents[2]
SEEN = ROOT / "results/cluster"
RECORDED = ROOT / "docs/reference/cluster-faults.json"
PAGE = ROOT / "docs/reference/cluster-faults.md"
INTRODUCTION = """# Faults on a cluster, and what recovers

Generated from the record of a run of `make test-cluster` (`make docs` writes it anew). Each was done to the workflow on
a real Slurm ({slurm}, {system}; memory limits by {memory_limit}) while shards were being captured and checkpoints had
been written, but for those that concern the start of jobs (memory limit, a partition that does not exist). Passed
means: Snakemake came to its end, or was started again as the [how-to](../how-to/cluster.md) says;
statistics and shards are equal byte for byte to those of the undisturbed run; no file was written by two jobs in turn;
and the words in the second column were there to see. Times are from the start of Snakemake to that, with the profile's
waits shortened (`tests/cluster/project.py`); each test has a limit, and would have failed had anything waited for ever.
"""


def page(record: dict[str, Any]) -> str:
    """The page of a record."""
    lines = [INTRODUCTION.format(**record)]
    tables = {
        "`profiles/slurm`, without accounting": ("slurm", False),
        "`profiles/slurm`, with accounting (slurmdbd)": ("slurm", True),
        "`profiles/slurm-plugin`, with accounting": ("profiles/slurm-plugin", True),
    }
    for title, kind in tables.items():
        rows = [row for row in record["faults"] if (row["profile"], row["accounting"]) == kind]
        lines += [f"## {title}\n", "| fault | what Snakemake shows | what recovers | | s |", "|---|---|---|---|---|"]
        for row in rows:
            passed = "passed" if row["passed"] else "FAILED"
            lines.append(
                f"| {row['fault']} | … {row['shown']} … | {row['recovers']} | {passed} | {row['seconds']:.0f} |"
            )
        lines.append("")
    return "\n".join(lines)


def main(arguments: list[str]) -> None:
    """Take over the record of the last run of the tests, if asked to; write the page."""
    if arguments == ["record"]:
        records = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(SEEN.glob("faults-*.json"))]
        RECORDED.write_text(json.dumps(merged(records), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    PAGE.write_text(page(json.loads(RECORDED.read_text(encoding="utf-8"))), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
