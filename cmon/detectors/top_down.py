"""Top-down correlation: how well a concept's cosines follow a unit's ranking of all images, its top weighing most."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from cmon.detectors.similarity import Similarity
from cmon.records import Evidence, FloatArray, IntArray, Scores, blocks
from cmon.statistics import Draws

Float64Array = npt.NDArray[np.float64]

# Rows that are multiplied at a time: with fewer, memory is slower than arithmetic.
ROWS = 256
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
        once = np.ones((1, len(activations)), np.int32)
        return Scores(next(self._scores(Ranks.of(activations), evidence, once)), None, {})

    def null_scores(self, activations: FloatArray, evidence: Evidence, draws: Draws) -> FloatArray:
        """Return each unit's best score on permuted images, (U, P)."""
        once = np.ones((1, len(activations)), np.int32)
        images, words = _centred(evidence), next(_scaled(evidence, once))
        weights, scale = Ranks.of(activations).weights(once[0], self.power)
        weights *= scale[:, None]
        null = np.empty((len(weights), len(draws.orders)), dtype=np.float32)
        for some in _chunks(len(draws.orders), len(weights)):
            permuted = weights[:, draws.orders[some]].reshape(-1, len(images))
            null[:, some] = (permuted @ images @ words.T).max(axis=1).reshape(len(weights), -1)
        return null

    def resampled_scores(self, activations: FloatArray, evidence: Evidence, draws: Draws) -> Iterator[FloatArray]:
        """Yield the scores in every resample of the images, (U, C)."""
        yield from self._scores(Ranks.of(activations), evidence, draws.resamples)

    def _scores(self, ranks: "Ranks", evidence: Evidence, counts: IntArray) -> Iterator[FloatArray]:
        """Yield the scores in each of B resamples, by how often every image is there, (B, I)."""
        images, units = _centred(evidence), len(ranks.order)
        words = _scaled(evidence, counts)
        for some in _chunks(len(counts), units):
            weighted = [ranks.weights(one, self.power) for one in counts[some]]
            placed = np.concatenate([weights for weights, _ in weighted]) @ images
            # Less what units with equal weights would give: images are centred as they are, not as in the resample.
            mean = np.repeat(counts[some] @ images * ranks.mean_weight(self.power), units, axis=0)
            placed = (placed - mean) * np.concatenate([scale for _, scale in weighted])[:, None]
            for start in range(0, len(placed), units):
                yield (placed[start : start + units] @ next(words).T).astype(np.float32, copy=False)


@dataclass(frozen=True)
class Ranks:
    """The images in the order of each unit's activations.

    Args:
        order: (U, I) int32, most activating first.
        starts: (U,) for each unit the places in this order where another activation begins, then I; None where all
            activations differ.
    """

    order: IntArray
    starts: tuple[npt.NDArray[np.intp] | None, ...]

    @classmethod
    def of(cls, activations: FloatArray) -> "Ranks":
        """Rank (I, U) activations."""
        images, units = activations.shape
        order = np.empty((units, images), dtype=np.int32)
        starts: list[npt.NDArray[np.intp] | None] = []
        for row, column in zip(order, activations.T, strict=True):
            row[:] = np.argsort(-column, kind="stable")
            begins = np.flatnonzero(np.diff(column[row])) + 1
            starts.append(None if len(begins) == images - 1 else np.concatenate([[0], begins, [images]]))
        return cls(order, tuple(starts))

    def weights(self, counts: IntArray, power: float) -> tuple[FloatArray, FloatArray]:
        """Weigh the images of a resample, in which image i is counts[i] times, by their ranks.

        The ranks are those among all I images; equal activations, and copies of an image, share a mean weight.

        Returns:
            The weight of every image times how often it is there, (U, I), and by what it is to be multiplied to have a
            standard deviation of 1 over the resample, over sqrt(I), (U,); 0 where all weights are equal.
        """
        images = len(counts)
        summed = np.concatenate([[0.0], np.cumsum(_weight(images, power))])
        weights = np.empty(self.order.shape, dtype=np.float32)
        until = np.zeros(images + 1, dtype=np.intp)
        for made, order, starts in zip(weights, self.order, self.starts, strict=True):
            often = counts[order]
            np.cumsum(often, out=until[1:])
            if starts is None:
                made[order] = np.diff(summed[until])
                continue
            ends = until[starts]
            mean = np.diff(summed[ends]) / np.maximum(np.diff(ends), 1)
            made[order] = np.repeat(mean, np.diff(starts)) * often
        once = (1 / np.maximum(counts, 1)).astype(np.float32)
        square = np.einsum("ui,ui,i->u", weights, weights, once, dtype=np.float64) / images
        variance = square - self.mean_weight(power) ** 2
        known = variance > EQUAL_WEIGHTS * square
        return weights, np.where(known, 1 / np.sqrt(np.where(known, variance, 1) * images), 0).astype(np.float32)

    def mean_weight(self, power: float) -> float:
        """Return the mean weight, the same for all units and resamples."""
        return float(_weight(self.order.shape[1], power).mean())


def _weight(images: int, power: float) -> Float64Array:
    """Return w of each rank, (I,)."""
    return np.asarray(np.log(images / np.arange(1, images + 1)) ** power)


def _chunks(draws: int, units: int) -> list[slice]:
    """Take so many draws together that they have ROWS rows."""
    together = max(1, ROWS // units)
    return [slice(start, min(start + together, draws)) for start in range(0, draws, together)]


def _centred(evidence: Evidence) -> FloatArray:
    """Return the images' features less their mean, (I, D): weights that sum to 0 are the same to it, but rounding not.

    The scores are (weights x features of images) x features of words: cosines are never made, all of them at once.
    """
    features = evidence.image_features
    return np.asarray(features - features.mean(axis=0, dtype=np.float64), dtype=np.float32)


def _scaled(evidence: Evidence, counts: IntArray) -> Iterator[FloatArray]:
    """Yield the words' features over the standard deviation of their cosines, (C, D), for each of B resamples.

    It is 0 where a word's cosines are all equal.

    Args:
        evidence: C words.
        counts: (B, I) how often each image is there.
    """
    images, words = _centred(evidence), evidence.concept_features
    share = (counts / counts.sum(axis=1, keepdims=True)).astype(np.float32)
    deviation = np.empty((len(counts), len(words)), dtype=np.float32)
    for some in blocks(len(words), 12 * len(images)):
        cosines = images @ words[some].T
        mean = share @ cosines
        found = np.sqrt(np.maximum(share @ np.square(cosines) - np.square(mean), 0))
        known = found > np.maximum(EQUAL_COSINES, EQUAL_COSINES_SHARE * np.abs(mean))
        deviation[:, some] = np.where(known, found, np.inf)
    for one in deviation:
        yield words / one[:, None]
