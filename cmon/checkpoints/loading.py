"""One file's content onto the CPU, by its ending or its first bytes, without running any of its code."""

import pickle
import stat
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cmon.checkpoints.archives import Archive
from cmon.checkpoints.damage import DAMAGE, DAMAGE_HINT, refusal
from cmon.checkpoints.distributed import load_distributed
from cmon.checkpoints.exported import is_exported, load_exported
from cmon.checkpoints.folders import ENDINGS, INDEX, STATE, shards, weights_of
from cmon.checkpoints.pickles import load_pickle
from cmon.checkpoints.scripted import is_scripted, load_scripted
from cmon.errors import CheckpointError, listing


@dataclass(frozen=True)
class Loaded:
    """What a checkpoint holds as it was saved.

    Args:
        content: a dict mostly, as torch.load returns it.
        container: what it is kept in: "torch", "safetensors", "TorchScript", "torch.export", "distributed".
        strangers: names of classes that were stood in for, since to load them could run code.
    """

    content: Any
    container: str
    strangers: tuple[str, ...] = ()


def load(path: Path, trust_pickle: bool) -> Loaded:
    """Load a checkpoint: a file, an index of shards, or a folder.

    Raises:
        CheckpointError: where it is of no known kind, needs code to run, or is damaged.
    """
    try:
        return _load(path, trust_pickle)
    except DAMAGE as error:
        raise refusal(path, error) from error


def _load(path: Path, trust_pickle: bool) -> Loaded:
    status = path.stat()
    if stat.S_ISDIR(status.st_mode):
        held = weights_of(path)
        if held is None:
            raise CheckpointError(path, "is a folder without a checkpoint's files", "name a checkpoint")
        if held.is_dir():
            return Loaded(load_distributed(held, trust_pickle), "distributed")
        return _load(held, trust_pickle)
    if not stat.S_ISREG(status.st_mode):
        raise CheckpointError(path, "is no file", "name a file")
    if not status.st_size:
        raise CheckpointError(path, "is empty: 0 bytes", DAMAGE_HINT)
    if path.name.endswith(INDEX):
        parts = [_load(part, trust_pickle) for part in shards(path)]
        if any(not isinstance(part.content, Mapping) for part in parts):
            raise CheckpointError(path, "names shards that hold no tensors by name", DAMAGE_HINT)
        tensors = {name: value for part in parts for name, value in _flat(part.content).items()}
        return Loaded({"state_dict": tensors, **_beside(path)}, parts[0].container)
    loader = LOADERS.get(path.suffix.lower())
    if loader is None and not begins_as(path):
        raise CheckpointError(path, f"is of no known kind; known endings: {listing(LOADERS)}", "name a checkpoint")
    loaded = (loader or load_torch)(path, trust_pickle)
    beside = _beside(path)
    if beside and isinstance(loaded.content, Mapping):
        return Loaded({"state_dict": _flat(loaded.content), **beside}, loaded.container, loaded.strangers)
    return loaded


def _flat(content: Mapping[Any, Any]) -> Mapping[Any, Any]:
    held = content.get("state_dict")
    return held if isinstance(held, Mapping) else content


def _beside(path: Path) -> dict[str, Any]:
    """Read what the Trainer says of itself in the folder of its weights."""
    import json

    file = path.parent / STATE
    if not path.name.startswith(("model.", "pytorch_model.")) or not file.is_file():
        return {}
    state = json.loads(file.read_text(encoding="utf-8"))
    return {"global_step": state.get("global_step"), STATE: True} if isinstance(state, dict) else {}


def load_torch(path: Path, trust_pickle: bool) -> Loaded:
    """Load what torch.save wrote, or another archive of torch's, after verifying its checksums."""
    kind = begins_as(path)
    if not kind:
        raise CheckpointError(path, "is damaged, or is no file of torch.save", DAMAGE_HINT)
    if kind == "zip":
        with path.open("rb") as file:
            archive = Archive(file, path)
            names = list(archive)
            if is_scripted(names):  # it and the next compare checksums as they read
                return Loaded(load_scripted(path, trust_pickle), "TorchScript")
            if is_exported(names):
                return Loaded(load_exported(path, trust_pickle), "torch.export")
            archive.verify()
    content, strangers = load_pickle(path, trust_pickle)
    return Loaded(content, "torch", strangers)


def load_safetensors(path: Path, trust_pickle: bool) -> Loaded:  # noqa: ARG001  # it has no pickle
    """Load a file of safetensors, its metadata beside the tensors as torch's checkpoints have it."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # it is no dict
            return Loaded({**(file.metadata() or {}), "state_dict": tensors}, "safetensors")
    except SafetensorError as error:
        raise ValueError(str(error)) from error


LOADERS: dict[str, Callable[[Path, bool], Loaded]] = {
    **dict.fromkeys(ENDINGS, load_torch),
    ".safetensors": load_safetensors,
}


def begins_as(path: Path) -> str:
    """Tell whether a file begins as a "zip", as a binary "pickle", or as neither: ""."""
    with path.open("rb") as file:
        head = file.read(4)
    if head == b"PK\x03\x04":
        return "zip"
    return "pickle" if head[:1] == b"\x80" and head[1:2] <= bytes([pickle.HIGHEST_PROTOCOL]) else ""
