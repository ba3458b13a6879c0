"""Which units of two runs are the same: those that are active on the same images."""

from typing import NamedTuple

import numpy as np
from scipy.optimize import linear_sum_assignment

from cmon.records import FloatArray, IntArray


class Pairs(NamedTuple):
    """Units of one run with those of another.

    Args:
        unit: (N,) int32, ascending.
        partner: (N,) int32, the other run's, each at most once.
        correlation: (N,) Pearson's, of their activations over the images; NaN where one is constant.
        chance: (N,) the correlations of units matched after the other's images were permuted, highest first; NaN where
            units were not matched.
    """

    unit: IntArray
    partner: IntArray
    correlation: FloatArray
    chance: FloatArray


def matched(first: FloatArray, other: FloatArray, seed: int) -> Pairs:
    """Match units one to one so that the sum of the pairs' correlations is the highest (the assignment problem).

    Units that are constant over the images have no partner, nor do those that the smaller layer leaves over. The best
    of many correlations is high by chance too: how high says `chance`.

    Args:
        first: (I, U) activations.
        other: (I, V) of the other network on the same images.
        seed: of the permutation.
    """
    here, there = _standardised(first), _standardised(other)
    varying = tuple(np.flatnonzero(np.isfinite(values).all(axis=0)) for values in (here, there))
    correlation = here[:, varying[0]].T @ there[:, varying[1]]
    rows, columns = linear_sum_assignment(correlation, maximize=True)
    order = np.random.default_rng(seed).permutation(len(there))
    permuted = here[:, varying[0]].T @ there[order][:, varying[1]]
    chance = np.sort(permuted[linear_sum_assignment(permuted, maximize=True)])[::-1]
    return Pairs(
        varying[0][rows].astype(np.int32),
        varying[1][columns].astype(np.int32),
        correlation[rows, columns].astype(np.float32),
        chance.astype(np.float32),
    )


def paired(first: FloatArray, other: FloatArray) -> Pairs:
    """Pair units of equal number: those of networks that began with the same weights.

    Args:
        first: (I, U) activations.
        other: (I, U) of the other network on the same images.
    """
    number = np.arange(first.shape[1], dtype=np.int32)
    correlation = np.einsum("iu,iu->u", _standardised(first), _standardised(other))
    return Pairs(number, number, correlation.astype(np.float32), np.full(len(number), np.nan, np.float32))


def _standardised(values: FloatArray) -> FloatArray:
    """Shift and scale columns to mean 0 and length 1; NaN where they are constant."""
    found = np.full_like(values, np.nan)
    for unit in np.flatnonzero(values.max(axis=0) > values.min(axis=0)):  # by column: layers and probes may be large
        centred = values[:, unit] - values[:, unit].mean(dtype=np.float64)
        found[:, unit] = centred / np.sqrt(np.square(centred).sum())
    return found
