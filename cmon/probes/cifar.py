"""CIFAR-10 and CIFAR-100 as torchvision leaves them on disk: pickled batches, read without running what they hold."""

import pickle
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from PIL import Image

from cmon.config import Probe as ProbeTable
from cmon.errors import ProbeError, one_line
from cmon.fingerprint import HashMemory, named_fingerprint
from cmon.records import Pixels

T = TypeVar("T")

FOLDERS = {"cifar10": "cifar-10-batches-py", "cifar100": "cifar-100-python"}
BATCHES = {
    "cifar10": {"train": [f"data_batch_{number}" for number in range(1, 6)], "test": ["test_batch"]},
    "cifar100": {"train": ["train"], "test": ["test"]},
}
# The classes in the order of their numbers; written out, since torchvision's file of them is not among the batches.
CLASSES = {
    "cifar10": "airplane automobile bird cat deer dog frog horse ship truck",
    "cifar100": (
        "apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly "
        "camel can castle caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup "
        "dinosaur dolphin elephant flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower "
        "leopard lion lizard lobster man maple_tree motorcycle mountain mouse mushroom oak_tree orange orchid "
        "otter palm_tree pear pickup_truck pine_tree plain plate poppy porcupine possum rabbit raccoon ray "
        "road rocket rose sea seal shark shrew skunk skyscraper snail snake spider squirrel streetcar "
        "sunflower sweet_pepper table tank telephone television tiger tractor train trout tulip turtle "
        "wardrobe whale willow_tree wolf woman worm"
    ),
}
LABELS = {"cifar10": "labels", "cifar100": "fine_labels"}
HINT = "set probe.path to torchvision's data folder"


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
    paths, ids, pixels = [], [], []
    for split, files in _batches(table).items():
        batches = [_read_batch(file) for file in files]
        paths += files
        pixels += batches
        ids += [_id(split, index) for index in range(sum(map(len, batches)))]
    return Cifar(table.path, tuple(paths), tuple(ids), np.concatenate(pixels))


def read_classes(table: ProbeTable) -> dict[str, str]:
    """Read the class of every image, by id; none of a batch without labels.

    Raises:
        ProbeError: where a batch has labels that are not its images' classes.
    """
    found: dict[str, str] = {}
    for split, files in _batches(table).items():
        names = [name for file in files for name in _read_class_names(file, table.kind)]
        found |= {_id(split, index): name for index, name in enumerate(names) if name}
    return found


def _batches(table: ProbeTable) -> dict[str, list[Path]]:
    """List the files of each split that is wanted."""
    below = table.path / FOLDERS[table.kind]
    folder = below if below.is_dir() else table.path
    splits = ["test", "train"] if table.split == "all" else [table.split]
    return {split: [folder / name for name in BATCHES[table.kind][split]] for split in splits}


def _id(split: str, index: int) -> str:
    return f"{split}/{index:05d}"


def _read_batch(path: Path) -> Pixels:
    """Read one batch to (n, 32, 32, 3) uint8."""
    return _read(path, _pixels)


def _pixels(batch: Any) -> Pixels:
    data = _entry(batch, "data")
    if not isinstance(data, np.ndarray) or data.dtype != np.uint8:
        raise ValueError("its data are no bytes")
    return np.ascontiguousarray(data.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))


def _read_class_names(path: Path, kind: str) -> list[str]:
    """Read the class of each image of a batch; "" where the batch has no labels."""

    def names_in(batch: Any) -> list[str]:
        images, names = len(_pixels(batch)), CLASSES[kind].split()
        if LABELS[kind] not in batch and LABELS[kind].encode() not in batch:
            return [""] * images
        numbers = np.asarray(_entry(batch, LABELS[kind]))
        if numbers.shape != (images,) or numbers.dtype.kind not in "iu" or not set(numbers) <= set(range(len(names))):
            raise ValueError("its labels are not its images' classes")
        return [names[number] for number in numbers]

    return _read(path, names_in)


def _entry(batch: Any, name: str) -> Any:
    """Find an entry under Python 2's bytes or Python 3's text."""
    return batch[name.encode()] if name.encode() in batch else batch[name]


def _read(path: Path, taken: Callable[[Any], T]) -> T:
    """Unpickle a batch, and take something out of it."""
    try:
        with path.open("rb") as file:
            return taken(_ArraysOnly(file, encoding="bytes").load())
    except OSError as error:
        raise ProbeError(path, error.strerror or "cannot be read", HINT) from error
    except BATCH_ERRORS as error:
        raise ProbeError(path, f"is not a CIFAR batch: {one_line(error)}", HINT) from error


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
