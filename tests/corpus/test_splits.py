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
    shares = Splits(train=0.5, capture=0.05, calibration=0.2, tuning=0.2, heldout=0.05)
    assert [assign_split(name, shares) for name in names] == ["train", "capture", "calibration", "heldout", "tuning"]


@pytest.mark.parametrize("shares", [(0.5, 0.2, 0.1, 0.1, 0.1), (0.0, 0.4, 0.1, 0.1, 0.4)])
def test_shares_are_met_within_four_standard_errors(shares):
    splits = Splits(**dict(zip(SPLITS, shares, strict=True)))
    groups = 20_000
    counts = Counter(assign_split(f"group {index}", splits) for index in range(groups))
    for split, share in zip(SPLITS, shares, strict=True):
        assert abs(counts[split] / groups - share) <= 4 * (share * (1 - share) / groups) ** 0.5


@given(st.text(st.characters(exclude_categories=["Cs"])), st.floats(0.01, 0.4), st.floats(0.01, 0.4))
def test_a_larger_train_share_only_adds_to_train(group, smaller, more):
    rest = {"capture": 0.05, "calibration": 0.03, "tuning": 0.02}
    before = assign_split(group, Splits(train=smaller, **rest, heldout=0.9 - smaller))
    larger = min(smaller + more, 0.8)
    after = assign_split(group, Splits(train=larger, **rest, heldout=0.9 - larger))
    assert before != "train" or after == "train"


def test_similar_names_are_not_drawn_alike():
    splits = Splits()
    pairs = [(assign_split(f"a{index}", splits), assign_split(f"a{index}'", splits)) for index in range(5000)]
    together = sum(one == other for one, other in pairs) / len(pairs)
    assert together == pytest.approx(sum(share**2 for share in splits.model_dump().values()), abs=0.03)
