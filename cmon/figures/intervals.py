"""How sure a number is, as a figure says it: a pale band, a whisker, or a number with what it may be off by."""

from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes

from cmon.figures.style import INK, Points

WHISKER: dict[str, Any] = {"color": INK, "lw": 0.6, "zorder": 6, "capstyle": "butt"}
MANY = 40  # checkpoints, from which whiskers would hide what they stand on


def plus_minus(value: float, error: float, digits: int = 0) -> str:
    """Write a number with its error; alone where the error is not known."""
    number = f"{value:,.{digits}f}"
    return f"{number} ± {error:,.{digits}f}" if np.isfinite(error) else number


def draw_band(axes: Axes, places: Points, low: Points, high: Points, colour: str, alpha: float = 0.16) -> None:
    """Fill between the ends of intervals (K,); one without a neighbour is a whisker, one that is not known nothing."""
    lone = alone(high - low)
    axes.fill_between(places, low, high, color=colour, alpha=alpha, lw=0, zorder=2)
    if lone.any():  # an axis would stretch to what vlines takes the limits of nothing to be
        axes.vlines(places[lone], low[lone], high[lone], color=colour, alpha=2.5 * alpha, lw=2.5, zorder=2)


def draw_whiskers(axes: Axes, places: Points, low: Points, high: Points) -> None:
    """Draw a thin upright line from end to end of every interval (K,) that is known, thinner where there are many."""
    known = np.isfinite(high - low)
    if known.any():
        thin = WHISKER["lw"] * min(1, MANY / len(places))
        axes.vlines(places[known], low[known], high[known], clip_on=False, **WHISKER | {"lw": thin})


def alone(values: Points) -> npt.NDArray[np.bool_]:
    """Find the known values between unknown ones."""
    known = np.concatenate([[False], np.isfinite(values), [False]])
    return np.asarray(known[1:-1] & ~known[:-2] & ~known[2:])
