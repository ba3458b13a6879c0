"""Masks on one grid of pixels, side by side, so that one pass over a layer's maps meets them all."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby
from operator import itemgetter

import numpy as np

from cmon.recording.kernels import Axis, Masks
from cmon.records import LongArray, PackedLabels


@dataclass(frozen=True)
class Grid:
    """The masks, of all labels that some images are given, whose pixels lie at the same places.

    Args:
        rows: (h,) where the centres of the pixels' rows lie, as a share of the height.
        columns: (w,) the same across.
        masks: of the images.
    """

    rows: tuple[float, ...]
    columns: tuple[float, ...]
    masks: Masks


def grids(labels: Sequence[Sequence[PackedLabels]], categories: Sequence[int]) -> list[Grid]:
    """Put labels together by their grids.

    Args:
        labels: that each image is given, its own first; some may show nothing.
        categories: (C,) the category of each concept, as an index below G.
    """
    together: dict[tuple[tuple[float, ...], tuple[float, ...]], list[tuple[int, int, PackedLabels]]] = {}
    for image, given in enumerate(labels):
        for arrangement, one in enumerate(given):
            if len(one.concepts):
                together.setdefault((one.rows, one.columns), []).append((image, arrangement, one))
    of_concept = np.array(categories, dtype=np.int64)
    return [Grid(rows, columns, _masks(shown, len(labels), of_concept)) for (rows, columns), shown in together.items()]


def _masks(shown: list[tuple[int, int, PackedLabels]], images: int, of_concept: LongArray) -> Masks:
    image, arrangement = np.array([place for *place, _ in shown], dtype=np.int64).T
    concept = np.concatenate([one.concepts for *_, one in shown]).astype(np.int64)
    of_mask = np.repeat(np.arange(len(shown)), [len(one.concepts) for *_, one in shown])
    carried = np.zeros((len(shown), of_concept.max() + 2), dtype=np.bool_)
    carried[of_mask, of_concept[concept]] = True
    carried[:, -1] = True
    of_group, group = carried.nonzero()
    bits = [np.concatenate([one.bits for *_, one in given], axis=1) for _, given in groupby(shown, itemgetter(0))]
    return Masks(
        words=len(bits[0]),
        bits=np.concatenate([of_image.ravel() for of_image in bits]),
        starts=np.searchsorted(image[of_mask], np.arange(images + 1)),
        arrangement=arrangement[of_mask],
        concept=concept,
        group_starts=np.searchsorted(image[of_group], np.arange(images + 1)),
        group_arrangement=arrangement[of_group],
        group=group,
    )


@lru_cache(maxsize=64)
def axis(places: tuple[float, ...], positions: int) -> Axis:
    """Return how maps of so many positions along a side are interpolated at places, shares of the side in (0, 1).

    A map is constant beyond the centres of its outermost positions.
    """
    at = np.clip(np.array(places) * positions - 0.5, 0, positions - 1)
    low = np.minimum(at.astype(np.int64), max(positions - 2, 0))
    return Axis(
        positions=np.stack([low, np.minimum(low + 1, positions - 1)], axis=1),
        weights=np.stack([1 - (at - low), at - low], axis=1).astype(np.float32),
        first=np.searchsorted(low, np.arange(positions + 1)),
    )
