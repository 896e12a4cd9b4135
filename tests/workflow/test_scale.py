"""Ten thousand micro-shards are planned in seconds, in little memory."""

from var_core.benchmarks.dry_run import dry_run

GIGABYTE = 1 << 30


def test_ten_thousand_micro_shards_are_planned_in_seconds():
    planned = dry_run(200)
    assert planned["planned"] == 200
    assert planned["seconds"] < 30
    assert 0 < planned["peak_bytes"] < 2 * GIGABYTE
