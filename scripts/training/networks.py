"""The network that is trained: built as cmon builds it, checked against the data, and measured."""

import argparse
import contextlib
import copy

import torch
from torch import Tensor, nn

from cmon.errors import USER_CODE_ERRORS, ModelError, one_line
from cmon.models import build_model
from training.command import PRECISIONS
from training.data import Data


class Normalised(nn.Module):
    """A network of pixels in [0, 1], made of one that wants them normalised; attacks see this one."""

    def __init__(self, model: nn.Module, mean: list[float], std: list[float]) -> None:
        super().__init__()
        self.model = model
        self.register_buffer("mean", torch.tensor(mean)[:, None, None])
        self.register_buffer("std", torch.tensor(std)[:, None, None])

    def forward(self, pixels: Tensor) -> Tensor:
        """Return (b, C) float32 scores of images (b, 3, h, w) in [0, 1]."""
        scores: Tensor = self.model((pixels - self.mean) / self.std)
        return scores.float()


def build_trainable(arguments: argparse.Namespace) -> nn.Module:
    """Build the model of --model with weights that the seed decides."""
    return build_model(arguments.model, arguments.model_args, arguments.seed).requires_grad_(True)


def check_fits(model: nn.Module, arguments: argparse.Namespace, data: Data) -> None:
    """Show the model two images, and hold that it scores the data's classes.

    Raises:
        ModelError: where it does not.
    """
    pixels = next(iter(data.test.only(torch.tensor([0, 1])).testing_batches()))[0].cpu()
    try:
        with torch.no_grad():
            scores = model.cpu().eval()(pixels)
            # A copy, whose batch statistics may move.
            trained = copy.deepcopy(model).train()(pixels)
        shape = tuple(scores.shape)
    except USER_CODE_ERRORS as error:
        what = f"fails on images of {pixels.shape[2]}x{pixels.shape[3]} pixels: {one_line(error, 200)}"
        raise ModelError(arguments.model, what, "give another --image-size, or --model-args") from error
    if not isinstance(trained, Tensor):
        what = f"gives a {type(trained).__name__} in training, not the classes' scores alone"
        raise ModelError(arguments.model, what, 'give --model-args such as {"aux_logits": false}, or another model')
    if shape != (2, len(data.classes)):
        what = f"gives {shape} for 2 images of {len(data.classes)} classes"
        hint = f"give --model-args '{{\"num_classes\": {len(data.classes)}}}', or what the model calls it"
        raise ModelError(arguments.model, what, hint)


def train_mode(model: nn.Module) -> None:
    """Put a model into train mode, but for parts that are frozen: their batch statistics must not move either."""
    model.train()
    for module in model.modules():
        parameters = list(module.parameters())
        if parameters and not any(parameter.requires_grad for parameter in parameters):
            module.eval()


def autocast(arguments: argparse.Namespace) -> contextlib.AbstractContextManager[None]:
    """Compute in --precision."""
    dtype = PRECISIONS[arguments.precision]
    kind = torch.device(arguments.device).type
    return torch.autocast(kind, dtype) if dtype != torch.float32 else contextlib.nullcontext()


def head_name(model: nn.Module) -> str | None:
    """Return the name of the last linear layer; None where there is none."""
    linear = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    return linear[-1] if linear else None
