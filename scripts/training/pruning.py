"""Magnitude pruning by torch.nn.utils.prune, whose models hold weight_orig and weight_mask in place of weight."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn.utils import prune

from training.networks import head_name

KINDS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)
# Attention reads the weight of its output without calling the layer, which is when a mask is applied.
UNMASKABLE = (nn.modules.linear.NonDynamicallyQuantizableLinear,)


def prunable(model: nn.Module, keep_head: bool) -> dict[str, nn.Module]:
    """Return the convolutions and linear layers by name, without the last linear one where it is kept."""
    head = head_name(model) if keep_head else None
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, KINDS) and not isinstance(module, UNMASKABLE) and name != head
    }


def next_masks(weights: dict[str, Tensor], masks: dict[str, Tensor], pruned: int) -> dict[str, Tensor]:
    """Prune the smallest magnitudes of all layers together until `pruned` weights are.

    Args:
        weights: by layer, after training.
        masks: by layer, 1 where a weight survives and 0 where it is pruned already.
        pruned: how many weights are to be zero afterwards.
    """
    # What is pruned already comes before everything else, whatever its magnitude.
    ranks = torch.cat([torch.where(masks[name] == 0, -1.0, weights[name].abs()).flatten() for name in masks])
    survives = torch.ones_like(ranks)
    survives[torch.sort(ranks, stable=True).indices[:pruned]] = 0
    parts = survives.split([mask.numel() for mask in masks.values()])
    return {name: part.view_as(mask) for (name, mask), part in zip(masks.items(), parts, strict=True)}


def pruned_count(total: int, share: float, stage: int) -> int:
    """Return how many of `total` weights are pruned when each stage has pruned a share of what remained."""
    return round(total * (1 - (1 - share) ** stage))


def mask_model(model: nn.Module, masks: dict[str, Tensor]) -> nn.Module:
    """Put masks onto a model's layers, in place."""
    for name, mask in masks.items():
        prune.custom_from_mask(model.get_submodule(name), "weight", mask)
    return model


def masks_in(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the masks of a pruned model's state dict, by layer."""
    return {name.removesuffix(".weight_mask"): value for name, value in _ending(state, ".weight_mask")}


def weights_in(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights of a pruned model's state dict that its masks are for, by layer."""
    return {name.removesuffix(".weight_orig"): value for name, value in _ending(state, ".weight_orig")}


def masked_state(dense: dict[str, Tensor], masks: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the state dict of the masked model from a dense one's."""
    names = {f"{layer}.weight": f"{layer}.weight_orig" for layer in masks}
    renamed = {names.get(name, name): value for name, value in dense.items()}
    return renamed | {f"{layer}.weight_mask": mask for layer, mask in masks.items()}


def _ending(state: dict[str, Tensor], end: str) -> Iterator[tuple[str, Tensor]]:
    return ((name, value) for name, value in state.items() if name.endswith(end))
