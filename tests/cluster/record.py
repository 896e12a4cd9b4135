"""What the tests saw, fault by fault: a JSON file, of which the documentation's table is made."""

import json
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any


@dataclass
class Row:
    """One fault.

    Attributes
    ----------
    fault, shown, recovers
        What was done, what a user sees (the test looks for it), and what recovers.
    profile, accounting
        What it was done to.
    place
        Of the test: file and line. Workers that run tests beside each other write a record each.
    passed, seconds
        How it went, from the start of Snakemake until the files were compared.
    """

    fault: str
    shown: str
    recovers: str
    profile: str
    accounting: bool
    place: list[str | int]
    passed: bool = False
    seconds: float = 0.0


class Record:
    """Rows in the order of the tests."""

    def __init__(self) -> None:
        self.rows: list[Row] = []

    @contextmanager
    def row(
        self, fault: str, shown: str, recovers: str, *, profile: str, accounting: bool, place: list[str | int]
    ) -> Iterator[Row]:
        """Time a fault, and note whether the block ended well."""
        row = Row(fault, shown, recovers, profile, accounting, place)
        self.rows.append(row)
        start = time.monotonic()
        try:
            yield row
            row.passed = True
        finally:
            row.seconds = round(time.monotonic() - start, 1)

    def write(self, path: Path, slurm: str, memory: str) -> None:
        """Write all rows, and what they were seen on."""
        path.parent.mkdir(parents=True, exist_ok=True)
        value = {
            "slurm": slurm,
            "system": platform.freedesktop_os_release()["PRETTY_NAME"],
            "memory_limit": memory,
            "faults": [asdict(row) for row in self.rows],
        }
        path.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def merged(records: list[dict[str, Any]]) -> dict[str, Any]:
    """One record of those of several workers: each has an undisturbed run of its own, of which the slowest counts."""
    rows: dict[tuple[str, int], dict[str, Any]] = {}
    for row in (row for record in records for row in record["faults"]):
        place = tuple(row["place"])
        rows[place] = max(row, rows.get(place, row), key=lambda one: (not one["passed"], one["seconds"]))
    return records[0] | {"faults": [rows[place] for place in sorted(rows)]}
