"""One layer's pixels, added up over images as they are, permuted and resampled."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from cmon.compiled import compiled
from cmon.recording.grids import Grid, axis
from cmon.recording.kernels import Axis, Totals, add_overlaps, mark_inside
from cmon.records import FloatArray, IntArray, blocks

if TYPE_CHECKING:
    from torch import Tensor

# An intersection is no larger than its unit's area, and a batch adds less than as much again.
HALF_OF_INT32 = 2**30


@dataclass(frozen=True)
class Above:
    """A layer's maps of n images, those that are above their unit's threshold somewhere, image after image.

    Args:
        starts: n + 1 places, where the maps of each image begin.
        units: (a,) int64, in each image every one at most once.
        excess: (a, h, w) over the threshold.
    """

    starts: list[int]
    units: "Tensor"
    excess: "Tensor"

    def of(self, start: int, stop: int) -> "Above":
        """Keep those of images `start` to `stop`, exclusive."""
        starts = self.starts[start : stop + 1]
        kept = slice(starts[0], starts[-1])
        return Above([place - kept.start for place in starts], self.units[kept], self.excess[kept])


@dataclass
class Sums:
    """Pixels of a layer's units above their thresholds.

    Arrangement 0 gives every image its own labels, arrangement p those of permutation p. Group G is all categories
    together: images that carry any label. Draws are the resamples, then one half of the images, then the other.

    Args:
        both: (U, 1 + P, C) int32, within a concept's mask, by arrangement.
        area: (U, 1 + P, G + 1) int64, in the images that carry a label of a group, by arrangement.
        drawn_both: (U, C, B + 2) int32, within a concept's mask, by draw.
        drawn_area: (U, G + 1, B + 2) int64, in the images that carry a label of a group, by draw.
    """

    both: "Tensor"
    area: "Tensor"
    drawn_both: "Tensor"
    drawn_area: "Tensor"

    @classmethod
    def empty(cls, units: int, concepts: int, groups: int, arrangements: int, draws: int, device: str) -> "Sums":
        """Return zeros; `groups` is G + 1."""
        import torch

        return cls(
            both=torch.zeros((units, arrangements, concepts), dtype=torch.int32, device=device),
            area=torch.zeros((units, arrangements, groups), dtype=torch.int64, device=device),
            drawn_both=torch.zeros((units, concepts, draws), dtype=torch.int32, device=device),
            drawn_area=torch.zeros((units, groups, draws), dtype=torch.int64, device=device),
        )

    def add_on_processor(self, above: Above, grid: Grid, weights: IntArray, part: int, parts: int) -> None:
        """Add some images, of every `parts`-th unit, so that several threads may do so at once.

        Args:
            above: on the processor.
            grid: of n images.
            weights: (n, B + 2) int32, how often each draw holds each image.
            part: below `parts`.
            parts: how many there are.
        """
        totals = Totals(*(values.numpy() for values in (self.both, self.area, self.drawn_both, self.drawn_area)))
        units, excess = above.units.numpy(), above.excess.numpy()
        images = np.repeat(np.arange(len(weights)), np.diff(above.starts))
        down, across = axis(grid.rows, excess.shape[1]), axis(grid.columns, excess.shape[2])
        labelled, words = np.diff(grid.masks.starts) > 0, grid.masks.words
        chosen = np.flatnonzero((units % parts == part) & labelled[images])
        for block in blocks(len(chosen), 12 * words):
            some = chosen[block]
            word, bits = np.empty(len(some) * words, np.int32), np.empty(len(some) * words, np.uint64)
            ends, pixels = np.empty(len(some), np.int64), np.empty(len(some), np.int64)
            marks = (word, bits, ends, pixels)
            compiled(mark_inside)(excess[some], down, across, *marks)
            compiled(add_overlaps)(units[some], images[some], *marks, grid.masks, weights, totals)

    def add(self, above: Above, grid: Grid, weights: IntArray) -> None:
        """Add n images, on any device; arguments are those of `add_on_processor`."""
        import torch

        device = self.both.device
        height, width = above.excess.shape[1:]
        down, across = (
            torch.from_numpy(_matrix(axis(places, positions), positions)).to(device)
            for places, positions in ((grid.rows, height), (grid.columns, width))
        )
        drawn = torch.from_numpy(weights).to(device)
        for image in range(len(weights)):
            masks, one = grid.masks.of(image), above.of(image, image + 1)
            if not len(masks.bits):
                continue
            packed = np.ascontiguousarray(masks.bits.reshape(masks.words, -1).T).view(np.uint8)
            bits = np.unpackbits(packed, axis=1, count=len(down) * len(across), bitorder="little")
            pixels = torch.from_numpy(bits).to(device).float()
            places = _Places(*(torch.from_numpy(values).to(device) for values in masks[3:5] + masks[6:]))
            for some in blocks(len(one.units), 8 * pixels.shape[1]):
                inside = ((down @ one.excess[some]) @ across.T).flatten(1).gt_(0)
                self._add(one.units[some], inside, pixels, places, drawn[image])

    def _add(self, units: "Tensor", inside: "Tensor", pixels: "Tensor", places: "_Places", weight: "Tensor") -> None:
        """Add maps of one image, (a, pixels) 1 where they are above 0, with its masks, (N, pixels)."""
        # Few pixels are inside any unit. Sums of ones in float32 are exact up to 16 million, more than an image has.
        some = inside.amax(0).nonzero()[:, 0]
        both = (inside.index_select(1, some) @ pixels.index_select(1, some).T).int()
        area = inside.sum(1).long()[:, None]
        self.both[units[:, None], places.arrangement, places.concept] += both
        self.area[units[:, None], places.group_arrangement, places.group] += area
        own, own_groups = (places.concept[places.arrangement == 0], places.group[places.group_arrangement == 0])
        unit, mask = both[:, : len(own)].nonzero(as_tuple=True)
        self.drawn_both[units[unit], own[mask]] += both[unit, mask][:, None] * weight
        self.drawn_area[units[:, None], own_groups] += area[:, :, None] * weight

    def widen(self) -> None:
        """Take integers of 64 bits once an intersection might need more than 31; it doubles the memory."""
        if max(int(self.area.max()), int(self.drawn_area.max())) >= HALF_OF_INT32:
            self.both, self.drawn_both = self.both.long(), self.drawn_both.long()


class _Places(NamedTuple):
    """Where the masks of one image belong: as in `Masks`, on a device."""

    arrangement: "Tensor"
    concept: "Tensor"
    group_arrangement: "Tensor"
    group: "Tensor"


def _matrix(along: Axis, positions: int) -> FloatArray:
    """Return the (places, positions) weights of linear interpolation."""
    weights = np.zeros((len(along.weights), positions), np.float32)
    np.add.at(weights, (np.arange(len(weights))[:, None], along.positions), along.weights)
    return weights
