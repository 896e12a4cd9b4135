from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from var_core.config.corpus import SPLITS, Splits
from var_core.corpus.splits import assign_split


def test_known_groups_stay_where_they_are():
    # A change would silently move documents between the splits of everybody's corpora. The SHA-256 of these
    # names start with 02, 82, 8e, f8 and ee: 0.01, 0.51, 0.56, 0.97 and 0.93.
    names = ("json", "email", "asyncio", "typing", "compound")
    splits = [assign_split(name, Splits(train=0.5, capture=0.3, heldout=0.2)) for name in names]
    assert splits == ["train", "capture", "capture", "heldout", "heldout"]


@pytest.mark.parametrize("shares", [(0.5, 0.3, 0.2), (0.0, 0.6, 0.4), (0.1, 0.1, 0.8)])
def test_shares_are_met_within_four_standard_errors(shares):
    splits = Splits(**dict(zip(SPLITS, shares, strict=True)))
    groups = 20_000
    counts = Counter(assign_split(f"group {index}", splits) for index in range(groups))
    for split, share in zip(SPLITS, shares, strict=True):
        assert abs(counts[split] / groups - share) <= 4 * (share * (1 - share) / groups) ** 0.5


@given(st.text(st.characters(exclude_categories=["Cs"])), st.floats(0.01, 0.4), st.floats(0.01, 0.4))
def test_a_larger_train_share_only_adds_to_train(group, smaller, more):
    before = assign_split(group, Splits(train=smaller, capture=0.1, heldout=0.9 - smaller))
    larger = min(smaller + more, 0.8)
    after = assign_split(group, Splits(train=larger, capture=0.1, heldout=0.9 - larger))
    assert before != "train" or after == "train"


def test_similar_names_are_not_drawn_alike():
    splits = Splits()
    pairs = [(assign_split(f"a{index}", splits), assign_split(f"a{index}'", splits)) for index in range(5000)]
    together = sum(one == other for one, other in pairs) / len(pairs)
    assert together == pytest.approx(0.5**2 + 0.3**2 + 0.2**2, abs=0.03)
