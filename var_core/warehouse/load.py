"""Reading the files of one run into the tables of the warehouse."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from var_core.errors import VarError
from var_core.files import canonical_json, read_json
from var_core.statistics.tables import SCHEMAS
from var_core.traces.schema import TRACE
from var_core.warehouse.files import RunFiles
from var_core.warehouse.schema import comment_on_column, identifier, literal, sql_file

Connection = duckdb.DuckDBPyConnection
Relation = duckdb.DuckDBPyRelation

_SQL_TYPES = {
    "string": "VARCHAR",
    "int16": "SMALLINT",
    "int32": "INTEGER",
    "int64": "BIGINT",
    "float": "FLOAT",
    "double": "DOUBLE",
}
_NUMBERS = frozenset({"tinyint", "smallint", "integer", "bigint", "float", "double"})


def statistics_query(files: RunFiles, kind: str) -> str:
    """SQL that gives the rows of a merged statistics table of a run, with ``run`` and ``split`` in front."""
    return _union(
        _from_parquet(files.run, split, SCHEMAS[kind].names, [files.statistics_file(split, kind)])
        for split in files.statistics
    )


def create_parquet_views(connection: Connection, runs: Sequence[RunFiles]) -> None:
    """Create ``traces`` and the views on single shards over the Parquet files of all `runs`.

    The files are not copied: the database holds their paths, as they are in `runs`. ``shard_expert_counts`` is
    there only when a run names such files.
    """
    _create_view(connection, "traces", TRACE, [(files.run, files.traces) for files in runs], by_shard=False)
    token_stats = [(files.run, files.shard_token_stats) for files in runs]
    _create_view(connection, "shard_token_stats", SCHEMAS["token_stats"], token_stats, by_shard=True)
    expert_counts = [(files.run, files.shard_expert_counts) for files in runs]
    if any(paths for _, by_split in expert_counts for paths in by_split.values()):
        _create_view(connection, "shard_expert_counts", SCHEMAS["expert_counts"], expert_counts, by_shard=True)
        connection.execute(
            "COMMENT ON VIEW shard_expert_counts IS 'A row a (split, shard, domain, layer, token id, expert): "
            "expert_counts before shards were merged; read from the shards'' files when queried, as traces is.'"
        )


def load_large(connection: Connection, files: RunFiles) -> None:
    """Copy ``token_stats`` and ``expert_counts`` of a run into their tables."""
    for kind in ("token_stats", "expert_counts"):
        connection.execute(f"INSERT INTO {kind} {statistics_query(files, kind)}")


def load_small(connection: Connection, files: RunFiles, provenance: Mapping[str, Mapping[str, Any]], code: str) -> None:
    """Fill all other tables for a run; ``token_stats`` must be there already.

    Parameters
    ----------
    connection : duckdb.DuckDBPyConnection
    files : RunFiles
    provenance : mapping
        Split -> provenance record of its statistics, as :func:`~var_core.warehouse.provenance.check_provenance`
        gives it.
    code : str
        Digest of the code that builds the database; kept in ``runs.provenance``.

    Raises
    ------
    VarError
        If a token id is not in the vocabulary, or a record lacks what is needed.
    """
    connection.execute(f"CREATE TEMP VIEW loaded_layer_stats AS {statistics_query(files, 'layer_stats')}")
    connection.execute(sql_file("load.sql"))
    connection.execute("DROP VIEW loaded_layer_stats")
    _load_layers(connection, files.run, next(iter(provenance.values())))
    _load_tokens(connection, files)
    _load_run(connection, files, provenance, code)
    if files.documents is not None:
        connection.execute(
            'INSERT INTO documents SELECT $run, document, name, "group", domain, split '
            f"FROM read_parquet({literal(str(files.documents))}) ORDER BY document",
            {"run": files.run},
        )
    if files.segments is not None:
        connection.execute(
            "INSERT INTO segments SELECT $run, split, domain, layer, window_length, uses, cells "
            f"FROM read_parquet({literal(str(files.segments))}) ORDER BY ALL",
            {"run": files.run},
        )
    if files.training is not None:
        rows = connection.read_csv(str(files.training))
        _load_open_table(connection, files.run, "training", files.training, rows)
    if files.verdicts is not None:
        rows = connection.read_parquet(str(files.verdicts))
        _load_open_table(connection, files.run, "hypotheses", files.verdicts, rows)
    for table, path in (*files.evaluation.items(), *files.tuning.items(), *files.systems.items()):
        _load_table(connection, files.run, table, path)


def _load_layers(connection: Connection, run: str, record: Mapping[str, Any]) -> None:
    connection.executemany(
        "INSERT INTO layers VALUES (?, ?, ?, ?, ?)",
        [(run, site["layer"], site["path"], site["experts"], site["top_k"]) for site in record["sites"]],
    )


def _load_tokens(connection: Connection, files: RunFiles) -> None:
    counted = """
        SELECT token_id, sum(n) AS n FROM token_stats
        WHERE run = $run AND split = '{split}' AND layer = (SELECT min(layer) FROM layers WHERE run = $run)
        GROUP BY token_id
    """
    connection.execute(
        f"""
        INSERT INTO tokens
        SELECT $run, token_id, token, special, coalesce(c.n, 0), coalesce(h.n, 0)
        FROM read_parquet({literal(str(files.vocabulary))})
        LEFT JOIN ({counted.format(split="capture")}) AS c USING (token_id)
        LEFT JOIN ({counted.format(split="heldout")}) AS h USING (token_id)
        ORDER BY token_id
        """,
        {"run": files.run},
    )
    unknown = connection.execute(
        "SELECT token_id FROM token_stats ANTI JOIN tokens USING (run, token_id) WHERE run = $run "
        "ORDER BY token_id LIMIT 1",
        {"run": files.run},
    ).fetchall()
    for (token_id,) in unknown:
        raise VarError(
            f"{files.vocabulary}: has no token id {token_id}, which run {files.run} counts in table token_stats; "
            "run the corpus stage again"
        )


def _load_run(connection: Connection, files: RunFiles, provenance: Mapping[str, Mapping[str, Any]], code: str) -> None:
    record, model = next(iter(provenance.values())), read_json(files.model_record)
    if model.get("digest") != record["model"]["digest"]:
        raise VarError(
            f"{files.model_record}: has digest {model.get('digest')}, but the statistics of run {files.run} are of a "
            f"model with digest {record['model']['digest']}; run the capture stage again"
        )
    sources = {
        "statistics": dict(provenance),
        "model": model,
        "corpus": read_json(files.corpus_manifest),
        "warehouse_code": code,
    }
    tokens = connection.execute(
        """
        SELECT coalesce(sum(tokens + coalesce(nonfinite, 0) + dropped) FILTER (split = 'capture'), 0),
            coalesce(sum(tokens + coalesce(nonfinite, 0) + dropped) FILTER (split = 'heldout'), 0)
        FROM decisions WHERE run = $run AND layer = (SELECT min(layer) FROM layers WHERE run = $run)
        """,
        {"run": files.run},
    ).fetchall()[0]
    plan = provenance.get("capture", record)
    values = (
        files.run,
        files.model,
        files.corpus,
        model.get("source"),
        record["model"].get("revision"),
        record["model"]["digest"],
        record["corpus"].get("digest"),
        plan["plan"],
        len(record["sites"]),
        max(site["experts"] for site in record["sites"]),
        max(site["top_k"] for site in record["sites"]),
        record["sequence_length"],
        *tokens,
        canonical_json(sources),
    )
    connection.execute(f"INSERT INTO runs VALUES ({', '.join('?' * len(values))})", values)


def _load_table(connection: Connection, run: str, table: str, path: Path) -> None:
    """Insert the rows of a Parquet file that has the columns of the table, but for the run."""
    rows = connection.read_parquet(str(path))
    expected = [name for (name,) in connection.execute(f"SELECT column_name FROM (DESCRIBE {table})").fetchall()][1:]
    if rows.columns != expected:
        odd = ", ".join(sorted(set(rows.columns) ^ set(expected))) or "their order"
        raise VarError(f"{path}: has other columns than {table} should have ({odd}); run its stage again")
    connection.execute(f"INSERT INTO {table} SELECT $run, * FROM read_parquet({literal(str(path))})", {"run": run})


def _load_open_table(connection: Connection, run: str, table: str, path: Path, rows: Relation) -> None:
    """Insert `rows` by name into a table that may have fewer columns; those that are new are added."""
    known = {name for (name,) in connection.execute(f"SELECT column_name FROM (DESCRIBE {table})").fetchall()}
    for name, kind in zip(rows.columns, rows.types, strict=True):
        if name not in known:
            # Another run may have fractions where this one has whole numbers.
            sql_type = "DOUBLE" if kind.id in _NUMBERS else str(kind)
            connection.execute(f"ALTER TABLE {table} ADD COLUMN {identifier(name)} {sql_type}")
            comment_on_column(connection, table, name, f"Column {name} of {path.name}.")
    connection.register("loaded_rows", rows.to_arrow_table())
    try:
        connection.execute(f"INSERT INTO {table} BY NAME SELECT $run AS run, * FROM loaded_rows", {"run": run})
    except (duckdb.ConstraintException, duckdb.ConversionException) as error:
        reason = str(error).splitlines()[0]
        raise VarError(f"{path}: does not fit table {table} ({reason}); run its stage again") from None
    finally:
        connection.unregister("loaded_rows")


def _create_view(
    connection: Connection,
    name: str,
    schema: pa.Schema,
    runs: Sequence[tuple[str, Mapping[str, tuple[Path, ...]]]],
    by_shard: bool,
) -> None:
    queries = [
        _from_parquet(run, split, schema.names, paths, by_shard)
        for run, by_split in runs
        for split, paths in by_split.items()
        if paths
    ]
    connection.execute(f"CREATE VIEW {name} AS {_union(queries or [_no_rows(schema, by_shard)])}")


def _from_parquet(run: str, split: str, columns: Sequence[str], paths: Sequence[Path], by_shard: bool = False) -> str:
    files = ", ".join(literal(str(path)) for path in paths)
    shard = r"regexp_extract(filename, '-(\d+)\.[^/\\]*$', 1)::SMALLINT AS shard, " if by_shard else ""
    return (
        f"SELECT {literal(run)} AS run, {literal(split)} AS split, {shard}{', '.join(columns)} "
        f"FROM read_parquet([{files}]{', filename = true' if by_shard else ''})"
    )


def _no_rows(schema: pa.Schema, by_shard: bool) -> str:
    own = {"run": "VARCHAR", "split": "VARCHAR", **({"shard": "SMALLINT"} if by_shard else {})}
    columns = own | {field.name: _sql_type(field.type) for field in schema}
    return f"SELECT {', '.join(f'NULL::{kind} AS {name}' for name, kind in columns.items())} WHERE false"


def _union(queries: Iterable[str]) -> str:
    return " UNION ALL ".join(queries)


def _sql_type(kind: pa.DataType) -> str:
    if pa.types.is_list(kind):
        return f"{_sql_type(kind.value_type)}[]"
    if pa.types.is_dictionary(kind):
        return _sql_type(kind.value_type)
    return _SQL_TYPES[str(kind)]
