"""Which documents are for training, for counting, for a policy's choices, and for scoring."""

import hashlib

from var_core.config.corpus import SPLITS, SplitName, Splits

_STEPS = 1 << 64


def assign_split(group: str, splits: Splits) -> SplitName:
    """Return the split of all documents of `group`.

    The first 64 bits of the SHA-256 of the group's name are a number in [0, 1); ``train`` takes what is below its
    share, ``capture``, ``calibration`` and ``tuning`` the next parts, ``heldout`` the rest. Nothing but the name and
    the shares matters, so neither the order of the documents nor other documents move one from split to split.

    Parameters
    ----------
    group : str
        Name of the group, any text that UTF-8 can hold.
    splits : Splits
        Shares, which sum to 1.

    Returns
    -------
    SplitName
    """
    place, end = place_of(group), 0.0
    for split in SPLITS[:-1]:
        end += getattr(splits, split)
        if place < end:
            return split
    return SPLITS[-1]


def place_of(group: str) -> float:
    """Number in [0, 1) that decides a group's split, from its name alone."""
    return int.from_bytes(hashlib.sha256(group.encode()).digest()[:8], "big") / _STEPS
