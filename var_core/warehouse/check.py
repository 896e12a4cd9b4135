"""What a check of a loaded run is."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Check:
    """A query that gives a row for every violation, and the words for one."""

    table: str
    query: str
    message: str
