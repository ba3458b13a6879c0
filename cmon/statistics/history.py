"""One layer's words over the checkpoints of a run, as they are and as they are in every resample of the images."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from cmon.records import BoolArray, IntArray, LongArray, Study
from cmon.statistics.intervals import half_width

Numbers = npt.NDArray[np.float64]


class Measured(NamedTuple):
    """Numbers with by how much they may be off, equally shaped; an error is NaN where it is not known."""

    value: Numbers
    error: Numbers

    def within(self, low: float = 0.0, high: float | Numbers = np.inf) -> tuple[Numbers, Numbers]:
        """Return the intervals' ends, none beyond what such a number can be; NaN where the error is not known."""
        return np.clip(self.value - self.error, low, high), np.clip(self.value + self.error, low, high)


@dataclass(frozen=True)
class Sampled:
    """Numbers with what they are in every resample of the images, the same resamples for all numbers.

    Since the runs of a study are shown the same images, what these do to two numbers they often do to both. The error
    of a difference is therefore that of the difference in every resample, and not put together from two errors.

    Args:
        value: (...)
        resampled: (..., B) NaN where it is not known.
    """

    value: Numbers
    resampled: Numbers

    def measured(self) -> Measured:
        """Return the numbers with their errors."""
        return Measured(self.value, half_width(self.resampled))

    def minus(self, other: "Sampled") -> "Sampled":
        """Subtract, resample by resample."""
        return Sampled(self.value - other.value, self.resampled - other.resampled)

    def per(self, whole: float) -> "Sampled":
        """Divide by what does not depend on the images, such as a number of units; NaN per nothing."""
        divisor = whole if whole else np.nan
        return Sampled(self.value / divisor, self.resampled / divisor)


@dataclass(frozen=True)
class History:
    """K checkpoints, by step, of one layer of U units, in B resamples of the images.

    Args:
        concept: (K, U) int32; -1 where the unit is not alive, or not there.
        interpretable: (K, U) bool, of those alive.
        resampled_concept: (K, U, B) int32, the same resamples at all checkpoints; -1 where not alive.
        resampled_interpretable: (K, U, B) bool.
    """

    concept: IntArray
    interpretable: BoolArray
    resampled_concept: IntArray
    resampled_interpretable: BoolArray

    @classmethod
    def of(cls, study: Study, run: int, layer: int) -> "History":
        """Collect one layer of one run of a study."""
        units = study.units
        mine = np.array([name.run == run for name in study.checkpoints], dtype=np.bool_)
        rows = np.flatnonzero((units.run == run) & (units.layer == layer))
        k, u = (np.cumsum(mine) - 1)[units.checkpoint[rows]], units.unit[rows]
        shape, resamples = (int(mine.sum()), int(u.max(initial=-1)) + 1), units.resampled_concept.shape[1]
        alive = units.alive[rows]
        concept = np.full(shape, -1, dtype=np.int32)
        clear = np.zeros(shape, dtype=np.bool_)
        resampled = np.full((*shape, resamples), -1, dtype=np.int32)
        resampled_clear = np.zeros((*shape, resamples), dtype=np.bool_)
        concept[k, u] = np.where(alive, units.concept[rows], -1)
        clear[k, u] = units.interpretable[rows] & alive
        resampled[k, u] = np.where(alive[:, None], units.resampled_concept[rows], -1)
        resampled_clear[k, u] = units.resampled_interpretable[rows] & alive[:, None]
        return cls(concept, clear, resampled, resampled_clear)

    @property
    def resamples(self) -> int:
        """B."""
        return int(self.resampled_concept.shape[2])

    def in_resamples(self) -> Iterator["History"]:
        """Yield what would have been found on each resample of the images instead."""
        # A resample's words lie together then, which is many times faster to count.
        words = np.ascontiguousarray(np.moveaxis(self.resampled_concept, 2, 0))
        clear = np.ascontiguousarray(np.moveaxis(self.resampled_interpretable, 2, 0))
        for b in range(self.resamples):
            yield History(words[b], clear[b], self.resampled_concept[..., :0], self.resampled_interpretable[..., :0])

    def words(self) -> IntArray:
        """List the concepts that some unit holds, being interpretable, at any checkpoint or resample, (V,) sorted."""
        return np.union1d(self.concept[self.interpretable], self.resampled_concept[self.resampled_interpretable])

    def holders(self, words: IntArray) -> LongArray:
        """Count the interpretable units that hold each word.

        Args:
            words: (V,) sorted.

        Returns:
            (K, V) int64.
        """
        held = self.concept[self.interpretable]
        place = np.searchsorted(words, held)
        known = (words[np.minimum(place, len(words) - 1)] == held) if len(words) else np.zeros(len(held), np.bool_)
        cell = np.nonzero(self.interpretable)[0] * len(words) + place
        counts = np.bincount(cell[known], minlength=len(self.concept) * len(words))
        return counts.reshape(len(self.concept), len(words)).astype(np.int64)


def measured(number: Callable[[History], Numbers], history: History) -> Measured:
    """Take numbers (...) of a history with their errors from its resamples; those are NaN where B < 2."""
    value = number(history)
    if not history.resamples:
        return Measured(value, np.full(value.shape, np.nan))
    return Measured(value, half_width(np.stack([number(one) for one in history.in_resamples()], axis=-1)))
