"""Where the seconds and bytes of a stage go."""

import math
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import ParamSpec, TypeVar

Item = TypeVar("Item")
Arguments = ParamSpec("Arguments")


@dataclass
class Part:
    """What one kind of work took.

    Args:
        elapsed_s: seconds, without those of parts within it.
        times: how often it was done.
        size_bytes: how much was read or written, where that is what it does.
    """

    elapsed_s: float = 0.0
    times: int = 0
    size_bytes: int = 0


@dataclass
class Profile:
    """Adds up parts by name; while one part lies within another, only the inner one's clock runs.

    It is for one thread: what others do meanwhile shows as what this one waits for.
    """

    parts: dict[str, Part] = field(default_factory=dict)
    _within: list[Part] = field(default_factory=list)
    _since: float = field(default_factory=time.perf_counter)

    @contextmanager
    def part(self, name: str) -> Iterator[Part]:
        """Count the time within the context."""
        part = self.parts.setdefault(name, Part())
        part.times += 1
        self._switch()
        self._within.append(part)
        try:
            yield part
        finally:
            self._switch()
            self._within.pop()

    def each(self, name: str, items: Iterable[Item]) -> Iterator[Item]:
        """Yield the items, counting the time that each takes to come."""
        waiting = iter(items)
        while True:
            with self.part(name):
                try:
                    item = next(waiting)
                except StopIteration:
                    return
            yield item

    def timed(self, name: str, function: Callable[Arguments, Item]) -> Callable[Arguments, Item]:
        """Return the function, with the time of every call counted."""

        def counted(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Item:
            with self.part(name):
                return function(*args, **kwargs)

        return counted

    @contextmanager
    def writing(self, path: Path) -> Iterator[None]:
        """Count the time within the context, and the bytes of the file that is there at the end."""
        with self.part("writing files") as part:
            yield
            part.size_bytes += path.stat().st_size

    def _switch(self) -> None:
        """Give the innermost part the time since the last switch."""
        now = time.perf_counter()
        if self._within:
            self._within[-1].elapsed_s += now - self._since
        self._since = now

    def lines(self, elapsed_s: float, peak_mib: float) -> list[str]:
        """Return a table, largest part first, of a stage that took so long in all."""
        known = sorted(self.parts.items(), key=lambda item: -item[1].elapsed_s)
        rest = elapsed_s - sum(part.elapsed_s for _, part in known)
        width = max(map(len, [*self.parts, "all else"]))
        rows = [
            (name, part.elapsed_s, str(part.times), size_text(part.size_bytes) if part.size_bytes else "")
            for name, part in known
        ]
        rows.append(("all else", max(rest, 0.0), "", ""))
        return [
            f"{'':{width}}   seconds  share   times     bytes",
            *(
                f"{name:{width}} {spent:9.2f} {spent / max(elapsed_s, 1e-9):5.0%} {times:>7} {size:>9}".rstrip()
                for name, spent, times, size in rows
            ),
            f"{'in all':{width}} {elapsed_s:9.2f}   peak memory {peak_mib:,.0f} MiB",
        ]


def mean_seconds(work: Callable[[], object], least_s: float) -> float:
    """Time a call; what is quick is done again until so many seconds have passed."""
    start, times = time.perf_counter(), 0
    while not times or time.perf_counter() - start < least_s:
        work()
        times += 1
    return (time.perf_counter() - start) / times


def duration(seconds: float) -> str:
    """Write seconds as people say them."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def size_text(size_bytes: float) -> str:
    """Write bytes as people say them; "" for none."""
    if not size_bytes:
        return ""
    units = ("B", "kB", "MB", "GB", "TB")
    power = min(int(math.log10(max(size_bytes, 1)) / 3), len(units) - 1)
    scaled = size_bytes / 1000**power
    return f"{scaled:.0f} {units[power]}" if scaled >= 100 or not power else f"{scaled:.1f} {units[power]}"
