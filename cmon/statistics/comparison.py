"""Counts of interpretable units, with what they are in every resample of the images, so that they can be compared."""

import numpy as np
import numpy.typing as npt

from cmon.records import IntArray, Units
from cmon.statistics.history import Sampled


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
