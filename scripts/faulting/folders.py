"""Folders of one checkpoint that would run code, reach elsewhere, or claim what cannot be."""

import json
import pickle
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from faulting.cases import Case
from faulting.pickles import calls
from faulting.study import Study, weights

INDICES: dict[str, Any] = {
    "a shard above": {"weight_map": {"first.weight": "../epoch_1.pt"}},
    "a shard of the system's": {"weight_map": {"first.weight": "/etc/passwd"}},
    "itself as its shard": {"weight_map": {"first.weight": "model.safetensors.index.json"}},
    "a shard that is not there": {"weight_map": {"first.weight": "gone.safetensors"}},
    "no names": {"weight_map": [1, 2]},
    "a hundred thousand shards": {"weight_map": {str(n): f"{n}.safetensors" for n in range(100_000)}},
}
NETWORKS: dict[str, Any] = {
    "code of its own": {"model_type": "vit", "auto_map": {"AutoModel": "evil.Net"}},
    "kernels to be fetched": {"model_type": "vit", "attn_implementation": "owner/kernel", "hidden_size": 8},
    "no type": {"architectures": ["ViTModel"]},
    "an unheard-of type": {"model_type": "../../evil"},
    "a function as its class": {"model_type": "vit", "architectures": ["logging", "pipeline"], "num_hidden_layers": 1},
    "nothing": [],
}


def cases() -> Iterator[Case]:
    """Yield all folders."""
    for name in calls(Path("canary")):
        yield Case(f"folders: distributed metadata with {name}", partial(metadata, name=name))
        yield Case(f"folders: what lies beside a distributed one, with {name}", partial(beside, name=name))
    for name, index in INDICES.items():
        yield Case(f"folders: an index with {name}", partial(indexed, text=json.dumps(index)))
    for text in ("{" * 100_000, "[" * 100_000, "\0", '{"weight_map": 1e999}'):
        yield Case(f"folders: an index that begins with {text[:2]!r}", partial(indexed, text=text))
        yield Case(f"folders: a state that begins with {text[:2]!r}", partial(stated, text=text))
    for name, network in NETWORKS.items():
        yield Case(f"folders: a network with {name}", partial(configured, network=network))


def in_place(study: Study, fill: Callable[[Path], object]) -> None:
    """Put a folder into the place of a checkpoint."""
    path = study.checkpoint()
    path.unlink()
    folder = path.with_suffix("")
    folder.mkdir()
    fill(folder)
    study.edit('checkpoints = "runs/plain/*.pt"', 'checkpoints = "runs/plain"')


def metadata(study: Study, name: str) -> None:
    """Put a distributed checkpoint whose metadata call something."""
    value = calls(study.canary)[name]
    in_place(study, lambda folder: (folder / ".metadata").write_bytes(pickle.dumps(value, 4)))


def beside(study: Study, name: str) -> None:
    """Put a whole distributed checkpoint with a call in the file that Lightning has beside it."""
    import torch
    import torch.distributed.checkpoint as distributed

    def fill(folder: Path) -> None:
        distributed.save({"state_dict": weights(2)}, checkpoint_id=folder, no_dist=True)
        torch.save({"epoch": 2, "extra": calls(study.canary)[name]}, folder / "meta.pt")

    in_place(study, fill)


def indexed(study: Study, text: str) -> None:
    """Put a folder with nothing but an index of shards."""
    in_place(study, lambda folder: (folder / "model.safetensors.index.json").write_text(text))


def stated(study: Study, text: str) -> None:
    """Put a folder with weights beside a Trainer's state."""
    import safetensors.torch

    def fill(folder: Path) -> None:
        safetensors.torch.save_file(weights(2), folder / "model.safetensors")
        (folder / "trainer_state.json").write_text(text)

    in_place(study, fill)


def configured(study: Study, network: object) -> None:
    """Put the description of a network of transformers that it is to be built from."""
    folder = study.folder / "network"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(network))
    (folder / "evil.py").write_text(f"open({str(study.canary)!r}, 'w')\n")
    study.edit('model = "net.py:build"', 'model = "transformers:network"')
