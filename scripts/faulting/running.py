"""A cmon command in a process of its own that need not import anything: forked from one that has.

A fork copies the forking thread alone, so that a lock which another thread holds stays held for ever. None has others:
numerical libraries are told to take one thread, nothing is computed here, and every fork counts the threads before.
"""

import importlib
import os
import pkgutil
import resource
import select
import signal
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

# What commands import on their way.
LATE = (
    "torch",
    "numba",
    "scipy.stats",
    "sklearn.decomposition",
    "matplotlib.figure",
    "PIL.PngImagePlugin",
    "rich.console",
)
CRASHED = 70
LONGEST_S = 60.0
# Beyond what is mapped already; a command that asks for more is given a MemoryError, and this machine stays alive.
ADDRESS_SPACE_BYTES = 16 * 2**30


@dataclass(frozen=True)
class Ended:
    """How a command ended.

    Args:
        code: its exit code; 70 where an exception came out of it; minus a signal's number where that killed it.
        out: what it wrote to stdout.
        err: what it wrote to stderr.
        elapsed_s: seconds from its start.
        peak_mib: the most memory that it had.
        late: did it outlast its time, and had to be killed.
    """

    code: int
    out: str
    err: str
    elapsed_s: float
    peak_mib: float
    late: bool

    @property
    def errors(self) -> list[str]:
        """What it said as errors."""
        return [line for line in self.err.splitlines() if line.startswith("error:")]

    def complaint(self, most_errors: int = 1) -> str:
        """Say what is wrong with the way in which it ended, whatever came of it; "" where nothing is."""
        if self.late:
            return f"hung for {self.elapsed_s:.0f} s"
        if self.code < 0:
            return f"killed by {signal.Signals(-self.code).name}"
        if "Traceback" in self.err or self.code == CRASHED:
            return f"a traceback: {self.err.strip().splitlines()[-1][:200]}"
        if self.code not in (0, 1, 2, 3):
            return f"exit code {self.code}"
        if self.code and not 0 < len(self.errors) <= most_errors:
            return f"exit code {self.code} with {len(self.errors)} error lines"
        return ""


def warm() -> None:
    """Import all that commands do; scripts/faults.py has told numerical libraries before to take one thread."""
    os.environ["MPLBACKEND"] = "agg"
    import cmon
    from cmon.torchvision_import import torchvision

    parts = (part.name for part in pkgutil.walk_packages(cmon.__path__, "cmon.") if part.name != "cmon.__main__")
    for name in (*LATE, *parts):
        importlib.import_module(name)
    torchvision()


def cmon(
    *words: str,
    log: Path,
    kill_after_s: float | None = None,
    longest_s: float = LONGEST_S,
    before: Callable[[], object] = bool,
) -> Ended:
    """Run a command in a forked process.

    Args:
        words: of the command, without "cmon".
        log: a file for what it writes.
        kill_after_s: when to kill it, if it is still running; None to let it end.
        longest_s: when to give it up.
        before: called in the new process, first.
    """

    def command() -> None:
        from cmon.cli import main

        before()
        sys.argv = ["cmon", *words]
        main()

    return forked(command, log, kill_after_s, longest_s)


def forked(
    function: Callable[[], object], log: Path, kill_after_s: float | None = None, longest_s: float = 60
) -> Ended:
    """Call a function in a forked process; arguments are as in `cmon`."""
    assert len(list(Path("/proc/self/task").iterdir())) == 1, "a fork among threads is not safe"
    sys.stdout.flush()
    sys.stderr.flush()
    start = time.monotonic()
    process = os.fork()
    if not process:
        _become(function, log)
    ready = os.pidfd_open(process)
    try:
        limit_s = longest_s if kill_after_s is None else kill_after_s
        ended = bool(select.select([ready], [], [], limit_s)[0])
        if not ended:
            signal.pidfd_send_signal(ready, signal.SIGKILL)
    finally:
        os.close(ready)
    _, status, used = os.wait4(process, 0)
    out, err = (path.read_text(encoding="utf-8", errors="replace") for path in _logs(log))
    late = not ended and kill_after_s is None
    elapsed_s = time.monotonic() - start
    return Ended(os.waitstatus_to_exitcode(status), out, err, elapsed_s, used.ru_maxrss / 1024, late)


def _become(function: Callable[[], object], log: Path) -> None:
    """Be a new process that writes to its logs, calls the function and ends."""
    code = CRASHED
    try:
        for descriptor, path in enumerate(_logs(log), 1):
            os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), descriptor)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        mapped = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
        resource.setrlimit(resource.RLIMIT_AS, (mapped + ADDRESS_SPACE_BYTES,) * 2)
        function()
        code = 0
    except SystemExit as left:
        code = left.code if isinstance(left.code, int) else 0
    except BaseException:  # noqa: BLE001  # whatever it is, it is seen in the log
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _logs(log: Path) -> tuple[Path, Path]:
    return log.with_suffix(".out"), log.with_suffix(".err")
