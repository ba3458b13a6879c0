"""Kinds of array, and how many rows of one are worked on at a time."""

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

FloatArray: TypeAlias = npt.NDArray[np.float32]
IntArray: TypeAlias = npt.NDArray[np.int32]
LongArray: TypeAlias = npt.NDArray[np.int64]
BoolArray: TypeAlias = npt.NDArray[np.bool_]
StateArray: TypeAlias = npt.NDArray[np.int8]
Pixels: TypeAlias = npt.NDArray[np.uint8]

# A figure's data: columns of equal length, as its CSV holds them.
Table: TypeAlias = dict[str, npt.NDArray[Any]]

# Rows of (images, concepts) that are computed at a time, so that memory stays bounded.
BLOCK_BYTES = 64 * 2**20


def blocks(length: int, row_bytes: int) -> list[slice]:
    """Cut `length` rows into slices of at most BLOCK_BYTES each, at least one row a slice."""
    rows = max(1, BLOCK_BYTES // max(row_bytes, 1))
    return [slice(start, min(start + rows, length)) for start in range(0, length, rows)]
