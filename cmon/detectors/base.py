"""What a detector is, and what every layer's labels are made of whichever detector scores it."""

from typing import Any, ClassVar, Literal, Protocol

import numpy as np

from cmon.errors import DetectorError
from cmon.records import (
    TOP_CONCEPTS,
    TOP_IMAGES,
    Evidence,
    FloatArray,
    IntArray,
    LayerActivations,
    LayerLabels,
    MaskEvidence,
    Scores,
)
from cmon.statistics import alive_units, top_images


class Detector(Protocol):
    """Anything that scores units against concepts; a frozen dataclass whose fields are all its parameters.

    It scores them by their pooled activations and by what it `uses`: the evidence of an image-text model, or counts of
    pixels against a Broden probe's masks.
    """

    score_unit: ClassVar[str]
    uses: ClassVar[Literal["evidence", "counts"]]

    def recipe(self) -> dict[str, Any]:
        """Return all that can change the scores, as JSON values."""

    def __call__(self, activations: FloatArray, evidence: Any) -> Scores:
        """Score living units.

        Args:
            activations: (I, U) finite, no unit constant.
            evidence: of the same I images against C concepts: Evidence, or MaskEvidence of the same units.

        Returns:
            Scores of (U, C).
        """


def label_layer(
    detector: Detector, layer: LayerActivations, evidence: Evidence | MaskEvidence, tau: float | None
) -> LayerLabels:
    """Score one layer, and keep its units' best concepts and images.

    Dead units are left out of the scoring, and so of any prior; they get -1 and NaN.

    Args:
        detector: scores the living units.
        layer: (I, U) activations, rows in the order of the evidence's images.
        evidence: what the detector uses.
        tau: the best score from which a unit is interpretable; None: every living unit is.

    Raises:
        DetectorError: for NaN or infinite activations, and for scores that are NaN.
    """
    values = layer.values
    if not np.isfinite(values).all():
        raise DetectorError(layer.name, "activations hold NaN or infinity", "look at this checkpoint's training")
    alive = alive_units(values) & evidence.judged(values.shape[1])
    units, concepts = len(alive), len(evidence.concepts.names)
    scores = np.full((units, concepts), np.nan, dtype=np.float32)
    log_prior, facts = None, {}
    if alive.any():
        scored = detector(values[:, alive], evidence.of_units(alive))
        if not np.isfinite(scored.values).all():
            hint = "look at the encoder's features and the detector's parameters"
            raise DetectorError(layer.name, "the detector's scores are NaN or infinite", hint)
        scores[alive], log_prior, facts = scored.values, scored.log_prior, scored.facts
    concept = np.full((units, min(TOP_CONCEPTS, concepts)), -1, dtype=np.int32)
    concept[alive] = best_concepts(scores[alive], concept.shape[1])
    score = np.take_along_axis(scores, np.maximum(concept, 0), axis=1)
    images = np.full((units, min(TOP_IMAGES, len(values))), -1, dtype=np.int32)
    images[alive] = top_images(values[:, alive], images.shape[1])
    clear = alive if tau is None else alive & (np.nan_to_num(score[:, 0], nan=-np.inf) >= tau)
    return LayerLabels(layer.name, scores, log_prior, concept, score, images, alive, clear, facts)


def best_concepts(scores: FloatArray, count: int) -> IntArray:
    """Return the `count` best concepts of each unit, (U, count) int32, best first, equals in concepts' order."""
    return np.argsort(-scores, axis=1, kind="stable")[:, :count].astype(np.int32)
