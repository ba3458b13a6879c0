"""Counts where thresholded activation maps meet concept masks, for Network Dissection; no map is kept."""

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np

from cmon.recording.grids import grids
from cmon.recording.overlap import mask_draws
from cmon.recording.sums import Above, Sums
from cmon.records import IntArray, LayerCounts, LongArray, PackedLabels
from cmon.statistics import Draws
from cmon.threads import threads

if TYPE_CHECKING:
    from torch import Tensor

# Images whose masks are side by side at once: by permutations each has many.
AT_A_TIME = 16


@dataclass
class Counter:
    """Adds up pixels, image by image: M of a unit where its map exceeds its threshold, L of a concept by its mask.

    After each batch's maps it is told what the batch's images show, and sums

        M and L, and M, over the images as they are, once for every permutation of their labels, and once for every
        draw of the images, in which each counts a stated number of times.

    A map is interpolated bilinearly at the centres of the mask's pixels, and is constant beyond the centres of its own
    outermost positions. What is interpolated is the excess over the threshold, so that the sign is right where they
    are nearly equal, and a map nowhere above it is nowhere above it in between.

    Args:
        thresholds: layer -> (U,) float32, in forward order.
        categories: (C,) the category of each concept, as an index below G.
        draws: of the images, in the order in which they come.
    """

    thresholds: dict[str, "Tensor"]
    categories: Sequence[int]
    draws: Draws
    _above: dict[str, Above] = field(default_factory=dict)
    _counted: int = 0

    def __post_init__(self) -> None:
        self._threads = threads()
        self.concept_images: LongArray = np.zeros(len(self.categories), dtype=np.int64)
        halves = np.stack([self.draws.half, ~self.draws.half]).astype(np.int32)
        self._weights: IntArray = np.ascontiguousarray(np.concatenate([self.draws.resamples, halves]).T)
        draws, arrangements = self._weights.shape[1], 1 + len(self.draws.orders)
        # By concept: over all images, then in every draw.
        self._areas: LongArray = np.zeros((len(self.categories), 1 + draws), dtype=np.int64)
        size = (len(self.categories), max(self.categories, default=-1) + 2, arrangements, draws)
        self._sums = {name: Sums.empty(len(value), *size) for name, value in self.thresholds.items()}

    @property
    def concept_area(self) -> LongArray:
        """The (C,) pixels of each concept's masks over all images."""
        return self._areas[:, 0].copy()

    def add(self, layer: str, maps: "Tensor") -> None:
        """Take one layer's maps of a batch, (n, U, h, w), and keep until they are counted those above a threshold.

        They are few, so that a GPU only has to hand over these.
        """
        threshold = self.thresholds[layer]
        image, unit = (maps.amax((2, 3)) > threshold).nonzero(as_tuple=True)
        excess = (maps[image, unit] - threshold[unit, None, None]).contiguous()
        ends = image.bincount(minlength=len(maps)).cumsum(0).tolist()
        self._above[layer] = Above([0, *ends], unit.cpu().numpy(), excess.cpu().numpy())

    def count(self, labels: Iterable[Sequence[PackedLabels]]) -> None:
        """Count the images of the batch.

        Args:
            labels: of each image its own, then those that every permutation gives it.
        """
        rest = iter(labels)
        size = len(next(iter(self._above.values())).starts) - 1
        with ThreadPoolExecutor(self._threads) as pool:
            for start in range(0, size, AT_A_TIME):
                given = list(islice(rest, min(AT_A_TIME, size - start)))
                assert len(given) == min(AT_A_TIME, size - start), "labels for every image"
                self._count(start, given, pool)
            for sums in self._sums.values():
                sums.widen()
        self._above.clear()

    def counts(self) -> tuple[LayerCounts, ...]:
        """Return what was counted, a record a layer."""
        assert self._counted == len(self._weights), "as many images as were drawn from"
        return tuple(self._layer(name, sums) for name, sums in self._sums.items())

    def _count(self, start: int, labels: list[Sequence[PackedLabels]], pool: ThreadPoolExecutor) -> None:
        """Count some images, of which `start` is the first one's place in the batch."""
        weights = self._weights[self._counted : self._counted + len(labels)]
        self._counted += len(labels)
        for given, weight in zip(labels, weights, strict=True):
            assert len(given) == 1 + len(self.draws.orders), "labels for every permutation"
            own = given[0]
            self._areas[own.concepts, 0] += own.areas
            self._areas[own.concepts, 1:] += np.multiply(own.areas[:, None], weight, dtype=np.int64)
            self.concept_images[own.concepts] += 1
        todo = [
            (self._sums[layer], above.of(start, start + len(labels)), grid)
            for grid in grids(labels, self.categories)
            for layer, above in self._above.items()
        ]

        def add(part: int) -> None:
            for sums, above, grid in todo:
                sums.add(above, grid, weights, part, self._threads)

        for _ in pool.map(add, range(self._threads)):
            pass

    def _layer(self, name: str, sums: Sums) -> LayerCounts:
        area = sums.area[:, 0]
        return LayerCounts(
            name=name,
            threshold=self.thresholds[name].cpu().numpy(),
            intersection=sums.both[:, 0].astype(np.int64),
            unit_area=np.ascontiguousarray(area[:, :-1]),
            whole_area=area[:, -1].copy(),
            draws=mask_draws(sums, self._areas, self.categories),
        )
