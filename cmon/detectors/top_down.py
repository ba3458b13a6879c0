"""Top-down correlation: how well a concept's cosines follow a unit's ranking of all images, its top weighing most."""

from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from cmon.detectors.kernels import rank_weights
from cmon.detectors.similarity import Similarity
from cmon.records import Evidence, FloatArray, IntArray, Scores, blocks
from cmon.statistics import Draws
from cmon.threads import in_threads, product

Float64Array = npt.NDArray[np.float64]

# A variance of weights, over their mean square, that float32 rounding alone can make.
EQUAL_WEIGHTS = 1e-6
# A standard deviation of the cosines that float32 rounding alone can make, of itself and as a share of their mean.
EQUAL_COSINES = 1e-6
EQUAL_COSINES_SHARE = 1e-2


@dataclass(frozen=True)
class TopDownCorrelation(Similarity):
    """Correlation, over all images, of a weight by a unit's rank with a concept's cosines, in standard deviations.

    w[u, r] = ln(I / r)^power for the image of rank r = 1 ... I by the unit's activation; equal activations share their
    mean weight. score[u, c] = sqrt(I) x corr(w[u], P[:, c]), which for a unit that has nothing to do with images has
    mean 0 and standard deviation 1 whatever the unit, the concept and the encoder; 0 where the activations or the
    cosines are all equal.
    At power = 2 half of the weight lies on the top 7 % of the images.

    Weights ln(I / r) are, but for small ranks, the scores of Savage that Iman and Conover (Technometrics 1987) take for
    their top-down correlation.

    Args:
        power: how much the top outweighs the rest.
    """

    name: ClassVar[str] = "top_down"
    score_unit: ClassVar[str] = "standard deviations"

    power: float = 2.0

    def __call__(self, activations: FloatArray, evidence: Evidence) -> Scores:
        """Score (I, U) activations; (U, C), at most sqrt(I)."""
        return Scores(next(self._scores(activations, evidence, _once(activations))), None, {})

    def null_scores(self, activations: FloatArray, evidence: Evidence, draws: Draws) -> FloatArray:
        """Return each unit's best score on permuted images, (U, P)."""
        once, images, words = _once(activations), _centred(evidence), evidence.concept_features.T
        weights, scale = self._weights(image_order(activations), once[0])
        weights *= scale[:, None]
        deviation = _deviations(evidence, once)[0]
        moved = np.empty_like(images)
        null = np.empty((len(weights), len(draws.orders)), dtype=np.float32)
        for p, order in enumerate(draws.orders):
            moved[order] = images  # each to the image whose activations it is given
            null[:, p] = (product(product(weights, moved), words) / deviation).max(axis=1)
        return null

    def resampled_scores(self, activations: FloatArray, evidence: Evidence, draws: Draws) -> Iterator[FloatArray]:
        """Yield the scores in every resample of the images, (U, C)."""
        yield from self._scores(activations, evidence, draws.resamples)

    def half_words(self, activations: FloatArray, evidence: Evidence, draws: Draws) -> IntArray:
        """Return each unit's best concept by the one half of the images alone, and by the other, (U, 2)."""
        halves = np.stack([draws.half, ~draws.half]).astype(np.int32)
        scored = self._scores(activations, evidence, halves)
        return np.stack([scores.argmax(axis=1) for scores in scored], axis=1).astype(np.int32)

    def _scores(self, activations: FloatArray, evidence: Evidence, counts: IntArray) -> Iterator[FloatArray]:
        """Yield the scores in each of B resamples, by how often every image is there, (B, I)."""
        order, images, words = image_order(activations), _centred(evidence), evidence.concept_features.T
        for count, deviation in zip(counts, _deviations(evidence, counts), strict=True):
            there = images[count > 0]
            weights, scale = self._weights(order, count)
            # Less what units with equal weights would give: images are centred as they are, not as in the resample.
            mean = count[count > 0].astype(np.float32) @ there * np.float32(self._weight(count).mean())
            yield product((product(weights, there) - mean) * scale[:, None], words) / deviation

    def _weights(self, order: IntArray, counts: IntArray) -> tuple[FloatArray, FloatArray]:
        """Weigh the images of a resample, in which image i is counts[i] times, by their ranks.

        The ranks are those among all n images of the resample; equal activations, and copies of an image, share a mean
        weight.

        Returns:
            The weight of every image that is there times how often it is, (U, those images), and by what it is to be
            multiplied to have a standard deviation of 1 over the resample, over sqrt(n), (U,); 0 where all weights are
            equal.
        """
        weight = self._weight(counts)
        weights, square = rank_weights(order, counts, weight)
        variance = square / len(weight) - weight.mean() ** 2
        known = variance > EQUAL_WEIGHTS * square / len(weight)
        scale = np.where(known, 1 / np.sqrt(np.where(known, variance, 1) * len(weight)), 0)
        return weights, scale.astype(np.float32)

    def _weight(self, counts: IntArray) -> Float64Array:
        """Return w of each rank of a resample, (n,)."""
        images = int(counts.sum())
        return np.asarray(np.log(images / np.arange(1, images + 1)) ** self.power)


def image_order(activations: FloatArray) -> IntArray:
    """Order the images from each unit's most activating one down, (U, I) int32.

    An image whose activation is that of the image before is given as its complement, -1 - image; which of such images
    come first is not said.

    Args:
        activations: (I, U) finite.
    """
    order = np.empty(activations.shape[::-1], dtype=np.int32)

    def sort(units: slice) -> None:
        for row, column in zip(order[units], activations[:, units].T, strict=True):
            row[:] = np.argsort(-column)
            ordered = column[row]
            row[1:][ordered[1:] == ordered[:-1]] ^= -1

    in_threads(sort, len(order))
    return order


def _once(activations: FloatArray) -> IntArray:
    """Return how often each image is there where nothing is drawn, (1, I)."""
    return np.ones((1, len(activations)), dtype=np.int32)


def _centred(evidence: Evidence) -> FloatArray:
    """Return the images' features less their mean, (I, D): weights that sum to 0 are the same to it, but rounding not.

    The scores are (weights x features of images) x features of words: cosines are never made, all of them at once.
    """
    if "centred" not in evidence.kept:
        features = evidence.image_features
        evidence.kept["centred"] = np.asarray(features - features.mean(axis=0, dtype=np.float64), dtype=np.float32)
    centred: FloatArray = evidence.kept["centred"]
    return centred


def _deviations(evidence: Evidence, counts: IntArray) -> FloatArray:
    """Return the standard deviation of each word's cosines, (B, C), infinite where they are all equal.

    Args:
        evidence: C words.
        counts: (B, I) how often each image is in each of B resamples.
    """
    key = "deviations", sha256(counts.data).digest()
    if key not in evidence.kept:
        evidence.kept[key] = _found_deviations(_centred(evidence), evidence.concept_features, counts)
    deviations: FloatArray = evidence.kept[key]
    return deviations


def _found_deviations(images: FloatArray, words: FloatArray, counts: IntArray) -> FloatArray:
    share = (counts / counts.sum(axis=1, keepdims=True)).astype(np.float32)
    deviations = np.empty((len(counts), len(words)), dtype=np.float32)
    for some in blocks(len(words), 12 * len(images)):
        cosines = product(images, words[some].T)
        mean = product(share, cosines)
        found = np.sqrt(np.maximum(product(share, np.square(cosines)) - np.square(mean), 0))
        known = found > np.maximum(EQUAL_COSINES, EQUAL_COSINES_SHARE * np.abs(mean))
        deviations[:, some] = np.where(known, found, np.inf)
    return deviations
