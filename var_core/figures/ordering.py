"""Putting rows that are alike beside each other, so that a matrix shows its structure."""

import numpy as np
from numpy.typing import NDArray
from scipy.cluster.hierarchy import leaves_list, linkage, optimal_leaf_ordering
from scipy.spatial.distance import pdist, squareform

MOST_NAMED = 16
"""With more experts than this they are ordered by similarity and not by number, and their numbers are left out."""


def similar_rows(profiles: NDArray[np.float64]) -> NDArray[np.int64]:
    """Order rows by average linkage of their Euclidean distances, the two nearest of neighbouring clusters together.

    Parameters
    ----------
    profiles : float array, shape (N, D)
        No NaN.

    Returns
    -------
    int array, shape (N,)
        Rows in the order to draw them.
    """
    return _order(pdist(profiles))


def related(strength: NDArray[np.float64]) -> NDArray[np.int64]:
    """Order the rows and columns of a matrix so that pairs with a large value are near the diagonal.

    Parameters
    ----------
    strength : float array, shape (N, N)
        Symmetric; the diagonal is not looked at.

    Returns
    -------
    int array, shape (N,)
    """
    distance = strength.max() - strength
    np.fill_diagonal(distance, 0.0)
    return _order(squareform(distance, checks=False))


def _order(distances: NDArray[np.float64]) -> NDArray[np.int64]:
    """Leaves of the tree of average linkage, flipped for the least distance between neighbours (Bar-Joseph 2001)."""
    if len(distances) < 2:
        return np.arange(1 + len(distances))
    tree = linkage(distances, "average")
    return np.asarray(leaves_list(optimal_leaf_ordering(tree, distances)), dtype=np.int64)
