"""CIFAR-10 and CIFAR-100 as torchvision leaves them on disk: pickled batches, read without running what they hold."""

import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from cmon.config import Probe as ProbeTable
from cmon.errors import ProbeError, one_line
from cmon.fingerprint import HashMemory, named_fingerprint
from cmon.records import Pixels

FOLDERS = {"cifar10": "cifar-10-batches-py", "cifar100": "cifar-100-python"}
BATCHES = {
    "cifar10": {"train": [f"data_batch_{number}" for number in range(1, 6)], "test": ["test_batch"]},
    "cifar100": {"train": ["train"], "test": ["test"]},
}


@dataclass(frozen=True)
class Cifar:
    """32x32 images in memory, with the files that they came from."""

    path: Path
    batches: tuple[Path, ...]
    ids: tuple[str, ...]
    pixels: Pixels

    def image(self, index: int) -> Image.Image:
        """Return one image."""
        return Image.fromarray(self.pixels[index])

    def fingerprint(self, memory: HashMemory) -> str:
        """Return the sha256 over the sorted (name, sha256) lines of the batches."""
        return named_fingerprint((path.name, memory.sha256(path)) for path in self.batches)


def open_cifar(table: ProbeTable) -> Cifar:
    """Open CIFAR-10 or CIFAR-100 as torchvision leaves it; ids are split/number."""
    below = table.path / FOLDERS[table.kind]
    folder = below if below.is_dir() else table.path
    paths, ids, pixels = [], [], []
    for split in ["test", "train"] if table.split == "all" else [table.split]:
        files = [folder / name for name in BATCHES[table.kind][split]]
        batches = [_read_batch(file) for file in files]
        paths += files
        pixels += batches
        ids += [f"{split}/{index:05d}" for index in range(sum(map(len, batches)))]
    return Cifar(table.path, tuple(paths), tuple(ids), np.concatenate(pixels))


def _read_batch(path: Path) -> Pixels:
    """Read one batch to (n, 32, 32, 3) uint8."""
    hint = "set probe.path to torchvision's data folder"
    try:
        with path.open("rb") as file:
            batch = _ArraysOnly(file, encoding="bytes").load()
        data = batch[b"data"] if b"data" in batch else batch["data"]
        if not isinstance(data, np.ndarray) or data.dtype != np.uint8:
            raise ValueError("its data are no bytes")
        return np.ascontiguousarray(data.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))
    except OSError as error:
        raise ProbeError(path, error.strerror or "cannot be read", hint) from error
    except BATCH_ERRORS as error:
        raise ProbeError(path, f"is not a CIFAR batch: {one_line(error)}", hint) from error


# All that unpickling a damaged file raises.
BATCH_ERRORS = (
    pickle.UnpicklingError,
    LookupError,
    ValueError,
    TypeError,
    EOFError,
    AttributeError,
    ArithmeticError,
    MemoryError,
    RecursionError,
)


class _ArraysOnly(pickle.Unpickler):
    """An unpickler of numpy arrays that can run nothing else."""

    # numpy 2 has moved the private modules that pickles of numpy 1 name.
    ALLOWED = frozenset(
        {("numpy", "ndarray"), ("numpy", "dtype"), ("_codecs", "encode")}
        | {(f"numpy.{core}.multiarray", name) for core in ("core", "_core") for name in ("_reconstruct", "scalar")}
        | {(f"numpy.{core}.numeric", "_frombuffer") for core in ("core", "_core")}
    )

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self.ALLOWED:
            raise pickle.UnpicklingError(f"{module}.{name} has no place in a CIFAR batch")
        core = "_core" if int(np.__version__.split(".")[0]) >= 2 else "core"
        return super().find_class(
            module.replace("numpy._core", "numpy.core").replace("numpy.core", f"numpy.{core}"), name
        )
