"""CLIP-Dissect's cosines: how alike a unit's activations and a concept's cosines are over all images."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from cmon.detectors.similarity import Similarity
from cmon.records import Evidence, FloatArray, Scores, blocks
from cmon.threads import product


@dataclass(frozen=True)
class CosSimilarity(Similarity):
    """Cosine of the raw columns of A and P, not centred."""

    name: ClassVar[str] = "cos_similarity"

    def __call__(self, activations: FloatArray, evidence: Evidence) -> Scores:
        """Score (I, U) activations; (U, C) in [-1, 1]."""
        return Scores(_column_cosines(activations, evidence.cosines, cubed=False, least_norm=1e-300), None, {})


@dataclass(frozen=True)
class CosSimilarityCubed(Similarity):
    """Cosine of the columns of A and P after centring and cubing; norms are at least 1e-3."""

    name: ClassVar[str] = "cos_similarity_cubed"

    def __call__(self, activations: FloatArray, evidence: Evidence) -> Scores:
        """Score (I, U) activations; (U, C) in [-1, 1]."""
        return Scores(_column_cosines(activations, evidence.cosines, cubed=True, least_norm=1e-3), None, {})


def _column_cosines(first: FloatArray, second: FloatArray, cubed: bool, least_norm: float) -> FloatArray:
    """Return the cosine of every column of (I, U) with every one of (I, C), as (U, C).

    Where `cubed`, columns are centred and cubed first. Blocks of images in float64 bound the memory, and no cube or
    square of a float32 overflows there.
    """
    means = [x.mean(axis=0, dtype=np.float64) if cubed else 0.0 for x in (first, second)]
    sums = np.zeros((first.shape[1], second.shape[1]))
    squares = [np.zeros(first.shape[1]), np.zeros(second.shape[1])]
    for images in blocks(len(first), 32 * (first.shape[1] + second.shape[1])):
        left, right = first[images] - means[0], second[images] - means[1]
        left, right = (x * x * x if cubed else x.astype(np.float64) for x in (left, right))
        sums += product(left.T, right)
        squares = [total + np.square(x).sum(axis=0) for total, x in zip(squares, (left, right), strict=True)]
    norms = [np.maximum(np.sqrt(total), least_norm) for total in squares]
    return (sums / norms[0][:, None] / norms[1]).astype(np.float32)
