import pytest

from var_core.figures.tokens import visible


@pytest.mark.parametrize(
    ("token", "label"),
    [
        ("the", "the"),
        (" the", "␣the"),
        ("\n\t", "↵⇥"),
        ("        ", "␣×8"),
        ("    ", "␣␣␣␣"),
        ("\n        ", "↵␣×8"),
        ("=====", "=×5"),
        ("é", "é"),
        ("中", "U+4E2D"),
        ("\x00", "U+0000"),
        ("", ""),
    ],
)
def test_all_of_a_token_is_seen(token, label):
    assert visible(token) == label


def test_the_middle_of_a_long_token_is_left_out():
    label = visible("antidisestablishmentarianism", length=14)
    assert len(label) == 14
    assert label.startswith("antidises") and label.endswith("nism") and "…" in label
    assert visible("x1" * 7, length=14) == "x1" * 7
