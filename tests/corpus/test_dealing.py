from fractions import Fraction

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from var_core.corpus.dealing import deal, evenly_spread, quotas

COUNTS = st.dictionaries(st.text(max_size=3), st.integers(0, 500), min_size=1, max_size=6)


@given(COUNTS, st.integers(1, 3000))
def test_quotas_fill_the_limit_in_proportion(available, limit):
    kept = quotas(available, limit)
    total = sum(available.values())
    assert sum(kept.values()) == min(limit, total)
    for domain, count in available.items():
        assert kept[domain] <= count
        if limit < total:
            assert abs(kept[domain] - Fraction(count * limit, total)) < 1


@given(COUNTS)
def test_without_a_limit_everything_is_kept(available):
    assert quotas(available, None) == available


@given(COUNTS, st.integers(1, 3000))
def test_quotas_do_not_depend_on_the_order_of_the_domains(available, limit):
    assert quotas(dict(reversed(available.items())), limit) == quotas(available, limit)


@given(st.integers(0, 2000), st.data())
def test_chosen_sequences_are_evenly_spread(available, data):
    count = data.draw(st.integers(0, available))
    chosen = evenly_spread(available, count)
    assert len(chosen) == count
    if count:
        assert chosen[0] >= 0 and chosen[-1] < available
        edges = np.concatenate([[-1], chosen, [available]])
        gaps = np.diff(edges)
        assert gaps.min() >= 1
        assert np.ptp(gaps[1:-1]) <= 1 if count > 1 else True
        # Neither end is favoured: what is left before the first and behind the last differs by at most one.
        assert abs(gaps[0] - gaps[-1]) <= 1
    assert np.array_equal(evenly_spread(available, available), np.arange(available))


@given(COUNTS, st.integers(1, 20))
def test_dealing_gives_every_shard_its_share(counts, shards):
    blocks = deal(counts, shards)
    assert len(blocks) == shards
    for domain, count in counts.items():
        dealt = [block[domain] for block in blocks]
        # In order, without gap or overlap, and of sizes that differ by at most one.
        assert [index for block in dealt for index in block] == list(range(count))
        sizes = [len(block) for block in dealt]
        assert max(sizes) - min(sizes) <= 1
    totals = [sum(len(block) for block in shard.values()) for shard in blocks]
    assert max(totals) - min(totals) <= 1
    assert all(list(shard) == sorted(counts) for shard in blocks)


def test_domains_smaller_than_the_number_of_shards_leave_none_empty():
    totals = [sum(map(len, shard.values())) for shard in deal({"a": 3, "b": 3, "c": 3}, 8)]
    assert sorted(totals) == [1] * 7 + [2]
