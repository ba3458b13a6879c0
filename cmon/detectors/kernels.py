"""Loops that numpy cannot do in one pass over memory.

Every unit is worked on alone and in one order: results are the same bytes for any number of threads.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from cmon.compiled import compiled
from cmon.records import FloatArray, IntArray
from cmon.threads import in_threads

Float64Array = npt.NDArray[np.float64]

# Factors that are multiplied in one pass over the concepts.
TOGETHER = 4
# What float32 holds with all its digits.
LEAST_PRODUCT = 1e-37


def sums_of_logs(probability: FloatArray, chosen: IntArray, member: Float64Array, epsilon: float) -> FloatArray:
    """Return sum_j log(1 + member[j] (probability[chosen[u, j], c] - 1) + epsilon), (U, C) in nats.

    Products are taken as fractions with exponents of their own, so that there is one logarithm for all factors and no
    product leaves float32.

    Args:
        probability: (I, C) in [0, 1].
        chosen: (U, k) rows of it.
        member: (k,) in [0, 1].
        epsilon: at least 1e-9, so that the product of a few factors is a normal number.
    """
    units, missing = len(chosen), -chosen.shape[1] % TOGETHER
    # Rows that make up the last few factors are taken 0 times, plus 1.
    rows = np.pad(chosen, ((0, 0), (0, missing)))
    times = np.pad(member, (0, missing)).astype(np.float32)
    plus = np.pad(1 - member + epsilon, (0, missing), constant_values=1).astype(np.float32)
    # Passes before the exponents of products are put aside: no factor is less than what is added to it.
    passes = max(1, int(np.log(LEAST_PRODUCT) / (TOGETHER * np.log(min(plus.min(), 0.5)))))
    sums = np.empty((units, probability.shape[1]), dtype=np.float32)
    kernel = compiled(_sum_logs)
    in_threads(lambda some: kernel(probability, rows[some], times, plus, passes, sums[some]), units)
    return sums


def rank_weights(order: IntArray, counts: IntArray, weight: Float64Array) -> tuple[FloatArray, Float64Array]:
    """Give every image of a resample the weight of its rank; equal activations and copies of an image share the mean.

    Args:
        order: (U, I) the images from each unit's most activating one down, as their complements (-1 - image) where the
            activation is that of the image before.
        counts: (I,) how often each image is there.
        weight: (n,) of each rank, n being the sum of counts.

    Returns:
        The weight of every image that is there times how often it is, (U, those images), and the sum over the n ranks
        of squared weights, (U,).
    """
    units, there = len(order), int(np.count_nonzero(counts))
    place = np.where(counts > 0, np.cumsum(counts > 0) - 1, there).astype(np.uint32)  # those not there share one
    below = np.concatenate([[0.0], np.cumsum(weight)])
    weights, squares = np.empty((units, there + 1), dtype=np.float32), np.empty(units)
    kernel = compiled(_weigh)
    in_threads(lambda some: kernel(order[some], counts, place, below, weights[some], squares[some]), units)
    return weights[:, :there], squares


def _sum_logs(probability: Any, rows: Any, times: Any, plus: Any, passes: int, sums: Any) -> None:
    concepts = probability.shape[1]
    product = np.empty(concepts, np.float32)
    bits = product.view(np.int32)
    exponent = np.empty(concepts, np.int32)
    for u in range(len(rows)):
        product[:] = 1
        exponent[:] = 0
        for j in range(0, rows.shape[1], 4):
            first, second = probability[rows[u, j]], probability[rows[u, j + 1]]
            third, fourth = probability[rows[u, j + 2]], probability[rows[u, j + 3]]
            times1, times2, times3, times4 = times[j], times[j + 1], times[j + 2], times[j + 3]
            plus1, plus2, plus3, plus4 = plus[j], plus[j + 1], plus[j + 2], plus[j + 3]
            for c in range(concepts):
                ahead = (first[c] * times1 + plus1) * (second[c] * times2 + plus2)
                behind = (third[c] * times3 + plus3) * (fourth[c] * times4 + plus4)
                product[c] *= ahead * behind
            if (j // 4 + 1) % passes and j + 4 < rows.shape[1]:
                continue
            for c in range(concepts):
                # A float32 is its last 23 bits, as a fraction of 1 to 2, times 2 to the power of the 8 bits before.
                exponent[c] += (bits[c] >> np.int32(23)) - np.int32(127)
                bits[c] = (bits[c] & np.int32(0x7FFFFF)) | np.int32(0x3F800000)
        for c in range(concepts):
            sums[u, c] = exponent[c] * np.log(2.0) + np.log(product[c])


def _weigh(order: Any, counts: Any, place: Any, below: Any, weights: Any, squares: Any) -> None:
    images = order.shape[1]
    for u in range(len(order)):
        row, made = order[u], weights[u]
        square, start, taken, before = 0.0, 0, 0, 0.0
        while start < images:
            image = np.uint32(row[start])  # what is unsigned is no place from the end, and not asked whether it is
            copies: Any = np.int64(counts[image])
            end = start + 1
            while end < images and row[end] < 0:
                copies += counts[~row[end]]
                end += 1
            taken += copies
            after = below[np.uint64(taken)]
            total, before = after - before, after
            mean = total / max(copies, 1)
            square += total * mean
            if end == start + 1:
                made[place[image]] = total
            else:
                made[place[image]] = mean * counts[image]
                for i in range(start + 1, end):
                    made[place[~row[i]]] = mean * counts[~row[i]]
            start = end
        squares[u] = square
