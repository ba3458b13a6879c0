"""A folder of torch.distributed.checkpoint, put together on the CPU without running any of its code.

torch's own reader unpickles the folder's metadata, which can run code, compares no checksums, and leaves whatever
the memory held where no piece of a tensor was saved. So the metadata are unpickled into descriptions here, and the
pieces, each of which is what torch.save wrote of one tensor, are read one by one.
"""

import math
import pickle
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeGuard

from cmon.checkpoints.archives import Described, Describer, load_saved
from cmon.checkpoints.damage import DAMAGE_HINT
from cmon.checkpoints.standins import Inert
from cmon.errors import CheckpointError, one_line

if TYPE_CHECKING:
    from torch import Tensor

METADATA = ".metadata"
BESIDE = "meta.pt"  # where Lightning keeps what is no tensor
CLASSES = "torch.distributed.checkpoint.metadata."


class Piece(NamedTuple):
    """Where in the tensor a saved block lies, and where in the folder."""

    offsets: tuple[int, ...]
    sizes: tuple[int, ...]
    file: Path
    start: int
    length: int

    @property
    def place(self) -> tuple[slice, ...]:
        """Return the block as an index of the tensor."""
        return tuple(slice(offset, offset + size) for offset, size in zip(self.offsets, self.sizes, strict=True))


class Item(NamedTuple):
    """One tensor of the folder, or another object, which has neither dtype nor size."""

    name: str
    path: tuple[str | int, ...]
    dtype: Any
    size: tuple[int, ...]
    pieces: tuple[Piece, ...]


def distributed_members(folder: Path) -> tuple[Path, ...]:
    """List the files that decide what is read from a folder."""
    pieces = sorted(path for path in folder.iterdir() if path.name.endswith(".distcp"))
    return (folder / METADATA, *pieces, *([folder / BESIDE] if (folder / BESIDE).is_file() else []))


def load_distributed(folder: Path, trust_pickle: bool) -> dict[Any, Any]:
    """Load a folder of torch.distributed.checkpoint as the nested dict that was saved; lists become dicts by index.

    What an optimizer keeps (everything under a key that begins with optim) is left out. What Lightning has in a file
    of its own beside the tensors is added. Other objects than tensors become inert where they could run code.

    Raises:
        CheckpointError: where pieces are missing, short, outside of the folder, or do not make up their tensors.
    """
    nested = _load_beside(folder / BESIDE, trust_pickle)
    items = list(_items(folder))
    _check_places(folder, [piece for item in items for piece in item.pieces])
    for item in items:
        inner = nested
        for key in item.path[:-1]:
            inner = inner.setdefault(key, {})
        inner[item.path[-1]] = _object(folder, item, trust_pickle) if item.dtype is None else _tensor(folder, item)
    return nested


def _load_beside(file: Path, trust_pickle: bool) -> dict[Any, Any]:
    from cmon.checkpoints.loading import load  # which loads such folders too

    content = load(file, trust_pickle).content if file.is_file() else {}
    return content if isinstance(content, dict) else {}


def _items(folder: Path) -> Iterator[Item]:
    """Read from the metadata what is to be loaded."""
    import torch

    pickled = (folder / METADATA).read_bytes()
    root = Describer(pickled, folder / METADATA, ("torch", "pathlib", "collections")).load()
    if not isinstance(root, Described) or root.kind != f"{CLASSES}Metadata":
        raise CheckpointError(folder / METADATA, "is no metadata of torch.distributed.checkpoint", DAMAGE_HINT)
    paths = root.state.get("planner_data") or {}
    places = {(index["fqn"], index.state.get("offset")): info.state for index, info in root["storage_data"].items()}
    dtypes = {str(value): value for value in vars(torch).values() if isinstance(value, torch.dtype)}
    for name, about in root["state_dict_metadata"].items():
        path = paths.get(name, (name,))
        if not isinstance(path, tuple) or not path or not all(isinstance(key, str | int) for key in path):
            raise CheckpointError(folder / METADATA, f"has no place for {one_line(name)}", DAMAGE_HINT)
        if str(path[0]).startswith("optim"):
            continue
        if about.kind == f"{CLASSES}BytesStorageMetadata":
            yield Item(name, path, None, (), (_piece(folder, (), (), places.get((name, None)), name),))
            continue
        if about.kind != f"{CLASSES}TensorStorageMetadata":
            raise CheckpointError(folder / METADATA, f"describes {one_line(name)} as {about.kind}", DAMAGE_HINT)
        dtype = dtypes[about["properties"].state[0].kind]
        chunks = [(chunk["offsets"], chunk["sizes"]) for chunk in about["chunks"] if 0 not in chunk["sizes"]]
        pieces = tuple(_piece(folder, offsets, sizes, places.get((name, offsets)), name) for offsets, sizes in chunks)
        if not all(map(_are_sizes, [about["size"], *(numbers for chunk in chunks for numbers in chunk)])):
            raise CheckpointError(folder / METADATA, f"has impossible sizes for {one_line(name)}", DAMAGE_HINT)
        yield Item(name, path, dtype, about["size"], pieces)


def _are_sizes(numbers: Any) -> TypeGuard[tuple[int, ...]]:
    return isinstance(numbers, tuple) and all(type(number) is int and number >= 0 for number in numbers)


def _piece(folder: Path, offsets: Any, sizes: Any, place: Any, name: str) -> Piece:
    """Say where a piece is saved."""
    if place is None:
        raise CheckpointError(folder / METADATA, f"does not say where {one_line(name)} is", DAMAGE_HINT)
    if place.get("transform_descriptors"):
        hint = "save it without extensions of the writer"
        raise CheckpointError(folder, f"holds {one_line(name)} in a form of somebody's own", hint)
    file, start, length = place["relative_path"], place["offset"], place["length"]
    if not isinstance(file, str) or Path(file).name != file or not _are_sizes((start, length)):
        raise CheckpointError(folder / METADATA, f"places {one_line(name)} in {one_line(file)}", DAMAGE_HINT)
    return Piece(offsets, sizes, folder / file, start, length)


def _check_places(folder: Path, pieces: Sequence[Piece]) -> None:
    """Raise where a file is missing or shorter than the metadata say, or is to be read more often than once."""
    ends: dict[Path, int] = {}
    for piece in pieces:
        ends[piece.file] = max(ends.get(piece.file, 0), piece.start + piece.length)
    for file, end in ends.items():
        if not file.is_file():
            raise CheckpointError(folder, f"lacks {one_line(file.name)}, which holds a part of it", DAMAGE_HINT)
        if end > file.stat().st_size:
            what = f"has {file.stat().st_size} bytes, {METADATA} speaks of {end}"
            raise CheckpointError(file, what, DAMAGE_HINT)
    if sum(piece.length for piece in pieces) > sum(ends.values()):
        raise CheckpointError(folder / METADATA, "has several tensors of the same bytes", DAMAGE_HINT)


def _read(piece: Piece) -> bytes:
    with piece.file.open("rb") as file:
        file.seek(piece.start)
        return file.read(piece.length)


def _object(folder: Path, item: Item, trust_pickle: bool) -> Any:
    try:
        return load_saved(_read(item.pieces[0]), folder, trust_pickle)
    except pickle.UnpicklingError:  # of a class of somebody's own: nothing that weights need
        return Inert()


def _tensor(folder: Path, item: Item) -> "Tensor":
    """Put a tensor together from its pieces, which have to fill it."""
    import torch

    size_bytes = math.prod(item.size) * item.dtype.itemsize
    held_bytes = sum(piece.length for piece in item.pieces)
    if size_bytes > held_bytes:
        what = f"promises {one_line(item.name)} of {size_bytes} bytes, of which {held_bytes} are there"
        raise CheckpointError(folder / METADATA, what, DAMAGE_HINT)
    tensor = torch.zeros(item.size, dtype=item.dtype)
    filled = torch.zeros(item.size, dtype=torch.bool)
    for piece in item.pieces:
        part = load_saved(_read(piece), piece.file, trust_pickle=False)
        if not isinstance(part, torch.Tensor) or part.shape != filled[piece.place].shape or part.dtype != item.dtype:
            what = f"holds another part of {one_line(item.name)} than {METADATA} says"
            raise CheckpointError(piece.file, what, DAMAGE_HINT)
        tensor[piece.place] = part
        filled[piece.place] = True
    if not filled.all():
        raise CheckpointError(folder, f"lacks a part of {one_line(item.name)}", DAMAGE_HINT)
    return tensor
