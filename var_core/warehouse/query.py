"""Run a ready query: ``python -m var_core.warehouse.query results/var.duckdb "title"``."""

import argparse
import contextlib
import csv
import difflib
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, TextIO

import duckdb

from var_core.errors import VarError
from var_core.warehouse.queries import read_queries

DEFAULT_PAGE = Path(__file__).resolve().parents[2] / "docs" / "queries.md"


def run_query(database: Path, sql: str, root: Path | None = None) -> tuple[list[str], list[tuple[Any, ...]]]:
    """Run a query on a database file, opened read-only.

    Parameters
    ----------
    database : Path
    sql : str
    root : Path, optional
        Folder that the paths of Parquet files in the database are relative to; by default the one above the
        database's, which is the project's for ``results/var.duckdb``.

    Returns
    -------
    columns : list of str
    rows : list of tuple

    Raises
    ------
    VarError
        If the database is missing or is not one, or a Parquet file that it refers to is missing.
    """
    if not database.exists():
        raise VarError(f"{database}: no such database; run the warehouse stage to build it")
    database = database.resolve()
    # DuckDB looks for relative paths in the working folder first, which may be another project's.
    with contextlib.chdir(root or database.parent.parent):
        try:
            with duckdb.connect(str(database), read_only=True) as connection:
                result = connection.execute(sql)
                return [column[0] for column in result.description or ()], result.fetchall()
        except duckdb.IOException as error:
            raise VarError(f"{database}: {str(error).splitlines()[0]}") from None


def find_query(queries: dict[str, str], title: str) -> str:
    """Give the query with this title, in upper or lower case.

    Raises
    ------
    VarError
        If there is none, with the most similar titles.
    """
    by_folded = {name.casefold(): name for name in queries}
    if (name := by_folded.get(title.casefold())) is not None:
        return queries[name]
    similar = difflib.get_close_matches(title.casefold(), by_folded, n=3, cutoff=0.6)
    similar = similar or [folded for folded in by_folded if title.casefold() in folded][:3]
    hint = f"did you mean {' or '.join(repr(by_folded[s]) for s in similar)}?" if similar else "give none to list all"
    raise VarError(f"no query is called {title!r}; {hint}")


def format_table(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Lay out a result as text: numbers to the right, six significant digits."""
    cells = [[_text(value) for value in row] for row in rows]
    numeric = [all(_is_number(cell) for cell in column) for column in zip(*cells, strict=True)] or [False] * len(
        columns
    )
    widths = [max(map(len, column)) for column in zip(columns, *cells, strict=True)]

    def line(row: Sequence[str]) -> str:
        padded = (c.rjust(w) if n else c.ljust(w) for c, w, n in zip(row, widths, numeric, strict=True))
        return "  ".join(padded).rstrip()

    return "\n".join([line(columns), "  ".join("-" * width for width in widths), *map(line, cells)])


def _text(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.6g}" if isinstance(value, float) else str(value).replace("\n", "\\n")


def _is_number(cell: str) -> bool:
    try:
        float(cell or 0)
    except ValueError:
        return False
    return True


def main(arguments: Sequence[str] | None = None, output: TextIO | None = None) -> int:
    """Entry point of the command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m var_core.warehouse.query", description=__doc__)
    parser.add_argument("database", type=Path, help="the database file, results/var.duckdb")
    parser.add_argument("title", nargs="?", help="title of the query; without it, all titles are listed")
    parser.add_argument("--queries", type=Path, default=DEFAULT_PAGE, help="page with the queries (docs/queries.md)")
    parser.add_argument("--root", type=Path, help="folder that the database was built in (the one above its own)")
    parser.add_argument("--csv", action="store_true", help="print CSV with all digits instead of a table")
    options, output = parser.parse_args(arguments), output or sys.stdout
    try:
        queries = read_queries(options.queries)
        if options.title is None:
            print("\n".join(queries), file=output)
            return 0
        columns, rows = run_query(options.database, find_query(queries, options.title), options.root)
    except VarError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if options.csv:
        csv.writer(output, lineterminator="\n").writerows([columns, *rows])
    else:
        print(format_table(columns, rows), file=output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
