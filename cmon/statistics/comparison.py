"""Numbers of several runs that are compared: how far apart they are, and by how much that may be off."""

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from cmon.records import FloatArray, IntArray, Units
from cmon.statistics.history import History, Measured, Numbers
from cmon.statistics.intervals import half_width
from cmon.statistics.retention import Lexicon, retention


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


def interpretable_counts(units: Units, rows: npt.NDArray[np.intp], group: IntArray, size: int) -> Sampled:
    """Count the interpretable units among some rows by their concepts' groups.

    Args:
        units: the table of all units.
        rows: (N,) of this table.
        group: (C,) of each concept, below `size`, or -1 for those that are counted in no group.
        size: G.

    Returns:
        (G + 1,) in each group, then in all.
    """
    alive = units.alive[rows]
    held, again = alive & units.interpretable[rows], alive[:, None] & units.resampled_interpretable[rows]
    resamples = again.shape[1]
    # Those of no group are counted last, and left out.
    of_unit = group[units.concept[rows][held]] % (size + 1)
    value = np.bincount(of_unit, minlength=size + 1)[:size]
    cell = (group[units.resampled_concept[rows][again]] % (size + 1)) * resamples + np.nonzero(again)[1]
    resampled = np.bincount(cell, minlength=(size + 1) * resamples).reshape(size + 1, resamples)[:size]
    return Sampled(
        np.append(value, held.sum()).astype(np.float64),
        np.vstack([resampled, again.sum(axis=0)]).astype(np.float64),
    )


def sampled_retention(
    history: History, reference: int, score: FloatArray, resampled_score: FloatArray, lexicon: Lexicon
) -> Sampled:
    """Return R(x), as `retention` does, with what it is in every resample: (4, X) by KINDS and PERCENTS."""
    nothing = resampled_score[:, :0]
    words, clear = history.resampled_concept[..., :0], history.resampled_interpretable[..., :0]
    alone = replace(history, resampled_concept=words, resampled_interpretable=clear)
    value = retention(alone, reference, score, nothing, lexicon).share.value
    resampled = np.full((*value.shape, history.resamples), np.nan)
    for b, one in enumerate(history.in_resamples()):
        resampled[..., b] = retention(one, reference, resampled_score[:, b], nothing, lexicon).share.value
    return Sampled(value, resampled)
