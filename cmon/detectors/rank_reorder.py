"""CLIP-Dissect's rank reorder: how well a concept's order of a unit's top images fits the unit's own."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from cmon.detectors.similarity import Similarity
from cmon.errors import DetectorError
from cmon.records import Evidence, FloatArray, Scores, blocks
from cmon.statistics import top_images

Float64Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class RankReorder(Similarity):
    """How little a unit's top activations change when they are reordered by a concept's ranking of the images.

    The error is the mean |a - reordered|^p over the unit's top images, divided by its expectation over all random
    orders and by (mean of P over these images)^scale_p; the score is minus that. Where the mean of P is not positive
    the measure is undefined, and the concept is scored as if the mean were 1e-6. Where all top activations are equal
    no order is better than a random one, and the error before scaling is 1.

    Args:
        p: exponent of the error.
        top_fraction: share of the images that a unit is judged by.
        scale_p: exponent of the mean cosine.
    """

    name: ClassVar[str] = "rank_reorder"
    score_unit: ClassVar[str] = "minus relative error"
    permutations: ClassVar[int] = 10  # it sorts anew for every unit and concept
    resamples: ClassVar[int] = 20

    p: float = 3.0
    top_fraction: float = 0.05
    scale_p: float = 0.5

    def __call__(self, activations: FloatArray, evidence: Evidence) -> Scores:
        """Score (I, U) activations; (U, C), at most 0."""
        count = int(self.top_fraction * len(activations))
        if count < 2:
            what = f"top_fraction = {self.top_fraction} of {len(activations)} images is fewer than two"
            raise DetectorError("detector.top_fraction", what, "set a larger top_fraction, or use a larger probe")
        values = np.empty((activations.shape[1], len(evidence.concepts.names)), dtype=np.float32)
        for unit, images in enumerate(top_images(activations, count)):
            ordered = _unit_range(activations[images, unit].astype(np.float64))
            random_error = np.mean([(np.abs(ordered - one) ** self.p).mean() for one in ordered])
            cosines = evidence.cosines[images].T.copy()
            for concepts in blocks(len(cosines), 32 * count):
                values[unit, concepts] = self._score(ordered, float(random_error), cosines[concepts])
        return Scores(values, None, {})

    def _score(self, ordered: Float64Array, random_error: float, cosines: FloatArray) -> Float64Array:
        """Score one unit: (n,) its activations, descending, and (C, n) the cosines of the same images."""
        by_concept = np.argsort(-cosines, axis=1, kind="stable")
        difference = np.empty(cosines.shape)
        np.put_along_axis(difference, by_concept, ordered[None, :], axis=1)
        difference -= ordered
        error = (np.abs(difference, out=difference) ** self.p).mean(axis=1)
        relative = error / random_error if random_error > 0 else np.ones(len(error))
        mean_cosine = np.maximum(cosines.mean(axis=1, dtype=np.float64), 1e-6)
        return np.asarray(-relative / mean_cosine**self.scale_p)


def _unit_range(ordered: Float64Array) -> Float64Array:
    """Scale descending values to a range of 1, which leaves relative errors as they are and overflows at no power."""
    span = ordered[0] - ordered[-1]
    return ordered / span if span > 0 else ordered
