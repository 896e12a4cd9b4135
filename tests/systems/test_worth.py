"""What the tables come to: verdicts with their intervals, rows of known architectures, and what is said of it."""

import pyarrow as pa
import pytest

from var_core.config.systems import CostsConfig, SystemsConfig
from var_core.systems.devices import PRESETS
from var_core.systems.published import published_shape
from var_core.systems.verdict import verdict_of
from var_core.systems.worth import (
    BREAK_EVEN,
    COSTS,
    EVEN,
    OFFLOADED,
    PAYS,
    RAN,
    RESIDENT,
    UNSURE,
    assumed_rows,
    break_even_table,
    layer_of,
    ran_rows,
    replayed_rows,
    resident_rows,
    verdict,
)

MIXTRAL, H100, PHONE = published_shape("mixtral-8x7b"), PRESETS["h100-sxm"], PRESETS["phone-ufs"]


@pytest.mark.parametrize(
    ("speed", "low", "high", "said"),
    [
        (1.2, 1.1, 1.3, PAYS),
        (0.8, 0.7, 0.9, COSTS),
        (1.005, 1.004, 1.006, EVEN),
        (1.0, 0.99, 1.01, EVEN),
        (1.2, 0.9, 1.5, UNSURE),
        (0.6, 0.29, 1.38, UNSURE),
        (1.5, None, None, UNSURE),
    ],
)
def test_verdicts(speed, low, high, said):
    assert verdict(speed, low, high) == said


def test_known_architectures_need_more_recall_the_larger_their_experts():
    config = CostsConfig(batches=(1,), contexts=(1024,))
    table = break_even_table(list(assumed_rows(MIXTRAL, (H100, PHONE), config, 0.0, 0.0)))
    assert table.schema == BREAK_EVEN
    rows = table.to_pylist()
    least = {(row["device"], row["hit_rate"]): row["break_even_recall"] for row in rows if row["case"] == OFFLOADED}
    # An expert of 352 MB takes 5.5 ms over the link, and 0.1 ms to read: hardly anything overlaps.
    assert all(each is None or each > 0.9 for each in least.values())
    # Smaller experts leave the link more time.
    olmoe = published_shape("olmoe-1b-7b")
    small = break_even_table(list(assumed_rows(olmoe, (H100, PHONE), config, 0.0, 0.0))).to_pylist()
    other = {(row["device"], row["hit_rate"]): row["break_even_recall"] for row in small if row["case"] == OFFLOADED}
    assert other["h100-sxm", 0.8] < least["h100-sxm", 0.8]
    resident = [row for row in rows if row["case"] == RESIDENT]
    assert all(1 <= row["ceiling"] < 1.05 and row["break_even_recall"] is None for row in resident)


def test_a_policy_with_all_experts_in_memory_gains_the_gate_at_most():
    (row,) = resident_rows(MIXTRAL, (H100,), (1,), 512, 0.0, 1.0, {})
    assert row["speed_up_modelled"] == pytest.approx(row["ceiling"])
    (slow,) = resident_rows(MIXTRAL, (H100,), (1,), 512, 0.01, 1.0, {})
    assert slow["speed_up_modelled"] < 1 and slow["verdict"] == COSTS
    assert slow["ceiling"] == row["ceiling"]


def test_the_mean_layer_adds_up_to_the_pass():
    from var_core.systems.counts import count
    from var_core.systems.roofline import step_seconds

    layer, parts = layer_of(MIXTRAL, H100, 4, 512, 1.0, 0.0)
    assert layer.window * 32 == pytest.approx(step_seconds(count(MIXTRAL, "decode", 4, 512), H100))
    assert parts["stall_seconds"] == 0
    half, _ = layer_of(MIXTRAL, H100, 4, 512, 0.5, 0.0)
    assert half.stall == pytest.approx(parts["distinct"] * 0.5 * (352321536 / 64e9 + 10e-6))


def run_row(arm, speed, capacity=16, hit_rate=0.6):
    return {
        "arm": arm, "phase": "decode", "batch": 1, "capacity": capacity, "hit_rate": hit_rate,
        "predicted_hit_rate": hit_rate, "tokens_per_second": speed, "tokens_per_second_low": speed * 0.99,
        "tokens_per_second_high": speed * 1.01, "rounds": 6,
    }  # fmt: skip


def test_what_really_ran_comes_before_what_was_replayed():
    ran = [run_row("resident", 300, None, None), run_row("lru", 200), run_row("token_table", 170, hit_rate=0.9)]
    rows = list(ran_rows(MIXTRAL, H100, ran, 512))
    (row,) = rows
    assert (row["source"], row["policy"], row["verdict"]) == (RAN, "token_table", COSTS)
    assert row["speed_up"] == pytest.approx(0.85)
    replayed = row | {
        "source": "replayed", "speed_up": 1.3, "speed_up_low": 1.2, "speed_up_high": 1.4, "speed_up_free": 1.31,
        "verdict": PAYS, "recall": 0.8, "deciding_seconds": 1e-6, "break_even_recall": 0.4, "capacity_share": 0.5,
    }  # fmt: skip
    other = replayed | {"device": "phone-ufs"}
    simulations = [
        {"policy": policy, "phase": "decode", "batch": 1, "start": "warm", "sharing": "shared", "capacity_share": 0.5,
         "hit_rate": rate, "hit_rate_low": None, "hit_rate_high": None, "recall": 0.8}
        for policy, rate in (("lru", 0.6), ("belady", 0.8), ("token_table", 0.9))
    ]  # fmt: skip
    said = verdict_of([*rows, replayed, other], simulations, ran, None, SystemsConfig())
    text = "\n".join(said["text"])
    assert "0.85 times as fast as LRU alone [0.83, 0.87]: it does not pay" in text
    assert "Offloaded on phone-ufs" in text and "Offloaded on h100-sxm" not in text
    assert "LRU finds 60.0% of the experts there, Belady's optimum 80.0%" in text
    assert said["headline"] == (
        "Really run with offloaded experts on h100-sxm, prefetching does not pay; replayed on rooflines of data sheets "
        "it pays on phone-ufs."
    )


def test_few_rounds_give_no_verdict():
    ran = [run_row("lru", 200), run_row("token_table", 100)]
    (row,) = ran_rows(MIXTRAL, H100, [each | {"rounds": 2} for each in ran], 512)
    assert (row["speed_up_low"], row["verdict"]) == (None, UNSURE)


def test_a_model_without_a_policy_has_its_ceiling():
    (row,) = resident_rows(MIXTRAL, (H100,), (1,), 512, 0.0, None, {})
    assert row["ceiling"] > 1 and row["verdict"] is None and row["speed_up_modelled"] is None


def simulated(policy, device, **more):
    return {
        "phase": "decode", "start": "warm", "sharing": "shared", "recorded": False, "batch": 1, "device": device,
        "capacity_share": 0.5, "policy": policy, "tokens": 100, "passes": 100, "accesses": 100 * 32 * 2,
        "seconds": 10.0, "speed_up": 1.0, "speed_up_low": 1.0, "speed_up_high": 1.0, "hit_rate": 0.5, "recall": None,
        "access_recall": None, "predicted_an_access": None, "prefetched": 0, **more,
    }  # fmt: skip


def test_rows_of_a_replay_charge_the_time_of_predicting():
    rows = [
        simulated("lru", "h100-sxm"),
        simulated("token_table", "h100-sxm", seconds=8.0, speed_up=1.25, speed_up_low=1.2, speed_up_high=1.3,
                  recall=0.8, access_recall=0.8, predicted_an_access=1.0, prefetched=3200),
        simulated("context_cache", "h100-sxm", recall=0.2, access_recall=0.2, predicted_an_access=0.25),
    ]  # fmt: skip
    table = pa.Table.from_pylist(rows)
    found = {row["policy"]: row for row in replayed_rows(MIXTRAL, (H100,), table, {"token_table": (0.01, 0.01)}, 512)}
    assert found.keys() == {"token_table", "context_cache"}
    token = found["token_table"]
    # 100 passes of one token, 0.02 seconds each, on top of 8 seconds.
    assert token["speed_up"] == pytest.approx(10 / (8 + 100 * 0.02))
    assert token["speed_up_free"] == 1.25
    assert token["deciding_seconds"] == pytest.approx(0.02 / 32)
    # 3,200 loads ahead for 6,400 accesses: 0.8 x 0.5 of them right; so a tenth of the accesses for a fifth of wrong.
    assert token["wrong_missing"] == pytest.approx(0.5)
    assert found["context_cache"]["break_even_recall"] is None


def test_without_times_it_says_so():
    simulations = [
        {"policy": "lru", "phase": "decode", "batch": 1, "start": "warm", "sharing": "shared", "capacity_share": 0.5,
         "hit_rate": 0.5, "hit_rate_low": 0.4, "hit_rate_high": 0.6, "recall": None}
    ]  # fmt: skip
    said = verdict_of([], simulations, None, None, SystemsConfig())
    assert said["headline"].startswith("Times are not known")
