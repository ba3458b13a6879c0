"""Find, order and load the checkpoints of a run.

Nothing in a checkpoint is run unless the user trusts it, nothing is guessed about its weights, and a damaged
file is an error. torch's zip format has a checksum for every record, which torch itself does not look at:
they are verified here. Its older format and safetensors have none: there a flipped byte can go unseen.
"""

import glob
import os
import pickle
import re
import stat
import struct
import tarfile
import unicodedata
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cmon.config import Run
from cmon.errors import CheckpointError, CmonError, ConfigError, listing, one_line

if TYPE_CHECKING:
    from torch import Tensor, nn

TEMPORARY = (".tmp", ".part")
LONGEST_NAME_BYTES = 200

# Where training scripts put the weights, and how the content and the name say the step: earlier ones win.
PLACES = ("state_dict", "model", "model_state_dict", "net")
STEP_KEYS = ("epoch", "global_step", "step", "iteration")
STEP_WORDS = ("epochs?", "steps?|iter(?:ation)?s?")

# What DataParallel, torch.compile and Lightning put before names; the first two may stand within one.
WRAPPERS = ("module", "_orig_mod")
PREFIXES = ("module.", "_orig_mod.", "model.")
COUNTER = ".num_batches_tracked"  # missing in old files, and of no effect in evaluation

STEPS_HINT = "list the run's steps in the config, as `steps`"
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
class CheckpointFile:
    """One checkpoint of a run: its file, and the file's name without the ending."""

    name: str
    path: Path


@dataclass(frozen=True)
class Weights:
    """What a checkpoint holds: tensors on the CPU by the names they were saved under, and its own step."""

    tensors: "dict[str, Tensor]"
    step: int | None


def discover(run: Run) -> tuple[CheckpointFile, ...]:
    """List a run's checkpoints in the natural order of their names.

    Raises:
        ConfigError: where nothing is found.
        CheckpointError: where two files share a name, or a name cannot be used for files of the workspace.
    """
    asked = run.checkpoints if isinstance(run.checkpoints, list) else [run.checkpoints]
    found: dict[str, Path] = {}
    for path in dict.fromkeys(path for place in asked for path in _files(place, f"run {run.name}: checkpoints")):
        name = path.stem
        _refuse_unusable(name, path)
        if name in found:
            what = f"has the same name, {name}, as {found[name]}"
            raise CheckpointError(path, what, "rename one, or list files or links with names of their own")
        found[name] = path
    if not found:
        raise ConfigError(f"run {run.name}: checkpoints", "is an empty list", "name a folder, a glob or files")
    return tuple(CheckpointFile(name, found[name]) for name in sorted(found, key=_natural))


def resolve_steps(run: Run, names: Sequence[str], content_steps: Sequence[int | None]) -> tuple[int, ...]:
    """Say the step of each checkpoint of a run.

    The config's list wins; then the content, where all tell; then the number after the word epoch in all
    names, then after step or iteration, each where it tells all apart; then the last number of each name;
    then, where none tells anything, the place in order, from 0.

    Args:
        run: the run.
        names: of its checkpoints, in natural order.
        content_steps: what each content says; None where nothing.

    Raises:
        ConfigError: where the config's list does not fit.
        CheckpointError: where two checkpoints have one step, or one has none.
    """
    if run.steps is not None:
        if len(run.steps) != len(names):
            what = f"lists {len(run.steps)} steps for {len(names)} checkpoints"
            raise ConfigError(f"run {run.name}: steps", what, f"one for each of {listing(names)}")
        return _distinct(run, names, run.steps, ConfigError)
    by_word = [[_number(name, word) for name in names] for word in STEP_WORDS]
    sources = [source for source in [content_steps, *by_word] if None not in source]
    for source in sources:
        if len(set(source)) == len(source):
            return tuple(step for step in source if step is not None)
    if sources:
        return _distinct(run, names, [step for step in sources[0] if step is not None], CheckpointError)
    return _distinct(run, names, _mixed_steps(run, names, content_steps, by_word), CheckpointError)


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


def fit(weights: Weights, model: "nn.Module", path: Path) -> "dict[str, Tensor]":
    """Rename and cast weights so that each tensor of the model's state has one of its name, shape and kind.

    Batch counters may be missing on either side: evaluation does not use them.

    Raises:
        CheckpointError: listing what does not fit, or that a tensor holds NaN or infinity.
    """
    import torch

    expected = {name: value for name, value in model.state_dict().items() if isinstance(value, torch.Tensor)}
    best = min(_renamings(weights.tensors), key=lambda renamed: sum(map(len, _misfits(renamed, expected).values())))
    parts = [f"{len(names)} {kind} ({listing(names, 3)})" for kind, names in _misfits(best, expected).items() if names]
    if parts:
        hint = "check the run's model and model_args, and state_dict_key"
        raise CheckpointError(path, f"does not fit the model: {', '.join(parts)}", hint)
    fitted = {
        name: best[name].detach().to(value.dtype) if name in best else torch.zeros_like(value, device="cpu")
        for name, value in expected.items()
    }
    bad = [name for name, value in fitted.items() if value.is_floating_point() and not value.isfinite().all()]
    if bad:
        what = f"{len(bad)} of {len(fitted)} tensors hold NaN or infinity, the first is {one_line(bad[0])}"
        raise CheckpointError(path, what, "training had diverged, or the file is damaged: leave it out")
    return fitted


def load_into(model: "nn.Module", weights: Weights, path: Path) -> None:
    """Replace all of the model's state by a checkpoint's.

    Raises:
        CheckpointError: where it does not fit, see `fit`.
    """
    try:
        model.load_state_dict(fit(weights, model, path), strict=True)
    except RuntimeError as error:  # a model with state beside its tensors
        raise CheckpointError(path, f"does not fit the model: {one_line(error)}") from error


def _files(place: Path, key: str) -> list[Path]:
    """Return the files that one entry of the config means: itself, a folder's, or those that match a glob."""
    try:
        base, rest = _literal_part(place)
        if not rest and not base.is_dir():
            return [base]
        patterns = [rest] if rest else [f"*{ending}" for ending in LOADERS]
        found = [
            base / match
            for pattern in patterns
            for match in glob.glob(pattern, root_dir=base, recursive=True)  # noqa: PTH207  # Path's finds hidden files
        ]
        files = [path for path in found if not (path.is_dir() or path.name.startswith("."))]
    except OSError as error:
        raise ConfigError(key, f"{one_line(place)}: {error.strerror}", "name a folder, a glob or files") from error
    files = [path for path in files if rest == path.name or path.suffix.lower() not in TEMPORARY]
    if not files:
        what = f"nothing matches {one_line(place)}" if glob.has_magic(rest) else f"there is no {one_line(place)}"
        what = what if rest else f"the folder {one_line(place)} holds no {listing(LOADERS)}"
        raise ConfigError(key, what, "name a folder, a glob or files")
    return files


def _literal_part(place: Path) -> tuple[Path, str]:
    """Split a path where it stops existing as written: names may hold brackets, only the rest is a glob."""
    base, parts = Path(place.anchor), list(place.parts[1:] if place.anchor else place.parts)
    while parts and os.path.lexists(base / parts[0]):
        base /= parts.pop(0)
    return base, "/".join(parts)


def _refuse_unusable(name: str, path: Path) -> None:
    try:
        size_bytes = len(name.encode())
    except UnicodeEncodeError:
        size_bytes = 0  # bytes that are not UTF-8
    if not 0 < size_bytes <= LONGEST_NAME_BYTES or any(unicodedata.category(c) == "Cc" for c in name):
        what = f"its name cannot be used: not UTF-8, over {LONGEST_NAME_BYTES} bytes, or with control characters"
        raise CheckpointError(one_line(path), what, "rename it")


def _natural(name: str) -> tuple[list[str | int], str]:
    """Order epoch_2 before epoch_10; text and numbers alternate, so that like meets like."""
    return [int(part) if part.isdigit() else part for part in re.split(r"([0-9]+)", name)], name


def _number(name: str, word: str) -> int | None:
    """Read the number after a word: epoch=3, epoch_003, Epoch3."""
    match = re.search(rf"(?<![a-z])(?:{word})[^a-z0-9]*([0-9]{{1,18}})(?![0-9])", name.lower())
    return int(match[1]) if match else None


def _last_number(name: str) -> int | None:
    """Read the last whole number; 0.95 is an accuracy, not a step."""
    numbers = [number for number in re.findall(r"[0-9]+(?:\.[0-9]+)*", name) if number.isdigit() and len(number) < 19]
    return int(numbers[-1]) if numbers else None


def _mixed_steps(
    run: Run,
    names: Sequence[str],
    content_steps: Sequence[int | None],
    by_word: Sequence[Sequence[int | None]],
) -> list[int]:
    """Take each step from the name, else from the content; from the place only where none tells any."""
    steps: list[int | None] = []
    for told in zip(*by_word, map(_last_number, names), content_steps, strict=True):
        steps.append(next((step for step in told if step is not None), None))
    known = [step for step in steps if step is not None]
    if not known:
        return list(range(len(names)))
    if len(known) < len(steps):
        what = f"{names[steps.index(None)]} tells no step, in its name or content, while others do"
        raise CheckpointError(f"run {run.name}", what, STEPS_HINT)
    return known


def _distinct(run: Run, names: Sequence[str], steps: Sequence[int], kind: type[CmonError]) -> tuple[int, ...]:
    first: dict[int, str] = {}
    for name, step in zip(names, steps, strict=True):
        if step in first:
            raise kind(f"run {run.name}", f"{first[step]} and {name} both have step {step}", STEPS_HINT)
        first[step] = name
    return tuple(steps)


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


def _weights(content: Any, path: Path) -> "dict[str, Tensor]":
    """Take the weights from the one usual place that has any, else from the top level."""
    held = content if isinstance(content, Mapping) else {}
    found = {place: tensors for place in PLACES if (tensors := _tensors(held.get(place)))}
    if len({id(held[place]) for place in found}) > 1:
        what = f"holds weights under {listing(found)}"
        raise CheckpointError(path, what, "say which with state_dict_key")
    tensors = next(iter(found.values()), None) or _tensors(content)
    if tensors is None:
        places = [f"{key}.{inner}" if inner else key for key, inner in _places(content)]
        hint = f'set state_dict_key = "{one_line(places[0])}"' if places else "name a file that holds a state dict"
        raise CheckpointError(path, f"holds no weights in the usual places; it has {_described(content)}", hint)
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

    if isinstance(value, torch.Tensor) and value.dim() == 0 and _kind(value) in ("float", "integer"):
        value = value.item()
    if isinstance(value, str) and re.fullmatch(r"[0-9]{1,18}", value):  # safetensors' metadata is text
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value // 1 or not 0 <= value < 2**63:
        return None
    return int(value)


def _renamings(tensors: "dict[str, Tensor]") -> "Iterator[dict[str, Tensor]]":
    """Yield the tensors under their names, then under all that is left of these as wrappers are taken off."""
    queue = [tuple(tensors)]
    for names in queue:
        yield dict(zip(names, tensors.values(), strict=True))
        queue += [shorter for shorter in _unwrapped(names) if shorter not in queue and len(set(shorter)) == len(names)]


def _unwrapped(names: tuple[str, ...]) -> Iterable[tuple[str, ...]]:
    """Take one wrapper off: a known prefix, the component that all names begin with, or wrappers within."""
    for prefix in PREFIXES:
        yield tuple(name.removeprefix(prefix) for name in names)
    if len({name.partition(".")[0] for name in names}) == 1 and all("." in name for name in names):
        yield tuple(name.partition(".")[2] for name in names)
    yield tuple(".".join(part for part in name.split(".") if part not in WRAPPERS) for name in names)


def _misfits(renamed: "dict[str, Tensor]", expected: "dict[str, Tensor]") -> dict[str, list[str]]:
    """List what keeps tensors from being the model's, by kind of complaint."""
    both = [(name, renamed[name], value) for name, value in expected.items() if name in renamed]
    return {
        "missing": [name for name in expected if name not in renamed and not name.endswith(COUNTER)],
        "left over": [name for name in renamed if name not in expected and not name.endswith(COUNTER)],
        "of another shape": [
            f"{name} is {_shape(saved)}, the model has {_shape(value)}"
            for name, saved, value in both
            if saved.shape != value.shape
        ],
        "of another kind": [
            f"{name} is {_kind(saved)}, the model has {_kind(value)}"
            for name, saved, value in both
            if _kind(saved) != _kind(value)
        ],
    }


def _shape(tensor: "Tensor") -> str:
    return "x".join(map(str, tensor.shape)) or "a scalar"


def _kind(tensor: "Tensor") -> str:
    """Name what cannot be cast: integers that were scaled to stand for weights are not the weights."""
    import torch

    if tensor.device.type == "meta" or tensor.is_quantized or tensor.layout != torch.strided:
        return "without data" if tensor.device.type == "meta" else "quantized or sparse"
    return "float" if tensor.is_floating_point() else "complex" if tensor.is_complex() else "integer"
