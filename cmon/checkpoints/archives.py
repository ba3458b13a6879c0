"""Torch's zip archives, of which every record that is read is compared with its checksum."""

import io
import pickle
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from cmon.checkpoints.damage import DAMAGE_HINT
from cmon.checkpoints.pickles import load_pickle
from cmon.errors import CheckpointError

if TYPE_CHECKING:
    from torch import Tensor, dtype

LARGEST_RATIO = 32  # of what a file unpacks to


class Archive:
    """The records of a zip archive by their names within its folder; torch puts all records into one.

    Args:
        file: the archive.
        path: what an error names.

    Raises:
        CheckpointError: where it would unpack to many times its size.
        zipfile.BadZipFile: where it is damaged.
    """

    def __init__(self, file: IO[bytes], path: Path) -> None:
        self._zip = zipfile.ZipFile(file)
        entries = self._zip.infolist()
        size_bytes = sum(entry.file_size for entry in entries)
        if size_bytes > LARGEST_RATIO * file.seek(0, io.SEEK_END):
            raise CheckpointError(path, f"would unpack to {size_bytes / 2**20:.0f} MiB", DAMAGE_HINT)
        if not any(entry.CRC for entry in entries):
            for entry in entries:  # saved under torch.serialization.set_crc32_options(False)
                entry.CRC = None  # type: ignore[assignment]  # zipfile then compares nothing
        self._entries = {within(entry.filename): entry for entry in entries}
        self.path = path

    def __contains__(self, name: str) -> bool:
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def read(self, name: str) -> bytes:
        """Read a record.

        Raises:
            LookupError: where there is none of that name.
            zipfile.BadZipFile: where its bytes are not those that were written.
        """
        return self._zip.read(self._entries[name])

    def verify(self) -> None:
        """Read every record once.

        Raises:
            zipfile.BadZipFile: where the bytes of one are not those that were written.
        """
        for entry in self._zip.infolist():
            with self._zip.open(entry) as record:
                while record.read(2**20):
                    pass

    def refuse_other_byteorder(self) -> None:
        """Raise where numbers were saved with their bytes the other way round than nearly all machines have them."""
        if "byteorder" in self and self.read("byteorder").strip() != b"little":
            what = "was saved on a machine with another order of bytes"
            raise CheckpointError(self.path, what, "save its state_dict() with torch.save there")


def within(name: str) -> str:
    """Return a record's name within the folder that the whole archive is in; some have none."""
    return name.partition("/")[2] or name


def flat_tensor(record: bytearray, dtype: "dtype") -> "Tensor":
    """Return the numbers of a record, which the tensor goes on using.

    Raises:
        ValueError: where it does not hold whole numbers.
    """
    import torch

    return torch.frombuffer(record, dtype=dtype) if record else torch.empty(0, dtype=dtype)


def load_saved(saved: bytes, path: Path, trust_pickle: bool) -> Any:
    """Load what torch.save wrote from memory; what could run code beside tensors is stood in for.

    Args:
        saved: the bytes of it.
        path: what an error names.
        trust_pickle: may it run code of its own.
    """
    if saved.startswith(b"PK\x03\x04"):
        Archive(io.BytesIO(saved), path).verify()
    return load_pickle(io.BytesIO(saved), trust_pickle)[0]


class Described:
    """Stand for an object of a pickle: what it was to be made of, and its state."""

    kind = ""
    parts: tuple[Any, ...] = ()
    state: Any = None

    def __init__(self, *parts: Any) -> None:
        self.parts = parts

    def __setstate__(self, state: Any) -> None:
        """Keep the state as it is."""
        self.state = state

    def __getitem__(self, name: str) -> Any:
        """Return an attribute of the object."""
        if not isinstance(self.state, Mapping):
            raise TypeError(f"{self.kind} has no attributes")
        return self.state[name]


# torch.Size holds whole numbers.
PLAIN = {"collections.OrderedDict": dict, "torch.Size": tuple}


class Describer(pickle._Unpickler):
    """Unpickle into descriptions: no class is imported, and nothing of the pickle's is called.

    It is Python's own slow unpickler, since a few bytes can make the fast one, of C, fill the memory.

    Args:
        pickled: the bytes.
        path: what an error names.
        allowed: the packages whose classes may be named; they are not imported either.
    """

    def __init__(self, pickled: bytes, path: Path, allowed: tuple[str, ...]) -> None:
        super().__init__(io.BytesIO(pickled))
        self._path, self._allowed = path, allowed
        self._kinds: dict[str, Any] = dict(PLAIN)

    def find_class(self, module: str, name: str) -> Any:
        """Return a class of descriptions for each global.

        Raises:
            CheckpointError: for one that has no place there.
        """
        kind = f"{module}.{name}"
        if module.partition(".")[0] not in self._allowed:
            raise CheckpointError(self._path, f"names {kind}, which has no place there: it could run code", DAMAGE_HINT)
        if kind not in self._kinds:
            self._kinds[kind] = type("Described", (Described,), {"kind": kind})
        return self._kinds[kind]

    def persistent_load(self, pid: Any) -> Any:
        """Return what names a storage as it is."""
        return pid
