"""Which scores are better than chance makes them: p-values from permuted images, and their false discovery rate."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cmon.records import BoolArray, FloatArray


@dataclass(frozen=True)
class Test:
    """When a unit is interpretable.

    Args:
        tau: the best score from which it is; None: there is no such score.
        rate: q, the false discovery rate at which best scores are told from those on permuted images; None: they are
            not. With neither, every living unit is.
    """

    tau: float | None = None
    rate: float | None = None

    def passed(self, best: FloatArray, p_value: FloatArray) -> BoolArray:
        """Tell which units pass, (U,), by their best scores and these scores' p-values."""
        if self.rate is not None:
            return benjamini_hochberg(p_value, self.rate)
        return np.ones(len(best), dtype=np.bool_) if self.tau is None else np.asarray(best >= self.tau)


def p_values(best: FloatArray, null: FloatArray) -> FloatArray:
    """Return how often chance makes a best score as good: p = (1 + null scores >= s) / (1 + null scores).

    Args:
        best: (...) best scores.
        null: any shape, best scores of the same units on permuted images, taken together.
    """
    ordered = np.sort(null, axis=None)
    as_good = ordered.size - np.searchsorted(ordered, best, side="left")
    return ((1 + as_good) / (1 + ordered.size)).astype(np.float32)


def benjamini_hochberg(p_value: npt.NDArray[np.floating], rate: float) -> BoolArray:
    """Choose units so that an expected share of at most `rate` of them is there by chance.

    Those up to the largest i with p_(i) <= i / U x rate (Benjamini and Hochberg, 1995).

    Args:
        p_value: (U,) in (0, 1].
        rate: q.
    """
    ordered = np.sort(p_value)
    # As exact as the p-values, so that one which is equal to its bound stays equal.
    bounds = (np.arange(1, len(ordered) + 1) * rate / max(len(ordered), 1)).astype(p_value.dtype)
    below = np.flatnonzero(ordered <= bounds)
    if not len(below):
        return np.zeros(len(p_value), dtype=np.bool_)
    return np.asarray(p_value <= ordered[below[-1]])
