"""Weights onto a model: wrappers are stripped until names and shapes match, or an error lists what does not."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from cmon.checkpoints.kinds import tensor_kind, tensor_shape
from cmon.checkpoints.pruning import MASK, ORIGINAL, multiplied, partner, pruned_names
from cmon.checkpoints.reading import Weights
from cmon.errors import CheckpointError, listing, one_line

if TYPE_CHECKING:
    from torch import Tensor, nn

# What DataParallel, torch.compile and Lightning put before names; the first two may stand within one.
WRAPPERS = ("module", "_orig_mod")
PREFIXES = ("module.", "_orig_mod.", "model.")
COUNTER = ".num_batches_tracked"  # missing in old files, and of no effect in evaluation


def fit(weights: Weights, model: "nn.Module", path: Path) -> "dict[str, Tensor]":
    """Rename and cast weights so that each tensor of the model's state has one of its name, shape and kind.

    Those that torch's pruning keeps as two tensors become one, unless the model itself has the two.
    Batch counters may be missing on either side: evaluation does not use them.

    Raises:
        CheckpointError: listing what does not fit, or that a tensor holds NaN or infinity.
    """
    import torch

    expected = {name: value for name, value in model.state_dict().items() if isinstance(value, torch.Tensor)}
    best = _closest(weights.tensors, expected)
    if any(_misfits(best, expected).values()) and pruned_names(weights.tensors):
        best = _closest(multiplied(weights.tensors, path), expected)
    _refuse_half_pruned(best, expected, path)
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


def renamings(tensors: "dict[str, Tensor]") -> "Iterator[dict[str, Tensor]]":
    """Yield the tensors under their names, then under all that is left of these as wrappers are taken off."""
    queue = [tuple(tensors)]
    for names in queue:
        yield dict(zip(names, tensors.values(), strict=True))
        queue += [shorter for shorter in _unwrapped(names) if shorter not in queue and len(set(shorter)) == len(names)]


def _closest(tensors: "dict[str, Tensor]", expected: "dict[str, Tensor]") -> "dict[str, Tensor]":
    """Return the tensors under the names that leave the fewest complaints."""
    return min(renamings(tensors), key=lambda renamed: sum(map(len, _misfits(renamed, expected).values())))


def _refuse_half_pruned(renamed: "dict[str, Tensor]", expected: "dict[str, Tensor]", path: Path) -> None:
    """Raise where a weight of the model is there as an original without its mask, or with a mask but no original."""
    for name in renamed:
        other = partner(name)
        weight = name.removesuffix(ORIGINAL).removesuffix(MASK)
        if other and weight in expected and not {name, other} & expected.keys():
            beside = f" beside {one_line(weight)}" if weight in renamed else ""
            what = f"holds {one_line(name)}{beside} without {one_line(other)}"
            raise CheckpointError(path, what, "save both, or masks in a file of their own, as the run's masks")


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
            f"{name} is {tensor_shape(saved)}, the model has {tensor_shape(value)}"
            for name, saved, value in both
            if saved.shape != value.shape
        ],
        "of another kind": [
            f"{name} is {tensor_kind(saved)}, the model has {tensor_kind(value)}"
            for name, saved, value in both
            if tensor_kind(saved) != tensor_kind(value)
        ],
    }
