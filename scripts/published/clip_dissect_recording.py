"""Activations as CLIP-Dissect publishes it: at every checkpoint all images are decoded, and run in float32 and NCHW."""

import warnings
from collections.abc import Sequence
from pathlib import Path

import torch
from torch.utils.data import DataLoader

from cmon.torchvision_import import torchvision

torchvision()
from torchvision import datasets, transforms  # noqa: E402 - importing it fails before it is made to work

BATCH, WORKERS = 200, 8


def record(model: torch.nn.Module, layers: Sequence[str], images: Path, folder: Path, mean: list, std: list) -> None:
    """Save the (I, U) activations of all layers, means over positions, a file each, `LAYER.pt`.

    Args:
        model: in evaluation mode.
        layers: names of modules.
        images: a folder of folders of images.
        folder: for the files.
        mean: of each channel.
        std: of each channel.
    """
    steps = [transforms.Resize(256), transforms.CenterCrop(224), transforms.ToTensor(), transforms.Normalize(mean, std)]
    data = datasets.ImageFolder(str(images), transforms.Compose(steps))
    kept: dict[str, list[torch.Tensor]] = {name: [] for name in layers}
    hooks = [
        model.get_submodule(name).register_forward_hook(
            lambda module, inputs, output, name=name: kept[name].append(output.mean([2, 3]).detach())
        )
        for name in layers
    ]
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch finds 8 workers too many for few cores
        for batch, _ in DataLoader(data, BATCH, num_workers=WORKERS):
            model(batch)
    for hook in hooks:
        hook.remove()
    for name, parts in kept.items():
        torch.save(torch.cat(parts), folder / f"{name}.pt")
