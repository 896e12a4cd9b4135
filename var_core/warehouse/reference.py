"""The reference page of tables and views, made from the comments in the database.

``python -m var_core.warehouse.reference results/var.duckdb docs/reference/tables.md``
"""

import sys
from pathlib import Path

import duckdb

from var_core.errors import VarError
from var_core.files import write_text

_OBJECTS = """
SELECT table_name AS name, comment, 'table' AS kind FROM duckdb_tables() WHERE NOT internal
UNION ALL
SELECT view_name, comment, 'view' FROM duckdb_views() WHERE NOT internal
ORDER BY starts_with(name, 'v_'), name
"""
_COLUMNS = """
SELECT column_name, data_type, coalesce(comment, '') FROM duckdb_columns() WHERE table_name = ? AND NOT internal
ORDER BY column_index
"""


def reference_page(connection: duckdb.DuckDBPyConnection) -> str:
    """Describe every table and view with its columns, as Markdown; it depends on the schema only, not on the rows."""
    sections = [
        "<!-- Written by `make docs` from the comments in the database. -->",
        "# Tables and views of var.duckdb",
        "What the names mean is in [definitions](../definitions.md); ready queries are in [queries](../queries.md). "
        "The same comments are in the database itself (`duckdb_tables()`, `duckdb_views()`, `duckdb_columns()`).",
    ]
    for name, comment, kind in connection.execute(_OBJECTS).fetchall():
        columns = connection.execute(_COLUMNS, [name]).fetchall()
        rows = [f"| `{column}` | {data_type} | {_cell(text)} |" for column, data_type, text in columns]
        table = "\n".join(["| column | type | meaning |", "|---|---|---|", *rows])
        sections += [f"## {name}", f"*{kind}.* {comment or ''}".strip(), table]
    return "\n\n".join(sections) + "\n"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def main(arguments: list[str]) -> int:
    """Run the command line; return the exit status."""
    if len(arguments) != 2:
        print("usage: python -m var_core.warehouse.reference DATABASE PAGE", file=sys.stderr)
        return 2
    database, page = map(Path, arguments)
    if not database.is_file():
        raise VarError(f"{database}: no such file; run snakemake first")
    with duckdb.connect(database, read_only=True) as connection:
        write_text(page, reference_page(connection))
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except VarError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
