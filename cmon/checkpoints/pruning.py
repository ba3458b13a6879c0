"""Weights that pruning has set to zero: as torch's own pruning saves them, and how many they are.

torch.nn.utils.prune keeps a weight as two tensors, NAME_orig and NAME_mask, and lets the network see their product.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from cmon.checkpoints.tensors import tensor_kind, tensor_shape
from cmon.errors import CheckpointError, one_line

if TYPE_CHECKING:
    from torch import Tensor, nn

ORIGINAL, MASK = "_orig", "_mask"
REMOVED_HINT = "save the checkpoint after torch.nn.utils.prune.remove"


def pruned_names(tensors: "dict[str, Tensor]") -> list[str]:
    """Name the weights that are kept as an original with a mask."""
    bases = [name.removesuffix(ORIGINAL) for name in tensors if name.endswith(ORIGINAL)]
    return [base for base in bases if base + MASK in tensors]


def multiplied(tensors: "dict[str, Tensor]", path: Path) -> "dict[str, Tensor]":
    """Put the product of each original with its mask in the place of both, as the network sees it.

    A NaN under a mask stays one, as it does in torch, and is an error of the weight.

    Raises:
        CheckpointError: for a mask that does not fit its original or is none, or a product that is there already.
    """
    made = dict(tensors)
    for name in pruned_names(tensors):
        original, mask = made.pop(name + ORIGINAL), made.pop(name + MASK)
        if name in made:
            what = f"holds {one_line(name)} beside {one_line(name + ORIGINAL)} and {one_line(name + MASK)}"
            raise CheckpointError(path, what, REMOVED_HINT)
        # A few numbers can be spread over any number of places, all of which a product would fill.
        if tensor_kind(original) == "float" and original.nbytes > original.untyped_storage().nbytes():
            what = f"{one_line(name + ORIGINAL)} is {tensor_shape(original)}, and stored with fewer numbers"
            raise CheckpointError(path, what, REMOVED_HINT)
        if original.shape != mask.shape:
            what = f"{one_line(name + MASK)} is {tensor_shape(mask)}, {one_line(name + ORIGINAL)} is "
            raise CheckpointError(path, what + tensor_shape(original), REMOVED_HINT)
        check_mask(name + MASK, mask, path)
        if tensor_kind(original) != "float":
            what = f"{one_line(name + ORIGINAL)} is {tensor_kind(original)}, and cannot be masked"
            raise CheckpointError(path, what, REMOVED_HINT)
        wide = original.float() if original.dtype.itemsize == 1 else original  # torch multiplies no numbers of 8 bits
        made[name] = mask.to(wide.dtype) * wide
    return made


def check_mask(name: str, mask: "Tensor", path: Path) -> None:
    """Raise where a tensor is no mask of zeros and ones, of whatever type.

    What pruning keeps or removes, it keeps or removes wholly. Other numbers are scores that a mask was made from,
    weights, or a scale of somebody's own, which belongs into the weights.
    """
    kind = tensor_kind(mask)
    if kind not in ("float", "integer"):
        raise CheckpointError(path, f"{one_line(name)} is {kind}, and no mask", "save masks of plain zeros and ones")
    values = mask.double()
    other = values[(values != 0) & (values != 1)]
    if len(other):
        what = f"{one_line(name)} is no mask of zeros and ones: it holds {other[0].item():g}"
        raise CheckpointError(path, what, "save what weights are multiplied by as the weights themselves")


def partner(name: str) -> str:
    """Return the other of an original and its mask; "" for a name that is of neither."""
    for ending, other in ((ORIGINAL, MASK), (MASK, ORIGINAL)):
        if name.endswith(ending):
            return name.removesuffix(ending) + other
    return ""


def sparsity(model: "nn.Module") -> float:
    """Return the share of zeros among a network's weights, its parameters of two or more dimensions; NaN without any.

    Of a model that torch's pruning has been applied to, the weights are the products that it sees.
    """
    import torch

    masks = dict(model.named_buffers())
    zeros = count = 0
    for name, weight in model.named_parameters():
        if weight.ndim > 1 and not weight.isnan().all():  # NaN alone is what may be missing
            mask = masks.get(partner(name)) if name.endswith(ORIGINAL) else None
            zeros += weight.numel() - int(torch.count_nonzero(weight if mask is None else weight * mask))
            count += weight.numel()
    return zeros / count if count else float("nan")
