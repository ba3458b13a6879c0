"""What a detector is, and what every layer's labels are made of whichever detector scores it."""

from typing import Any, ClassVar, Literal, Protocol

import numpy as np

from cmon.detectors.drawing import null_scores, resampled_labels
from cmon.errors import DetectorError
from cmon.profiling import Profile
from cmon.records import (
    ALIVE,
    QUALITY,
    SATURATED,
    TOP_CONCEPTS,
    TOP_IMAGES,
    BoolArray,
    Evidence,
    FloatArray,
    IntArray,
    LayerActivations,
    LayerLabels,
    MaskEvidence,
    Scores,
    StateArray,
)
from cmon.statistics import Draws, Test, best_concepts, p_values, top_images, unit_states


class Detector(Protocol):
    """Anything that scores units against concepts; a frozen dataclass whose fields are all its parameters.

    It scores them by their pooled activations and by what it `uses`: the evidence of an image-text model, or counts of
    pixels against a Broden probe's masks. What `drawing` tells of it may have too: null_scores, resampled_labels,
    half_words, and `permutations` and `resamples`, how many it takes where the config does not say.
    """

    score_unit: ClassVar[str]
    uses: ClassVar[Literal["evidence", "counts"]]

    def recipe(self) -> dict[str, Any]:
        """Return all that can change the scores, as JSON values."""

    def __call__(self, activations: FloatArray, evidence: Any) -> Scores:
        """Score living units.

        Args:
            activations: (I, U) finite, no unit constant; but in a resample, one may be.
            evidence: of the same I images against C concepts: Evidence, or MaskEvidence of the same units.

        Returns:
            Scores of (U, C).
        """


def label_layer(
    detector: Detector,
    layer: LayerActivations,
    evidence: Evidence | MaskEvidence,
    test: Test,
    draws: Draws,
    profile: Profile | None = None,
) -> LayerLabels:
    """Score one layer, tell which units are interpretable, and how sure their words are.

    Units that are not alive are left out of the scoring, and so of any prior; they get -1 and NaN.

    Args:
        detector: scores the living units.
        layer: (I, U) activations, rows in the order of the evidence's images.
        evidence: what the detector uses.
        test: when a unit is interpretable.
        draws: permutations and resamples of the images; none of a kind: that is left out.
        profile: where each of them is timed, if it is.

    Raises:
        DetectorError: for NaN or infinite activations, and for scores that are NaN.
    """
    values, profile = layer.values, profile or Profile()
    if not np.isfinite(values).all():
        raise DetectorError(layer.name, "activations hold NaN or infinity", "look at this checkpoint's training")
    states = _states(values, evidence)
    alive, judged = states == ALIVE, evidence.of_units(states == ALIVE)
    active = values if alive.all() else values[:, alive]
    scored, null, (again_concept, again_score) = _scored(detector, active, judged, draws, profile)
    if not all(np.isfinite(scores).all() for scores in (scored.values, null, again_score)):
        hint = "look at the encoder's features and the detector's parameters"
        raise DetectorError(layer.name, "the detector's scores are NaN or infinite", hint)
    best = best_concepts(scored.values, min(TOP_CONCEPTS, scored.values.shape[1]))
    score = np.take_along_axis(scored.values, best, axis=1)
    again_score = less_bias(again_score, score[:, 0])
    p_value, passed, again = judge(test, score[:, 0], again_score, null)
    return LayerLabels(
        name=layer.name,
        scores=of_all_units(scored.values, alive),
        log_prior=scored.log_prior,
        top_concept=of_all_units(best, alive),
        top_score=of_all_units(score, alive),
        top_images=of_all_units(top_images(active, min(TOP_IMAGES, len(values))), alive),
        state=states,
        p_value=of_all_units(p_value, alive),
        interpretable=of_all_units(passed, alive),
        resampled_concept=of_all_units(again_concept, alive),
        resampled_score=of_all_units(again_score, alive),
        resampled_interpretable=of_all_units(again, alive),
        ranking=np.empty((len(states), 0), np.int32),
        quality=np.full((len(states), len(QUALITY)), np.nan, np.float32),
        facts=scored.facts,
    )


def _scored(
    detector: Detector, active: FloatArray, judged: Any, draws: Draws, profile: Profile
) -> tuple[Scores, FloatArray, tuple[IntArray, FloatArray]]:
    """Score living units as they are, on permuted images (best scores alone) and in resamples (best concepts)."""
    living, concepts, resamples = active.shape[1], len(judged.concepts.names), len(draws.resamples)
    shape = (living, resamples, min(TOP_CONCEPTS, concepts))
    found = np.empty(shape, np.int32), np.empty(shape, np.float32)
    null = np.empty((living, len(draws.orders)), np.float32)
    if not living:
        return Scores(np.empty((living, concepts), np.float32), None, {}), null, found
    with profile.part("scores"):
        scored = detector(active, judged)
    with profile.part("permutations"):
        null = null_scores(detector, active, judged, draws) if null.shape[1] else null
    with profile.part("resamples"):
        found = resampled_labels(detector, active, judged, draws) if resamples else found
    return scored, null, found


def less_bias(resampled: FloatArray, best: FloatArray) -> FloatArray:
    """Shift each unit's scores in resamples so that its best ones are on average what its best score is.

    A resample holds images twice and is noisier than a probe, so that its best scores, being maxima over concepts, are
    too high on average. A shift moves no unit in the embedding.

    Args:
        resampled: (U, B, T) scores in every resample, best first.
        best: (U,) best scores.
    """
    if not resampled.shape[1]:
        return resampled
    bias = resampled[..., 0].mean(axis=1, dtype=np.float64) - best
    return np.asarray(resampled - bias[:, None, None], dtype=np.float32)


def judge(
    test: Test, best: FloatArray, resampled: FloatArray, null: FloatArray
) -> tuple[FloatArray, BoolArray, BoolArray]:
    """Test a layer's best scores, as they are and in every resample, against the same null scores.

    Args:
        test: when a unit is interpretable.
        best: (U,) best scores.
        resampled: (U, B, T) scores in every resample, best first, as from less_bias.
        null: best scores on permuted images, any shape; none of them: there are no p-values.

    Returns:
        p-values (U,), NaN without null scores; which units pass (U,); which pass in every resample (U, B).
    """
    again = resampled[..., 0]
    p_value, p_again = (
        p_values(scores, null) if null.size else np.full(scores.shape, np.nan, np.float32) for scores in (best, again)
    )
    passed = [test.passed(again[:, b], p_again[:, b]) for b in range(again.shape[1])]
    return p_value, test.passed(best, p_value), np.array(passed, dtype=np.bool_).reshape(again.T.shape).T


def _states(values: FloatArray, evidence: Evidence | MaskEvidence) -> StateArray:
    """Tell which units are alive, (U,): what the evidence can say nothing of has no positions above its threshold."""
    states = unit_states(values)
    states[(states == ALIVE) & ~evidence.judged(len(states))] = SATURATED
    return states


def of_all_units(values: Any, alive: BoolArray) -> Any:
    """Put rows of living units, (A, ...), into a table of all units, (U, ...); others get -1, NaN or false."""
    blank = {"i": -1, "f": np.nan, "b": False}[values.dtype.kind]
    table = np.full((len(alive), *values.shape[1:]), blank, dtype=values.dtype)
    table[alive] = values
    return table
