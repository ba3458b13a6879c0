"""Counts where thresholded activation maps meet concept masks, for Network Dissection; no map is kept."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from cmon.records import BLOCK_BYTES, ImageLabels, LayerCounts, LongArray

if TYPE_CHECKING:
    import torch
    from torch import Tensor


@dataclass
class Counter:
    """Adds up pixels, batch by batch: M of a unit where its map exceeds its threshold, L of a concept by its mask.

    A map is interpolated bilinearly at the centres of the mask's pixels, and is constant beyond the centres of its own
    outermost positions. What is interpolated is the excess over the threshold, so that the sign is right where they
    are nearly equal, and a map nowhere above it is nowhere above it in between.

    Args:
        thresholds: layer -> (U,) float32.
        categories: (C,) the category of each concept, as an index below G.
        device: a torch device.
    """

    thresholds: dict[str, "Tensor"]
    categories: Sequence[int]
    device: str = "cpu"
    _labels: list["_OnDevice"] = field(default_factory=list)
    _tables: dict[str, "_Tables"] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.concept_area: LongArray = np.zeros(len(self.categories), dtype=np.int64)
        self.concept_images: LongArray = np.zeros(len(self.categories), dtype=np.int64)

    def begin(self, labels: Sequence[ImageLabels]) -> None:
        """Say what the images of the next batch show, and where."""
        self._labels = [_OnDevice.of(one, self.categories, self.device) for one in labels]
        for one in labels:
            self.concept_area[one.concepts] += one.masks.sum((1, 2))
            self.concept_images[one.concepts] += 1

    def add(self, layer: str, maps: "Tensor") -> None:
        """Count one layer's maps of the batch, (n, U, h, w)."""
        if layer not in self._tables:
            self._tables[layer] = _Tables.empty(maps.shape[1], self.categories, self.device)
        threshold = self.thresholds[layer]
        image, unit = (maps.amax((2, 3)) > threshold).nonzero(as_tuple=True)
        ends = image.bincount(minlength=len(maps)).cumsum(0).tolist()
        for labels, one, start, end in zip(self._labels, maps, [0, *ends[:-1]], ends, strict=True):
            step = max(1, BLOCK_BYTES // max(1, 8 * labels.masks.shape[1]))
            for first in range(start, end if len(labels.concepts) else start, step):
                units = unit[first : min(first + step, end)]
                self._tables[layer].add(units, labels.inside(one[units] - threshold[units, None, None]), labels)

    def counts(self) -> tuple[LayerCounts, ...]:
        """Return what was counted, a record a layer."""
        return tuple(
            LayerCounts(
                name, self.thresholds[name].cpu().numpy(), *(x.cpu().numpy() for x in (t.both, t.area, t.whole))
            )
            for name, t in self._tables.items()
        )


@dataclass(frozen=True)
class _OnDevice:
    """One image's labels where they are counted: concepts (L,), masks (L, pixels) 0 or 1, categories (G',) there."""

    concepts: "Tensor"
    masks: "Tensor"
    categories: "Tensor"
    rows: tuple[float, ...]
    columns: tuple[float, ...]

    @classmethod
    def of(cls, labels: ImageLabels, categories: Sequence[int], device: str) -> "_OnDevice":
        import torch

        here = sorted({categories[concept] for concept in labels.concepts.tolist()})
        masks = torch.from_numpy(labels.masks).to(device).flatten(1).float()
        concepts = torch.from_numpy(labels.concepts).to(device, torch.long)
        return cls(concepts, masks, torch.tensor(here, device=device, dtype=torch.long), labels.rows, labels.columns)

    def inside(self, excess: "Tensor") -> "Tensor":
        """Interpolate (a, h, w) maps at the centres of the mask's pixels: (a, pixels), 1 where above 0, else 0."""
        down = _weights(self.rows, excess.shape[1], excess.device)
        across = _weights(self.columns, excess.shape[2], excess.device)
        return ((down @ excess) @ across.T).flatten(1).gt_(0)


@dataclass(frozen=True)
class _Tables:
    """One layer's sums in pixels: both (U, C), area (U, G), whole (U,)."""

    both: "Tensor"
    area: "Tensor"
    whole: "Tensor"

    @classmethod
    def empty(cls, units: int, categories: Sequence[int], device: str) -> "_Tables":
        import torch

        shapes = (units, len(categories)), (units, max(categories, default=-1) + 1), (units,)
        return cls(*(torch.zeros(shape, dtype=torch.long, device=device) for shape in shapes))

    def add(self, units: "Tensor", inside: "Tensor", labels: _OnDevice) -> None:
        """Add one image: of the units (a,), which (a, pixels) are inside."""
        # Sums of ones in float32 are exact up to 16 million, more than an image has pixels.
        self.both[units[:, None], labels.concepts] += (inside @ labels.masks.T).long()
        area = inside.sum(1).long()
        self.area[units[:, None], labels.categories] += area[:, None]
        self.whole[units] += area


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
