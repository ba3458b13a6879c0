"""What is recorded of single checkpoints, and what detectors say of them."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from cmon.records.arrays import BoolArray, FloatArray, IntArray, LongArray, blocks

# How many of a unit's best concepts and images a similarity store keeps.
TOP_CONCEPTS = 10
TOP_IMAGES = 20


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

    @cached_property
    def cosines(self) -> FloatArray:
        """P of the method: cosine of every image with every concept, (I, C), in [-1, 1]."""
        return self.image_features @ self.concept_features.T

    @cached_property
    def spread(self) -> float:
        """Standard deviation of all I x C cosines."""
        mean_square, mean = 0.0, 0.0
        for rows in blocks(len(self.cosines), self.cosines.shape[1] * 8):
            block = self.cosines[rows].astype(np.float64)
            mean_square += float(np.square(block).sum())
            mean += float(block.sum())
        return float(np.sqrt(max(mean_square / self.cosines.size - (mean / self.cosines.size) ** 2, 0.0)))


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
class ImageLabels:
    """What an image shows, and where, in the part of it that a network sees.

    Args:
        concepts: (L,) int32, concept indices, ascending, each once.
        masks: (L, h, w) bool, none of them empty.
        rows: (h,) where the centres of the masks' rows lie, as a share of the height that the network sees.
        columns: (w,) the same across.
    """

    concepts: IntArray
    masks: BoolArray
    rows: tuple[float, ...]
    columns: tuple[float, ...]


@dataclass(frozen=True)
class LayerCounts:
    """One layer's units against concept masks, in pixels of the masks over all images.

    Args:
        name: the layer.
        threshold: (U,) T of Network Dissection, in the unit of the layer's output.
        intersection: (U, C) int64, where a unit exceeds its threshold within a concept's mask.
        unit_area: (U, G) int64, where it does in the images that carry a label of a category.
        whole_area: (U,) int64, where it does in all images that carry any label.
    """

    name: str
    threshold: FloatArray
    intersection: LongArray
    unit_area: LongArray
    whole_area: LongArray


@dataclass(frozen=True)
class CheckpointCounts:
    """All recorded layers of one checkpoint against concept masks.

    Args:
        concepts: C pairs of word and category.
        categories: (G,) names.
        image_ids: (I,) names of the images that were counted.
        concept_area: (C,) int64, pixels of each concept's masks over all images.
        concept_images: (C,) int64, images that show each concept.
        layers: in forward order.
        quantile: the share of positions above a threshold.
        rank_error: by how much that share may be off, at most, in any layer.
    """

    concepts: Concepts
    categories: tuple[str, ...]
    image_ids: tuple[str, ...]
    concept_area: LongArray
    concept_images: LongArray
    layers: tuple[LayerCounts, ...]
    quantile: float
    rank_error: float

    def of_layer(self, layer: str) -> "MaskEvidence":
        """Return what a detector needs of one layer."""
        counts = next(one for one in self.layers if one.name == layer)
        area = counts.unit_area[:, self.concepts.groups(self.categories)]
        facts = {"quantile": self.quantile, "rank_error": self.rank_error}
        return MaskEvidence(self.concepts, counts.intersection, area, counts.whole_area, self.concept_area, facts)


@dataclass(frozen=True)
class MaskEvidence:
    """What concept masks say of one layer's units, in pixels.

    Args:
        concepts: C pairs of word and category.
        intersection: (U, C) int64, where a unit exceeds its threshold within a concept's mask.
        unit_area: (U, C) int64, where it does in the images that carry a label of the concept's category.
        whole_area: (U,) int64, where it does in all images that carry any label.
        concept_area: (C,) int64, of a concept's masks.
        facts: the quantile of the thresholds, with its error.
    """

    concepts: Concepts
    intersection: LongArray
    unit_area: LongArray
    whole_area: LongArray
    concept_area: LongArray
    facts: dict[str, float]

    def judged(self, units: int) -> BoolArray:
        """Tell of which of a layer's units it can say anything, (U,): those above their threshold in a labelled image.

        Others are constant, or saturate: so many positions share their greatest value that none is above the quantile.
        """
        assert units == len(self.whole_area)
        return self.whole_area > 0

    def of_units(self, chosen: BoolArray) -> "MaskEvidence":
        """Keep the chosen units, (U,) bool."""
        areas = (self.intersection[chosen], self.unit_area[chosen], self.whole_area[chosen])
        return MaskEvidence(self.concepts, *areas, self.concept_area, self.facts)


@dataclass(frozen=True)
class CheckpointActivations:
    """All recorded layers of one checkpoint.

    Args:
        image_ids: (I,) names, in the order of the rows.
        layers: in forward order.
        step: what the checkpoint's content says of its step; None where it says nothing.
    """

    image_ids: tuple[str, ...]
    layers: tuple[LayerActivations, ...]
    step: int | None


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
    """One layer's units with their concepts, at one checkpoint.

    Args:
        name: the layer.
        scores: (U, C), higher is better; NaN for dead units; None where they were not read.
        log_prior: (C,) or None.
        top_concept: (U, T) int32, best first, T = min(10, C); -1 for dead units.
        top_score: (U, T); NaN for dead units.
        top_images: (U, M) int32, most activating first, M = min(20, I); -1 for dead units.
        alive: (U,) bool, false where the unit is constant over the probe.
        interpretable: (U,) bool, alive with a best score of at least tau.
        facts: named numbers about the scoring.
    """

    name: str
    scores: FloatArray | None
    log_prior: FloatArray | None
    top_concept: IntArray
    top_score: FloatArray
    top_images: IntArray
    alive: BoolArray
    interpretable: BoolArray
    facts: dict[str, float]


@dataclass(frozen=True)
class CheckpointLabels:
    """All layers of one checkpoint under one detector.

    Args:
        concepts: the C words that indices mean.
        image_ids: (I,) the images that indices mean.
        layers: in forward order.
        step: as in CheckpointActivations.
        score_unit: what a score is measured in.
    """

    concepts: Concepts
    image_ids: tuple[str, ...]
    layers: tuple[LayerLabels, ...]
    step: int | None
    score_unit: str
