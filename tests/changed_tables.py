"""A run with some tables changed, checked as the warehouse checks it."""

import contextlib

import pyarrow as pa
import pyarrow.parquet as pq

from var_core.parquet import read_provenance, write_table
from var_core.warehouse.checks import check_run
from var_core.warehouse.run import open_run


class ChangedTables(contextlib.AbstractContextManager):
    """Change files of a run, by their tables, and check it; then the files are put back."""

    def __init__(self, files, paths):
        self._files, self._paths, self._before = files, paths, {}

    def __call__(self, **changes):
        """Check the run after these changes alone: table -> function from its rows to others."""
        self.__exit__()
        for table, change in changes.items():
            path = self._paths[table]
            self._before[path] = path.read_bytes()
            changed = change(pq.read_table(path).replace_schema_metadata(None))
            write_table(path, changed, read_provenance(path))
        with open_run(self._files) as connection:
            check_run(connection, self._files.run, self._files.traced_splits)

    def __exit__(self, *error):
        for path, content in self._before.items():
            path.write_bytes(content)


def setting(column, change, **where):
    """Change a column of the rows that have the given values; null is None."""

    def changed(table):
        rows = table.to_pylist()
        hit = [row for row in rows if all(row[key] == value for key, value in where.items())]
        assert hit
        for row in hit:
            row[column] = change(row[column])
        return pa.Table.from_pylist(rows, table.schema)

    return changed


def without(**where):
    """Leave out the rows that have the given values."""

    def changed(table):
        kept = [row for row in table.to_pylist() if any(row[key] != value for key, value in where.items())]
        assert len(kept) < len(table)
        return pa.Table.from_pylist(kept, table.schema)

    return changed


def no_rows(table):
    """Leave out all rows."""
    return table.slice(0, 0)
