"""One layer's pixels, added up over images as they are, permuted and resampled."""

from dataclasses import dataclass

import numpy as np

from cmon.compiled import compiled
from cmon.recording.grids import Grid, axis
from cmon.recording.kernels import Integers, Totals, add_overlaps, mark_inside
from cmon.records import FloatArray, IntArray, LongArray, blocks

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
    units: LongArray
    excess: FloatArray

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

    both: Integers
    area: LongArray
    drawn_both: Integers
    drawn_area: LongArray

    @classmethod
    def empty(cls, units: int, concepts: int, groups: int, arrangements: int, draws: int) -> "Sums":
        """Return zeros; `groups` is G + 1."""
        return cls(
            both=np.zeros((units, arrangements, concepts), dtype=np.int32),
            area=np.zeros((units, arrangements, groups), dtype=np.int64),
            drawn_both=np.zeros((units, concepts, draws), dtype=np.int32),
            drawn_area=np.zeros((units, groups, draws), dtype=np.int64),
        )

    def add(self, above: Above, grid: Grid, weights: IntArray, part: int, parts: int) -> None:
        """Add some images, of every `parts`-th unit, so that several threads may do so at once.

        Args:
            above: of n images.
            grid: of the same images.
            weights: (n, B + 2) int32, how often each draw holds each image.
            part: below `parts`.
            parts: how many there are.
        """
        totals = Totals(self.both, self.area, self.drawn_both, self.drawn_area)
        units, excess = above.units, above.excess
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

    def widen(self) -> None:
        """Take integers of 64 bits once an intersection might need more than 31; it doubles the memory."""
        if max(int(self.area.max()), int(self.drawn_area.max())) >= HALF_OF_INT32:
            self.both, self.drawn_both = self.both.astype(np.int64), self.drawn_both.astype(np.int64)
