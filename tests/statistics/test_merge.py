"""Merging any split of the data, in any grouping and order, equals one batch over all of it."""

import itertools

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from statistics_routed import assert_equal_within_rounding, random_decisions
from var_core.routing.batch import RouterLayout
from var_core.statistics.accumulator import Accumulator, TokenBatch
from var_core.statistics.merge import merge_tables
from var_core.statistics.tables import KEY_COLUMNS, QUANTITIES, SCHEMAS

CPU = torch.device("cpu")


def tables_of(decisions, domain="d"):
    accumulator = Accumulator(RouterLayout.uniform(3, 6, 2), 20, CPU)
    for index, (tokens, document, batch) in enumerate(decisions):
        accumulator.update(TokenBatch.from_sequences(tokens, document), batch, index)
    return accumulator.tables(domain)


@settings(max_examples=20, deadline=None)
@given(
    seeds=st.lists(st.integers(0, 500), min_size=2, max_size=7),
    data=st.data(),
)
def test_any_grouping_in_any_order_equals_one_batch(seeds, data):
    decisions = [random_decisions(seed) for seed in seeds]
    whole = tables_of(decisions)
    groups = data.draw(st.lists(st.integers(0, 3), min_size=len(seeds), max_size=len(seeds)))
    order = data.draw(st.permutations(range(4)))
    parts = [tables_of([d for d, g in zip(decisions, groups, strict=True) if g == group]) for group in order]
    split = data.draw(st.integers(1, 3))
    for kind in SCHEMAS:
        tables = [part[kind] for part in parts]
        left = merge_tables(kind, tables[:split])
        nested = merge_tables(kind, [left, merge_tables(kind, tables[split:])])
        assert_equal_within_rounding(kind, nested, whole[kind])


@settings(max_examples=50, deadline=None)
@given(
    values=st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=60),
    cuts=st.lists(st.integers(0, 60), max_size=6),
    scale=st.sampled_from([1.0, 1e-6, 1e8]),
)
def test_merged_moments_equal_a_float64_batch_computation(values, cuts, scale):
    x = np.array(values) * scale
    bounds = [0, *sorted(min(cut, len(x)) for cut in cuts), len(x)]
    pieces = [x[a:b] for a, b in itertools.pairwise(bounds) if b > a]
    merged = merge_tables("token_stats", [moments_table(piece) for piece in pieces])
    row = merged.to_pylist()[0]
    magnitude = np.abs(x).max() or 1.0
    assert row["n"] == len(x)
    assert row["margin_mean"] == pytest.approx(x.mean(), abs=1e-12 * magnitude)
    assert row["margin_m2"] == pytest.approx(((x - x.mean()) ** 2).sum(), rel=1e-9, abs=1e-12 * magnitude**2)


def moments_table(x):
    row = {"domain": "d", "layer": 0, "token_id": 0, "n": len(x)}
    row |= {f"{quantity}_mean": x.mean() for quantity in QUANTITIES}
    row |= {f"{quantity}_m2": ((x - x.mean()) ** 2).sum() for quantity in QUANTITIES}
    return pa.Table.from_pylist([row], schema=SCHEMAS["token_stats"])


def test_counts_above_the_integers_of_float64_stay_exact():
    huge = 2**53
    rows = [
        {"domain": "d", "layer": 0, "token_id": 1, "expert": 2, "chosen": n, "first": n, "weight_sum": 0.0}
        for n in (huge, 1)
    ]
    tables = [pa.Table.from_pylist([row], schema=SCHEMAS["expert_counts"]) for row in rows]
    assert merge_tables("expert_counts", tables)["chosen"].to_pylist() == [huge + 1]


def test_domains_stay_apart_and_rows_are_sorted():
    merged = {
        kind: merge_tables(kind, [tables_of([random_decisions(s)], d)[kind] for s, d in ((1, "b"), (2, "a"), (3, "b"))])
        for kind in SCHEMAS
    }
    for kind, table in merged.items():
        keys = list(zip(*(table[key].to_pylist() for key in KEY_COLUMNS[kind]), strict=True))
        assert keys == sorted(set(keys))
        assert set(table["domain"].to_pylist()) == {"a", "b"}


def test_merging_something_twice_is_not_idempotent():
    """The control of all the above: counting a shard twice must show."""
    table = tables_of([random_decisions(1)])["token_stats"]
    assert merge_tables("token_stats", [table, table])["n"].to_pylist() != table["n"].to_pylist()
