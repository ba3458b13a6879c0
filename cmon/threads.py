"""Work in threads: the next few results made while one is used, and all units of a layer shared out.

No number depends on how many threads there are: what is shared out is cut alike for any of them.
"""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

Item = TypeVar("Item")
Made = TypeVar("Made")

# Units that a thread takes at a time: few, so that threads end together, and what is worked on stays in a core's cache.
UNITS_AT_A_TIME = 16
# A matrix product is cut into no more shares, of no fewer rows: each share reads all of the other matrix.
SHARES, ROWS_AT_LEAST = 16, 32


def map_ahead(function: Callable[[Item], Made], items: Iterable[Item], threads: int) -> Iterator[Made]:
    """Yield function(item) in the items' order; no more than `threads` results wait, or are being made.

    What the function raises is raised where its result would have come.
    """
    waiting: deque[Future[Made]] = deque()
    pool = ThreadPoolExecutor(threads)
    try:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) > threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        # Threads are not waited for: what an error has kept from its end is ended by the garbage collector, which may
        # run while a thread starts and holds the lock that waiting for another one takes.
        pool.shutdown(wait=False, cancel_futures=True)


def in_threads(work: Callable[[slice], object], units: int, at_a_time: int = UNITS_AT_A_TIME) -> None:
    """Do some work on all units, some of them at a time, in as many threads as OMP_NUM_THREADS or the CPUs allow.

    Args:
        work: on the units of a slice; writes nothing that it writes for others, and leaves Python's lock.
        units: how many there are.
        at_a_time: how many of them a slice has.
    """
    shares = [slice(start, min(start + at_a_time, units)) for start in range(0, units, at_a_time)]
    with ThreadPoolExecutor(threads()) as pool:
        for _ in pool.map(work, shares):
            pass


def product(left: npt.NDArray[Any], right: npt.NDArray[Any], out: npt.NDArray[Any] | None = None) -> npt.NDArray[Any]:
    """Return left @ right, (n, m) for (n, k) and (k, m), worked out in threads, within `out` where that is given."""
    found = np.empty((len(left), right.shape[1]), np.result_type(left, right)) if out is None else out
    rows = max(ROWS_AT_LEAST, -(-len(left) // SHARES))
    in_threads(lambda share: np.matmul(left[share], right, out=found[share]), len(left), rows)
    return found


@contextmanager
def blas_in_one_thread() -> Iterator[None]:
    """Keep numpy's own products to one thread: with two of them sums come out otherwise in the last places."""
    import scipy.linalg  # noqa: F401  # it has a BLAS of its own, which must be loaded to be told
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1, user_api="blas"):
        yield


def threads() -> int:
    """Return how many threads numerical work takes: OMP_NUM_THREADS, else the CPUs that this process may use."""
    told = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    if told.isdigit() and int(told):
        return int(told)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
