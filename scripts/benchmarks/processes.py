"""A process of its own for what is measured by its memory."""

from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import TypeVar

Result = TypeVar("Result")


def in_new_process(function: Callable[..., Result], *arguments: object) -> Result:
    """Call a function in a process that has nothing of this one's memory."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def memory_bytes(name: str) -> int:
    """Read what this process has (VmRSS) or has had (VmHWM): getrusage would begin with what its parent had."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name))
    return 1024 * int(line.split()[1])
