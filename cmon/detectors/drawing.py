"""What a detector makes of permuted images, of resamples, and of half of the images.

A detector may do this itself, in methods of these names, where it knows a faster way or holds no evidence by image;
for any other it is done by scoring anew.
"""

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from cmon.errors import DetectorError
from cmon.records import TOP_CONCEPTS, FloatArray, IntArray
from cmon.statistics import Draws, best_concepts


def null_scores(detector: Any, activations: FloatArray, evidence: Any, draws: Draws) -> FloatArray:
    """Return each unit's best score under every permutation of the images against the evidence, (U, P).

    The images of all units are permuted together, so that what units have in common stays.

    Args:
        detector: as in `base.Detector`.
        activations: (I, U) as it scores them.
        evidence: of the same images.
        draws: P permutations.
    """
    if hasattr(detector, "null_scores"):
        own: FloatArray = detector.null_scores(activations, evidence, draws)
        return own
    _hold_by_image(detector, evidence)
    null = np.empty((activations.shape[1], len(draws.orders)), dtype=np.float32)
    for p, order in enumerate(draws.orders):
        null[:, p] = detector(activations[order], evidence).values.max(axis=1)
    return null


def resampled_labels(
    detector: Any, activations: FloatArray, evidence: Any, draws: Draws
) -> tuple[IntArray, FloatArray]:
    """Return each unit's best concepts in every resample of the images, and their scores, both (U, B, T).

    A unit that is constant in a resample has scores as its detector gives them to constants, and any concepts.
    """
    if hasattr(detector, "resampled_labels"):
        own: tuple[IntArray, FloatArray] = detector.resampled_labels(activations, evidence, draws)
        return own
    shape = (activations.shape[1], len(draws.resamples), min(TOP_CONCEPTS, len(evidence.concepts.names)))
    return best_of_each(_rescored(detector, activations, evidence, draws), shape)


def _hold_by_image(detector: Any, evidence: Any) -> None:
    """Raise where evidence is summed over images, so that scoring anew would give the same or nothing."""
    if not hasattr(evidence, "of_images"):
        what = (
            "cannot be permuted or resampled: it uses counts, and has no null_scores, resampled_labels and half_words"
        )
        hint = "set tau to a number and statistics.resamples to 0, or give the detector these methods"
        raise DetectorError(type(detector).__name__, what, hint)


def _rescored(detector: Any, activations: FloatArray, evidence: Any, draws: Draws) -> Iterator[FloatArray]:
    if hasattr(detector, "resampled_scores"):
        yield from detector.resampled_scores(activations, evidence, draws)
        return
    _hold_by_image(detector, evidence)
    for counts in draws.resamples:
        rows = np.repeat(np.arange(len(counts), dtype=np.int32), counts)
        yield detector(activations[rows], evidence.of_images(rows)).values


def best_of_each(scores: Iterable[FloatArray], shape: tuple[int, int, int]) -> tuple[IntArray, FloatArray]:
    """Keep the T best concepts of each of B tables of scores (U, C), with their scores, both (U, B, T)."""
    concept, score = np.empty(shape, np.int32), np.empty(shape, np.float32)
    for b, values in enumerate(scores):
        concept[:, b] = best_concepts(values, shape[2])
        score[:, b] = np.take_along_axis(values, concept[:, b], axis=1)
    return concept, score


def half_words(detector: Any, activations: FloatArray, evidence: Any, draws: Draws) -> IntArray:
    """Return each unit's best concept by the one half of the images alone, and by the other, (U, 2)."""
    if hasattr(detector, "half_words"):
        own: IntArray = detector.half_words(activations, evidence, draws)
        return own
    _hold_by_image(detector, evidence)
    halves = [np.flatnonzero(half).astype(np.int32) for half in (draws.half, ~draws.half)]
    scored = [detector(activations[rows], evidence.of_images(rows)).values for rows in halves]
    return np.stack([values.argmax(axis=1) for values in scored], axis=1).astype(np.int32)
