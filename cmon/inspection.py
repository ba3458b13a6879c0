"""What checkpoints hold: of which kind each is, its step, how many numbers, which of them are bad, and what fits."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import isnan, nan
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cmon.checkpoints import Weights, find_checkpoints, fit, read_checkpoint, wrapping
from cmon.checkpoints.digests import digest
from cmon.checkpoints.pruning import multiplied
from cmon.checkpoints.reading import Which
from cmon.checkpoints.tensors import tensor_kind
from cmon.errors import CheckpointError, listing
from cmon.models import saved_names

if TYPE_CHECKING:
    from torch import Tensor, nn

HEADER = ("checkpoint", "kind", "epoch", "step", "tensors", "parameters", "zeros")
LARGEST_UNFOLDING = 32  # of what is stored


@dataclass(frozen=True)
class Reading:
    """How checkpoints are to be read, and what they are held against.

    Args:
        state_dict_key: where the weights are; None for the usual places.
        weights: the raw or the averaged ones.
        trust_pickle: may files run code of their own.
        model: that they should fit; None where that is not asked.
        allow_missing: globs of the model's names that need not fit.
    """

    state_dict_key: str | None = None
    weights: Which = "raw"
    trust_pickle: bool = False
    model: "nn.Module | None" = None
    allow_missing: tuple[str, ...] = ()


@dataclass(frozen=True)
class Inspection:
    """What one checkpoint holds; of one that cannot be read only the path and the error.

    Args:
        path: its file or folder.
        kind: by the name of one of KINDS.
        steps: what it says of itself: its "epoch", its "step", both or neither.
        place: where in its content the weights lie; "" is the top level.
        prefix: what wrappers have put before all names of tensors.
        tensors: how many there are, as they are saved.
        parameters: the numbers in floating tensors; of a weight that torch's pruning keeps as two, once.
        sparsity: the share of zeros among the weights, which are floating tensors of two or more dimensions, as the
            network sees them; NaN without any.
        not_finite: the first tensor that holds NaN or infinity; "" where none does.
        averaged: does it hold raw and averaged weights both.
        repeats: the others that hold the same weights.
        matches: does it fit the model; None where that is not asked.
        error: why it cannot be read, or what does not match.
        digest: of the weights, the same for the same.
    """

    path: Path
    kind: str = ""
    steps: dict[str, int] = field(default_factory=dict)
    place: str = ""
    prefix: str = ""
    tensors: int = 0
    parameters: int = 0
    sparsity: float = nan
    not_finite: str = ""
    averaged: bool = False
    repeats: tuple[Path, ...] = ()
    matches: bool | None = None
    error: CheckpointError | None = None
    digest: str = ""

    def row(self, name: str) -> tuple[object, ...]:
        """Return the cells under HEADER."""
        if not self.kind:
            return (name, "", "", "", "", "", "")
        steps = (self.steps.get(unit, "") for unit in ("epoch", "step"))
        return (name, self.kind, *steps, self.tensors, self.parameters, self._zeros())

    def remarks(self, errors: bool, called: Callable[[Path], str] = str) -> list[str]:
        """Say what is out of the ordinary, an error where that is wanted, and that it matches."""
        remarks = [
            f"prefix {self.prefix}" if self.prefix else "",
            "averaged weights too" if self.averaged else "",
            f"NaN or infinity in {self.not_finite}" if self.not_finite else "",
            f"same weights as {listing(map(called, self.repeats), 2)}" if self.repeats else "",
            "matches" if self.matches else "",
            self.error.what if self.error and errors else "",
        ]
        return [remark for remark in remarks if remark]

    def lines(self, errors: bool) -> dict[str, object]:
        """Return what is known by what it is called, for people, with an error where that is wanted."""
        known: dict[str, object] = {"checkpoint": self.path}
        if self.kind:
            known |= {
                "kind": self.kind,
                **self.steps,
                "weights": self.place or "at the top level",
                "prefix": self.prefix or "none",
                "tensors": self.tensors,
                "parameters": self.parameters,
                "zeros": self._zeros() or "no weights",
                "NaN or infinity": f"in {self.not_finite}" if self.not_finite else "none",
                "averaged weights": "there too" if self.averaged else "none",
            }
        known |= {"same weights as": listing(self.repeats)} if self.repeats else {}
        known |= {"model": "matches" if self.matches else "does not match"} if self.matches is not None else {}
        return known | ({"error": self.error.what} if self.error and errors else {})

    def facts(self) -> dict[str, Any]:
        """Return all as JSON has it; null is what is not there, or not known of one that cannot be read."""
        known = {
            "kind": self.kind,
            "steps": self.steps,
            "place": self.place,
            "prefix": self.prefix,
            "tensors": self.tensors,
            "parameters": self.parameters,
            "sparsity": None if isnan(self.sparsity) else self.sparsity,
            "not_finite": self.not_finite or None,
            "averaged": self.averaged,
            "repeats": [str(other) for other in self.repeats],
            "matches": self.matches,
        }
        wrong = (self.error.what, self.error.hint) if self.error else (None, None)
        known = known if self.kind else dict.fromkeys(known)
        return {"path": str(self.path), **known, "error": wrong[0], "hint": wrong[1]}

    def _zeros(self) -> str:
        return "" if isnan(self.sparsity) else f"{self.sparsity:.1%}"


def inspected_files(places: Sequence[Path]) -> list[Path]:
    """List the checkpoints that are at some places, in their order, then in that of the names.

    Raises:
        ConfigError: where there are none.
    """
    found = [one for place in places for one in find_checkpoints([place], "PATH")]
    return list(dict.fromkeys(one.path for one in found))


def inspect_checkpoints(paths: Sequence[Path], reading: Reading, advance: Callable[[], None]) -> tuple[Inspection, ...]:
    """Read one checkpoint after the other, of which only the numbers that are told stay in memory.

    Args:
        paths: files or folders.
        reading: how.
        advance: called after each.
    """
    saved_as = saved_names(reading.model) if reading.model else {}
    found = []
    for path in paths:
        found.append(_inspection(path, reading, saved_as))
        advance()
    same: dict[str, list[Path]] = {}
    for one in found:
        if one.digest:
            same.setdefault(one.digest, []).append(one.path)
    return tuple(
        replace(one, repeats=tuple(path for path in same.get(one.digest, ()) if path != one.path)) for one in found
    )


def _inspection(path: Path, reading: Reading, saved_as: Mapping[str, str]) -> Inspection:
    try:
        weights = read_checkpoint(path, reading.state_dict_key, reading.weights, reading.trust_pickle)
        found = _held(path, weights)
    except CheckpointError as error:
        return Inspection(path, error=error)
    if reading.model is None:
        return found
    try:
        fit(weights, reading.model, path, reading.allow_missing, saved_as)
    except CheckpointError as error:
        return replace(found, matches=False, error=error)
    return replace(found, matches=True)


def _held(path: Path, weights: Weights) -> Inspection:
    """Count what a checkpoint holds."""
    _refuse_unfolding(path, weights.tensors)
    seen = {name: value for name, value in multiplied(weights.tensors, path).items() if tensor_kind(value) == "float"}
    matrices = [value for value in seen.values() if value.dim() > 1]
    count = sum(value.numel() for value in matrices)
    zeros = count - sum(int(value.count_nonzero()) for value in matrices)
    bad = (name for name, value in seen.items() if not value.isfinite().all())
    return Inspection(
        path,
        weights.kind,
        weights.steps,
        weights.place,
        wrapping(weights.tensors),
        len(weights.tensors),
        sum(value.numel() for value in seen.values()),
        zeros / count if count else nan,
        next(bad, ""),
        weights.averaged,
        digest=digest(weights.tensors),
    )


def _refuse_unfolding(path: Path, tensors: "dict[str, Tensor]") -> None:
    """Raise where a few numbers stand for so many that looking at each would fill the memory."""
    plain = [value for value in tensors.values() if tensor_kind(value) in ("float", "integer")]
    stored = {value.untyped_storage().data_ptr(): value.untyped_storage().nbytes() for value in plain}
    size_bytes = sum(value.nbytes for value in plain)
    if size_bytes > LARGEST_UNFOLDING * sum(stored.values()):
        raise CheckpointError(path, f"would unfold to {size_bytes / 2**20:.0f} MiB", "save contiguous tensors")
