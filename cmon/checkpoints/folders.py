"""Which folder is one checkpoint, which files a checkpoint is made of, and what it is called."""

import json
import re
from pathlib import Path

from cmon.checkpoints.distributed import METADATA, distributed_members
from cmon.errors import CheckpointError, one_line

# What torch.save, safetensors and torch's archives are saved as; compound endings are taken off one by one.
ENDINGS = (".pt", ".pth", ".ckpt", ".th", ".bin", ".tar", ".pt2", ".torchscript", ".safetensors")
INDEX = ".index.json"  # says in which shard each tensor lies
STATE = "trainer_state.json"
# What Hugging Face's Trainer, save_pretrained and Accelerate call the weights in a folder of their own.
MAIN = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
FSDP = "pytorch_model_fsdp_0"  # such a folder within one of Accelerate
BESIDE = re.compile(
    r"(training_args|optimizer|scheduler|scaler|rng_state|random_states|sampler|dl_state_dict|custom_checkpoint)"
    r"(_[0-9]+)*\.(pt|pth|bin|pkl)|.*-[0-9]{5}-of-[0-9]{5}\.(safetensors|bin)"
)
LARGEST_INDEX_BYTES = 64 * 2**20


def weights_of(folder: Path) -> Path | None:
    """Return what holds the weights of a folder that is one checkpoint; None of any other.

    It is a file, an index of shards, or a folder of torch.distributed.checkpoint. A folder with other checkpoints
    beside the one that has the usual name is a folder of many.
    """
    for place in (folder, folder / FSDP):
        if (place / METADATA).is_file():
            return place
    held = next((folder / name for name in MAIN if (folder / name).is_file()), None)
    if held is None:
        return None
    others = [path for path in folder.iterdir() if path != held and not path.name.startswith(".")]
    # Links to folders are not followed: two to their own would be followed for ever.
    return None if any(is_one(path) for path in others if not (path.is_symlink() and path.is_dir())) else held


def is_one(path: Path) -> bool:
    """Tell whether a path that was found in a folder is a checkpoint of its own, by its name and place."""
    if path.is_dir():
        return weights_of(path) is not None
    if BESIDE.fullmatch(path.name):
        return False
    if path.name.endswith(INDEX):
        return path.name in MAIN
    return path.suffix.lower() in ENDINGS


def members(path: Path) -> tuple[Path, ...]:
    """List the files that decide what a checkpoint holds: those of a folder or an index of shards, else itself."""
    held = (weights_of(path) or path) if path.is_dir() else path
    if held.is_dir():
        return distributed_members(held)
    files = (held, *shards(held)) if held.name.endswith(INDEX) else (held,)
    state = held.with_name(STATE)
    return (*files, state) if state.is_file() and held.name in MAIN else files


def shards(index: Path) -> tuple[Path, ...]:
    """List the files that an index names, all of which lie beside it.

    Raises:
        CheckpointError: where it is none, or names a file elsewhere.
    """
    hint = "copy the folder again from where it was saved, or leave it out"
    try:
        if index.stat().st_size > LARGEST_INDEX_BYTES:
            raise CheckpointError(index, "is too large to be an index of shards", hint)
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(index, f"is no index of shards: {one_line(error, 120)}", hint) from error
    for name in names:
        if not isinstance(name, str) or Path(name).name != name or name.endswith(INDEX):
            raise CheckpointError(index, f"names {one_line(name)}, which is no shard beside it", hint)
    if not names:
        raise CheckpointError(index, "names no shards", hint)
    return tuple(index.with_name(name) for name in names)


def name_of(path: Path) -> str:
    """Return a checkpoint's name: its file's or folder's without the endings of checkpoints."""
    name = path.name.removesuffix(INDEX)
    if Path(name).suffix.lower() not in ENDINGS:
        return name if path.is_dir() else Path(name).stem
    while Path(name).suffix.lower() in ENDINGS:
        name = Path(name).stem
    return name
