"""Random orders and resamples of the probe's images, the same for all units, checkpoints and detectors."""

from dataclasses import dataclass

import numpy as np

from cmon.records import BoolArray, IntArray


@dataclass(frozen=True)
class Draws:
    """What is drawn at random.

    Args:
        orders: (P, I) int32, permutations of the images.
        resamples: (B, I) int32, how often every image is in a resample; rows sum to I.
        half: (I,) bool, a random half of the images; the other half may have one more.
    """

    orders: IntArray
    resamples: IntArray
    half: BoolArray


def draw(images: int, permutations: int, resamples: int, seed: int) -> Draws:
    """Draw; equal arguments draw equally, and a larger number draws the same ones first.

    Args:
        images: I.
        permutations: P.
        resamples: B, of I images with replacement.
        seed: not negative.
    """
    # Streams of their own, so that the number of one kind does not change another.
    shuffling, resampling, halving = (np.random.default_rng([seed, stream]) for stream in range(3))
    orders = np.empty((permutations, images), dtype=np.int32)
    for order in orders:
        order[:] = shuffling.permutation(images)
    counts = np.empty((resamples, images), dtype=np.int32)
    for count in counts:
        count[:] = np.bincount(resampling.integers(0, images, images), minlength=images)
    half = np.zeros(images, dtype=np.bool_)
    half[halving.permutation(images)[: images // 2]] = True
    return Draws(orders, counts, half)
