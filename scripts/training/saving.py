"""A training's folder: one process at a time, files whole or not at all, and a state to go on from."""

import argparse
import csv
import fcntl
import io
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cmon import h5
from cmon.checkpoints.loading import load
from cmon.errors import CmonError, ConfigError, StoreError, listing, one_line
from training.command import TrainingError

COLUMNS = ("checkpoint", "step", "loss", "accuracy", "robust_accuracy", "sparsity")
ARGUMENTS = "arguments.json"
STATE = "resume.pt"
UNFINISHED = ".*.tmp"
# What decides where the files go or how fast, but none of their numbers.
WITHOUT_EFFECT = ("out", "workers", "only")


@dataclass(frozen=True)
class Measures:
    """What is known of a checkpoint: loss and accuracies on the test images, and the share of weights that are zero."""

    loss: float
    accuracy: float
    robust_accuracy: float | None
    sparsity: float


def write_whole(path: Path, data: bytes) -> None:
    """Put bytes at `path` whole or not at all."""
    try:
        h5.write_whole(path, data)
    except StoreError as error:
        hint = "make room and run the same command: it goes on from the last epoch that was kept"
        raise StoreError(error.where, error.what, hint) from error


def torch_bytes(content: dict[str, Any]) -> bytes:
    """Return what torch.save writes; equal content gives equal bytes."""
    memory = io.BytesIO()
    torch.save(content, memory)
    return memory.getvalue()


def read_torch(path: Path) -> dict[str, Any]:
    """Read a file of ours, without running code and with its checksums verified."""
    try:
        return dict(load(path, trust_pickle=False).content)
    except (TypeError, ValueError, CmonError) as error:
        raise TrainingError(path, f"cannot be read: {one_line(error)}", "delete it and run the same command") from error


def on_cpu(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors as they are saved: on the CPU, in the usual order of dimensions."""
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep a second process out of a folder, which is made, and clear away what a killed one left half written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise ConfigError(folder, f"cannot be used: {error.strerror}", "give a folder that can be written") from error
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise TrainingError(
                folder, "another training is at work there", "wait for it, or give another folder"
            ) from error
        except OSError:
            pass  # a file system without locks
        yield
    finally:
        os.close(handle)


def clear_unfinished(folder: Path) -> None:
    """Delete what a killed process left half written."""
    for path in (*folder.glob(UNFINISHED), *folder.glob(f"*/{UNFINISHED}")):
        path.unlink(missing_ok=True)


def check_arguments(arguments: argparse.Namespace) -> None:
    """Refuse a folder that holds another training, or something else; nothing is touched.

    Raises:
        ConfigError: which names what differs.
    """
    path = arguments.out / ARGUMENTS
    if not path.exists():
        others = [place.name for place in arguments.out.iterdir() if not place.match(UNFINISHED)]
        if others:
            what = f"is no training's folder: it holds {listing(sorted(others), 3)}"
            raise ConfigError(arguments.out, what, "give another folder")
        return
    _refuse_changes(arguments.out, _read_arguments(path)["arguments"], _deciding(arguments))


def claim(arguments: argparse.Namespace, inputs: dict[str, Any]) -> None:
    """Write arguments.json: all that decides the numbers, of the command line and of the files that it names.

    Raises:
        ConfigError: where the folder was begun with other images, weights or code of the model.
    """
    path = arguments.out / ARGUMENTS
    if path.exists():
        _refuse_changes(arguments.out, _read_arguments(path)["inputs"], inputs)
        return
    content = {"arguments": _deciding(arguments), "inputs": inputs}
    write_whole(path, (json.dumps(content, indent=2) + "\n").encode())


def _deciding(arguments: argparse.Namespace) -> dict[str, Any]:
    kept = {name: value for name, value in vars(arguments).items() if name not in WITHOUT_EFFECT}
    return dict(json.loads(json.dumps(kept, default=str)))


def _read_arguments(path: Path) -> dict[str, dict[str, Any]]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return {part: dict(content[part]) for part in ("arguments", "inputs")}
    except (OSError, ValueError, TypeError, LookupError) as error:
        raise ConfigError(path, f"cannot be read: {one_line(error)}", "give another folder") from error


def _refuse_changes(folder: Path, old: dict[str, Any], new: dict[str, Any]) -> None:
    differ = [name for name in sorted({*old, *new}) if old.get(name) != new.get(name)]
    if differ:
        told = [f"{name} {json.dumps(old.get(name))}, not {json.dumps(new.get(name))}" for name in differ]
        raise ConfigError(folder, f"holds a training with {'; '.join(told)}", "give another folder, or its arguments")


class Journal:
    """A folder of checkpoints, their metrics.csv, and what a killed training needs to go on.

    An epoch's files are written in this order: checkpoint, metrics, state. So what the state says is done is
    there, and an epoch that is not in the state is trained again, to the same end.

    Args:
        folder: of the checkpoints.
        names: of all checkpoints that will be there, without their ending, in order.
    """

    def __init__(self, folder: Path, names: Sequence[str]) -> None:
        self.folder, self.names = folder, tuple(names)
        self.rows: list[list[str]] = []

    def finished(self) -> bool:
        """Tell whether all checkpoints and their metrics are there."""
        try:
            with (self.folder / "metrics.csv").open(newline="", encoding="utf-8") as file:
                listed = tuple(row[0] for row in list(csv.reader(file))[1:])
        except (OSError, ValueError, LookupError):
            return False
        return listed == self.names and all(self.path(name).is_file() for name in self.names)

    def path(self, name: str) -> Path:
        """Return where a checkpoint lies."""
        return self.folder / f"{name}.pt"

    def load(self) -> dict[str, Any] | None:
        """Return the state of the last epoch that is done; None where training has to start."""
        try:
            state = read_torch(self.folder / STATE)
        except TrainingError:
            if any(self.path(name).exists() for name in self.names):
                print(f"{self.folder}: there is no state to go on from, training starts again", flush=True)
            return None
        lost = [row[0] for row in state["rows"] if not self.path(row[0]).is_file()]
        if lost:
            print(f"{self.folder}: {listing(lost)} is lost, training starts again", flush=True)
            return None
        self.rows = state["rows"]
        return state

    def checkpoint(self, name: str, content: dict[str, Any], measures: Measures) -> None:
        """Write a checkpoint: {"epoch" or "step", "state_dict", ...} with its measures; then its row of metrics."""
        told = {"accuracy": measures.accuracy, "sparsity": measures.sparsity}
        if measures.robust_accuracy is not None:
            told["robust_accuracy"] = measures.robust_accuracy
        write_whole(self.path(name), torch_bytes({**content, **told}))
        step = content.get("epoch", content.get("step"))
        numbers = (measures.loss, measures.accuracy, measures.robust_accuracy, measures.sparsity)
        self.rows.append([name, str(step), *("" if value is None else f"{value:.6f}" for value in numbers)])
        table = io.StringIO()
        csv.writer(table, lineterminator="\n").writerows([COLUMNS, *self.rows])
        write_whole(self.folder / "metrics.csv", table.getvalue().encode())

    def keep(self, **state: Any) -> None:
        """Write the state to go on from."""
        write_whole(self.folder / STATE, torch_bytes({**state, "rows": self.rows}))

    def close(self) -> None:
        """Delete the state, which nothing needs once all is there."""
        (self.folder / STATE).unlink(missing_ok=True)


def all_finished(out: Path, journals: Sequence[Journal]) -> bool:
    """Tell, and say, whether there is nothing left to do."""
    if not all(journal.finished() for journal in journals):
        return False
    for journal in journals:
        journal.close()
    print(f"{out}: all {sum(len(journal.names) for journal in journals)} checkpoints are there, nothing to do")
    return True
