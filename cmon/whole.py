"""Files that are there whole or not at all: written under a hidden name, synced, and renamed.

The hidden file is locked while it is written, so that what a killed process has left can be told from it.
"""

import fcntl
import os
import platform
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from hashlib import sha256
from io import BufferedWriter
from pathlib import Path

# From another machine's file nobody can tell who writes it, but one that grows no more is left over.
ABANDONED_S = 3600.0


@contextmanager
def whole_file(path: Path) -> Iterator[BufferedWriter]:
    """Open a file that comes to lie at `path` when the block ends, and nowhere when it ends in an error.

    Args:
        path: its place; folders are made.

    Raises:
        OSError: where the folder cannot be written or is full.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary, file = _create(path.parent)
    try:
        with file:
            yield file
            file.flush()
            os.fsync(file.fileno())
            temporary.replace(path)
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def sweep(root: Path) -> None:
    """Delete the hidden files below a folder that killed processes have left."""
    for path in root.rglob(".*.tmp"):
        with suppress(OSError):
            if _is_abandoned(path):
                path.unlink()


def try_lock(file: BufferedWriter) -> bool:
    """Lock a file for this process until it is closed; False where another one has it.

    Where a file system knows no locks, every process gets one: they save work, and nothing rests on them.
    """
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True


def _create(folder: Path) -> tuple[Path, BufferedWriter]:
    """Create a hidden file that no sweep has had between its creation and its lock."""
    while True:
        temporary = folder / f".{_machine()}-{uuid.uuid4().hex}.tmp"
        file = temporary.open("xb")
        if try_lock(file) and os.fstat(file.fileno()).st_nlink:
            return temporary, file
        file.close()


def _is_abandoned(path: Path) -> bool:
    if path.name.startswith(f".{_machine()}-"):
        with path.open("rb+") as file, suppress(OSError):  # where there are no locks
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
            return True
    return time.time() - path.stat().st_mtime > ABANDONED_S


@cache
def _machine() -> str:
    """Name this machine since it was started: locks of its processes are seen by all others on it."""
    try:
        started = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii")
    except OSError:
        started = f"{platform.node()} {uuid.getnode()}"
    return sha256(started.encode()).hexdigest()[:8]
