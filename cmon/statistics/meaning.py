"""How near two words are in meaning: the cosine of their features."""

import numpy as np
import numpy.typing as npt

from cmon.records import FloatArray, blocks
from cmon.statistics.history import Numbers

Indices = npt.NDArray[np.integer]


def pair_cosines(first: FloatArray, second: FloatArray, one: Indices, two: Indices) -> Numbers:
    """Return the cosines of pairs of words.

    Args:
        first: (V, D) unit norm, features of one list of words.
        second: (W, D) unit norm, of another list.
        one: (N,) index into the first.
        two: (N,) index into the second.

    Returns:
        (N,) float64.
    """
    pairs, place = np.unique(one.astype(np.int64) * len(second) + two, return_inverse=True)
    found = np.empty(len(pairs), dtype=np.float64)
    for rows in blocks(len(pairs), 16 * first.shape[1]):
        left, right = first[pairs[rows] // len(second)], second[pairs[rows] % len(second)]
        found[rows] = np.einsum("nd,nd->n", left.astype(np.float64), right.astype(np.float64))
    return found[place]
