"""What concept masks say of a probe's images and of the units that look at them."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cmon.records.arrays import BoolArray, FloatArray, IntArray, LongArray
from cmon.records.recorded import Concepts


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
class PackedLabels:
    """The same with a bit a pixel.

    Args:
        concepts: (L,) int32, concept indices, ascending, each once.
        areas: (L,) int32, pixels of each mask.
        bits: (W, L) uint64, masks side by side; a pixel at place p, along the rows, is bit p mod 64 of word p div 64.
        rows: (h,) as of ImageLabels.
        columns: (w,) the same.
    """

    concepts: IntArray
    areas: IntArray
    bits: npt.NDArray[np.uint64]
    rows: tuple[float, ...]
    columns: tuple[float, ...]

    @classmethod
    def of(cls, labels: ImageLabels) -> "PackedLabels":
        """Pack an image's labels."""
        count, height, width = labels.masks.shape
        pixels = np.zeros((count, words(height, width) * 8), np.uint8)
        packed = np.packbits(labels.masks.reshape(count, height * width), axis=1, bitorder="little")
        pixels[:, : packed.shape[1]] = packed
        areas = labels.masks.sum((1, 2), dtype=np.int32)
        return cls(labels.concepts, areas, np.ascontiguousarray(pixels.view("<u8").T), labels.rows, labels.columns)


def words(height: int, width: int) -> int:
    """Return how many words of 64 bits hold a mask."""
    return -(-height * width // 64)


@dataclass(frozen=True)
class MaskDraws:
    """What one way to take the union makes of a layer's IoU when masks are permuted or images resampled.

    Args:
        null: (U, P) each unit's best IoU when every image has the labels of another one, by permutation.
        concept: (U, B, T) int32, each unit's best concepts in every resample, best first.
        score: (U, B, T) their IoU.
        half_concept: (U, 2) int32, the best concept by either half of the images alone.
    """

    null: FloatArray
    concept: IntArray
    score: FloatArray
    half_concept: IntArray


@dataclass(frozen=True)
class LayerCounts:
    """One layer's units against concept masks, in pixels of the masks over all images.

    Args:
        name: the layer.
        threshold: (U,) T of Network Dissection, in the unit of the layer's output.
        intersection: (U, C) int64, where a unit exceeds its threshold within a concept's mask.
        unit_area: (U, G) int64, where it does in the images that carry a label of a category.
        whole_area: (U,) int64, where it does in all images that carry any label.
        draws: by union, "category" and "all".
    """

    name: str
    threshold: FloatArray
    intersection: LongArray
    unit_area: LongArray
    whole_area: LongArray
    draws: Mapping[str, MaskDraws]


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
        known = (counts.intersection, area, counts.whole_area, self.concept_area)
        return MaskEvidence(self.concepts, *known, facts, counts.draws)


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
        draws: by union, "category" and "all".
    """

    concepts: Concepts
    intersection: LongArray
    unit_area: LongArray
    whole_area: LongArray
    concept_area: LongArray
    facts: dict[str, float]
    draws: Mapping[str, MaskDraws]

    def judged(self, units: int) -> BoolArray:
        """Tell of which of a layer's units it can say anything, (U,): those above their threshold in a labelled image.

        Others are constant, or saturate: so many positions share their greatest value that none is above the quantile.
        """
        assert units == len(self.whole_area)
        return self.whole_area > 0

    def of_units(self, chosen: BoolArray) -> "MaskEvidence":
        """Keep the chosen units, (U,) bool."""
        areas = (self.intersection[chosen], self.unit_area[chosen], self.whole_area[chosen])
        draws = {
            union: MaskDraws(drawn.null[chosen], drawn.concept[chosen], drawn.score[chosen], drawn.half_concept[chosen])
            for union, drawn in self.draws.items()
        }
        return MaskEvidence(self.concepts, *areas, self.concept_area, self.facts, draws)
