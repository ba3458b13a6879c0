"""Which checkpoints a training is still writing, told from the files alone."""

import json
import os
import stat
import time
import zipfile
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import IO, NamedTuple

from cmon.checkpoints.damage import DAMAGE
from cmon.checkpoints.folders import STATE

# What was last changed longer ago is finished; what is wrong with it is a mistake.
RECENT_S = 60
# The last of a run that is not whole may be a write that stalls, for so long.
LAST_S = 30
# How long all files that could be in the making are watched together, and how often they are looked at meanwhile.
WATCH_S, LOOK_S = 2.0, 0.25
# The most that safetensors itself allows.
LONGEST_HEADER_BYTES = 100_000_000


class Look(NamedTuple):
    """One look at a file that was changed a short while ago; `whole` is None where its format does not tell."""

    size_bytes: int
    modified_ns: int
    whole: bool | None

    @property
    def stamp(self) -> tuple[int, int]:
        """Return what a write changes."""
        return self.size_bytes, self.modified_ns

    @property
    def age_s(self) -> float:
        """Return how long ago it was changed; the clock of a file server may be ahead."""
        return abs(time.time() - self.modified_ns / 1e9)


def unfinished(paths: Sequence[Path], last: Collection[Path] = ()) -> dict[Path, str]:
    """Say of each checkpoint that is still being written how that shows.

    Only what was changed a short while ago, and whose format does not say that it is whole, is watched. What cannot
    be read, or is renamed meanwhile, is left out: those who read it say what is wrong.

    Args:
        paths: the files of all checkpoints of one run, in their natural order.
        last: those of the last checkpoint; without it, the last file.

    Returns:
        A few words for people, such as "is still being written", by path.
    """
    before = {path: look for path in paths if (look := _look(path)) and not look.whole}
    after: dict[Path, Look | None] = {**before}
    watched_until = time.monotonic() + WATCH_S
    while any(after[path] == look for path, look in before.items()) and time.monotonic() < watched_until:
        time.sleep(LOOK_S)
        after = {path: _look(path) for path in before}
    reasons = {path: _reason(look, after[path], path in (last or paths[-1:])) for path, look in before.items()}
    return {path: reason for path, reason in reasons.items() if reason}


def is_early(folder: Path) -> bool:
    """Tell whether Hugging Face's Trainer is still writing a folder: the weights come first, its own state last."""
    started = folder / "training_args.bin"
    try:
        recent = abs(time.time() - started.stat().st_mtime) < RECENT_S
    except OSError:
        return False
    return recent and not (folder / STATE).exists()


def _reason(before: Look, after: Look | None, last: bool) -> str:
    """Say how a file shows that it is being written; "" where it does not."""
    if after is None or after.whole:
        return ""
    if after.stamp != before.stamp:
        return "is still being written"
    if last and after.whole is False and after.age_s < LAST_S:
        return f"is not whole yet, and was changed {after.age_s:.0f} s ago"
    return ""


def _look(path: Path) -> Look | None:
    """Look at a file; None where it was not changed a short while ago, or is none that can be read."""
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode) or abs(time.time() - status.st_mtime) > RECENT_S:
            return None
        # NFS answers stat from memory for some seconds; only to open a file asks the server.
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            return Look(status.st_size, status.st_mtime_ns, _is_whole(file, path.suffix.lower(), status.st_size))
    except OSError:
        return None


def _is_whole(file: IO[bytes], ending: str, size_bytes: int) -> bool | None:
    """Tell whether a file reaches to where its own format says that it ends; None for a format that does not say."""
    head = file.read(8)
    if len(head) < 8 or not any(head):  # a place that is reserved is read as zeros
        return False
    try:
        if ending == ".safetensors":
            return _safetensors_bytes(file, head) == size_bytes
        return _is_whole_zip(file) if head.startswith(b"PK\3\4") else None
    except DAMAGE:
        return False


def _safetensors_bytes(file: IO[bytes], head: bytes) -> int:
    """Return the size that the header asks for."""
    length = int.from_bytes(head, "little")
    header = json.loads(file.read(min(length, LONGEST_HEADER_BYTES)))
    ends = [tensor["data_offsets"][1] for name, tensor in header.items() if name != "__metadata__"]
    return 8 + length + int(max(ends, default=0))


def _is_whole_zip(file: IO[bytes]) -> bool:
    """Tell whether the directory, which is written last, is there, and belongs to all of the file."""
    with zipfile.ZipFile(file) as archive:  # where data end as a zip does, offsets are moved by what precedes
        return any(entry.header_offset == 0 for entry in archive.infolist())
