"""Small statistics over units: who is alive, which images activate them most, how concentrated a prior is."""

import numpy as np
import numpy.typing as npt
from scipy.special import logsumexp

from cmon.records import BoolArray, FloatArray, IntArray

# Below this share of a layer's units the prior is a few units' own likelihood rather than a mean over the layer.
LOW_PERPLEXITY_SHARE = 0.25

# Relative range below which a unit counts as constant: float32 rounding alone makes this much.
CONSTANT_RANGE = 1e-6


def alive_units(activations: FloatArray) -> BoolArray:
    """Tell which units vary over the probe at all.

    Args:
        activations: (I, U) finite.

    Returns:
        (U,) bool; false where the range over images is at most a millionth of the largest magnitude.
    """
    low, high = (edge.astype(np.float64) for edge in (activations.min(axis=0), activations.max(axis=0)))
    largest = np.maximum(np.abs(low), np.abs(high))
    return np.asarray(high - low > CONSTANT_RANGE * largest)


def top_images(activations: FloatArray, count: int) -> IntArray:
    """Return each unit's most activating images.

    Args:
        activations: (I, U) finite.
        count: at most I.

    Returns:
        (U, count) int32 image indices, most activating first; equal activations in the images' order.
    """
    chosen = np.empty((activations.shape[1], count), dtype=np.int32)
    for unit in range(len(chosen)):
        column = -activations[:, unit]
        bound = np.partition(column, count - 1)[count - 1]
        candidates = np.flatnonzero(column <= bound)
        chosen[unit] = candidates[np.argsort(column[candidates], kind="stable")[:count]]
    return chosen


def prior_perplexity(log_likelihood: npt.NDArray[np.float64], concepts: IntArray) -> float:
    """Say over how many units the layer's prior spreads, at the concepts that its units choose.

    It is exp of the entropy over units of softmax L[:, c], its median over the units' best concepts: from 1 (the
    prior is one unit's own likelihood, and a score says only which unit is best) to U (a true mean).

    Args:
        log_likelihood: (U, C) L of CLIP-Dissect.
        concepts: (U,) each unit's best concept.
    """
    columns = log_likelihood[:, concepts]
    log_share = columns - logsumexp(columns, axis=0)
    entropy = -(np.exp(log_share) * log_share).sum(axis=0)
    return float(np.exp(np.median(entropy)))


def is_low_prior(perplexity: float, units: float) -> bool:
    """Tell whether a layer's prior rests on too few of its living units for scores to say what a unit shows."""
    return perplexity < LOW_PERPLEXITY_SHARE * units or (units == 1 and np.isfinite(perplexity))
