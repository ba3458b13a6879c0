"""Work in threads: the next few results made while one is used, and all units of a layer shared out."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Made = TypeVar("Made")

# Units that a thread takes at a time: few, so that threads end together, and what is worked on stays in a core's cache.
UNITS_AT_A_TIME = 16


def map_ahead(function: Callable[[Item], Made], items: Iterable[Item], threads: int) -> Iterator[Made]:
    """Yield function(item) in the items' order; no more than `threads` results wait, or are being made.

    What the function raises is raised where its result would have come.
    """
    waiting: deque[Future[Made]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) > threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def in_threads(work: Callable[[slice], object], units: int) -> None:
    """Do some work on all units, some of them at a time, in as many threads as OMP_NUM_THREADS or the CPUs allow.

    Args:
        work: on the units of a slice; writes nothing that it writes for others, and leaves Python's lock.
        units: how many there are.
    """
    shares = [slice(start, min(start + UNITS_AT_A_TIME, units)) for start in range(0, units, UNITS_AT_A_TIME)]
    with ThreadPoolExecutor(threads()) as pool:
        for _ in pool.map(work, shares):
            pass


def threads() -> int:
    """Return how many threads numerical work takes: OMP_NUM_THREADS, else the CPUs that this process may use."""
    told = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    if told.isdigit() and int(told):
        return int(told)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
