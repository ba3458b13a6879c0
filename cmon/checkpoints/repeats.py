"""Which files of a run are no checkpoints of their own: a best or last one that repeats another, or tells no step."""

import json
import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from cmon.checkpoints.digests import DIGEST, digest
from cmon.checkpoints.finding import CheckpointFile
from cmon.checkpoints.folders import members
from cmon.checkpoints.reading import Which, read_checkpoint
from cmon.checkpoints.steps import STEP_WORDS, last_number, number_after
from cmon.config import Run
from cmon.errors import CheckpointError
from cmon.fingerprint import HashMemory, named_fingerprint

# What a training calls a file beside those of its steps; timm's recovery files lie within an epoch.
NAMED = re.compile(r"(?<![a-z])(best|last|latest|newest|final|current)(?![a-z])", re.IGNORECASE)
RECOVERY = re.compile(r"recovery-[0-9]+-[0-9]+")
VERSION = re.compile(r"-v[0-9]+$")  # Lightning's, of a name that was there already


class Held(NamedTuple):
    """The weights of a checkpoint as a sha256, and the steps that its content tells; None where it cannot be read."""

    digest: str
    steps: dict[str, int] | None


def set_aside(run: Run, found: Sequence[CheckpointFile], memory: HashMemory) -> dict[str, str]:
    """Say of the checkpoints that are not to be counted why, by name.

    Only names that can be another's are looked into: those that tell no step, or the step of another. For their sake
    the weights of all are compared, and remembered by content. Where the config lists the steps, all are counted.

    Args:
        run: the run.
        found: its checkpoints, in natural order.
        memory: of hashes.
    """
    if run.steps is not None:
        return {}
    others = [one for one in found if not RECOVERY.fullmatch(one.name)]
    aside = {one.name: f"{one.path} is from the middle of an epoch" for one in found if one not in others and others}
    names = [one.name for one in others]
    doubtful = [one for index, one in enumerate(others) if _is_doubtful(one.name, names, index)]
    if not doubtful or len(others) < 2:
        return aside
    sure = [one for one in others if one not in doubtful]
    held = {one.name: held_by(one.path, run.state_dict_key, run.weights, memory) for one in (*sure, *doubtful)}
    first: dict[str, str] = {}
    for one in sure:
        first.setdefault(held[one.name].digest, one.name)
    for one in doubtful:
        same = first.setdefault(held[one.name].digest, one.name)
        if same != one.name:
            aside[one.name] = f"{one.path} holds the same weights as {same}"
        elif sure and not _tells(one.name) and (why := _no_step_of_its_own(held[one.name], sure, held)):
            aside[one.name] = f"{one.path} {why}; list the run's steps to count it"
    return aside


def _no_step_of_its_own(mine: Held, sure: Sequence[CheckpointFile], held: Mapping[str, Held]) -> str:
    """Say of a checkpoint whose name tells no step why its content tells none for it either; "" where it does."""
    if mine.steps == {}:
        return "tells no step, and holds no other's weights"
    there = next((one.name for one in sure if mine.steps and held[one.name].steps == mine.steps), "")
    return f"tells the step of {there}, and holds other weights" if there else ""


def held_by(path: Path, state_dict_key: str | None, which: Which, memory: HashMemory) -> Held:
    """Return the weights of a checkpoint as a sha256, remembered by its files'.

    Of one that cannot be read it is the files': copies are told even so, and who reads it says what is wrong.
    """
    try:
        sha256 = checkpoint_sha256(path, memory)
    except (CheckpointError, OSError):
        return Held(str(path), None)

    def compute() -> str:
        try:
            weights = read_checkpoint(path, state_dict_key, which, trust_pickle=False)
            return json.dumps([digest(weights.tensors) or sha256, weights.steps])
        except CheckpointError:
            return json.dumps([sha256, None])

    return Held(*json.loads(memory.derive(f"steps and weights {DIGEST} {state_dict_key} {which} {sha256}", compute)))


def checkpoint_sha256(path: Path, memory: HashMemory) -> str:
    """Return the sha256 of a checkpoint's bytes; of several files, over their names and theirs.

    Raises:
        CheckpointError: where an index of shards cannot be read.
        OSError: where another file cannot.
    """
    files = members(path)
    if files == (path,):
        return memory.sha256(path)
    return named_fingerprint([(os.path.relpath(file, path.parent), memory.sha256(file)) for file in files])


def _is_doubtful(name: str, names: Sequence[str], index: int) -> bool:
    """Tell whether a checkpoint may be another's copy, by its name alone."""
    if NAMED.search(name) or last_number(name) is None or VERSION.sub("", name) in {*names} - {name}:
        return True
    # Two callbacks that save by epochs and by steps leave one checkpoint under two names now and then.
    usual = Counter(_pattern(other) for other in names if not NAMED.search(other)).most_common(1)[0][0]
    return _pattern(name) != usual or _numbers(name) in [_numbers(other) for other in names[:index]]


def _pattern(name: str) -> str:
    return re.sub(r"[0-9]+", "0", name)


def _tells(name: str) -> bool:
    return any(number is not None for number in _numbers(name)[: -1 if NAMED.search(name) else None])


def _numbers(name: str) -> tuple[int | None, ...]:
    return (*(number_after(word, name) for word in STEP_WORDS), last_number(name))
