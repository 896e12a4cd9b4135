"""The most frequent token types, which H3 is about."""

import numpy as np

from var_core.hypotheses.data import Ints


def most_frequent(n: Ints, count: int) -> Ints:
    """Return the rows of the `count` most frequent types that occur, ties to the lower token id."""
    order = np.argsort(-n, kind="stable")[:count]
    return order[n[order] > 0]
