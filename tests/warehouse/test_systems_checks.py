"""Tables on what routing is worth that cannot be true are refused, naming run and table."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from changed_tables import ChangedTables, no_rows, setting, without
from var_core.errors import VarError
from var_core.warehouse.files import SYSTEMS_FILES
from var_core.warehouse.systems_checks import SYSTEMS_CHECKS


@pytest.fixture(scope="module")
def sound(simulated_run, tmp_path_factory):
    run = simulated_run(layers=2, vocabulary=20, sequences={"capture": 12, "heldout": 14})
    return run.write(tmp_path_factory.mktemp("results"))


@pytest.fixture
def check(sound):
    """Check a run with changed tables; the files are put back afterwards."""
    with ChangedTables(sound, sound.systems) as check:
        yield check


def refused(check, message, **changes):
    with pytest.raises(VarError, match=f"run sim-a/text, table {message}") as error:
        check(**changes)
    assert "\n" not in str(error.value) and "run its stages again" in str(error.value)


def fewer_loads(rows, of, by):
    """A loads `by` fewer than belady in the same cache, but makes up a sound row."""

    def changed(table):
        found = table.to_pylist()
        for row in found:
            if row["policy"] == of and all(row[key] == value for key, value in rows.items()):
                best = next(
                    each
                    for each in found
                    if each["policy"] == "belady"
                    and all(each[key] == row[key] for key in ("phase", "batch", "start", "sharing", "capacity_share"))
                )
                size = row["moved_bytes"] // (row["loads"] + row["prefetched"])
                row |= {"loads": best["loads"] - by, "hits": best["hits"] + by, "prefetched": 0, "useless": 0}
                row["hit_rate"] = row["hits"] / row["accesses"]
                row["loads_an_access"] = row["loads"] / row["accesses"]
                row["moved_bytes"] = row["loads"] * size
        return pa.Table.from_pylist(found, table.schema)

    return changed


def halved(value):
    return value / 2


def more(value):
    return value + 1


def zero(_):
    return 0.0


def none(_):
    return None


def unequal(table):
    """Experts of one policy's loads are larger than others'."""
    rows = table.to_pylist()
    for row in rows:
        row["moved_bytes"] *= 2 if row["policy"] == "fifo" else 1
    return pa.Table.from_pylist(rows, table.schema)


def test_a_sound_run_passes(check):
    check()


def test_a_run_that_was_not_looked_at_passes(check):
    check(**dict.fromkeys(SYSTEMS_FILES, no_rows))


def test_a_run_without_a_model_passes(simulated_run, tmp_path):
    run = simulated_run(layers=2, sequences={"capture": 12, "heldout": 14})
    files = run.write(tmp_path, evaluated=False, tuned=False)
    with ChangedTables(files, files.systems) as check:
        check()


@pytest.mark.parametrize("policy", ["lru", "static", "next_layer", "oracle"])
def test_nothing_loads_less_than_belady(check, policy):
    where = {"phase": "decode", "batch": 1, "start": "warm", "sharing": "shared", "experts_a_layer": 5.0}
    check(cache_simulations=fewer_loads(where, policy, 0))
    refused(check, rf"cache_simulations: {policy}, decode, batch 1, warm shared cache of 0.625 .* loads \d+ experts, "
            "fewer than", cache_simulations=fewer_loads(where, policy, 1))  # fmt: skip


def test_of_experts_of_several_sizes_belady_is_no_limit_but_of_one_layer_it_is(check):
    for sharing, is_limit in (("shared", False), ("per_layer", True)):
        where = {"phase": "decode", "batch": 1, "start": "cold", "sharing": sharing, "experts_a_layer": 5.0}

        def changed(table, where=where):
            return unequal(fewer_loads(where, "lru", 1)(table))

        if is_limit:
            refused(check, "cache_simulations: lru, decode, batch 1, cold per_layer", cache_simulations=changed)
        else:
            check(cache_simulations=changed)


def test_of_a_recording_both_phases_together_have_the_fewest_loads(check, sound):
    """Decoding alone may load less than Belady does there, who spares the prompts."""

    def recorded(by):
        def changed(table):
            rows = []
            for row in table.to_pylist():
                if row["policy"] in ("lru", "belady") and row["phase"] == "decode" and row["batch"] == 1:
                    other = row | {"phase": "prefill", "recorded": True}
                    row["recorded"] = True
                    if row["policy"] == "belady":
                        for each, more in ((row, 5), (other, -5 + by)):
                            each |= {"loads": each["loads"] + more, "hits": each["hits"] - more}
                            each["hit_rate"] = each["hits"] / each["accesses"]
                            each["loads_an_access"] = each["loads"] / each["accesses"]
                    rows += [row, other]
            for row in rows:
                row["moved_bytes"] = None
            return pa.Table.from_pylist(rows, table.schema)

        return changed

    check(cache_simulations=recorded(0), break_even=no_rows)
    most = max(row["loads"] for row in pq.read_table(sound.systems["cache_simulations"]).to_pylist())
    refused(check, r"cache_simulations: lru, both phases, batch 1, cold \w+ cache",
            cache_simulations=recorded(most), break_even=no_rows)  # fmt: skip


@pytest.mark.parametrize(
    ("table", "change", "message"),
    [
        ("costs", setting("share", halved, part="attention"), "the shares of the parts of known on laptop-nvme"),
        ("costs", setting("seconds", halved, part="gate+top_k"), r"gate\+top_k of known on laptop-nvme"),
        ("costs", setting("ceiling", more, part="gate"), "part gate of known on laptop-nvme"),
        ("profiles", setting("share", halved, part="gate", arm="plain"), "the shares of the parts of arm plain"),
        ("profiles", without(part="whole", arm="policy"), "the shares of the parts of arm policy"),
        ("profiles", setting("high", zero, part="gate", arm="policy"), "arm policy, decode, batch 1, part gate"),
        ("profiles", setting("low", none, part="gate", arm="policy"), "arm policy, decode, batch 1, part gate"),
        ("cache_simulations", setting("hits", more, policy="lfu"), "lfu, decode, batch 1, per_layer cache"),
        ("cache_simulations", setting("hit_rate", halved, policy="fifo"), "fifo, decode, batch 1"),
        ("cache_simulations", setting("prefetched", more, policy="random"), "random, decode, batch 1"),
        ("cache_simulations", setting("useless", lambda _: 10**6, policy="random"), "random, decode, batch 1"),
        ("offloaded", setting("hits", more, arm="lru"), "arm lru, decode, with 8 experts in memory"),
        ("offloaded", setting("accesses", none, arm="lru"), "arm lru, decode, with 8 experts in memory"),
        ("offloaded", setting("predicted_hit_rate", lambda each: each + 0.02, arm="next_layer"),
         "arm next_layer was measured to have a hit rate of .*: more than 2 points apart"),
        ("break_even", setting("recall", halved, source="replayed"), " on laptop-nvme, batch 1, cache of"),
        ("break_even", setting("policy", lambda _: "token_table", policy="next_layer", source="replayed"),
         "token_table on laptop-nvme"),
        ("break_even", setting("speed_up", halved, source="run"), "next_layer, really run, is .* times as fast as lru"),
        ("break_even", setting("verdict", lambda _: "pays", source="profiled"), "var for sim-a, resident, on this"),
        ("break_even", setting("speed_up_low", lambda _: 9.0, source="profiled"), "var for sim-a, resident, on this"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_named(check, table, change, message):
    refused(check, f"{table}: .*{message}", **{table: change})


def test_random_predictions_and_few_accesses_may_differ(check):
    check(offloaded=setting("predicted_hit_rate", lambda each: each + 0.1, arm="random"))
    check(offloaded=setting("predicted_hit_rate", lambda each: each + 0.1, arm="lru", phase="prefill"))


@pytest.mark.parametrize("table", SYSTEMS_FILES)
def test_the_same_row_twice_is_named(check, table):
    twice = {table: lambda rows: pa.concat_tables([rows, rows.slice(0, 1)])}
    refused(check, f"{table}: more than one row for run sim-a/text", **twice)


def test_every_check_is_of_a_table_of_systems():
    assert {check.table for check in SYSTEMS_CHECKS} == set(SYSTEMS_FILES)
