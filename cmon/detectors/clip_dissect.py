"""CLIP-Dissect (Oikarinen and Weng, ICLR 2023): units against an image-text model's cosines.

Its five similarity functions, each a frozen dataclass whose fields are all its parameters, with the papers' values
as defaults. Symbols: A (I, U) activations, P (I, C) cosines, Pt = softmax over the concepts of a P.
"""

from dataclasses import asdict, dataclass, fields
from typing import Any, ClassVar, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
from scipy.special import logsumexp

from cmon.config import ClipDissect
from cmon.errors import ConfigError, DetectorError, listing
from cmon.records import Evidence, FloatArray, Scores, blocks
from cmon.statistics import prior_perplexity, top_images

Float64Array: TypeAlias = npt.NDArray[np.float64]

# A spread of the cosines that float32 rounding alone can make: below it they are all the same.
EQUAL_COSINES = 1e-6


@dataclass(frozen=True)
class Similarity:
    """What the five have in common: a recipe, and the unit of their scores."""

    score_unit: ClassVar[str] = "cosine"
    uses: ClassVar[Literal["evidence", "counts"]] = "evidence"

    def recipe(self) -> dict[str, Any]:
        """Return the function's name with all its parameters."""
        return {"similarity": SIMILARITY_NAMES[type(self)], **asdict(self)}


@dataclass(frozen=True)
class Wpmi(Similarity):
    """Weighted pointwise mutual information: the log-likelihood of a unit's top images, less lam x a log-prior.

    L[u, c] = sum over the unit's top_k images of log(Pt + 1e-7), and the prior is the mean likelihood over the
    units of the layer: log p(c) = logsumexp_u L[u, c] - log U.

    Args:
        top_k: images that a unit is judged by.
        a: inverse temperature of the softmax; "auto": a_spread / standard deviation of P.
        a_spread: what a x sd(P) becomes at a = "auto".
        lam: weight of the prior; with 0 the score is L alone.
    """

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
        if self.top_k > len(activations):
            what = f"top_k = {self.top_k} is more than the probe's {len(activations)} images"
            raise DetectorError("detector.top_k", what, "set a smaller top_k, or use a larger probe")
        inverse_temperature = self.inverse_temperature(evidence)
        likelihood = self.log_likelihood(activations, evidence, inverse_temperature)
        log_prior = logsumexp(likelihood, axis=0) - np.log(len(likelihood))
        values = (likelihood - self.lam * log_prior).astype(np.float32)
        facts = {
            "a": inverse_temperature,
            "spread": evidence.spread,
            "lam": self.lam,
            "units": float(len(values)),
        }
        facts["prior_perplexity"] = prior_perplexity(likelihood, values.argmax(axis=1).astype(np.int32))
        return Scores(values, log_prior.astype(np.float32), facts)

    def inverse_temperature(self, evidence: Evidence) -> float:
        """Return a, worked out from the spread of the cosines where it is "auto"."""
        if self.a != "auto":
            return float(self.a)
        if evidence.spread < EQUAL_COSINES:
            raise DetectorError("detector.a", "all cosines are equal, so a has no scale", "look at the encoder")
        return self.a_spread / evidence.spread

    def log_likelihood(self, activations: FloatArray, evidence: Evidence, a: float) -> Float64Array:
        """Return L, (U, C) in nats; blocks of units bound the memory."""
        best = top_images(activations, self.top_k)
        cosines = evidence.cosines
        likelihood = np.empty((len(best), cosines.shape[1]))
        for units in blocks(len(best), 4 * self.top_k * cosines.shape[1]):
            probability = _softmax(cosines[best[units]], a)
            likelihood[units] = self.log_terms(probability).sum(axis=1, dtype=np.float64)
        return likelihood

    def log_terms(self, probability: FloatArray) -> FloatArray:
        """Turn (units, top_k, C) probabilities, best image first, into the terms of L; may work in place."""
        probability += np.float32(1e-7)
        return np.log(probability, out=probability)


@dataclass(frozen=True)
class SoftWpmi(Wpmi):
    """WPMI with soft membership: the j-th image belongs to a unit's set with probability p_j.

    L[u, c] = sum_j log(1 + p_j (Pt[j, c] - 1) + 1e-7), p_j = p_start - (j / top_k) (p_start - p_end).
    """

    top_k: int = 100
    a: float | Literal["auto"] = 10.0
    lam: float = 1.0
    p_start: float = 0.998
    p_end: float = 0.97

    def log_terms(self, probability: FloatArray) -> FloatArray:
        """Turn (units, top_k, C) probabilities, best image first, into the terms of L; works in place."""
        member = self.p_start - np.arange(self.top_k) / self.top_k * (self.p_start - self.p_end)
        probability *= member.astype(np.float32)[:, None]
        probability += (1 - member + 1e-7).astype(np.float32)[:, None]
        return np.log(probability, out=probability)


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

    score_unit: ClassVar[str] = "minus relative error"

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


@dataclass(frozen=True)
class CosSimilarity(Similarity):
    """Cosine of the raw columns of A and P, not centred."""

    def __call__(self, activations: FloatArray, evidence: Evidence) -> Scores:
        """Score (I, U) activations; (U, C) in [-1, 1]."""
        return Scores(_column_cosines(activations, evidence.cosines, cubed=False, least_norm=1e-300), None, {})


@dataclass(frozen=True)
class CosSimilarityCubed(Similarity):
    """Cosine of the columns of A and P after centring and cubing; norms are at least 1e-3."""

    def __call__(self, activations: FloatArray, evidence: Evidence) -> Scores:
        """Score (I, U) activations; (U, C) in [-1, 1]."""
        return Scores(_column_cosines(activations, evidence.cosines, cubed=True, least_norm=1e-3), None, {})


SIMILARITIES: dict[str, type[Similarity]] = {
    "soft_wpmi": SoftWpmi,
    "wpmi": Wpmi,
    "rank_reorder": RankReorder,
    "cos_similarity": CosSimilarity,
    "cos_similarity_cubed": CosSimilarityCubed,
}
SIMILARITY_NAMES = {kind: name for name, kind in SIMILARITIES.items()}


def from_config(table: ClipDissect) -> Any:
    """Make the similarity function that a [[detector]] table names, with its own defaults for what is not given."""
    kind = SIMILARITIES[table.similarity]
    used = {field.name for field in fields(kind)} | {"kind", "name", "similarity", "tau"}
    if unused := sorted(table.model_fields_set - used):
        hint = f"{table.similarity} takes {listing(sorted(used - {'kind', 'name', 'similarity', 'tau'})) or 'none'}"
        raise ConfigError(f"detector {table.name}: {unused[0]}", f"has no effect on {table.similarity}", hint)
    if "a_spread" in table.model_fields_set and table.a != "auto":
        where, hint = f"detector {table.name}: a_spread", 'set a = "auto", or leave a_spread out'
        raise ConfigError(where, 'has an effect only at a = "auto"', hint)
    given = {field.name: getattr(table, field.name) for field in fields(kind)}
    return kind(**{name: value for name, value in given.items() if value is not None})


def _softmax(logits: FloatArray, a: float) -> FloatArray:
    """Softmax over the last axis of a x logits, in place; a large `a` magnifies no rounding of its own."""
    logits -= logits.max(axis=-1, keepdims=True)
    logits *= np.float32(a)
    np.exp(logits, out=logits)
    logits /= logits.sum(axis=-1, keepdims=True)
    return logits


def _unit_range(ordered: Float64Array) -> Float64Array:
    """Scale descending values to a range of 1, which leaves relative errors as they are and overflows at no power."""
    span = ordered[0] - ordered[-1]
    return ordered / span if span > 0 else ordered


def _column_cosines(first: FloatArray, second: FloatArray, cubed: bool, least_norm: float) -> FloatArray:
    """Return the cosine of every column of (I, U) with every one of (I, C), as (U, C).

    Where `cubed`, columns are centred and cubed first. Blocks of images in float64 bound the memory, and no cube or
    square of a float32 overflows there.
    """
    means = [x.mean(axis=0, dtype=np.float64) if cubed else 0.0 for x in (first, second)]
    product = np.zeros((first.shape[1], second.shape[1]))
    squares = [np.zeros(first.shape[1]), np.zeros(second.shape[1])]
    for images in blocks(len(first), 32 * (first.shape[1] + second.shape[1])):
        left, right = first[images] - means[0], second[images] - means[1]
        left, right = (x * x * x if cubed else x.astype(np.float64) for x in (left, right))
        product += left.T @ right
        squares = [total + np.square(x).sum(axis=0) for total, x in zip(squares, (left, right), strict=True)]
    norms = [np.maximum(np.sqrt(total), least_norm) for total in squares]
    return (product / norms[0][:, None] / norms[1]).astype(np.float32)
