"""Intervals from resamples of the probe's images."""

from typing import Any

import numpy as np
import numpy.typing as npt

# Two-sided 95 % of a normal distribution.
STANDARD_DEVIATIONS = 1.959964


def half_width(resampled: npt.ArrayLike) -> Any:
    """Return by how much a number may be off, at 95 % confidence: an interval is the number plus or minus it.

    It is 1.96 standard deviations over resamples, about the number itself and not about the resamples' mean or between
    their percentiles: a resample holds images twice, so that it is noisier than a probe, and its maxima over concepts,
    and with them counts of units over a threshold, are biased upwards. The spread is not. What such an interval covers
    is the mean of the number over probes of this size.

    Args:
        resampled: (..., B) the number in every resample; NaN where it is not defined.

    Returns:
        (...) float64; NaN where fewer than two resamples define it.
    """
    values = np.asarray(resampled, dtype=np.float64)
    known = np.isfinite(values)
    count = known.sum(axis=-1)
    divisor = np.where(count > 1, count, np.nan)
    mean = np.where(known, values, 0.0).sum(axis=-1) / divisor
    square = np.where(known, np.square(values - mean[..., None]), 0.0).sum(axis=-1)
    return STANDARD_DEVIATIONS * np.sqrt(square / (divisor - 1))
