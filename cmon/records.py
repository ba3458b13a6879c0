"""What passes between stages, as plain frozen records of arrays that know no files."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

FloatArray: TypeAlias = npt.NDArray[np.float32]
IntArray: TypeAlias = npt.NDArray[np.int32]
BoolArray: TypeAlias = npt.NDArray[np.bool_]
Pixels: TypeAlias = npt.NDArray[np.uint8]

# How many of a unit's best concepts and images a similarity store keeps.
TOP_CONCEPTS = 10
TOP_IMAGES = 20

# Rows of (images, concepts) that are computed at a time, so that memory stays bounded.
BLOCK_BYTES = 64 * 2**20


@dataclass(frozen=True)
class Concepts:
    """The words that units may be given.

    Args:
        names: (C,) unique words.
        categories: (C,) the category of each, "" where there is none.
    """

    names: tuple[str, ...]
    categories: tuple[str, ...]


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


@dataclass(frozen=True)
class Units:
    """A table with one row per run, checkpoint, layer and unit; all columns have R rows.

    Args:
        run: (R,) int32, index into Study.runs.
        checkpoint: (R,) int32, index into Study.checkpoints.
        layer: (R,) int32, index into Study.layers.
        unit: (R,) int32, index within its layer.
        concept: (R,) int32, index of the best concept; -1 for dead units.
        score: (R,) the best concept's score; NaN for dead units.
        interpretable: (R,) bool.
        alive: (R,) bool.
        top_concept: (R, 10) int32, best first; -1 where there is none.
        top_score: (R, 10).
        top_images: (R, 20) int32, index into Study.image_ids; -1 where there is none.
        embedding: (R, D) equation 1; NaN for dead units.
        xy: (R, 2) the plane, no unit; NaN for dead units.
    """

    run: IntArray
    checkpoint: IntArray
    layer: IntArray
    unit: IntArray
    concept: IntArray
    score: FloatArray
    interpretable: BoolArray
    alive: BoolArray
    top_concept: IntArray
    top_score: FloatArray
    top_images: IntArray
    embedding: FloatArray
    xy: FloatArray


@dataclass(frozen=True)
class CheckpointName:
    """One checkpoint of one run: `run` indexes Study.runs."""

    run: int
    name: str
    step: int


@dataclass(frozen=True)
class Anchors:
    """Named words in the space: features (N, D) unit norm, xy (N, 2)."""

    names: tuple[str, ...]
    features: FloatArray
    xy: FloatArray


@dataclass(frozen=True)
class Study:
    """One detector's whole study, as `embed` leaves it for `report`.

    Args:
        detector: its name.
        score_unit: what a score is measured in.
        runs: names, in the config's order.
        checkpoints: (K,) by run, then by step.
        layers: names, in forward order.
        concepts: the C words.
        concept_xy: (C, 2) their places in the plane.
        image_ids: (I,) names.
        units: the table of all units.
        anchors: N of them, perhaps none.
        d_anchor: (K, L) mean distance to the nearest anchor; NaN where no unit or anchor is.
        prior_perplexity: (K, L) units that the layer's prior rests on; NaN where the detector has no prior.
        facts: numbers on the projection and the scoring, such as `trustworthiness`.
    """

    detector: str
    score_unit: str
    runs: tuple[str, ...]
    checkpoints: tuple[CheckpointName, ...]
    layers: tuple[str, ...]
    concepts: Concepts
    concept_xy: FloatArray
    image_ids: tuple[str, ...]
    units: Units
    anchors: Anchors
    d_anchor: FloatArray
    prior_perplexity: FloatArray
    facts: dict[str, float]


@dataclass(frozen=True)
class View:
    """What one figure is drawn from: a study, the run it shows, and how.

    Args:
        study: the whole study; figures use the shared plane of all runs.
        run: index into study.runs.
        track: (layer index, unit) of the units to follow.
        steps: checkpoint indices, into study.checkpoints, that plane and evolution show.
        top: units per layer in top_units.
        images: top images shown of a unit.
        caption: the settings, one line, printed small beneath the figure.
        thumbnail: image index -> (h, w, 3) uint8, at most 96 px wide and high.
    """

    study: Study
    run: int
    track: tuple[tuple[int, int], ...]
    steps: tuple[int, ...]
    top: int
    images: int
    caption: str
    thumbnail: Callable[[int], Pixels]

    @cached_property
    def checkpoints(self) -> tuple[int, ...]:
        """Indices into study.checkpoints of this run, by step."""
        return tuple(k for k, name in enumerate(self.study.checkpoints) if name.run == self.run)

    def rows(self, checkpoint: int, layer: int | None = None) -> npt.NDArray[np.intp]:
        """Return the table's rows of one checkpoint, of all its layers or of one, by layer and unit."""
        units = self.study.units
        chosen = units.checkpoint == checkpoint
        if layer is not None:
            chosen &= units.layer == layer
        return np.flatnonzero(chosen)

    def step(self, checkpoint: int) -> int:
        """Return a checkpoint's step."""
        return self.study.checkpoints[checkpoint].step


# A figure's data: columns of equal length, as its CSV holds them.
Table: TypeAlias = dict[str, npt.NDArray[Any]]


def blocks(length: int, row_bytes: int) -> list[slice]:
    """Cut `length` rows into slices of at most BLOCK_BYTES each, at least one row a slice."""
    rows = max(1, BLOCK_BYTES // max(row_bytes, 1))
    return [slice(start, min(start + rows, length)) for start in range(0, length, rows)]
