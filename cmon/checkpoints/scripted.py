"""The weights of a TorchScript archive, read without compiling or running its code."""

import re
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cmon.checkpoints.archives import Archive, Described, Describer, flat_tensor, within
from cmon.errors import CheckpointError

if TYPE_CHECKING:
    from torch import Tensor

SAVE_HINT = "save the state_dict() of the module that it was made from"
MOST_MODULES, LONGEST_NAME = 100_000, 10_000

# How the archive's code begins a class: of a module it lists the names of its parameters, then of its buffers.
CLASS = re.compile(
    r"^class (?P<name>[^\s(:]+)(?:\([^)\n]*\))?:\n(?P<lists>(?:  __(?:parameters|buffers)__ = \[[^\]\n]*\]\n)*)",
    re.MULTILINE,
)


def is_scripted(names: Collection[str]) -> bool:
    """Tell from the names of a zip's records, or from those within its folder, whether torch.jit.save wrote it."""
    held = {*names, *map(within, names)}
    return {"constants.pkl", "data.pkl"} <= held and any(name.startswith("code/") for name in held)


def load_scripted(path: Path, trust_pickle: bool) -> "dict[str, Tensor]":  # noqa: ARG001  # none of its code is needed
    """Load a TorchScript archive's parameters and buffers, under the names of the module's state_dict.

    Tensors that are plain attributes are left out. Buffers that the module did not count to its state
    (persistent=False) are among the buffers, since the archive does not tell them apart.

    Raises:
        CheckpointError: where weights have no names, as in a frozen archive, or only its code could read them.
    """
    with path.open("rb") as file:
        archive = Archive(file, path)
        archive.refuse_other_byteorder()
        pickled = archive.read("data.pkl")
        root = Describer(pickled, path, ("__torch__", "torch", "collections")).load()
        tensors = dict(_Reader(archive).tensors(root))
    if not tensors:
        frozen = any(name.startswith("constants/") for name in archive)
        what = "is a frozen TorchScript archive: its weights have no names" if frozen else "is a TorchScript archive"
        raise CheckpointError(path, what if frozen else f"{what} without weights", SAVE_HINT)
    return tensors


class _Reader:
    """Find tensors in the description of a module, and read each storage once, as tensors may share it."""

    def __init__(self, archive: Archive) -> None:
        self._archive = archive
        self._storages: dict[tuple[str, str], Tensor] = {}
        self._classes: dict[str, dict[str, list[str]]] = {}

    def tensors(self, root: Any) -> "Iterator[tuple[str, Tensor]]":
        """Yield names and tensors: a module's own first, then those of the modules within it."""
        stack, seen = [("", root)], 0
        while stack:
            prefix, module = stack.pop()
            names = self._state_names(module)
            if names is None:
                continue
            seen += 1
            if seen > MOST_MODULES or len(prefix) > LONGEST_NAME:
                raise ValueError("its modules hold each other")
            for name in names:
                if (value := module[name]) is not None:
                    yield prefix + name, self._tensor(prefix + name, value)
            inner = [(f"{prefix}{name}.", held) for name, held in module.state.items() if isinstance(held, Described)]
            stack += reversed(inner)

    def _state_names(self, described: Any) -> list[str] | None:
        """Return the names of a module's parameters and buffers; None of what is no module."""
        kind = described.kind if isinstance(described, Described) else ""
        package, _, rest = kind.partition(".")
        if package != "__torch__":
            return None
        if rest.startswith("torch.classes.") or (described.state is not None and not isinstance(described.state, dict)):
            what = f"holds a {rest}, which only its own code can read"
            raise CheckpointError(self._archive.path, what, SAVE_HINT)
        module, _, name = kind.rpartition(".")
        if module not in self._classes:
            self._classes[module] = self._read_classes(f"code/{module.replace('.', '/')}.py")
        return self._classes[module].get(name) if isinstance(described.state, dict) else None

    def _read_classes(self, record: str) -> dict[str, list[str]]:
        """Return the names of the parameters and buffers of each class in a file of code; of other classes none."""
        code = self._archive.read(record).decode()
        return {found["name"]: re.findall(r'"([^"]+)"', found["lists"]) for found in CLASS.finditer(code)}

    def _tensor(self, name: str, described: Any) -> "Tensor":
        """Make a tensor of its description: (storage, offset, size, stride, ...)."""
        import torch

        dtypes = {
            "BoolStorage": torch.bool,
            "ByteStorage": torch.uint8,
            "CharStorage": torch.int8,
            "ShortStorage": torch.int16,
            "IntStorage": torch.int32,
            "LongStorage": torch.int64,
            "HalfStorage": torch.float16,
            "BFloat16Storage": torch.bfloat16,
            "FloatStorage": torch.float32,
            "DoubleStorage": torch.float64,
            "ComplexFloatStorage": torch.complex64,
        }
        made_by = described.kind if isinstance(described, Described) else type(described).__name__
        if made_by != "torch._utils._rebuild_tensor_v2" or any(described.parts[6:]):
            what = f"holds {name} in a form that only its own code can read: {made_by}"
            raise CheckpointError(self._archive.path, what, SAVE_HINT)
        (_, storage, key, *_), offset, size, stride = described.parts[:4]
        dtype = dtypes.get(storage.kind.removeprefix("torch."))
        if dtype is None:
            raise CheckpointError(self._archive.path, f"holds {name} as a {storage.kind}", SAVE_HINT)
        if (key, storage.kind) not in self._storages:
            self._storages[key, storage.kind] = flat_tensor(bytearray(self._archive.read(f"data/{key}")), dtype)
        return self._storages[key, storage.kind].as_strided(size, stride, offset)
