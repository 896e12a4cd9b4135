"""Make a row's change in a project, and undo it."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import yaml

from workflow_runs.rows import Row


@contextmanager
def changed(folder: Path, row: Row) -> Iterator[tuple[str, ...]]:
    """Change files as the row says, give the names of further configuration files, and put everything back."""
    kept = folder / "kept"
    paths = [path for pattern in (*row.append, *row.touch, *row.delete) for path in _matching(folder, pattern)]
    for path in paths:
        copy = kept / path.relative_to(folder)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(path, copy)
    try:
        _change(folder, row)
        (folder / "change.yaml").write_text(yaml.safe_dump(dict(row.settings)))
        yield ("change.yaml",) if row.settings else ()
    finally:
        for path in paths:
            shutil.move(kept / path.relative_to(folder), path)
        for name in row.add:
            (folder / name).unlink()


def _change(folder: Path, row: Row) -> None:
    for name, text in row.append.items():
        with (folder / name).open("a", encoding="utf-8") as file:
            file.write(text)
    for name, text in row.add.items():
        (folder / name).write_text(text, encoding="utf-8")
    for pattern in row.touch:
        for path in _matching(folder, pattern):
            os.utime(path)
    for pattern in row.delete:
        for path in _matching(folder, pattern):
            path.unlink()


def _matching(folder: Path, pattern: str) -> list[Path]:
    found = [path for path in folder.glob(pattern) if path.is_file()]
    assert found, f"{pattern}: no such file"
    return found
