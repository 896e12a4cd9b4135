"""One run's files as a database in memory, with the tables and views of the warehouse."""

import tempfile
import uuid
from pathlib import Path

import duckdb

from var_core.warehouse.files import RunFiles
from var_core.warehouse.load import create_parquet_views, load_small, statistics_query
from var_core.warehouse.provenance import check_provenance
from var_core.warehouse.schema import comment_all, create_tables, create_views


def open_run(files: RunFiles, memory_limit_mb: int = 2000, threads: int = 1) -> duckdb.DuckDBPyConnection:
    """Open the files of one run as an in-memory DuckDB.

    It has the tables and views of ``var.duckdb`` for this run alone. ``token_stats``, ``expert_counts``, ``traces``
    and those of single shards are views over the Parquet files, so opening costs little, and the files must stay
    where they are while the connection is used.

    Parameters
    ----------
    files : RunFiles
    memory_limit_mb : int, optional
        Megabytes that DuckDB may use; what does not fit goes to a folder of the system's temporary folder, which
        DuckDB removes when the connection is closed.
    threads : int, optional
        With one thread, floating-point sums in users' own queries come out the same every time.

    Returns
    -------
    duckdb.DuckDBPyConnection
        The caller closes it.

    Raises
    ------
    VarError
        If a file is missing or does not belong to the run.
    """
    provenance = check_provenance(files)
    spill = Path(tempfile.gettempdir()) / f"var-duckdb-{uuid.uuid4().hex}"
    connection = duckdb.connect(
        ":memory:",
        config={"memory_limit": f"{memory_limit_mb}MB", "threads": threads, "temp_directory": str(spill)},
    )
    try:
        create_tables(connection)
        for kind in ("token_stats", "expert_counts"):
            connection.execute(f"DROP TABLE {kind}")
            connection.execute(f"CREATE VIEW {kind} AS {statistics_query(files, kind)}")
        load_small(connection, files, provenance, code="")
        create_parquet_views(connection, [files])
        create_views(connection)
        comment_all(connection)
    except BaseException:
        connection.close()
        raise
    return connection
