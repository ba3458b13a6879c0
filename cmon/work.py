"""How a stage goes about its units of work: its options, what it says on the way, what came of it."""

import os
import platform
import resource
import sys
import time
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from typing import Protocol

from cmon import __version__
from cmon.errors import CmonError
from cmon.fingerprint import Json
from cmon.profiling import Profile

PACKAGES = ("torch", "torchvision", "open_clip_torch", "timm", "numpy", "h5py", "umap-learn", "pillow")


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
        profile: what the stage's work is counted in.
    """

    runs: tuple[str, ...] = ()
    checkpoints: tuple[str, ...] = ()
    force: bool = False
    dry_run: bool = False
    device: str = "auto"
    trust_pickle: bool = False
    profile: Profile = field(default_factory=Profile)


class Progress(Protocol):
    """Where a stage says how far it is."""

    def line(self, text: str) -> None:
        """Say one thing."""

    def begin(self, label: str, total: int) -> None:
        """Begin to count up to `total`."""

    def advance(self, count: int = 1, name: str = "") -> None:
        """Count on; `name` is the unit of work just done, if the step is one."""

    def end(self) -> None:
        """End the count."""


@dataclass
class Outcome:
    """What came of a stage.

    Args:
        made: names of the files that were made, or would be.
        current: how many were up to date.
        failed: what went wrong, by unit of work.
        warnings: what the user should know of the results.
    """

    made: list[str] = field(default_factory=list)
    current: int = 0
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


def provenance(watch: Stopwatch, device: str = "cpu") -> Json:
    """Return what is worth knowing of a file's making, and never hashed."""
    return {
        "cmon": __version__,
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in PACKAGES},
        "command": " ".join(sys.argv),
        "host": platform.node(),
        "machine": platform.machine(),
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
