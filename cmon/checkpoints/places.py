"""Where in a checkpoint's content the weights lie, raw or averaged, the masks, and what it says of its step."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from cmon.checkpoints.kinds import AVERAGED_PLACES, PLACES, STEPS, Kind
from cmon.checkpoints.tensors import tensor_kind
from cmon.errors import CheckpointError, listing, one_line

if TYPE_CHECKING:
    from torch import Tensor

MASK_PLACES = ("masks", "mask")
COUNTED = "n_averaged"  # what torch's AveragedModel keeps beside its module


class Found(NamedTuple):
    """Weights, and the place that they were found at; "" is the top level."""

    tensors: "dict[str, Tensor]"
    place: str


def raw_weights(content: Any, kind: Kind, path: Path) -> Found:
    """Take the weights from the kind's place, else from the one usual place that has any, else from the top level.

    Raises:
        CheckpointError: where there are none, or several.
    """
    if kind.raw and (found := first_of(content, kind.raw)):
        return found
    held = content if isinstance(content, Mapping) else {}
    usual = {place: tensors for place in PLACES if (tensors := tensors_of(held.get(place)))}
    usual = {place: tensors for place, tensors in usual.items() if place not in kind.averaged}
    if len({id(held[place]) for place in usual}) > 1:
        raise CheckpointError(path, f"holds weights under {listing(usual)}", "say which with state_dict_key")
    for place, tensors in usual.items():
        return Found(tensors, place)
    tensors = tensors_of(content)
    if tensors is None:
        places = [f"{key}.{inner}" if inner else key for key, inner in _places(content)]
        hint = f'set state_dict_key = "{one_line(places[0])}"' if places else "name a file that holds a state dict"
        if averaged_weights(content, kind):
            hint = 'it holds averaged ones: set weights = "ema"'
        raise CheckpointError(path, f"holds no weights in the usual places; it has {described(content)}", hint)
    return Found(tensors, "")


def averaged_weights(content: Any, kind: Kind) -> Found | None:
    """Take the exponential moving average of the weights; None where there is none."""
    return first_of(content, (*kind.averaged, *AVERAGED_PLACES))


def weights_at(content: Any, state_dict_key: str, path: Path) -> Found:
    """Take the weights from where the config says; of a state dict also the part whose names begin so.

    Raises:
        CheckpointError: where there are none.
    """
    value = content
    for key in state_dict_key.split("."):
        children = dict(_children(value))
        part = {name.removeprefix(f"{key}."): held for name, held in children.items() if name.startswith(f"{key}.")}
        if key not in children and part:  # a part of a network, by what its names begin with
            value = part
            continue
        if key not in children:
            what = f'state_dict_key "{state_dict_key}": there is no {key}; there is {described(value)}'
            raise CheckpointError(path, one_line(what), "name a key that is there")
        value = children[key]
    tensors = tensors_of(value)
    if tensors is None:
        what = f'state_dict_key "{state_dict_key}" holds no weights; it has {described(value)}'
        raise CheckpointError(path, one_line(what), "name the key of a state dict")
    return Found(tensors, state_dict_key)


def masks_in(content: Any, path: Path) -> "dict[str, Tensor]":
    """Take masks, which lie under `masks` or `mask`, else where weights do.

    Raises:
        CheckpointError: where there are none, or several.
    """
    held = content if isinstance(content, Mapping) else {}
    usual = {place: tensors for place in PLACES if (tensors := tensors_of(held.get(place)))}
    found = first_of(content, MASK_PLACES)
    if found is None and len({id(held[place]) for place in usual}) > 1:
        raise CheckpointError(path, f"holds masks under {listing(usual)}", "put them under masks")
    tensors = found.tensors if found else next(iter(usual.values()), None) or tensors_of(content)
    if tensors is None:
        hint = "save a dict of masks by the names of the parameters, under masks"
        raise CheckpointError(path, f"holds no masks in the usual places; it has {described(content)}", hint)
    return tensors


def first_of(content: Any, places: Sequence[str]) -> Found | None:
    """Return the weights at the first of some places that has any."""
    held = content if isinstance(content, Mapping) else {}
    found = (Found(tensors, place) for place in places if (tensors := tensors_of(held.get(place))))
    return next(found, None)


def tensors_of(value: Any) -> "dict[str, Tensor] | None":
    """Return the named tensors of a dict or module; None where it has none of a dimension, so no weights."""
    import torch

    if isinstance(value, torch.nn.Module):
        value = value.state_dict()
    if not isinstance(value, Mapping):
        return None
    tensors = {str(name): tensor for name, tensor in value.items() if isinstance(tensor, torch.Tensor)}
    if nested := [name for name, tensor in tensors.items() if tensor.is_nested]:
        raise ValueError(f"{one_line(nested[0])} is a nested tensor, which has no shape")
    if all(name.startswith("module.") for name in tensors if name != COUNTED):
        tensors.pop(COUNTED, None)
    return tensors if any(tensor.dim() for tensor in tensors.values()) else None


def described(value: Any) -> str:
    """Name what there is instead of weights."""
    keys = [key for key, _ in _children(value)]
    return listing(keys) if keys else f"nothing but {'an empty ' if value == {} else ''}{type(value).__name__}"


def steps_in(content: Any, kind: Kind) -> dict[str, int]:
    """Return what a checkpoint says of itself: its "epoch", its "step", both or neither."""
    held = content if isinstance(content, Mapping) else {}
    said = {
        unit: [number for key in keys if (number := _whole_number(held.get(key))) is not None]
        for unit, keys in (STEPS if kind.steps is None else kind.steps).items()
    }
    return {unit: numbers[0] for unit, numbers in said.items() if numbers}


def _places(content: Any) -> list[tuple[str, str]]:
    """Find where weights lie, up to two levels deep."""
    outer = [(key, value) for key, value in _children(content)]
    deep = [(key, inner) for key, value in outer for inner, held in _children(value) if tensors_of(held)]
    return [(key, "") for key, value in outer if tensors_of(value)] + deep


def _children(value: Any) -> list[tuple[str, Any]]:
    if isinstance(value, Mapping):
        return [(str(key), held) for key, held in value.items()]
    return [(str(index), held) for index, held in enumerate(value)] if isinstance(value, list | tuple) else []


def _whole_number(value: Any) -> int | None:
    import torch

    if isinstance(value, torch.Tensor) and value.dim() == 0 and tensor_kind(value) in ("float", "integer"):
        value = value.item()
    if isinstance(value, str) and re.fullmatch(r"[0-9]{1,18}", value):  # safetensors' metadata is text
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value // 1 or not 0 <= value < 2**63:
        return None
    return int(value)
