"""Loops over arrays that numba compiles for the processor at hand, and keeps compiled on disk."""

from collections.abc import Callable
from functools import cache
from typing import ParamSpec, TypeVar

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")


@cache
def compiled(function: Callable[Parameters, Result]) -> Callable[Parameters, Result]:
    """Compile a function at its first call; other threads may run while it does.

    What is compiled is kept beside the function's file or, where that cannot be written, in the user's cache folder,
    so that it takes seconds once on a machine and not in every process.
    """
    from numba import njit

    settings = {"nogil": True, "error_model": "numpy"}
    try:
        return njit(function, cache=True, **settings)  # type: ignore[no-any-return]
    except RuntimeError:  # no folder to keep it in
        return njit(function, **settings)  # type: ignore[no-any-return]
