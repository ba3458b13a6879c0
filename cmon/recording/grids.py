"""Masks on one grid of pixels, side by side, so that one product with a layer's maps meets them all."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from cmon.records import ImageLabels

if TYPE_CHECKING:
    import torch
    from torch import Tensor


@dataclass(frozen=True)
class Grid:
    """The masks, of all labels that one image is given, whose pixels lie at the same places.

    Args:
        rows: (h,) where the centres of the pixels' rows lie, as a share of the height.
        columns: (w,) the same across.
        masks: (N, h x w) float32, 0 or 1.
        arrangement: (N,) int64, 0 for the image's own labels, p for those of permutation p, counted from 1.
        concept: (N,) int64, of each mask.
        group_arrangement: (M,) int64, for every category that is carried, and for all categories together.
        group: (M,) int64, that category, G for all together.
        own: how many of the masks are the image's own; they are the first.
        own_groups: how many of the groups are.
    """

    rows: tuple[float, ...]
    columns: tuple[float, ...]
    masks: "Tensor"
    arrangement: "Tensor"
    concept: "Tensor"
    group_arrangement: "Tensor"
    group: "Tensor"
    own: int
    own_groups: int

    def inside(self, excess: "Tensor") -> "Tensor":
        """Interpolate (a, h, w) maps at the centres of the masks' pixels: (a, pixels), 1 where above 0, else 0."""
        down = _weights(self.rows, excess.shape[1], excess.device)
        across = _weights(self.columns, excess.shape[2], excess.device)
        return ((down @ excess) @ across.T).flatten(1).gt_(0)


def grids(labels: Sequence[ImageLabels], categories: Sequence[int], device: str) -> list[Grid]:
    """Put labels together by their grids.

    Args:
        labels: that one image is given, its own first; some may show nothing.
        categories: (C,) the category of each concept, as an index below G.
        device: a torch device.
    """
    together: dict[tuple[tuple[float, ...], ...], list[int]] = {}
    for number, one in enumerate(labels):
        if len(one.concepts):
            together.setdefault((one.rows, one.columns), []).append(number)
    return [_grid({number: labels[number] for number in numbers}, categories, device) for numbers in together.values()]


def _grid(labels: dict[int, ImageLabels], categories: Sequence[int], device: str) -> Grid:
    import torch

    every = max(categories) + 1
    concept = [one.concepts.tolist() for one in labels.values()]
    group = [[*sorted({categories[c] for c in concepts}), every] for concepts in concept]
    masks = np.concatenate([one.masks.reshape(len(one.masks), -1) for one in labels.values()])
    first = next(iter(labels.values()))

    def indices(values: list[list[int]]) -> "Tensor":
        return torch.tensor([value for part in values for value in part], device=device)

    return Grid(
        rows=first.rows,
        columns=first.columns,
        masks=torch.from_numpy(masks).to(device).float(),
        arrangement=indices([[number] * len(part) for number, part in zip(labels, concept, strict=True)]),
        concept=indices(concept),
        group_arrangement=indices([[number] * len(part) for number, part in zip(labels, group, strict=True)]),
        group=indices(group),
        own=len(concept[0]) if 0 in labels else 0,
        own_groups=len(group[0]) if 0 in labels else 0,
    )


@lru_cache(maxsize=64)
def _weights(places: tuple[float, ...], positions: int, device: "torch.device") -> "Tensor":
    """Return the (places, positions) weights of linear interpolation; places are shares of the side, in (0, 1)."""
    import torch

    at = np.clip(np.array(places) * positions - 0.5, 0, positions - 1)
    low = np.minimum(at.astype(int), max(positions - 2, 0))
    weights = np.zeros((len(places), positions))
    row = np.arange(len(places))
    weights[row, low] = 1 - (at - low)
    weights[row, np.minimum(low + 1, positions - 1)] += at - low
    return torch.from_numpy(weights.astype(np.float32)).to(device)
