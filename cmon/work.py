"""How a stage goes about its units of work: its options, what it says on the way, what came of it."""

import os
import platform
import resource
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from typing import Protocol

from cmon import __version__
from cmon.errors import CmonError
from cmon.fingerprint import Json
from cmon.profiling import Profile

PACKAGES = ("torch", "torchvision", "open_clip_torch", "timm", "numpy", "h5py", "umap-learn", "pillow")


LOOK_EVERY_S = 1.0


@dataclass(frozen=True)
class Options:
    """What the command line asks of a stage.

    Args:
        runs: only these runs; empty: all.
        checkpoints: only these checkpoints; empty: all.
        force: make again what is current.
        dry_run: say what would be made, and make nothing.
        device: a torch device, or "auto".
        trust_pickle: let checkpoints and an encoder's weights run code while they are read.
        shard: (i, n): of the units every n-th from the i-th on, counted from 0; None: all.
        wait_s: how long to look again for an input that is not there: network file systems show new files late.
        profile: what the stage's work is counted in.
    """

    runs: Sequence[str] = ()
    checkpoints: Sequence[str] = ()
    force: bool = False
    dry_run: bool = False
    device: str = "auto"
    trust_pickle: bool = False
    shard: tuple[int, int] | None = None
    wait_s: float = 0.0
    profile: Profile = field(default_factory=Profile)

    def patience(self, progress: "Progress") -> Callable[[], bool]:
        """Return what pauses and tells whether to look again for an input, for `wait_s` from now on."""
        until = time.monotonic() + self.wait_s

        def look_again() -> bool:
            if time.monotonic() >= until:
                return False
            progress.wait("for what is not there yet: network file systems show new files late", LOOK_EVERY_S)
            return True

        return look_again


class Progress(Protocol):
    """Where a stage says how far it is."""

    def line(self, text: str) -> None:
        """Say one thing."""

    def begin(self, label: str, total: int) -> None:
        """Begin to count up to `total`."""

    def advance(self, count: int = 1, name: str = "") -> None:
        """Count on; `name` is what was just done, where the step has one."""

    def end(self) -> None:
        """End the count."""

    def done(self, name: str) -> None:
        """Count a unit of work that is finished and kept; a signal may have asked to stop here."""

    def failed(self, name: str) -> None:
        """Count a unit of work that failed; a signal may have asked to stop here."""

    def kept(self) -> None:
        """Note that all so far is kept; a signal may have asked to stop here."""

    def wait(self, what: str, pause_s: float = 0.2) -> None:
        """Pause, and say once what for; a signal may have asked to stop here."""


@dataclass
class Outcome:
    """What came of a stage.

    Args:
        made: names of the files that were made, or would be.
        current: how many were up to date.
        left: checkpoints that are still being written, and how that shows, by unit of work.
        aside: checkpoints that are not counted, and why, by unit of work.
        failed: what went wrong, by unit of work.
        warnings: what the user should know of the results.
    """

    made: list[str] = field(default_factory=list)
    current: int = 0
    left: dict[str, str] = field(default_factory=dict)
    aside: dict[str, str] = field(default_factory=dict)
    failed: list[tuple[str, CmonError]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


class Standing(Protocol):
    """Whether a file can be used as it is."""

    @property
    def current(self) -> bool:
        """Tell whether it can."""

    @property
    def status(self) -> str:
        """Return current, missing, stale or damaged."""


def is_due(name: str, state: Standing, options: Options, progress: Progress, outcome: Outcome) -> bool:
    """Tell whether a stage makes a file now; note it as current or made, and say why it is made again."""
    if state.current and not options.force:
        outcome.current += 1
        return False
    if state.status not in ("missing", "current"):
        progress.line(f"{name}: {state}")
    outcome.made.append(name)
    return not options.dry_run


class Stopwatch:
    """Seconds since it was made."""

    def __init__(self) -> None:
        self._start = time.perf_counter()

    @property
    def elapsed_s(self) -> float:
        """Return the seconds so far."""
        return time.perf_counter() - self._start


def provenance(device: str = "cpu") -> Json:
    """Return what software made a file: never hashed, and the same for all files that one machine makes."""
    return {
        "cmon": __version__,
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in PACKAGES},
        "machine": platform.machine(),
        "device": device,
    }


def making(watch: Stopwatch, device: str = "cpu") -> Json:
    """Return what is worth knowing of a file's making, and differs from run to run: it is kept apart from the file."""
    return {
        "command": " ".join(sys.argv),
        "host": platform.node(),
        "cores": os.cpu_count(),
        "device": device,
        "made_at": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "elapsed_s": round(watch.elapsed_s, 3),
        "peak_memory_mib": round(peak_memory_mib()),
    }


def peak_memory_mib() -> float:
    """Return the most memory that this process has had so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 1024  # bytes there, KiB elsewhere


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""
