"""Births and deaths of a layer's concepts: the first and the last checkpoint that finds them (METHOD, section 5)."""

from typing import NamedTuple

import numpy as np

from cmon.records import IntArray, LongArray
from cmon.statistics.history import History, Measured, Numbers
from cmon.statistics.intervals import half_width


class Lifetimes(NamedTuple):
    """When the V concepts of a layer were held by some interpretable unit, at K checkpoints.

    Args:
        words: (V,) int32, concepts.
        holders: (K, V) interpretable units that hold each, with errors.
        births: (K,) concepts first held there, with errors; NaN at the first checkpoint, before which nothing is known.
        deaths: (K,) concepts last held at the checkpoint before, with errors; NaN at the first.
    """

    words: IntArray
    holders: Measured
    births: Measured
    deaths: Measured

    @property
    def born(self) -> LongArray:
        """The first checkpoint that holds each concept, (V,)."""
        first: LongArray = np.argmax(self.holders.value > 0, axis=0)
        return first

    @property
    def last(self) -> LongArray:
        """The last checkpoint that holds each concept, (V,)."""
        last: LongArray = len(self.holders.value) - 1 - np.argmax(self.holders.value[::-1] > 0, axis=0)
        return last


def lifetimes(history: History) -> Lifetimes:
    """Follow the concepts of one layer; one that is lost and found again was born once and is not dead between.

    What was held before the first checkpoint and will be after the last is not known: of concepts that come and go,
    more are born near the start and die near the end than between.
    """
    words = np.unique(history.concept[history.interpretable])
    holders = history.holders(words)
    every = history.words()
    resampled, events = [], []
    for one in history.in_resamples():
        counts = one.holders(every)
        resampled.append(counts[:, np.searchsorted(every, words)].astype(np.int32))
        events.append(births_deaths(counts))
    errors = half_width(np.stack(events, axis=-1)) if events else np.full((2, len(holders)), np.nan)
    off = half_width(np.stack(resampled, axis=-1)) if resampled else np.full(holders.shape, np.nan)
    born, died = births_deaths(holders)
    return Lifetimes(
        words, Measured(holders.astype(np.float64), off), Measured(born, errors[0]), Measured(died, errors[1])
    )


def births_deaths(holders: LongArray) -> Numbers:
    """Count births and deaths at every checkpoint.

    Args:
        holders: (K, V) units that hold each concept.

    Returns:
        (2, K) concepts first held there, and concepts last held at the checkpoint before; NaN at the first.
    """
    held = holders > 0
    # What is never held is first held at the start, which is not counted, and last at the end, after which nothing is.
    first, last = np.argmax(held, axis=0), len(held) - 1 - np.argmax(held[::-1], axis=0)
    counts = np.empty((2, len(held)), dtype=np.float64)
    for row, at in zip(counts, (first, last + 1), strict=True):
        row[:] = np.bincount(at, minlength=len(held) + 1)[: len(held)]
    counts[:, 0] = np.nan
    return counts
