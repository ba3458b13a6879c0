"""What a probe's own labels say its images show, by concept."""

from dataclasses import dataclass

import numpy as np

from cmon.records.arrays import BoolArray, IntArray, LongArray


@dataclass(frozen=True)
class Presence:
    """Which image shows which concept, by labels that people gave and no encoder made.

    Only what the labels know has a column, since a user's list of concepts may be far longer than they are.

    Args:
        shown: (I, K) bool, which image shows which of K words.
        judged: (I, K) bool, of which images the labels say whether they show it; true wherever `shown` is.
        column: (C,) int32, where each concept is among the K; -1 for one that the labels do not know.
    """

    shown: BoolArray
    judged: BoolArray
    column: IntArray

    @property
    def known(self) -> BoolArray:
        """Tell which concepts the labels know, (C,)."""
        return np.asarray(self.column >= 0)

    @property
    def images(self) -> LongArray:
        """Count the images that show each concept, (C,) int64; -1 for one that the labels do not know."""
        counts = np.append(self.shown.sum(axis=0, dtype=np.int64), -1)
        return np.asarray(counts[self.column])


def plain_word(word: str) -> str:
    """Write a word as it is compared: case, underscores, hyphens and runs of spaces make no difference."""
    return " ".join(word.casefold().replace("_", " ").replace("-", " ").split())
