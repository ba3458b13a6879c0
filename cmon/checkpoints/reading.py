"""A checkpoint file's tensors and step, read without running any of its code."""

import pickle
import re
import stat
import struct
import tarfile
import warnings
import zipfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from cmon.checkpoints.kinds import tensor_kind
from cmon.errors import CheckpointError, listing, one_line

if TYPE_CHECKING:
    from torch import Tensor

# Where training scripts put the weights, and how the content says the step: earlier ones win.
PLACES = ("state_dict", "model", "model_state_dict", "net")
MASK_PLACES = ("masks", "mask")
STEP_KEYS = ("epoch", "global_step", "step", "iteration")

LARGEST_RATIO = 32  # of what a file unpacks to
TRUST_HINT = "if you trust where it comes from, let it run code with --trust-pickle"
DAMAGE_HINT = "copy it again from where it was saved, or leave it out"

# What unpickling arbitrary bytes was seen to raise, or can.
DAMAGE = (
    *(
        ArithmeticError,
        AssertionError,
        AttributeError,
        BufferError,
        EOFError,
        ImportError,
        LookupError,
        MemoryError,
    ),
    *(NameError, OSError, ReferenceError, RuntimeError, StopIteration, SyntaxError, SystemError, TypeError),
    *(ValueError, pickle.PickleError, struct.error, tarfile.TarError, zipfile.BadZipFile, zlib.error),
)


@dataclass(frozen=True)
class Weights:
    """What a checkpoint holds: tensors on the CPU by the names they were saved under, and its own step."""

    tensors: "dict[str, Tensor]"
    step: int | None


def read_checkpoint(path: Path, state_dict_key: str | None, trust_pickle: bool) -> Weights:
    """Read a checkpoint's weights onto the CPU.

    Args:
        path: a file of torch, zip or older, or of safetensors.
        state_dict_key: where the weights are, dotted, with indices for lists; None for the usual places.
        trust_pickle: may the file run code of its own, such as a whole pickled module's.

    Raises:
        CheckpointError: where it cannot be read, needs code to run, or holds no weights there.
    """
    try:
        content = _content(path, trust_pickle)
        tensors = _weights(content, path) if state_dict_key is None else _weights_at(content, state_dict_key, path)
        return Weights(tensors, _step(content))
    except DAMAGE as error:
        raise _refusal(path, error) from error


def read_masks(path: Path, trust_pickle: bool) -> "dict[str, Tensor]":
    """Read a file of masks, which lie under `masks` or `mask`, else where weights do.

    Raises:
        CheckpointError: where it cannot be read, needs code to run, or holds no masks there.
    """
    try:
        content = _content(path, trust_pickle)
        held = content if isinstance(content, Mapping) else {}
        found = [tensors for place in MASK_PLACES if (tensors := _tensors(held.get(place)))]
        return found[0] if found else _weights(content, path, "masks")
    except DAMAGE as error:
        raise _refusal(path, error) from error


def _content(path: Path, trust_pickle: bool) -> Any:
    """Read a file by its ending, or by its first bytes where the ending is unknown."""
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise CheckpointError(path, "is a folder" if stat.S_ISDIR(status.st_mode) else "is no file", "name a file")
    if not status.st_size:
        raise CheckpointError(path, "is empty: 0 bytes", DAMAGE_HINT)
    load = LOADERS.get(path.suffix.lower())
    if load is None and not _begins_as(path):
        raise CheckpointError(path, f"is of no known kind; known endings: {listing(LOADERS)}", "name a checkpoint")
    return (load or load_torch)(path, trust_pickle)


def load_torch(path: Path, trust_pickle: bool) -> Any:
    """Load what torch.save wrote, after verifying the checksums that torch does not look at."""
    import torch

    kind = _begins_as(path)
    if not kind:
        raise CheckpointError(path, "is damaged, or is no file of torch.save", DAMAGE_HINT)
    if kind == "zip":
        _verify_checksums(path)
    # torch warns of what is an error below, or of what the user has just agreed to.
    with warnings.catch_warnings(), torch.serialization.safe_globals(_stand_ins()):
        warnings.simplefilter("ignore")
        return torch.load(path, map_location="cpu", weights_only=not trust_pickle)


def load_safetensors(path: Path, trust_pickle: bool) -> Any:  # noqa: ARG001  # it has no pickle
    """Load a file of safetensors, its metadata beside the tensors as torch's checkpoints have it."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # it is no dict
            return {**(file.metadata() or {}), "state_dict": tensors}
    except SafetensorError as error:
        raise ValueError(str(error)) from error


LOADERS: dict[str, Callable[[Path, bool], Any]] = {
    ".pt": load_torch,
    ".pth": load_torch,
    ".ckpt": load_torch,
    ".th": load_torch,
    ".bin": load_torch,
    ".tar": load_torch,
    ".safetensors": load_safetensors,
}


def _begins_as(path: Path) -> str:
    """Tell whether a file begins as a "zip", as a binary "pickle", or as neither: ""."""
    with path.open("rb") as file:
        head = file.read(4)
    if head == b"PK\x03\x04":
        return "zip"
    return "pickle" if head[:1] == b"\x80" and head[1:2] <= bytes([pickle.HIGHEST_PROTOCOL]) else ""


def _verify_checksums(path: Path) -> None:
    """Read every record once, which compares its CRC-32; torch.load would load flipped bytes as they are."""
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
        # torch packs nothing, and a file of a megabyte can unpack to one that fills the memory.
        size_bytes = sum(entry.file_size for entry in entries)
        if size_bytes > LARGEST_RATIO * path.stat().st_size:
            raise CheckpointError(path, f"would unpack to {size_bytes / 2**20:.0f} MiB", DAMAGE_HINT)
        if not any(entry.CRC for entry in entries):
            return  # saved under torch.serialization.set_crc32_options(False): there is nothing to compare
        for entry in entries:
            with archive.open(entry) as record:
                while record.read(2**20):
                    pass


class _Inert:
    """Stand for an object beside the weights that is not needed: keep what it is made of and do nothing."""

    parts: tuple[Any, ...] = ()

    def __init__(self, *parts: Any) -> None:
        self.parts = parts

    def __setstate__(self, state: Any) -> None:
        """Leave the object's state out."""


def _scalar(dtype: Any, data: Any = None) -> Any:
    """Read a numpy number, such as an epoch, without numpy's own unpickling."""
    code = dtype.parts[0] if isinstance(dtype, _Inert) and dtype.parts else None
    formats = {"i4": "<i", "i8": "<q", "u4": "<I", "u8": "<Q", "f4": "<f", "f8": "<d"}
    return struct.unpack(formats[code], data)[0] if code in formats and isinstance(data, bytes) else _Inert()


def _dictionary(*_: Any) -> dict[Any, Any]:
    """Stand for a defaultdict: torch's safe unpickler fills plain dicts only."""
    return {}


def _stand_ins() -> list[Any]:
    """List (stand-in, name) for the harmless globals that training scripts save beside the weights.

    None of the real ones is called: their unpickling was not written for bytes that nobody vouches for.
    """
    inert = ["argparse.Namespace", "numpy.ndarray", "numpy.dtype"]
    inert += [f"numpy.{core}.multiarray._reconstruct" for core in ("core", "_core")]
    paths = ("Path", "PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath")
    inert += [f"{module}.{name}" for module in ("pathlib", "pathlib._local") for name in paths]
    inert += [f"builtins.{name}" for name in ("list", "dict", "int", "float", "str", "tuple", "bool")]
    scalars = [(_scalar, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")]
    return [*((_Inert, name) for name in inert), *scalars, (_dictionary, "collections.defaultdict")]


def _refusal(path: Path, error: BaseException) -> CheckpointError:
    """Say in one line why a file could not be loaded; torch's own messages fill a screen."""
    text = str(error)
    refused = re.search(r"GLOBAL ([\w.]+)", text)
    if refused:
        return CheckpointError(path, f"needs {refused[1]}, which could run code, to be unpickled", TRUST_HINT)
    if "TorchScript" in text:
        return CheckpointError(path, "is a TorchScript archive, which holds code", TRUST_HINT)
    if isinstance(error, OSError) and error.filename:  # zipfile raises it without, of a damaged file
        return CheckpointError(path, error.strerror or "cannot be opened", "name a file that can be read")
    text = text.rpartition("WeightsUnpickler error: ")[2].partition("Check the documentation")[0]
    if isinstance(error, pickle.UnpicklingError) and zipfile.is_zipfile(path):  # whole, as its checksums say
        return CheckpointError(path, f"cannot be unpickled safely: {one_line(text, 120)}", TRUST_HINT)
    if isinstance(error, ImportError | AttributeError):
        return CheckpointError(path, f"cannot be unpickled: {one_line(text, 120)}", "save its state_dict() instead")
    return CheckpointError(path, f"is damaged: {one_line(text, 120) or type(error).__name__}", DAMAGE_HINT)


def _tensors(value: Any) -> "dict[str, Tensor] | None":
    """Return the named tensors of a dict or module; None where it has none of a dimension, so no weights."""
    import torch

    if isinstance(value, torch.nn.Module):
        value = value.state_dict()
    if not isinstance(value, Mapping):
        return None
    tensors = {str(name): tensor for name, tensor in value.items() if isinstance(tensor, torch.Tensor)}
    return tensors if any(tensor.dim() for tensor in tensors.values()) else None


def _weights(content: Any, path: Path, what: Literal["weights", "masks"] = "weights") -> "dict[str, Tensor]":
    """Take the weights from the one usual place that has any, else from the top level."""
    held = content if isinstance(content, Mapping) else {}
    found = {place: tensors for place in PLACES if (tensors := _tensors(held.get(place)))}
    if len({id(held[place]) for place in found}) > 1:
        hint = "say which with state_dict_key" if what == "weights" else "put them under masks"
        raise CheckpointError(path, f"holds {what} under {listing(found)}", hint)
    tensors = next(iter(found.values()), None) or _tensors(content)
    if tensors is None:
        places = [f"{key}.{inner}" if inner else key for key, inner in _places(content)]
        hint = f'set state_dict_key = "{one_line(places[0])}"' if places else "name a file that holds a state dict"
        hint = hint if what == "weights" else "save a dict of masks by the names of the parameters, under masks"
        raise CheckpointError(path, f"holds no {what} in the usual places; it has {_described(content)}", hint)
    return tensors


def _places(content: Any) -> list[tuple[str, str]]:
    """Find where weights lie, up to two levels deep."""
    outer = [(key, value) for key, value in _children(content)]
    deep = [(key, inner) for key, value in outer for inner, held in _children(value) if _tensors(held)]
    return [(key, "") for key, value in outer if _tensors(value)] + deep


def _children(value: Any) -> list[tuple[str, Any]]:
    if isinstance(value, Mapping):
        return [(str(key), held) for key, held in value.items()]
    return [(str(index), held) for index, held in enumerate(value)] if isinstance(value, list | tuple) else []


def _described(value: Any) -> str:
    keys = [key for key, _ in _children(value)]
    return listing(keys) if keys else f"nothing but {'an empty ' if value == {} else ''}{type(value).__name__}"


def _weights_at(content: Any, state_dict_key: str, path: Path) -> "dict[str, Tensor]":
    """Take the weights from where the config says."""
    value = content
    for key in state_dict_key.split("."):
        children = dict(_children(value))
        if key not in children:
            what = f'state_dict_key "{state_dict_key}": there is no {key}; there is {_described(value)}'
            raise CheckpointError(path, one_line(what), "name a key that is there")
        value = children[key]
    tensors = _tensors(value)
    if tensors is None:
        what = f'state_dict_key "{state_dict_key}" holds no weights; it has {_described(value)}'
        raise CheckpointError(path, one_line(what), "name the key of a state dict")
    return tensors


def _step(content: Any) -> int | None:
    """Read the step that a checkpoint tells of itself, an epoch before a global step."""
    held = content if isinstance(content, Mapping) else {}
    steps = (_whole_number(held.get(key)) for key in STEP_KEYS)
    return next((step for step in steps if step is not None), None)


def _whole_number(value: Any) -> int | None:
    import torch

    if isinstance(value, torch.Tensor) and value.dim() == 0 and tensor_kind(value) in ("float", "integer"):
        value = value.item()
    if isinstance(value, str) and re.fullmatch(r"[0-9]{1,18}", value):  # safetensors' metadata is text
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value // 1 or not 0 <= value < 2**63:
        return None
    return int(value)
