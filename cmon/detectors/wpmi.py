"""CLIP-Dissect's mutual information: how likely the encoder finds a concept in a unit's most activating images."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt

from cmon.detectors.kernels import sums_of_logs
from cmon.detectors.similarity import Similarity
from cmon.errors import DetectorError
from cmon.records import Evidence, FloatArray, IntArray, Scores
from cmon.statistics import Draws, prior_perplexity, top_images

# A spread of the cosines that float32 rounding alone can make: below it they are all the same.
EQUAL_COSINES = 1e-6
EPSILON = 1e-7


@dataclass(frozen=True)
class Wpmi(Similarity):
    """Weighted pointwise mutual information: the log-likelihood of a unit's top images, less lam x a log-prior.

    L[u, c] = sum over the unit's top_k images of log(Pt + 1e-7), and the prior is the mean likelihood over the
    units of the layer: log p(c) = logsumexp_u L[u, c] - log U. Pt is the softmax over the concepts of a x cosines.

    Args:
        top_k: images that a unit is judged by.
        a: inverse temperature of the softmax; "auto": a_spread / standard deviation of the cosines.
        a_spread: what a x sd becomes at a = "auto".
        lam: weight of the prior; with 0 the score is L alone.
    """

    name: ClassVar[str] = "wpmi"
    score_unit: ClassVar[str] = "nats"

    top_k: int = 28
    a: float | Literal["auto"] = 2.0
    a_spread: float = 0.3
    lam: float = 0.6

    def recipe(self) -> dict[str, Any]:
        """Return the parameters; a_spread only where it has an effect."""
        recipe = super().recipe()
        if self.a != "auto":
            del recipe["a_spread"]
        return recipe

    def __call__(self, activations: FloatArray, evidence: Evidence) -> Scores:
        """Score (I, U) activations; (U, C) in nats, at most lam x log U at lam = 1."""
        likelihood = self.log_likelihood(self._best(activations), evidence)
        values, log_prior = self.less_prior(likelihood)
        facts = {
            "a": self.inverse_temperature(evidence),
            "spread": evidence.spread,
            "lam": self.lam,
            "units": float(len(values)),
        }
        facts["prior_perplexity"] = prior_perplexity(likelihood, values.argmax(axis=1).astype(np.int32))
        return Scores(values, log_prior, facts)

    def null_scores(self, activations: FloatArray, evidence: Evidence, draws: Draws) -> FloatArray:
        """Return each unit's best score on permuted images, (U, P)."""
        best = self._best(activations)
        null = np.empty((len(best), len(draws.orders)), dtype=np.float32)
        for p, order in enumerate(draws.orders):
            place = np.argsort(order).astype(np.int32)  # where each image's activations are put
            null[:, p] = self.less_prior(self.log_likelihood(place[best], evidence))[0].max(axis=1)
        return null

    def resampled_scores(self, activations: FloatArray, evidence: Evidence, draws: Draws) -> Iterator[FloatArray]:
        """Yield the scores in every resample of the images, (U, C), each under its own prior."""
        for likelihood in self.resampled_likelihoods(self.ranking(activations), evidence, draws):
            yield self.less_prior(likelihood)[0]

    def half_words(self, activations: FloatArray, evidence: Evidence, draws: Draws) -> IntArray:
        """Return each unit's best concept by the one half of the images alone, and by the other, (U, 2)."""
        words = []
        for half in (draws.half, ~draws.half):
            rows = np.flatnonzero(half).astype(np.int32)
            likelihood = self.log_likelihood(rows[self._best(activations[rows])], evidence)
            words.append(self.less_prior(likelihood)[0].argmax(axis=1))
        return np.stack(words, axis=1).astype(np.int32)

    def resampled_likelihoods(self, ranking: IntArray, evidence: Evidence, draws: Draws) -> Iterator[FloatArray]:
        """Yield L in every resample of the images, (U, C), from the units' ranking."""
        for counts in draws.resamples:
            # Each image as often as it is in the resample, until there are top_k.
            taken = np.minimum(counts[ranking].cumsum(axis=1), self.top_k)
            assert (taken[:, -1] == self.top_k).all(), "a ranking is longer than any resample needs"
            often = np.diff(taken, axis=1, prepend=0)
            best = np.repeat(ranking.ravel(), often.ravel()).reshape(len(ranking), self.top_k)
            yield self.log_likelihood(best, evidence)

    def ranking(self, activations: FloatArray) -> IntArray:
        """Return the most activating images that a unit's top_k in a resample are, all but surely, among: (U, N)."""
        # N of a resample's images are its N best, give or take a few times sqrt(N).
        return top_images(activations, min(len(activations), 2 * self.top_k + 60))

    def less_prior(self, likelihood: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Return scores (U, C), and the log-prior (C,) over these units."""
        largest = likelihood.max(axis=0)
        log_prior = largest + np.log(np.exp(likelihood - largest).mean(axis=0))
        return likelihood - np.float32(self.lam) * log_prior, log_prior

    def inverse_temperature(self, evidence: Evidence) -> float:
        """Return a, worked out from the spread of the cosines where it is "auto"."""
        if self.a != "auto":
            return float(self.a)
        if evidence.spread < EQUAL_COSINES:
            raise DetectorError("detector.a", "all cosines are equal, so a has no scale", "look at the encoder")
        return self.a_spread / evidence.spread

    def membership(self) -> npt.NDArray[np.float64]:
        """Return p_j, the probability that the j-th image belongs to the unit's set, (top_k,): 1."""
        return np.ones(self.top_k)

    def log_likelihood(self, best: IntArray, evidence: Evidence) -> FloatArray:
        """Return L[u, c] = sum_j log(1 + p_j (Pt[best[u, j], c] - 1) + 1e-7), (U, C) in nats.

        Args:
            best: (U, top_k) image indices, best first.
            evidence: C concepts.
        """
        probability = evidence.probability(self.inverse_temperature(evidence))
        return sums_of_logs(probability, best, self.membership(), EPSILON)

    def _best(self, activations: FloatArray) -> IntArray:
        if self.top_k > len(activations):
            what = f"top_k = {self.top_k} is more than the probe's {len(activations)} images"
            raise DetectorError("detector.top_k", what, "set a smaller top_k, or use a larger probe")
        return top_images(activations, self.top_k)


@dataclass(frozen=True)
class SoftWpmi(Wpmi):
    """WPMI with soft membership: the j-th image belongs to a unit's set with probability p_j.

    L[u, c] = sum_j log(1 + p_j (Pt[j, c] - 1) + 1e-7), p_j = p_start - (j / top_k) (p_start - p_end).
    """

    name: ClassVar[str] = "soft_wpmi"

    top_k: int = 100
    a: float | Literal["auto"] = 10.0
    lam: float = 1.0
    p_start: float = 0.998
    p_end: float = 0.97

    def membership(self) -> npt.NDArray[np.float64]:
        """Return p_j, (top_k,)."""
        return self.p_start - np.arange(self.top_k) / self.top_k * (self.p_start - self.p_end)
