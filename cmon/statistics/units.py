"""What a unit is over the probe: alive or not, its most activating images and best concepts, its layer's prior."""

import numpy as np
import numpy.typing as npt
from scipy.special import logsumexp

from cmon.records import ALIVE, CONSTANT, DEAD, SATURATED, FloatArray, IntArray, StateArray
from cmon.threads import in_threads

# Below this share of a layer's units the prior is a few units' own likelihood rather than a mean over the layer.
LOW_PERPLEXITY_SHARE = 0.25

# Relative range below which a unit counts as constant: float32 rounding alone makes this much.
CONSTANT_RANGE = 1e-6

# The share of the images that a unit's greatest value may be shared by; beyond, it tells no images apart at its top.
SATURATED_SHARE = 0.5


def unit_states(activations: FloatArray) -> StateArray:
    """Tell which units are alive, and what ails the others.

    Args:
        activations: (I, U) finite.

    Returns:
        (U,) int8, indices into STATES: dead, where a unit is 0 on all images; constant, where its range over images is
        at most a millionth of its largest magnitude; saturated, where more than half of the images share
        its greatest value, so that it does not say which of them activate it most; else alive.
    """
    low, high = (edge.astype(np.float64) for edge in (activations.min(axis=0), activations.max(axis=0)))
    largest = np.maximum(np.abs(low), np.abs(high))
    at_top = (activations == activations.max(axis=0)).sum(axis=0)
    states = np.full(len(low), ALIVE, dtype=np.int8)
    states[at_top > SATURATED_SHARE * len(activations)] = SATURATED
    states[high - low <= CONSTANT_RANGE * largest] = CONSTANT
    states[largest == 0] = DEAD
    return states


def top_images(activations: FloatArray, count: int) -> IntArray:
    """Return each unit's most activating images.

    Args:
        activations: (I, U) finite.
        count: at most I.

    Returns:
        (U, count) int32 image indices, most activating first; equal activations in one random order for all units,
        since the images' own may go by their classes.
    """
    chosen = np.empty((activations.shape[1], count), dtype=np.int32)
    order = np.random.default_rng(0).permutation(len(activations)).astype(np.int32)

    def choose(units: slice) -> None:
        columns = np.ascontiguousarray(np.take(activations[:, units], order, axis=0).T)
        chosen[units] = order[best_concepts(columns, count)]

    in_threads(choose, len(chosen))
    return chosen


def best_concepts(scores: FloatArray, count: int) -> IntArray:
    """Return the `count` best concepts of each unit, (U, count) int32, best first, equals in concepts' order."""
    units, concepts = scores.shape
    if concepts <= 4 * count:
        return np.argsort(-scores, axis=1, kind="stable")[:, :count].astype(np.int32)
    bound = -np.partition(-scores, count - 1, axis=1)[:, count - 1 : count]
    chosen = scores >= bound
    if np.count_nonzero(chosen) > count * units:  # of equals at the bound the first are chosen
        tied = np.flatnonzero(np.count_nonzero(chosen, axis=1) > count)
        equal = scores[tied] == bound[tied]
        room = count - np.count_nonzero(chosen[tied] & ~equal, axis=1)
        chosen[tied] &= ~equal | (np.cumsum(equal, axis=1) <= room[:, None])
    best = (np.flatnonzero(chosen) % concepts).reshape(units, count)
    order = np.argsort(-np.take_along_axis(scores, best, axis=1), axis=1, kind="stable")
    return np.take_along_axis(best, order, axis=1).astype(np.int32)


def prior_perplexity(log_likelihood: npt.NDArray[np.floating], concepts: IntArray) -> float:
    """Say over how many units the layer's prior spreads, at the concepts that its units choose.

    It is exp of the entropy over units of softmax L[:, c], its median over the units' best concepts: from 1 (the
    prior is one unit's own likelihood, and a score says only which unit is best) to U (a true mean).

    Args:
        log_likelihood: (U, C) L of CLIP-Dissect.
        concepts: (U,) each unit's best concept.
    """
    columns = log_likelihood[:, concepts].astype(np.float64)
    log_share = columns - logsumexp(columns, axis=0)
    entropy = -(np.exp(log_share) * log_share).sum(axis=0)
    return float(np.exp(np.median(entropy)))


def is_low_prior(perplexity: float, units: float) -> bool:
    """Tell whether a layer's prior rests on too few of its living units for scores to say what a unit shows."""
    return perplexity < LOW_PERPLEXITY_SHARE * units or (units == 1 and np.isfinite(perplexity))
