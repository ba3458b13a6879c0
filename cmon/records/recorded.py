"""What is recorded of single checkpoints, and what detectors say of them."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from cmon.records.arrays import BoolArray, FloatArray, IntArray, LongArray, StateArray, blocks

# How many of a unit's best concepts and images a similarity store keeps.
TOP_CONCEPTS = 10
TOP_IMAGES = 20

# What a unit is, by its activations over the probe.
STATES = ("alive", "dead", "constant", "saturated")
ALIVE, DEAD, CONSTANT, SATURATED = (np.int8(i) for i in range(4))

# What is known of a word's quality, in the order of an array's columns.
QUALITY = ("f1", "iou", "auprc", "correlation")


@dataclass(frozen=True)
class Concepts:
    """The words that units may be given.

    Args:
        names: (C,) words, unique or, of a Broden probe's own labels, unique with their categories.
        categories: (C,) the category of each, "" where there is none.
    """

    names: tuple[str, ...]
    categories: tuple[str, ...]

    def groups(self, categories: tuple[str, ...]) -> list[int]:
        """Return the place of each concept's category among some, (C,)."""
        return [categories.index(category) for category in self.categories]


@dataclass(frozen=True)
class Evidence:
    """What an image-text model says of the probe.

    Args:
        image_ids: (I,) names, sorted.
        concepts: the C words.
        image_features: (I, D) unit norm.
        concept_features: (C, D) unit norm.
    """

    image_ids: tuple[str, ...]
    concepts: Concepts
    image_features: FloatArray
    concept_features: FloatArray

    def of_layer(self, layer: str) -> "Evidence":  # noqa: ARG002
        """Return itself: it knows no layers."""
        return self

    def judged(self, units: int) -> BoolArray:
        """Tell of which of a layer's units it can say anything, (U,): all."""
        return np.ones(units, dtype=np.bool_)

    def of_units(self, chosen: BoolArray) -> "Evidence":  # noqa: ARG002
        """Return itself: it knows no units."""
        return self

    def of_images(self, rows: IntArray) -> "Evidence":
        """Take some images, (N,) indices, any of them more than once."""
        ids = tuple(self.image_ids[row] for row in rows.tolist())
        return Evidence(ids, self.concepts, self.image_features[rows], self.concept_features)

    @cached_property
    def cosines(self) -> FloatArray:
        """P of the method: cosine of every image with every concept, (I, C), in [-1, 1]."""
        return self.image_features @ self.concept_features.T

    @cached_property
    def spread(self) -> float:
        """Standard deviation of all I x C cosines, none of which is made: their mean square is one of features."""
        means = [features.mean(axis=0, dtype=np.float64) for features in (self.image_features, self.concept_features)]
        squares = [_mean_products(features) for features in (self.image_features, self.concept_features)]
        mean, square = float(means[0] @ means[1]), float(np.vdot(*squares))
        return float(np.sqrt(max(square - mean**2, 0.0)))

    def probability(self, a: float) -> FloatArray:
        """Return the softmax over the concepts of a x cosines, (I, C); it is kept, and the cosines are not."""
        if a not in self._probabilities:
            self._probabilities.clear()
            kept = np.empty((len(self.image_ids), len(self.concepts.names)), dtype=np.float32)
            for rows in blocks(len(self.image_features), 8 * len(self.concepts.names)):
                logits = np.matmul(self.image_features[rows], self.concept_features.T, out=kept[rows])
                logits -= logits.max(axis=1, keepdims=True)  # before the factor, which then magnifies no rounding
                logits *= np.float32(a)
                np.exp(logits, out=logits)
                logits /= logits.sum(axis=1, keepdims=True)
            self._probabilities[a] = kept
        return self._probabilities[a]

    @cached_property
    def _probabilities(self) -> dict[float, FloatArray]:
        return {}

    @cached_property
    def kept(self) -> dict[Any, Any]:
        """What detectors keep with it, by keys of their own, for all layers and checkpoints of a study."""
        return {}


def _mean_products(features: FloatArray) -> npt.NDArray[np.float64]:
    """Return the mean over rows of (N, D) of their D x D products."""
    total = np.zeros((features.shape[1], features.shape[1]))
    for rows in blocks(len(features), 8 * 8 * features.shape[1]):  # an eighth of a block: small beside the softmax
        block = features[rows].astype(np.float64)
        total += block.T @ block
    return total / len(features)


@dataclass(frozen=True)
class LayerActivations:
    """One layer's pooled activations at one checkpoint.

    Args:
        name: the layer.
        values: (I, U), in the layer's own unit.
    """

    name: str
    values: FloatArray


@dataclass(frozen=True)
class CheckpointActivations:
    """All recorded layers of one checkpoint.

    Args:
        image_ids: (I,) names, in the order of the rows.
        layers: in forward order.
        steps: what the checkpoint's content says of itself: its "epoch", its "step", both or neither.
        sparsity: share of zeros among the network's weights, which are its parameters of two or more dimensions.
    """

    image_ids: tuple[str, ...]
    layers: tuple[LayerActivations, ...]
    steps: dict[str, int]
    sparsity: float


@dataclass(frozen=True)
class Scores:
    """What a detector says of one layer.

    Args:
        values: (U, C), higher is better; NaN in the rows of dead units.
        log_prior: (C,) the layer's log p(c), or None where the detector has no prior.
        facts: named numbers about the scoring, such as `a` or `prior_perplexity`.
    """

    values: FloatArray
    log_prior: FloatArray | None
    facts: dict[str, float]


@dataclass(frozen=True)
class LayerLabels:
    """One layer's units with their concepts, at one checkpoint; units that are not alive have no concept.

    Args:
        name: the layer.
        scores: (U, C), higher is better; NaN for units that are not alive; None where they were not read.
        log_prior: (C,) or None.
        top_concept: (U, T) int32, best first, T = min(10, C); -1 for units that are not alive.
        top_score: (U, T); NaN for units that are not alive.
        top_images: (U, M) int32, most activating first, M = min(20, I); -1 for units that are not alive.
        state: (U,) int8, index into STATES.
        p_value: (U,) of the best score, in (0, 1]; NaN where images were not permuted.
        interpretable: (U,) bool, alive with a best score that passes tau.
        resampled_concept: (U, B, T) int32, the best concepts in every resample of the images; -1 where not alive.
        resampled_score: (U, B, T) their scores, each unit's shifted so that the best are on average its best score.
        resampled_interpretable: (U, B) bool.
        ranking: (U, N) int32, the most activating images that a resample may need; N = 0 where none is left to make.
        quality: (U, 4) of the word on images that did not choose it, columns as in QUALITY; NaN where unknown.
        facts: named numbers about the scoring.
    """

    name: str
    scores: FloatArray | None
    log_prior: FloatArray | None
    top_concept: IntArray
    top_score: FloatArray
    top_images: IntArray
    state: StateArray
    p_value: FloatArray
    interpretable: BoolArray
    resampled_concept: IntArray
    resampled_score: FloatArray
    resampled_interpretable: BoolArray
    ranking: IntArray
    quality: FloatArray
    facts: dict[str, float]

    @property
    def alive(self) -> BoolArray:
        """Tell which units are alive, (U,)."""
        return np.asarray(self.state == ALIVE)


@dataclass(frozen=True)
class CheckpointLabels:
    """All layers of one checkpoint under one detector.

    Args:
        concepts: the C words that indices mean.
        image_ids: (I,) the images that indices mean.
        layers: in forward order.
        steps: as in CheckpointActivations.
        score_unit: what a score is measured in.
        concept_images: (C,) int64, how many images show each concept by the probe's own labels, -1 where they do not
            say; None where they were not read.
        sparsity: as in CheckpointActivations.
    """

    concepts: Concepts
    image_ids: tuple[str, ...]
    layers: tuple[LayerLabels, ...]
    steps: dict[str, int]
    score_unit: str
    concept_images: LongArray | None = None
    sparsity: float = float("nan")
