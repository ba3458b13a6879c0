"""What permuted masks, and resamples of the images, make of a layer's IoU."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from cmon.recording.sums import Sums
from cmon.records import TOP_CONCEPTS, FloatArray, LongArray, MaskDraws, blocks
from cmon.statistics import best_concepts


def mask_draws(sums: Sums, areas: LongArray, categories: Sequence[int]) -> dict[str, MaskDraws]:
    """Return a layer's draws by union: "category", over the images with a label of the concept's category, and "all".

    Args:
        sums: of U units, G categories, P permutations, B resamples and two halves.
        areas: (C, 1 + B + 2) pixels of each concept's masks, in all images and in each draw.
        categories: (C,) the category of each concept, as an index below G.
    """
    last = sums.area.shape[2] - 1
    return {
        "category": _draws(sums, areas, np.array(categories, dtype=np.int64)),
        "all": _draws(sums, areas, np.full(len(categories), last)),
    }


def _draws(sums: Sums, areas: LongArray, group: LongArray) -> MaskDraws:
    """Return the draws where each concept's union is over the images that carry a label of its group, (C,)."""
    units, concepts, draws = sums.drawn_both.shape
    top, resamples = min(TOP_CONCEPTS, concepts), draws - 2
    null = np.empty((units, sums.both.shape[1] - 1), np.float32)
    concept, score = np.empty((units, draws, top), np.int32), np.empty((units, draws, top), np.float32)
    # Four numbers of 8 bytes are held of each at a time.
    for some in blocks(units, 32 * concepts * (draws + null.shape[1])):
        both, area = (part[some, 1:] for part in (sums.both, sums.area))
        null[some] = _iou(both, area[:, :, group], areas[:, 0]).max(axis=2)
        both, area = (part[some].transpose(0, 2, 1) for part in (sums.drawn_both, sums.drawn_area))
        values = _iou(both, area[:, :, group], areas[:, 1:].T).reshape(-1, concepts)
        best = best_concepts(values, top)
        concept[some] = best.reshape(-1, draws, top)
        score[some] = np.take_along_axis(values, best, axis=1).reshape(-1, draws, top)
    halves = sums.drawn_area[:, -1, resamples:]  # (U, 2) above the threshold anywhere
    half_concept = np.where(halves > 0, concept[:, resamples:, 0], np.int32(-1))
    return MaskDraws(null, concept[:, :resamples].copy(), score[:, :resamples].copy(), half_concept)


def _iou(both: npt.NDArray[Any], area: LongArray, concept_area: LongArray) -> FloatArray:
    """Divide, (..., C), as the detector does: 0 where neither the unit nor the concept is anywhere."""
    return np.ascontiguousarray(both / np.maximum(area + concept_area - both, 1), dtype=np.float32)
