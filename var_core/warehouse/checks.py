"""Checks of a loaded run: keys are unique, and tables that count the same thing agree."""

from collections.abc import Collection

import duckdb

from var_core.errors import VarError
from var_core.warehouse.check import Check
from var_core.warehouse.policy_checks import POLICY_CHECKS
from var_core.warehouse.schema import TABLE_KEYS, identifier
from var_core.warehouse.systems_checks import SYSTEMS_CHECKS
from var_core.warehouse.tuning_checks import TUNING_CHECKS

_COUNTS_BY_DOMAIN = """
CREATE OR REPLACE TEMP TABLE checked_counts AS
SELECT split, domain, layer, expert, sum(chosen) AS chosen, sum(first) AS first, sum(weight_sum) AS weight_sum
FROM expert_counts WHERE run = $run GROUP BY split, domain, layer, expert
"""

_TRACED_SPLITS = "CREATE OR REPLACE TEMP TABLE traced_splits AS SELECT unnest($traced::VARCHAR[]) AS split"

# Sums over token ids are compared only where token ids were recorded: else the run has no vocabulary.
CHECKS = (
    Check(
        "token_stats",
        """
        SELECT split, domain, layer, coalesce(n, 0) AS n, coalesce(tokens, 0) AS tokens
        FROM (SELECT split, domain, layer, sum(n) AS n FROM token_stats WHERE run = $run GROUP BY ALL)
        FULL JOIN (SELECT split, domain, layer, tokens FROM decisions WHERE run = $run) USING (split, domain, layer)
        WHERE coalesce(n, 0) <> coalesce(tokens, 0) AND EXISTS (FROM tokens WHERE run = $run)
        """,
        "the sum of n is {n} for split {split}, domain {domain}, layer {layer}, but layer_stats has {tokens} decisions",
    ),
    Check(
        "expert_counts",
        """
        SELECT split, domain, layer, top_k, tokens, coalesce(chosen, 0) AS chosen,
            coalesce(first, 0) AS firsts
        FROM decisions
        JOIN layers USING (run, layer)
        LEFT JOIN (
            SELECT split, domain, layer, sum(chosen) AS chosen, sum(first) AS first FROM checked_counts GROUP BY ALL
        ) USING (split, domain, layer)
        WHERE run = $run AND (coalesce(chosen, 0) <> top_k * tokens OR first <> tokens)
            AND EXISTS (FROM tokens WHERE run = $run)
        """,
        "the sums of chosen and first are {chosen} and {firsts} for split {split}, domain {domain}, layer {layer}, "
        "but k times the sum of n is {top_k} * {tokens}",
    ),
    Check(
        "domain_counts",
        """
        SELECT split, domain, layer, expert, coalesce(d.chosen, 0) AS chosen, coalesce(c.chosen, 0) AS counted,
            coalesce(d.first, 0) AS first, coalesce(c.first, 0) AS counted_first
        FROM (SELECT * FROM domain_counts WHERE run = $run) AS d
        FULL JOIN checked_counts AS c USING (split, domain, layer, expert)
        WHERE EXISTS (FROM tokens WHERE run = $run) AND (
            coalesce(d.chosen, 0) <> coalesce(c.chosen, 0) OR coalesce(d.first, 0) <> coalesce(c.first, 0)
            OR abs(coalesce(d.weight_sum, 0) - coalesce(c.weight_sum, 0)) > 1e-9 * (1 + abs(coalesce(c.weight_sum, 0)))
        )
        """,
        "split {split}, domain {domain}, layer {layer}, expert {expert} was chosen {chosen} times and first {first} "
        "times (or has other weights), but expert_counts sum to {counted} and {counted_first}",
    ),
    Check(
        "expert_load",
        """
        SELECT split, layer, expert, coalesce(e.chosen, 0) AS chosen, coalesce(c.chosen, 0) AS counted
        FROM (SELECT * FROM expert_load WHERE run = $run) AS e
        FULL JOIN (
            SELECT split, layer, expert, sum(chosen) AS chosen, sum(first) AS first
            FROM checked_counts GROUP BY split, layer, expert
        ) AS c USING (split, layer, expert)
        WHERE EXISTS (FROM tokens WHERE run = $run)
            AND (coalesce(e.chosen, 0) <> coalesce(c.chosen, 0) OR coalesce(e.first, 0) <> coalesce(c.first, 0))
        """,
        "split {split}, layer {layer}, expert {expert} was chosen {chosen} times, but expert_counts sum to {counted}",
    ),
    Check(
        "layers",
        """
        SELECT layer, split, coalesce(experts, 0) AS experts, count(expert) AS loaded
        FROM (SELECT layer, experts FROM layers WHERE run = $run)
        FULL JOIN (SELECT split, layer, expert FROM expert_load WHERE run = $run) USING (layer)
        GROUP BY layer, split, experts HAVING coalesce(experts, 0) <> count(expert)
        """,
        "layer {layer} has {experts} experts, but layer_stats of split {split} has {loaded}",
    ),
    Check(
        "coactivation",
        """
        SELECT c.split, c.layer, c.expert, sum(c.count) AS pairs, any_value(e.chosen) AS chosen,
            any_value(l.top_k) AS top_k, sum(c.count) FILTER (c.expert = c.other_expert) AS diagonal
        FROM coactivation AS c
        JOIN expert_load AS e USING (run, split, layer, expert)
        JOIN layers AS l USING (run, layer)
        WHERE run = $run GROUP BY c.split, c.layer, c.expert HAVING pairs <> top_k * chosen OR diagonal <> chosen
        """,
        "split {split}, layer {layer}, expert {expert} is in {pairs} pairs and {diagonal} times on the diagonal, but "
        "was chosen {chosen} times with k = {top_k}",
    ),
    Check(
        "crosslayer",
        """
        SELECT c.split, c.layer, sum(c.chosen) AS chosen, sum(c.first) AS first,
            any_value(l.top_k * next.top_k) AS pairs_a_token
        FROM crosslayer AS c
        JOIN layers AS l USING (run, layer)
        JOIN layers AS next ON next.run = c.run AND next.layer = c.next_layer
        WHERE c.run = $run GROUP BY c.split, c.layer HAVING sum(c.chosen) <> pairs_a_token * sum(c.first)
        """,
        "split {split}, layer {layer} has {chosen} chosen pairs, but {first} tokens with {pairs_a_token} each",
    ),
    Check(
        "shard_token_stats",
        """
        SELECT split, layer, m.n AS merged, s.n AS n
        FROM (SELECT split, layer, sum(n) AS n FROM token_stats WHERE run = $run GROUP BY ALL) AS m
        JOIN (SELECT split, layer, sum(n) AS n FROM shard_token_stats WHERE run = $run GROUP BY ALL) AS s
            USING (split, layer)
        WHERE m.n <> s.n
        """,
        "the shards of split {split}, layer {layer} sum to n = {n}, but token_stats to {merged}; shards are missing or "
        "left over from another run",
    ),
    Check(
        "traces",
        """
        SELECT split, coalesce(rows, 0) AS rows, tokens
        FROM traced_splits
        JOIN (
            -- Sums that others recorded have no order (pairs is null), and so no trace.
            SELECT split, sum(tokens) AS tokens
            FROM decisions JOIN repeats USING (run, split, domain, layer)
            WHERE run = $run AND pairs IS NOT NULL GROUP BY split
        ) USING (split)
        LEFT JOIN (SELECT split, count(*) AS rows FROM traces WHERE run = $run GROUP BY split) USING (split)
        WHERE coalesce(rows, 0) <> tokens
        """,
        "split {split} has {rows} rows, but {tokens} decisions were counted; traces are missing or left over from "
        "another run",
    ),
)


def check_run(connection: duckdb.DuckDBPyConnection, run: str, traced: Collection[str]) -> None:
    """Check the tables of one run, and the views over its Parquet files.

    Parameters
    ----------
    connection : duckdb.DuckDBPyConnection
        With the run loaded; the views ``v_*`` need not be there yet.
    run : str
    traced : collection of str
        Splits that have trace files, be they empty.

    Raises
    ------
    VarError
        On the first violation, naming run and table.
    """
    for table, keys in TABLE_KEYS.items():
        _check_keys(connection, run, table, keys)
    connection.execute(_COUNTS_BY_DOMAIN, {"run": run})
    connection.execute(_TRACED_SPLITS, {"traced": list(traced)})
    for check in (*CHECKS, *POLICY_CHECKS, *TUNING_CHECKS, *SYSTEMS_CHECKS):
        result = connection.execute(check.query + " ORDER BY ALL LIMIT 1", {"run": run})
        names = [column[0] for column in result.description or ()]
        for violation in result.fetchall():
            words = check.message.format(**dict(zip(names, violation, strict=True)))
            raise VarError(f"run {run}, table {check.table}: {words}; run its stages again")
    connection.execute("DROP TABLE checked_counts; DROP TABLE traced_splits")


def _check_keys(connection: duckdb.DuckDBPyConnection, run: str, table: str, keys: tuple[str, ...]) -> None:
    columns = ", ".join(map(identifier, ("run", *keys)))
    doubles = connection.execute(
        f"SELECT {columns} FROM {table} WHERE run = $run GROUP BY {columns} HAVING count(*) > 1 ORDER BY ALL LIMIT 1",
        {"run": run},
    ).fetchall()
    for double in doubles:
        where = ", ".join(f"{key} {value}" for key, value in zip(("run", *keys), double, strict=True))
        raise VarError(f"run {run}, table {table}: more than one row for {where}; run its stages again")
