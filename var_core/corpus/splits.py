"""Which documents are for training, for counting and for scoring."""

import hashlib

from var_core.config.corpus import SplitName, Splits

_STEPS = 1 << 64


def assign_split(group: str, splits: Splits) -> SplitName:
    """Return the split of all documents of `group`.

    The first 64 bits of the SHA-256 of the group's name are a number in [0, 1); ``train`` takes what is below its
    share, ``capture`` the next part, ``heldout`` the rest. Nothing but the name and the shares matters, so
    neither the order of the documents nor other documents move one from split to split.

    Parameters
    ----------
    group : str
        Name of the group, any text that UTF-8 can hold.
    splits : Splits
        Shares, which sum to 1.

    Returns
    -------
    {"train", "capture", "heldout"}
    """
    place = int.from_bytes(hashlib.sha256(group.encode()).digest()[:8], "big") / _STEPS
    if place < splits.train:
        return "train"
    return "capture" if place < splits.train + splits.capture else "heldout"
