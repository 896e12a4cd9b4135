"""The tasks of HumanEval: read strictly, from a file or from the hub, and made into programs."""

import gzip
import json
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from var_core.errors import VarError
from var_core.files import digest_of

HUB_DATASET = "openai/openai_humaneval"
"""Where the hub keeps the original tasks, in the split ``test``."""


@dataclass(frozen=True)
class Task:
    """One task: write the body of a function.

    Attributes
    ----------
    task_id : str
        For example ``"HumanEval/0"``.
    prompt : str
        Imports, signature and docstring.
    entry_point : str
        Name of the function.
    canonical_solution : str
        A body that passes.
    test : str
        Source that defines ``check(candidate)``.
    """

    task_id: str
    prompt: str
    entry_point: str
    canonical_solution: str
    test: str

    def program(self, completion: str) -> str:
        """Source that reaches its last line only if the prompt with this completion passes the tests."""
        return f"{self.prompt}{completion}\n{self.test}\ncheck({self.entry_point})\n"


@dataclass(frozen=True)
class TaskSet:
    """Tasks and where they are from.

    Attributes
    ----------
    tasks : tuple of Task
    source : str
        Name of the file, or of the hub's data set.
    revision : str or None
        Commit of the hub's data set.
    """

    tasks: tuple[Task, ...]
    source: str
    revision: str | None = None

    @property
    def digest(self) -> str:
        """SHA-256 of the tasks themselves: the same from whatever file or hub they come."""
        return digest_of([asdict(task) for task in self.tasks])


def read_tasks(path: Path) -> TaskSet:
    """Read tasks from a ``.jsonl`` or ``.jsonl.gz`` file.

    Raises
    ------
    VarError
        If the file is missing or damaged, or a line is not a task; the message has the number of the line.
    """
    rows = ((f"{path}: line {number}", _row(line, path, number)) for number, line in _lines(path))
    return TaskSet(_tasks(rows, str(path)), path.name)


def fetch_tasks(revision: str, dataset: str = HUB_DATASET, split: str = "test") -> TaskSet:
    """Read tasks from a data set of the hub.

    Parameters
    ----------
    revision : str
        Commit of the data set, in full, so that the tasks are the same next year.
    dataset, split : str, optional
        `dataset` may also be a local folder that ``datasets`` can load.

    Raises
    ------
    VarError
        If the data set cannot be read at this revision, or a row is not a task.
    """
    # Imported here because it takes a second, which no other source should wait for.
    import datasets

    # The library lets through errors of all the packages below it, which have no common class.
    try:
        rows = list(datasets.load_dataset(dataset, split=split, revision=revision))
    except Exception as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise VarError(
            f"{dataset}: cannot be read at revision {revision} (split {split}): {reason}; check the name, the "
            "revision and the connection, or read a local file"
        ) from error
    named = ((f"{dataset}: row {number}", row) for number, row in enumerate(rows, start=1))
    return TaskSet(_tasks(named, dataset), dataset, revision)


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the lines that are not blank, with their numbers from 1."""
    try:
        with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8") as stream:
            for number, line in enumerate(stream, start=1):
                if line.strip():
                    yield number, line
    except FileNotFoundError:
        raise VarError(f"{path}: no such file; give the path of HumanEval.jsonl or HumanEval.jsonl.gz") from None
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise VarError(f"{path}: cannot be read ({error}); get the file again") from None


def _row(line: str, path: Path, number: int) -> Any:
    try:
        return json.loads(line)
    except json.JSONDecodeError as error:
        raise VarError(f"{path}: line {number} is not JSON ({error}); get the file again") from None


def _tasks(rows: Iterable[tuple[str, Any]], source: str) -> tuple[Task, ...]:
    tasks: dict[str, Task] = {}
    for place, row in rows:
        task = _task(place, row)
        if task.task_id in tasks:
            raise VarError(f"{place} has the task_id {task.task_id!r} of an earlier one; remove one of the two")
        tasks[task.task_id] = task
    if not tasks:
        raise VarError(f"{source}: holds no tasks; get the file again")
    return tuple(tasks.values())


def _task(place: str, row: Any) -> Task:
    if not isinstance(row, dict):
        raise VarError(f"{place} is not an object with the fields of a task; get the file again")
    names = [field.name for field in fields(Task)]
    for name in names:
        if not isinstance(row.get(name), str) or not row[name].strip():
            raise VarError(f"{place} has no text in the field {name!r}; get the file again")
    task = Task(**{name: row[name] for name in names})
    if not task.entry_point.isidentifier():
        raise VarError(f"{place} has the entry_point {task.entry_point!r}, which is no name of a function; mend it")
    if f"def {task.entry_point}(" not in task.prompt:
        raise VarError(f"{place} has a prompt that does not define {task.entry_point!r}; mend entry_point or prompt")
    if "def check(" not in task.test:
        raise VarError(f"{place} has a test that does not define check(candidate); mend it")
    return task
