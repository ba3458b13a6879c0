"""How well words fit, on images that did not choose them."""

from dataclasses import replace
from typing import Any

import numpy as np

from cmon.detectors.base import of_all_units
from cmon.detectors.drawing import half_words
from cmon.errors import DetectorError
from cmon.records import Evidence, LayerActivations, LayerLabels, MaskEvidence, Presence
from cmon.statistics import Draws, word_quality


def with_quality(
    detector: Any,
    labels: LayerLabels,
    layer: LayerActivations,
    evidence: Evidence | MaskEvidence,
    presence: Presence,
    draws: Draws,
) -> LayerLabels:
    """Judge each unit's word by either half of the images on the other half, by what the probe's labels say.

    Args:
        detector: as it scored the layer.
        labels: without quality.
        layer: (I, U) activations.
        evidence: what the detector used.
        presence: what the images show, of the evidence's concepts.
        draws: says which images are in which half.

    Returns:
        The same labels with quality; without it where half of the images are too few for the detector.
    """
    alive = labels.alive
    if not alive.any() or not presence.known.any():
        return labels
    try:
        words = half_words(detector, layer.values[:, alive], evidence.of_units(alive), draws)
    except DetectorError:
        return labels
    quality = word_quality(layer.values[:, alive], words, presence, draws.half)
    return replace(labels, quality=np.asarray(of_all_units(quality, alive)))
