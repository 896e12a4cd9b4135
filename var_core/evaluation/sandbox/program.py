"""What a program may use in the sandbox, and what became of it."""

from dataclasses import dataclass
from enum import StrEnum

from var_core.errors import VarError


@dataclass(frozen=True)
class Limits:
    """What one program, with all processes it starts, may use.

    Attributes
    ----------
    wall_seconds : float
        From the start of the sandbox to its end.
    cpu_seconds : int
        Processor time of each process.
    memory_bytes : int
        Address space of each process, and resident memory of all of them together; the sum is looked at 20 times a
        second, so that it can be passed for a moment.
    processes : int
        Processes and threads at one time.
    file_bytes : int
        Size of each file.
    scratch_bytes : int
        All files together.
    output_bytes : int
        Standard output and standard error together.
    """

    wall_seconds: float = 10.0
    cpu_seconds: int = 10
    memory_bytes: int = 1 << 30
    processes: int = 32
    file_bytes: int = 16 << 20
    scratch_bytes: int = 32 << 20
    output_bytes: int = 1 << 20

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not value > 0:
                raise VarError(f"sandbox limit {name}: {value} is not positive; set it above 0")


class Outcome(StrEnum):
    """How a program ended."""

    PASSED = "passed"
    """Its last line was reached, and it ended with status 0."""
    FAILED = "failed"
    """An exception, a status other than 0, or an end before the last line."""
    TIMED_OUT = "timed out"
    """The limit on wall time or on processor time."""
    OUT_OF_MEMORY = "out of memory"
    """A ``MemoryError`` that reached the top, or the limit on all processes together."""
    TOO_MUCH_OUTPUT = "too much output"
    KILLED = "killed"
    """A signal, sent by itself or by the system."""


@dataclass(frozen=True)
class ProgramResult:
    """What became of a program.

    Attributes
    ----------
    outcome : Outcome
    status : int or None
        Exit status, minus the number of a signal, or None where the sandbox was ended before the program ended.
    output : str
        The last lines of standard output and standard error.
    seconds : float
        Wall time with the sandbox built and taken down.
    """

    outcome: Outcome
    status: int | None
    output: str
    seconds: float

    @property
    def passed(self) -> bool:
        """Whether the last line of the program was reached."""
        return self.outcome is Outcome.PASSED
