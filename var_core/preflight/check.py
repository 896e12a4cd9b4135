"""One line of a preflight: what was looked at, how it is, and what to do."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Check:
    """What came of one check.

    Attributes
    ----------
    outcome : str
        ``pass``; ``fail``: the run would fail or wait for ever; ``not checked``: nobody knows.
    name : str
        What was looked at.
    said : str
        What was found, and of what is not ``pass``, what to do.
    """

    outcome: Literal["pass", "fail", "not checked"]
    name: str
    said: str

    def __str__(self) -> str:
        return f"{self.outcome:<11}  {self.name}: {self.said}"


def passed(name: str, said: str) -> Check:
    """All is well."""
    return Check("pass", name, said)


def failed(name: str, said: str) -> Check:
    """Something is to be mended before a run."""
    return Check("fail", name, said)


def unchecked(name: str, said: str) -> Check:
    """It could not be found out."""
    return Check("not checked", name, said)
