"""Masks from a file of their own onto the weights of a model."""

from pathlib import Path
from typing import TYPE_CHECKING

from cmon.checkpoints.fitting import renamings
from cmon.checkpoints.pruning import MASK, check_mask
from cmon.checkpoints.tensors import tensor_shape
from cmon.errors import CheckpointError, listing, one_line

if TYPE_CHECKING:
    from torch import Tensor, nn

NAMES_HINT = "name masks after the model's parameters"


def mask_weights(model: "nn.Module", masks: "dict[str, Tensor]", path: Path) -> None:
    """Multiply a model's parameters by their masks; those without one stay as they are.

    Args:
        model: with a checkpoint's weights.
        masks: zeros and ones, by the names of parameters, with or without `_mask` behind, under any wrappers.
        path: of the masks.

    Raises:
        CheckpointError: naming a mask that is of no parameter, of another shape, or none.
    """
    import torch

    parameters = dict(model.named_parameters(remove_duplicate=False))

    def parameter(name: str) -> str:
        return name if name in parameters else name.removesuffix(MASK)

    named = min(
        ([parameter(name) for name in renamed] for renamed in renamings(masks)),
        key=lambda names: len(set(names) - parameters.keys()),
    )
    strangers = [saved for saved, name in zip(masks, named, strict=True) if name not in parameters]
    if strangers:
        what = f"{len(strangers)} of {len(masks)} masks are of no parameter of the model: {listing(strangers, 3)}"
        raise CheckpointError(path, what, f"{NAMES_HINT}, such as {one_line(next(iter(parameters), ''))}")
    twice = [name for name in named if named.count(name) > 1]
    if twice:
        raise CheckpointError(path, f"holds two masks of {one_line(twice[0])}", NAMES_HINT)
    for (saved, mask), name in zip(masks.items(), named, strict=True):
        if mask.shape != parameters[name].shape:
            what = f"{one_line(saved)} is {tensor_shape(mask)}, the model has {tensor_shape(parameters[name])}"
            raise CheckpointError(path, what, "check the run's model and masks")
        check_mask(saved, mask, path)
    with torch.no_grad():
        for mask, name in zip(masks.values(), named, strict=True):
            parameters[name].mul_(mask.to(parameters[name]))
