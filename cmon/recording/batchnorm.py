"""Recalibrate batch normalisation: its means and variances taken anew, for the weights as they are.

The statistics that a checkpoint was saved with belong to the weights that it was trained with. Those of a network that
has been pruned, or whose weights have been rewound, do not fit them.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from cmon.errors import USER_CODE_ERRORS, ConfigError, ModelError, one_line
from cmon.recording.recorder import is_out_of_memory

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.nn.modules.batchnorm import _BatchNorm


def check_batch_norm(model: "nn.Module") -> None:
    """Raise a ConfigError where a model has no batch normalisation that keeps statistics."""
    if not _layers(model):
        what = "the model has no batch normalisation that keeps statistics"
        raise ConfigError("batchnorm", what, "leave batchnorm out")


def recalibrate(model: "nn.Module", batches: Iterable["Tensor"], device: str = "cpu") -> None:
    """Take the running means and variances of all batch normalisation anew, averaged over the batches.

    Each batch counts alike: its means, and its variances with one degree of freedom less than it has positions. Only
    these layers are in training mode, so that each normalises by the batch while its statistics are taken, as in
    training; all else, such as dropout, stays in evaluation. Scales and shifts are left as they are. Passes are in
    float32. Few or constant values give statistics of little use, which are not refused here.

    Args:
        model: in evaluation mode, on the device.
        batches: (n, 3, h, w) float32 tensors of nearly equal n.
        device: a torch device.

    Raises:
        ModelError: where the model fails on the images.
    """
    import torch

    # On a GPU, cuDNN rounds float32 convolutions to 10 bits, and adds in any order, unless it is told not to.
    exact = torch.backends.cudnn.flags(enabled=True, allow_tf32=False, deterministic=True)
    with torch.inference_mode(), exact, _taking_statistics(_layers(model)):
        for batch in batches:
            try:
                model(batch.to(device, memory_format=torch.channels_last))
            except USER_CODE_ERRORS as error:
                reason = one_line(error, 200) or type(error).__name__
                what = f"fails on {len(batch)} images of shape {tuple(batch.shape[1:])}: {reason}"
                hint = "recalibrate on more images, and of a size that the model takes"
                if is_out_of_memory(error):
                    hint = "set a smaller preprocess.resize and crop, or --device cpu"
                raise ModelError("batchnorm", what, hint) from error


@contextmanager
def _taking_statistics(layers: "list[_BatchNorm]") -> Iterator[None]:
    """Forget the layers' statistics, and let them take the plain average over batches."""
    before = [(layer.momentum, layer.training) for layer in layers]
    try:
        for layer in layers:
            layer.reset_running_stats()
            layer.momentum = None
            layer.training = True  # not train(), which would reach the dropout within timm's layers
        yield
    finally:
        for layer, (momentum, training) in zip(layers, before, strict=True):
            layer.momentum, layer.training = momentum, training


def _layers(model: "nn.Module") -> "list[_BatchNorm]":
    from torch.nn.modules.batchnorm import _BatchNorm

    return [module for module in model.modules() if isinstance(module, _BatchNorm) and module.track_running_stats]
