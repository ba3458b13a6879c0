"""One process at a time makes what several need, so that none does it twice.

Only work is saved by this: whatever two processes make at once is whole, and the same.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from cmon.whole import try_lock


@contextmanager
def claim(path: Path, wait: Callable[[], None]) -> Iterator[None]:
    """Hold a claim while the block runs, after waiting for whoever holds it; the end of a process ends its claims.

    Args:
        path: of the claim's file, which is made and stays.
        wait: pauses for a moment; called as long as another process holds it.
    """
    while True:
        with try_claim(path) as held:
            if held:
                yield
                return
        wait()


@contextmanager
def try_claim(path: Path) -> Iterator[bool]:
    """Hold a claim while the block runs, and tell whether it could be had at once."""
    file = None
    with suppress(OSError):  # a folder that cannot be written is told by whoever writes there
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("ab")
    if file is None:
        yield True
        return
    with file:
        yield try_lock(file)
