"""A whole study under one detector, and what a figure shows of it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt

from cmon.records.arrays import BoolArray, FloatArray, IntArray, LongArray, Pixels, StateArray
from cmon.records.recorded import ALIVE, Concepts


@dataclass(frozen=True)
class Units:
    """A table with one row per run, checkpoint, layer and unit; all columns have R rows.

    Args:
        run: (R,) int32, index into Study.runs.
        checkpoint: (R,) int32, index into Study.checkpoints.
        layer: (R,) int32, index into Study.layers.
        unit: (R,) int32, index within its layer.
        concept: (R,) int32, index of the best concept; -1 for units that are not alive.
        score: (R,) the best concept's score; NaN for units that are not alive.
        interpretable: (R,) bool.
        state: (R,) int8, index into STATES.
        p_value: (R,) of the score; NaN where images were not permuted.
        quality: (R, 4) of the word on images that did not choose it, columns as in QUALITY; NaN where unknown.
        resampled_concept: (R, B) int32, the best concept in every resample of the images, the same resamples for all
            rows; -1 where the unit is not alive.
        resampled_score: (R, B) its score there, as in LayerLabels; NaN where the unit is not alive.
        resampled_interpretable: (R, B) bool.
        top_concept: (R, 10) int32, best first; -1 where there is none.
        top_score: (R, 10).
        top_images: (R, 20) int32, index into Study.image_ids; -1 where there is none.
        embedding: (R, D) equation 1; NaN for units that are not alive.
        xy: (R, 2) the plane, no unit; NaN for units that are not alive.
    """

    run: IntArray
    checkpoint: IntArray
    layer: IntArray
    unit: IntArray
    concept: IntArray
    score: FloatArray
    interpretable: BoolArray
    state: StateArray
    p_value: FloatArray
    quality: FloatArray
    resampled_concept: IntArray
    resampled_score: FloatArray
    resampled_interpretable: BoolArray
    top_concept: IntArray
    top_score: FloatArray
    top_images: IntArray
    embedding: FloatArray
    xy: FloatArray

    @property
    def alive(self) -> BoolArray:
        """Tell which units are alive, (R,)."""
        return np.asarray(self.state == ALIVE)


@dataclass(frozen=True)
class Baseline:
    """Untrained networks under the same test, a row for each layer of each; all columns have N rows.

    Args:
        run: (N,) int32, the run whose architecture it is, index into Study.runs.
        layer: (N,) int32, index into Study.layers.
        seed: (N,) int32, of the initialisation.
        units: (N,) int32.
        alive: (N,) int32, how many of them are.
        interpretable: (N,) int32, how many of them are.
    """

    run: IntArray
    layer: IntArray
    seed: IntArray
    units: IntArray
    alive: IntArray
    interpretable: IntArray


@dataclass(frozen=True)
class CheckpointName:
    """One checkpoint of one run: `run` indexes Study.runs, `sparsity` is as in CheckpointActivations."""

    run: int
    name: str
    step: int
    sparsity: float = float("nan")


@dataclass(frozen=True)
class Match:
    """Units of one layer in one run, and those of another that they are compared with, at the last checkpoint of each.

    Args:
        run: index into Study.runs.
        other: index into Study.runs.
        layer: index into Study.layers.
        checkpoint: of the run, index into Study.checkpoints.
        other_checkpoint: of the other.
        unit: (N,) int32.
        partner: (N,) int32, the other run's unit, each at most once.
        correlation: (N,) Pearson's, of the two units' pooled activations over the probe; NaN where one is constant.
        chance: (N,) the same after matching with the other run's images permuted, highest first; NaN where units are
            compared by number.
        same_start: are units compared by number, since the runs began with the same weights.
    """

    run: int
    other: int
    layer: int
    checkpoint: int
    other_checkpoint: int
    unit: IntArray
    partner: IntArray
    correlation: FloatArray
    chance: FloatArray
    same_start: bool


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
        concept_features: (C, D) unit norm.
        concept_xy: (C, 2) their places in the plane.
        image_ids: (I,) names.
        units: the table of all units.
        anchors: N of them, perhaps none.
        d_anchor: (K, L) mean distance to the nearest anchor; NaN where no unit or anchor is.
        d_anchor_resampled: (K, L, B) the same in every resample of the images.
        spread: (K, L) mean pairwise cosine distance of the living units' u; NaN where there are fewer than two.
        spread_resampled: (K, L, B) the same in every resample.
        baseline: of untrained networks, perhaps without rows.
        prior_perplexity: (K, L) units that the layer's prior rests on; NaN where the detector has no prior.
        facts: numbers on the projection and the scoring, such as `trustworthiness`.
        concept_images: (C,) int64, as in CheckpointLabels of the first checkpoint.
    """

    detector: str
    score_unit: str
    runs: tuple[str, ...]
    checkpoints: tuple[CheckpointName, ...]
    layers: tuple[str, ...]
    concepts: Concepts
    concept_features: FloatArray
    concept_xy: FloatArray
    image_ids: tuple[str, ...]
    units: Units
    anchors: Anchors
    d_anchor: FloatArray
    d_anchor_resampled: FloatArray
    spread: FloatArray
    spread_resampled: FloatArray
    baseline: Baseline
    prior_perplexity: FloatArray
    facts: dict[str, float]
    concept_images: LongArray | None = None


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
        other: the same units under another detector, row by row; None where a figure shows one detector.
        near: the cosine of two words' features from which they are near in meaning; None: what few pairs of
            different concepts exceed.
        reference: checkpoint index, into study.checkpoints, that retention follows units from; None: the run's first.
        runs: indices into study.runs of the runs that are shown together, `run` being the first; empty where a figure
            shows one.
        metrics: what trainings have recorded, such as accuracy: name -> (K,) a number for each of study.checkpoints,
            NaN where it was not measured.
        matches: of `run` with every other one of `runs`, layer by layer.
    """

    study: Study
    run: int
    track: tuple[tuple[int, int], ...]
    steps: tuple[int, ...]
    top: int
    images: int
    caption: str
    thumbnail: Callable[[int], Pixels]
    other: Study | None = None
    near: float | None = None
    reference: int | None = None
    runs: tuple[int, ...] = ()
    metrics: Mapping[str, FloatArray] = field(default_factory=dict)
    matches: tuple[Match, ...] = ()

    def of_run(self, run: int) -> "View":
        """Return the view of one run, with no track, steps or reference of its own."""
        return replace(self, run=run, track=(), steps=(), reference=None)

    @cached_property
    def checkpoints(self) -> tuple[int, ...]:
        """Indices into study.checkpoints of this run, by step."""
        return tuple(k for k, name in enumerate(self.study.checkpoints) if name.run == self.run)

    def rows(self, checkpoint: int, layer: int | None = None) -> npt.NDArray[np.intp]:
        """Return the table's rows of one checkpoint, of all its layers or of one, by layer and unit."""
        order, starts = self._by_checkpoint
        rows = order[starts[checkpoint] : starts[checkpoint + 1]]
        return rows if layer is None else rows[self.study.units.layer[rows] == layer]

    @cached_property
    def _by_checkpoint(self) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
        """Sort the table's rows once, so that a checkpoint's are found without a look at all."""
        owner = self.study.units.checkpoint
        order = np.argsort(owner, kind="stable")
        return order, np.searchsorted(owner[order], np.arange(len(self.study.checkpoints) + 1))

    def step(self, checkpoint: int) -> int:
        """Return a checkpoint's step."""
        return self.study.checkpoints[checkpoint].step
