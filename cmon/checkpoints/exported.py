"""The weights of a program that torch.export.save wrote, read without its graph."""

import json
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cmon.checkpoints.archives import Archive, flat_tensor, load_saved, within
from cmon.errors import CheckpointError, listing

if TYPE_CHECKING:
    from torch import Tensor

WEIGHTS, CONFIG = "data/weights/", "_weights_config.json"
# Before 2.8 the archive had no folder. The oldest had the ending of another format.
OLD = ("serialized_state_dict.pt", "serialized_state_dict.json")
HINT = "save the state_dict() of the module that was exported"


def is_exported(names: Collection[str]) -> bool:
    """Tell from the names of a zip's records, or from those within its folder, whether torch.export.save wrote it."""
    return not {"archive_format", *OLD}.isdisjoint({*names, *map(within, names)})


def load_exported(path: Path, trust_pickle: bool) -> "dict[str, Tensor]":
    """Load an exported program's parameters and buffers, under the names of the module's state_dict.

    Read are the archives of torch 2.9 and later, with a record for each storage; those of 2.8, and those before,
    which hold what torch.save wrote. Constants, and buffers of no state (persistent=False), are left out.

    Raises:
        CheckpointError: where it holds no weights by name, or those of several programs.
    """
    with path.open("rb") as file:
        archive = Archive(file, path)
        archive.refuse_other_byteorder()
        saved = [name for name in OLD if name in archive]
        saved += [name for name in archive if name.startswith(WEIGHTS) and name.endswith((".pt", CONFIG))]
        if not saved:
            raise CheckpointError(path, "is a compiled program without weights by name", HINT)
        if len(saved) > 1:
            raise CheckpointError(path, f"holds several programs: {listing(saved)}", "export one into a file")
        record = archive.read(saved[0])
        content = _tensors(archive, record) if saved[0].endswith(CONFIG) else load_saved(record, path, trust_pickle)
    if not isinstance(content, dict):
        raise CheckpointError(path, "is an exported program without weights by name", HINT)
    return content


def _tensors(archive: Archive, config: bytes) -> "dict[str, Tensor]":
    """Read the weights that a table of storages, sizes and strides describes; tensors may share a storage."""
    import torch

    # By the number that torch's schema of exported programs has for each.
    dtypes = {
        1: torch.uint8,
        2: torch.int8,
        3: torch.int16,
        4: torch.int32,
        5: torch.int64,
        6: torch.float16,
        7: torch.float32,
        8: torch.float64,
        10: torch.complex64,
        11: torch.complex128,
        12: torch.bool,
        13: torch.bfloat16,
        29: torch.float8_e4m3fn,
        30: torch.float8_e5m2,
    }
    storages: dict[str, bytearray] = {}
    tensors: dict[str, Tensor] = {}
    for name, weight in json.loads(config)["config"].items():
        place = WEIGHTS + weight["path_name"]
        if weight["use_pickle"]:
            what = f"holds {name} as an object, not as a plain tensor"
            raise CheckpointError(archive.path, what, HINT)
        about = weight["tensor_meta"]
        if about["dtype"] not in dtypes:
            raise CheckpointError(archive.path, f"holds {name} as numbers of an unknown kind, {about['dtype']}", HINT)
        if place not in storages:
            storages[place] = bytearray(archive.read(place))
        flat = flat_tensor(storages[place], dtypes[about["dtype"]])
        size, stride = ([_integer(number) for number in about[key]] for key in ("sizes", "strides"))
        tensors[name] = flat.as_strided(size, stride, _integer(about["storage_offset"]))
    return tensors


def _integer(number: Any) -> int:
    """Read a size; what only the program's input decides is no size of a weight."""
    found = number["as_int"]
    if type(found) is not int:
        raise TypeError(f"{found} is no size")
    return found
