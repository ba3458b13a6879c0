"""Weights onto a model: wrappers are stripped until names and shapes match, or an error lists what does not."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from math import nan
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from cmon.checkpoints.pruning import MASK, ORIGINAL, multiplied, partner, pruned_names
from cmon.checkpoints.reading import Weights
from cmon.checkpoints.tensors import tensor_kind, tensor_shape
from cmon.errors import CheckpointError, listing, one_line

if TYPE_CHECKING:
    from torch import Tensor, nn

# What DataParallel, torch.compile and Lightning put before names; the first two may stand within one.
WRAPPERS = ("module", "_orig_mod")
PREFIXES = ("module.", "_orig_mod.", "model.")
COUNTER = ".num_batches_tracked"  # missing in old files, and of no effect in evaluation
DEEPEST_PART = 4
NOTHING: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True)
class Target:
    """What a model's state wants.

    Args:
        expected: its tensors by name.
        allow_missing: globs of names that need not be there; `*` crosses levels.
        saved_as: what a library's files call a tensor -> what its model calls it, where these differ.
        unsaved: names of buffers that are no state: what is saved of them, as TorchScript does, is not needed.
    """

    expected: "dict[str, Tensor]"
    allow_missing: tuple[str, ...] = ()
    unsaved: frozenset[str] = frozenset()
    saved_as: Mapping[str, str] = field(default_factory=dict)

    def excuses(self, name: str) -> bool:
        """Tell whether a name may be missing, left over, or of another shape."""
        return (
            name.endswith(COUNTER)
            or name in self.unsaved
            or any(fnmatchcase(name, pattern) for pattern in self.allow_missing)
        )

    def wants(self, name: str) -> bool:
        """Tell whether a tensor of the model must be there: whole numbers cannot be told from missing ones later."""
        return not self.excuses(name) or (not name.endswith(COUNTER) and not self.expected[name].is_floating_point())

    def misfits(self, renamed: "dict[str, Tensor]") -> dict[str, list[str]]:
        """List what keeps tensors from being the model's, by kind of complaint."""
        both = [(name, renamed[name], self.expected[name]) for name in self.expected if name in renamed]
        return {
            "missing": [name for name in self.expected if name not in renamed and self.wants(name)],
            "left over": [name for name in renamed if name not in self.expected and not self.excuses(name)],
            "of another shape": [
                f"{name} is {tensor_shape(saved)}, the model has {tensor_shape(value)}"
                for name, saved, value in both
                if saved.shape != value.shape and self.wants(name)
            ],
            "of another kind": [
                f"{name} is {tensor_kind(saved)}, the model has {tensor_kind(value)}"
                for name, saved, value in both
                if tensor_kind(saved) != tensor_kind(value) and self.wants(name)
            ],
        }

    def fits(self, name: str, renamed: "dict[str, Tensor]") -> bool:
        """Tell whether a tensor of the model is there as it should be."""
        value = self.expected[name]
        return name in renamed and (renamed[name].shape, tensor_kind(renamed[name])) == (
            value.shape,
            tensor_kind(value),
        )

    def closest(self, tensors: "dict[str, Tensor]") -> "dict[str, Tensor]":
        """Return the tensors under the names that leave the fewest complaints, then fit the most."""

        def distance(renamed: "dict[str, Tensor]") -> tuple[int, int]:
            complaints = sum(map(len, self.misfits(renamed).values()))
            return complaints, -sum(self.fits(name, renamed) for name in self.expected)

        return min(map(self._with_shared, self._renamings(tensors)), key=distance)

    def _renamings(self, tensors: "dict[str, Tensor]") -> "Iterator[dict[str, Tensor]]":
        for renamed in renamings(tensors):
            yield renamed
            if not self.saved_as.keys().isdisjoint(renamed):
                names = [self.saved_as.get(name, name) for name in renamed]
                if len(set(names)) == len(names):
                    yield dict(zip(names, renamed.values(), strict=True))

    def _with_shared(self, renamed: "dict[str, Tensor]") -> "dict[str, Tensor]":
        """Give a tensor that the model has under several names all of them: safetensors keeps one."""
        places: dict[tuple[int, ...], list[str]] = {}
        for name, value in self.expected.items():
            if value.numel():
                places.setdefault((value.data_ptr(), *value.shape, *value.stride()), []).append(name)
        there = {names[0]: next((name for name in names if name in renamed), "") for names in places.values()}
        shared = {name: renamed[there[names[0]]] for names in places.values() if there[names[0]] for name in names[1:]}
        first = {names[0]: renamed[there[names[0]]] for names in places.values() if len(names) > 1 and there[names[0]]}
        return {**first, **shared, **renamed}


def fit(
    weights: Weights,
    model: "nn.Module",
    path: Path,
    allow_missing: Sequence[str] = (),
    saved_as: Mapping[str, str] = NOTHING,
) -> "dict[str, Tensor]":
    """Rename and cast weights so that each tensor of the model's state has one of its name, shape and kind.

    Those that torch's pruning keeps as two tensors become one, unless the model itself has the two.
    Batch counters may be missing on either side: evaluation does not use them. What `allow_missing` lets be missing
    becomes NaN, so that nothing that depends on it can be taken for a result.

    Args:
        weights: of a checkpoint.
        model: whose state they are to be.
        path: of the checkpoint.
        allow_missing: globs of the model's names; they may be missing, left over, or of another shape.
        saved_as: what files call a tensor -> what the model calls it, where these differ.

    Raises:
        CheckpointError: listing what does not fit, or that a tensor holds NaN or infinity.
    """
    import torch

    state = {name: value for name, value in model.state_dict().items() if isinstance(value, torch.Tensor)}
    unsaved = frozenset(name for name, _ in model.named_buffers() if name not in state)
    target = Target(state, tuple(allow_missing), unsaved, saved_as)
    best = target.closest(weights.tensors)
    if any(target.misfits(best).values()) and pruned_names(weights.tensors):
        best = target.closest(multiplied(weights.tensors, path))
    if weights.larger and any(target.misfits(best).values()) and len(parts := _parts(target, weights.tensors)) == 1:
        best = target.closest(_part(weights.tensors, parts[0]))
    _refuse_half_pruned(best, state, path)
    _refuse_misfits(target, best, weights, path)
    fitted = {name: best[name].detach().to(value.dtype) for name, value in state.items() if target.fits(name, best)}
    bad = [name for name, value in fitted.items() if value.is_floating_point() and not value.isfinite().all()]
    if bad:
        what = f"{len(bad)} of {len(fitted)} tensors hold NaN or infinity, the first is {one_line(bad[0])}"
        raise CheckpointError(path, what, "training had diverged, or the file is damaged: leave it out")
    for name, value in state.items():
        if name not in fitted:
            fitted[name] = torch.full_like(value, nan if value.is_floating_point() else 0, device="cpu")
    return fitted


def load_into(
    model: "nn.Module",
    weights: Weights,
    path: Path,
    allow_missing: Sequence[str] = (),
    saved_as: Mapping[str, str] = NOTHING,
) -> tuple[str, ...]:
    """Replace all of the model's state by a checkpoint's; arguments are those of `fit`.

    Returns:
        Names of the tensors that were let be missing, and hold nothing but NaN.

    Raises:
        CheckpointError: where it does not fit, see `fit`.
    """
    fitted = fit(weights, model, path, allow_missing, saved_as)
    try:
        model.load_state_dict(fitted, strict=True)
    except RuntimeError as error:  # a model with state beside its tensors
        raise CheckpointError(path, f"does not fit the model: {one_line(error)}") from error
    if not allow_missing:
        return ()
    return tuple(name for name, value in fitted.items() if value.is_floating_point() and value.isnan().any())


def renamings(tensors: "dict[str, Tensor]") -> "Iterator[dict[str, Tensor]]":
    """Yield the tensors under their names, then under all that is left of these as wrappers are taken off."""
    queue = [tuple(tensors)]
    for names in queue:
        yield dict(zip(names, tensors.values(), strict=True))
        queue += [shorter for shorter in _shorter(names) if shorter not in queue and len(set(shorter)) == len(names)]


def unwrapped(name: str) -> str:
    """Return a name without the wrappers that may stand anywhere in it."""
    return ".".join(part for part in name.split(".") if part not in WRAPPERS)


def wrapping(names: Iterable[str]) -> str:
    """Return what wrappers have put before all of some names, such as `module._orig_mod.`; "" where nothing."""
    left, found = list(names), ""
    while prefix := next((one for one in PREFIXES if left and all(name.startswith(one) for name in left)), ""):
        left, found = [name.removeprefix(prefix) for name in left], found + prefix
    return found


def _refuse_misfits(target: Target, best: "dict[str, Tensor]", weights: Weights, path: Path) -> None:
    """Raise where complaints are left, with what would mend them."""
    misfits = target.misfits(best)
    parts = [f"{len(names)} {kind} ({listing(names, 3)})" for kind, names in misfits.items() if names]
    if not parts:
        return
    if clash := _clash(weights.tensors, target):
        parts.append(clash)
    hint = "check the run's model and model_args, and state_dict_key"
    if fitting := _parts(target, weights.tensors):
        places = [".".join(filter(None, (weights.place, part))) for part in fitting]
        hint = f'a part of it fits: set state_dict_key = "{one_line(places[0])}"'
        hint += f" or {listing(places[1:])}" if places[1:] else ""
    elif head := _head(target, {name.split(" ")[0] for names in misfits.values() for name in names}):
        hint = f'if no layer of the run depends on it, set allow_missing = ["{one_line(head)}.*"]'
    raise CheckpointError(path, f"does not fit the model: {', '.join(parts)}", hint)


def _head(target: Target, bad: set[str]) -> str:
    """Return the one part of the model of which nothing fits, while all else does; "" where there is none."""
    heads = {name.partition(".")[0] for name in bad}
    head = heads.pop() if len(heads) == 1 else ""
    whole = {name for name in target.expected if name.startswith(f"{head}.") and not name.endswith(COUNTER)}
    return head if whole <= bad else ""


def _parts(target: Target, tensors: "dict[str, Tensor]") -> list[str]:
    """Name the parts of a larger network, by what their names begin with, that are all of the model."""
    levels = {".".join(name.split(".")[:depth]) for name in tensors for depth in range(1, DEEPEST_PART)}
    found = []
    for level in sorted(levels):
        part = {
            name.removeprefix(f"{level}."): value for name, value in tensors.items() if name.startswith(f"{level}.")
        }
        if 0 < len(part) < len(tensors) and not any(target.misfits(part).values()):
            found.append(level)
    return found


def _part(tensors: "dict[str, Tensor]", level: str) -> "dict[str, Tensor]":
    return {name.removeprefix(f"{level}."): value for name, value in tensors.items() if name.startswith(f"{level}.")}


def _clash(tensors: "dict[str, Tensor]", target: Target) -> str:
    """Say of which names nothing is left to tell them apart once wrappers are taken off; "" where of none."""
    for shorter in _shorter(tuple(tensors)):
        first: dict[str, str] = {}
        for name, short in zip(tensors, shorter, strict=True):
            if short in first and short in target.expected:
                return f"both {one_line(first[short])} and {one_line(name)} would be {one_line(short)}"
            first.setdefault(short, name)
    return ""


def _refuse_half_pruned(renamed: "dict[str, Tensor]", expected: "dict[str, Tensor]", path: Path) -> None:
    """Raise where a weight of the model is there as an original without its mask, or with a mask but no original."""
    for name in renamed:
        other = partner(name)
        weight = name.removesuffix(ORIGINAL).removesuffix(MASK)
        if other and weight in expected and not {name, other} & expected.keys():
            beside = f" beside {one_line(weight)}" if weight in renamed else ""
            what = f"holds {one_line(name)}{beside} without {one_line(other)}"
            raise CheckpointError(path, what, "save both, or masks in a file of their own, as the run's masks")


def _shorter(names: tuple[str, ...]) -> Iterable[tuple[str, ...]]:
    """Take one wrapper off: a known prefix, the component that all names begin with, or wrappers within."""
    for prefix in PREFIXES:
        yield tuple(name.removeprefix(prefix) for name in names)
    if len({name.partition(".")[0] for name in names}) == 1 and all("." in name for name in names):
        yield tuple(name.partition(".")[2] for name in names)
    yield tuple(map(unwrapped, names))
