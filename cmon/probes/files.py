"""A folder or a zip as names and bytes."""

import lzma
import os
import struct
import zipfile
import zlib
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path, PurePosixPath
from threading import Lock
from typing import Protocol

from cmon.errors import ProbeError, listing, one_line
from cmon.fingerprint import HashMemory, bytes_sha256

# A file that is larger, or an entry of an archive that unpacks to more, is no image but a mistake or an attack.
LARGEST_FILE_BYTES = 256 * 2**20


class Files(Protocol):
    """A folder or a zip: names below it, and their bytes."""

    @property
    def path(self) -> Path:
        """Where it lies."""

    def names(self) -> list[str]:
        """List all files as POSIX paths below the root, sorted."""

    def read(self, name: str) -> bytes:
        """Return a file's bytes; an OSError where that cannot be."""

    def sha256(self, name: str, memory: HashMemory) -> str:
        """Return the sha256 of a file's bytes; an OSError where they cannot be read."""


@dataclass(frozen=True)
class Folder:
    """A folder of files at any depth; links are followed, hidden files are not seen, a folder is seen once."""

    path: Path

    def names(self) -> list[str]:
        """List all files as POSIX paths below the root, sorted; a folder that cannot be listed is a ProbeError."""
        found, seen = [], set()
        try:
            for folder, below, files in os.walk(self.path, followlinks=True, onerror=_raise):
                below[:] = sorted(name for name in below if _is_seen(name))
                status = Path(folder).stat()
                if (status.st_dev, status.st_ino) in seen:  # a link that leads back up
                    below.clear()
                    continue
                seen.add((status.st_dev, status.st_ino))
                inside = os.path.relpath(folder, self.path)  # pathlib's would take seconds for Broden's 200,000 files
                start = "" if inside == "." else f"{inside.replace(os.sep, '/')}/"
                found += [f"{start}{name}" for name in files if _is_seen(name)]
        except OSError as error:
            where = one_line(error.filename or self.path)
            raise ProbeError(where, f"cannot be listed: {error.strerror}", "let cmon read the folder") from error
        return sorted(found)

    def read(self, name: str) -> bytes:
        """Return a file's bytes; a broken link, a pipe that would wait for ever, and over 256 MiB are an OSError."""
        return self._file(name).read_bytes()

    def sha256(self, name: str, memory: HashMemory) -> str:
        """Return the sha256 of a file's bytes."""
        return memory.sha256(self._file(name))

    def _file(self, name: str) -> Path:
        path = self.path / name
        if not os.path.lexists(path):
            raise OSError("is not there")
        if not path.is_file():
            raise OSError("is not a file, but a broken link or a device")
        _check_size(path.stat().st_size, "holds")
        return path


@dataclass(frozen=True)
class Archive:
    """A zip of files at any depth, read in place and never unpacked."""

    path: Path
    _open: list[zipfile.ZipFile] = field(default_factory=list, repr=False, compare=False)
    _lock: Lock = field(default_factory=Lock, repr=False, compare=False)

    def names(self) -> list[str]:
        """List all files as they are named in the zip, sorted; a name that stands twice is a ProbeError."""
        entries = [entry.filename for entry in self._zip().infolist() if not entry.filename.endswith("/")]
        names = sorted(name for name in entries if all(map(_is_seen, PurePosixPath(name).parts)))
        twice = {a for a, b in pairwise(names) if a == b}
        if twice:
            raise ProbeError(self.path, f"holds two files named {listing(sorted(twice))}", "pack it again")
        return names

    def read(self, name: str) -> bytes:
        """Return a file's bytes; what unpacks to more than 256 MiB, or is encrypted, is an OSError."""
        with self._lock:
            try:
                entry = self._zip().getinfo(name)
                _check_size(entry.file_size, "unpacks to")
                return self._zip().read(entry)
            except UNPACKING_ERRORS as error:
                raise OSError(one_line(error)) from error

    def sha256(self, name: str, memory: HashMemory) -> str:  # noqa: ARG002
        """Return the sha256 of a file's bytes."""
        return bytes_sha256(self.read(name))

    def _zip(self) -> zipfile.ZipFile:
        if not self._open:
            if self.path.exists() and not self.path.is_file():
                raise ProbeError(self.path, "is neither a folder nor a zip, but a pipe or a device", "name one of them")
            try:
                self._open.append(zipfile.ZipFile(self.path))
            except (OSError, *UNPACKING_ERRORS) as error:
                what = f"is neither a folder nor a readable zip: {one_line(error)}"
                raise ProbeError(self.path, what, "unpack it, or download it again") from error
        return self._open[0]


# All that zipfile lets through of a damaged or encrypted archive.
UNPACKING_ERRORS = (
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    struct.error,
    RuntimeError,
    EOFError,
    KeyError,
    ValueError,
    OverflowError,
)


def open_files(path: Path) -> Files:
    """Open a folder or a zip."""
    return Folder(path) if path.is_dir() else Archive(path)


def _check_size(size_bytes: int, says: str) -> None:
    if size_bytes > LARGEST_FILE_BYTES:
        raise OSError(f"{says} {size_bytes / 2**20:.0f} MiB")


def _is_seen(part: str) -> bool:
    return not part.startswith((".", "__MACOSX"))


def _raise(error: OSError) -> None:
    raise error
