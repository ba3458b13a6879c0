"""Network Dissection (Bau et al., CVPR 2017): thresholded activation maps against concept masks."""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np

from cmon.config import NetworkDissection as NetworkDissectionTable
from cmon.records import FloatArray, IntArray, MaskEvidence, Scores
from cmon.statistics import Draws


@dataclass(frozen=True)
class NetworkDissection:
    """IoU = sum |M and L| / sum |M or L|.

    M is where a unit's map, interpolated to the mask's pixels, exceeds the unit's threshold; L is a concept's mask.
    Both are counted when activations are recorded, and so are those of permuted and resampled images.

    Args:
        union: the images over which |M or L| is summed: those that carry any label of the concept's category, as in
            the paper, or all that carry any label.
    """

    union: Literal["category", "all"] = "category"

    score_unit: ClassVar[str] = "IoU"
    uses: ClassVar[Literal["evidence", "counts"]] = "counts"
    permutations: ClassVar[int] = 20  # masks are read anew for each
    resamples: ClassVar[int] = 100

    def recipe(self) -> dict[str, Any]:
        """Return the parameter; the threshold's is in the recipe of the counts."""
        return {"union": self.union}

    def __call__(self, activations: FloatArray, evidence: MaskEvidence) -> Scores:  # noqa: ARG002
        """Score units; (U, C) in [0, 1], 0 where neither the unit nor the concept is anywhere."""
        area = evidence.unit_area if self.union == "category" else evidence.whole_area[:, None]
        union = area + evidence.concept_area - evidence.intersection
        return Scores((evidence.intersection / np.maximum(union, 1)).astype(np.float32), None, evidence.facts)

    def null_scores(self, activations: FloatArray, evidence: MaskEvidence, draws: Draws) -> FloatArray:  # noqa: ARG002
        """Return each unit's best IoU on permuted masks, (U, P)."""
        return evidence.draws[self.union].null

    def resampled_labels(
        self,
        activations: FloatArray,  # noqa: ARG002
        evidence: MaskEvidence,
        draws: Draws,  # noqa: ARG002
    ) -> tuple[IntArray, FloatArray]:
        """Return each unit's best concepts and their IoU in every resample, (U, B, T)."""
        return evidence.draws[self.union].concept, evidence.draws[self.union].score

    def half_words(self, activations: FloatArray, evidence: MaskEvidence, draws: Draws) -> IntArray:  # noqa: ARG002
        """Return each unit's best concept by either half of the images, (U, 2)."""
        return evidence.draws[self.union].half_concept


def from_config(table: NetworkDissectionTable) -> NetworkDissection:
    """Make the detector."""
    return NetworkDissection(table.union)
