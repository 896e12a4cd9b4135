"""What the warehouse is made of: its tables, their keys, its views, and the comments on all of them."""

from pathlib import Path

import duckdb

TABLE_KEYS: dict[str, tuple[str, ...]] = {
    "runs": (),
    "layers": ("layer",),
    "tokens": ("token_id",),
    "documents": ("document",),
    "decisions": ("split", "domain", "layer"),
    "token_stats": ("split", "domain", "layer", "token_id"),
    "expert_counts": ("split", "domain", "layer", "token_id", "expert"),
    "expert_load": ("split", "layer", "expert"),
    "domain_counts": ("split", "domain", "layer", "expert"),
    "coactivation": ("split", "layer", "expert", "other_expert"),
    "crosslayer": ("split", "layer", "next_layer", "expert", "next_expert"),
    "repeats": ("split", "domain", "layer"),
    "segments": ("split", "domain", "layer", "window_length", "uses"),
    "training": ("step",),
    "hypotheses": ("hypothesis", "form", "variant", "layer", "measure"),
    "policies": ("layer",),
    "evaluations": ("arm", "layer", "measure"),
    "policy_gains": ("layer", "measure", "coverage"),
    "policy_frequencies": ("arm", "layer", "from_count"),
    "certificates": ("promise", "layer"),
    "transfer": ("made_on", "evaluated_on", "measure"),
    "tuning_trials": ("study", "number"),
    "tuning_importances": ("study", "objective", "parameter"),
    "tuning_front": ("point", "measure"),
    "costs": ("model", "device", "phase", "batch", "context", "part"),
    "profiles": ("arm", "phase", "batch", "context", "instrument", "part"),
    "cache_simulations": ("phase", "batch", "start", "sharing", "capacity_share", "policy", "device"),
    "offloaded": ("arm", "phase"),
    "break_even": ("architecture", "case", "source", "device", "batch", "policy", "capacity_share", "hit_rate"),
}
"""Table -> columns that, with ``run``, identify a row."""

COMMON_COLUMNS: dict[str, str] = {
    "run": "The run, {model}/{corpus}.",
    "split": "capture (fitted on) or heldout (scored on).",
    "domain": "Part of the corpus that the text is from.",
    "layer": "MoE layer, counted from 0 in the order in which they run.",
    "token_id": "Token id, see tokens.",
    "token": "Text of the token as a reader would see it.",
    "special": "True for special tokens (BOS, EOS, …), which are no token types in the sense of H1 to H4.",
    "expert": "Expert, from 0.",
    "chosen": "Decisions in which the expert was among the k chosen.",
    "first": "Decisions in which the expert had the largest weight; null where weights were not recorded.",
    "weight_sum": "Sum of the weights that the expert was given; null where they were not recorded.",
    "shard": "Number of the shard within the split, from 0.",
}
"""Comments on columns that mean the same in every table and view."""

_FOLDER = Path(__file__).resolve().parent
_TABLE_FILES = ("tables.sql", "tables_systems.sql")
_COMMENT_FILES = ("comments.sql", "comments_systems.sql")
_VIEW_FILES = (
    "views_tokens.sql", "views_prediction.sql", "views_layers.sql", "views_policies.sql", "views_tuning.sql",
    "views_systems.sql",
)  # fmt: skip


def create_tables(connection: duckdb.DuckDBPyConnection) -> None:
    """Create all tables, empty."""
    for name in _TABLE_FILES:
        connection.execute(sql_file(name))


def create_views(connection: duckdb.DuckDBPyConnection) -> None:
    """Create the views ``v_*``; tables and the views over Parquet files must be there."""
    for name in _VIEW_FILES:
        connection.execute(sql_file(name))


def comment_all(connection: duckdb.DuckDBPyConnection) -> None:
    """Put comments on every table, view and column."""
    for name in _COMMENT_FILES:
        connection.execute(sql_file(name))
    silent = connection.execute(
        "SELECT table_name, column_name FROM duckdb_columns() WHERE NOT internal AND comment IS NULL "
        "ORDER BY table_name, column_index"
    ).fetchall()
    for table, column in silent:
        if column in COMMON_COLUMNS:
            comment_on_column(connection, table, column, COMMON_COLUMNS[column])


def comment_on_column(connection: duckdb.DuckDBPyConnection, table: str, column: str, comment: str) -> None:
    """Put a comment on one column."""
    connection.execute(f"COMMENT ON COLUMN {identifier(table)}.{identifier(column)} IS {literal(comment)}")


def literal(text: str) -> str:
    """Quote a string for SQL."""
    return "'" + text.replace("'", "''") + "'"


def identifier(name: str) -> str:
    """Quote a name for SQL."""
    return '"' + name.replace('"', '""') + '"'


def sql_file(name: str) -> str:
    """Text of an SQL file of this package."""
    return (_FOLDER / name).read_text(encoding="utf-8")
