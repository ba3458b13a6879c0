"""A checkpoint's weights and step, read without running any of its code."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from cmon.checkpoints.damage import DAMAGE, needs_trust, refusal
from cmon.checkpoints.kinds import Kind, kind_of
from cmon.checkpoints.loading import load
from cmon.checkpoints.places import Found, averaged_weights, described, masks_in, raw_weights, steps_in, weights_at
from cmon.errors import CheckpointError

if TYPE_CHECKING:
    from torch import Tensor

Which: TypeAlias = Literal["raw", "ema"]


@dataclass(frozen=True)
class Weights:
    """What a checkpoint holds.

    Args:
        tensors: on the CPU, by the names they were saved under.
        steps: what it says of itself: its "epoch", its "step", both or neither.
        kind: what it is, by the name of one of KINDS.
        place: where in the content the weights lie; "" is the top level.
        averaged: does it hold raw and averaged weights both.
        larger: is the network one part of what is saved, beside losses and metrics.
    """

    tensors: "dict[str, Tensor]"
    steps: dict[str, int]
    kind: str = ""
    place: str = ""
    averaged: bool = False
    larger: bool = False


def read_checkpoint(path: Path, state_dict_key: str | None, which: Which, trust_pickle: bool) -> Weights:
    """Read a checkpoint's weights onto the CPU.

    Args:
        path: a file, an index of shards, or a folder, of one of KINDS.
        state_dict_key: where the weights are, dotted, with indices for lists; None for the usual places.
        which: the weights themselves, or their exponential moving average, where both are at the usual places.
        trust_pickle: may the file run code of its own, such as a whole pickled module's.

    Raises:
        CheckpointError: where it cannot be read, needs code to run, or holds no such weights there.
    """
    loaded = load(path, trust_pickle)
    try:
        kind = kind_of(loaded)
        try:
            averaged = averaged_weights(loaded.content, kind)
            found = _found(loaded.content, kind, state_dict_key, which, averaged, path)
        except CheckpointError:
            if loaded.strangers:  # the weights may be within what was stood in for
                raise needs_trust(path, loaded.strangers[0]) from None
            raise
        both = averaged is not None and state_dict_key is None and (which == "ema" or found.place != averaged.place)
        return Weights(found.tensors, steps_in(loaded.content, kind), kind.name, found.place, both, kind.larger)
    except DAMAGE as error:
        raise refusal(path, error) from error


def read_masks(path: Path, trust_pickle: bool) -> "dict[str, Tensor]":
    """Read a file of masks, which lie under `masks` or `mask`, else where weights do.

    Raises:
        CheckpointError: where it cannot be read, needs code to run, or holds no masks there.
    """
    try:
        return masks_in(load(path, trust_pickle).content, path)
    except DAMAGE as error:
        raise refusal(path, error) from error


def _found(
    content: Any, kind: Kind, state_dict_key: str | None, which: Which, averaged: Found | None, path: Path
) -> Found:
    if state_dict_key is not None:
        return weights_at(content, state_dict_key, path)
    if which == "raw":
        return raw_weights(content, kind, path)
    if averaged is None:
        raise CheckpointError(path, f"holds no averaged weights; it has {described(content)}", 'set weights = "raw"')
    return averaged
