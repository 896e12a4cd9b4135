"""Building ``var.duckdb``: all runs in one file, written aside and renamed."""

import logging
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import chdir, closing, contextmanager
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import duckdb

from var_core.errors import VarError
from var_core.files import written_aside
from var_core.progress import Progress
from var_core.warehouse.checks import check_run
from var_core.warehouse.files import RunFiles
from var_core.warehouse.load import create_parquet_views, load_large, load_small
from var_core.warehouse.provenance import check_provenance
from var_core.warehouse.schema import comment_all, create_tables, create_views

_LOGGER = logging.getLogger(__name__)


def build_warehouse(
    runs: Sequence[RunFiles],
    output: Path,
    memory_limit_mb: int,
    code: str,
    threads: int = 1,
    root: Path | None = None,
) -> None:
    """Put all runs into one DuckDB file.

    Traces and single shards stay in their Parquet files; the database has views over them, with paths relative to
    `root`, or absolute outside it. The rows and their order depend only on the files.

    Parameters
    ----------
    runs : sequence of RunFiles
        In the order in which they are loaded.
    output : Path
        The database file; replaced when the new one is whole, else left as it is.
    memory_limit_mb : int
        Megabytes that DuckDB may use; what does not fit goes to a folder beside `output` that is removed at the end.
    code : str
        Digest of the stage's code.
    threads : int, optional
        Threads that DuckDB may use.
    root : Path, optional
        Folder with which the database and the files in it can move; by default the working folder. It is the
        process's working folder while the database is built, as it must be where it is used.

    Raises
    ------
    VarError
        If a file is missing or does not belong to its run, a check of the loaded tables fails, or the memory is too
        little.
    """
    root = (root or Path()).absolute()
    runs = [_seen_from(root, files) for files in runs]
    _require_different_names(runs)
    try:
        with (
            _database_aside(output.absolute()) as aside,
            chdir(root),
            closing(_connect(aside, memory_limit_mb, threads)) as connection,
        ):
            _fill(connection, runs, code, f"build {output.name}")
    except duckdb.OutOfMemoryException as error:
        raise VarError(
            f"{output}: {memory_limit_mb} MB are too little to build it ({str(error).splitlines()[0]}); give the "
            "warehouse stage more memory"
        ) from None


def _fill(connection: duckdb.DuckDBPyConnection, runs: Sequence[RunFiles], code: str, title: str) -> None:
    """Load and check all runs, one after another."""
    provenance = {files.run: check_provenance(files) for files in runs}
    with Progress(4 * len(runs), "step", title) as progress:
        create_tables(connection)
        create_parquet_views(connection, runs)
        for files in runs:
            progress.advance(1, f"{files.run}: files checked")
            load_large(connection, files)
            progress.advance(1, f"{files.run}: counts loaded")
            load_small(connection, files, provenance[files.run], code)
            progress.advance(1, f"{files.run}: all loaded")
            check_run(connection, files.run, files.traced_splits)
            progress.advance(1, f"{files.run}: tables checked")
        # In one transaction, for each of some hundred statements would otherwise wait for the disk.
        connection.execute("BEGIN")
        create_views(connection)
        comment_all(connection)
        connection.execute("COMMIT")
        connection.execute("CHECKPOINT")


def _connect(path: Path, memory_limit_mb: int, threads: int) -> duckdb.DuckDBPyConnection:
    return duckdb.connect(
        str(path),
        config={
            "memory_limit": f"{memory_limit_mb}MB",
            "threads": threads,
            "temp_directory": str(_spill_folder(path)),
        },
    )


def _spill_folder(path: Path) -> Path:
    return path.with_name(path.name + ".spill")


def _log_file(path: Path) -> Path:
    """DuckDB's write-ahead log of a database file."""
    return path.with_name(path.name + ".wal")


@contextmanager
def _database_aside(output: Path) -> Iterator[Path]:
    """Give a path for a new database beside `output`, and put it in `output`'s place when the block ends well.

    Nothing else stays behind: no write-ahead log, no spilled data, and nothing of an earlier build that was killed.
    """
    output.parent.mkdir(parents=True, exist_ok=True)
    for left_over in output.parent.glob(f".{output.name}.*.tmp*"):
        _LOGGER.info("removing %s, left by a build that was killed", left_over)
        _remove(left_over)
    with written_aside(output) as aside:
        try:
            yield aside
            if _log_file(aside).exists():
                raise RuntimeError(f"{aside}: DuckDB left a write-ahead log behind")
            # A log beside the old file (left by somebody who wrote to it) must not be replayed into the new one.
            _remove(_log_file(output))
        finally:
            _remove(_log_file(aside))
            _remove(_spill_folder(aside))


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _require_different_names(runs: Sequence[RunFiles]) -> None:
    if not runs:
        raise VarError("runs: none is given, so there is nothing to build a database from")
    names = [files.run for files in runs]
    for name in names:
        if names.count(name) > 1:
            raise VarError(f"runs: {name} is given twice; a run can be in the database once")


def _seen_from(root: Path, files: RunFiles) -> RunFiles:
    """Name the files of a run as they are seen from a folder, and those outside it by their absolute paths."""

    def seen(value: Any) -> Any:
        if isinstance(value, Path):
            path = value.absolute()
            return path.relative_to(root) if path.is_relative_to(root) else path
        if isinstance(value, Mapping):
            return {key: seen(item) for key, item in value.items()}
        return tuple(map(seen, value)) if isinstance(value, tuple) else value

    return replace(files, **{field.name: seen(getattr(files, field.name)) for field in fields(files)})
