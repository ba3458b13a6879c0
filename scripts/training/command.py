"""The command lines of the training scripts: options that all have, and errors of one line each."""

import argparse
import contextlib
import fractions
import json
import math
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

import torch

from cmon.errors import CmonError, ConfigError, StoreError, one_line

DATA_HELP = (
    "cifar10:FOLDER or cifar100:FOLDER as torchvision leaves them, a folder with a folder of images per class, "
    "or a zip of such folders"
)
THREADS_HELP = "of the CPU; beside other work, one thread is several times as fast as two that wait for each other"
PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}


class TrainingError(CmonError):
    """A training that cannot go on, by no fault of the command line."""


class Parser(argparse.ArgumentParser):
    """A parser whose errors are ConfigErrors."""

    def __init__(self, description: str) -> None:
        super().__init__(
            description=description, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
        )

    def error(self, message: str) -> NoReturn:
        raise ConfigError(self.prog, message, f"{self.prog} --help lists all options")


def run_script(train: Callable[[argparse.Namespace], None], parser: Parser, words: Sequence[str] | None) -> int:
    """Parse the command line, train, and return the exit code: 0, 2 for input that cannot be used, else 1."""
    try:
        arguments = parser.parse_args(words)
        torch.set_num_threads(arguments.threads)
        train(arguments)
    except CmonError as error:
        return _failed(1 if isinstance(error, StoreError | TrainingError) else 2, error.where, error.what, error.hint)
    except (torch.OutOfMemoryError, MemoryError):
        return _failed(1, "memory", "there is too little for this training", "give a smaller --batch-size")
    except KeyboardInterrupt:
        return _failed(130, "stopped", "what is done is kept", "run the same command to go on")
    return 0


def _failed(code: int, where: str, what: str, hint: str) -> int:
    sys.stderr.write(f"error: {one_line(where)}: {one_line(what, 1000)}\n")
    if hint:
        sys.stderr.write(f"hint: {one_line(hint)}\n")
    return code


def whole(least: int) -> Callable[[str], int]:
    """Return a parser of whole numbers from `least` on."""

    def parse(text: str) -> int:
        with contextlib.suppress(ValueError):
            if int(text) >= least:
                return int(text)
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from {least} on")

    return parse


def number(least: float, below: float = math.inf, least_is_allowed: bool = True) -> Callable[[str], float]:
    """Return a parser of numbers, decimal or as 8/255, in [least, below) or (least, below)."""

    def parse(text: str) -> float:
        with contextlib.suppress(ValueError, ArithmeticError):
            value = float(fractions.Fraction(text))
            if least <= value < below and (least_is_allowed or value > least):
                return value
        bounds = f"{'from' if least_is_allowed else 'above'} {least:g}{f' and below {below:g}' * (below < math.inf)}"
        raise argparse.ArgumentTypeError(f"{text!r} is not a number {bounds}")

    return parse


def epoch_list(text: str) -> list[int]:
    """Parse "0,1,2,4"."""
    parse = whole(0)
    return sorted({parse(part) for part in text.split(",")})


def json_object(text: str) -> dict[str, Any]:
    """Parse a JSON object, such as {"num_classes": 100}."""
    with contextlib.suppress(ValueError):
        if isinstance(value := json.loads(text), dict):
            return value
    raise argparse.ArgumentTypeError(f'{text!r} is not a JSON object such as {{"num_classes": 100}}')


def device_name(text: str) -> str:
    """Resolve "auto", and refuse a device that is not there."""
    name = ("cuda" if torch.cuda.is_available() else "cpu") if text == "auto" else text
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.empty(1, device=name)
    except (RuntimeError, AssertionError) as error:
        raise argparse.ArgumentTypeError(f"{text!r} cannot be used: {one_line(error, 100)}") from error
    return name


def shared_parser(description: str, epochs: int, lr: float) -> Parser:
    """Return a parser of the options that all scripts have."""
    parser = Parser(description)
    parser.add_argument("out", type=Path, help="the folder for the checkpoints; the same command goes on where it was")
    _add_data_options(parser)
    _add_training_options(parser, epochs, lr)
    return parser


def _add_data_options(parser: Parser) -> None:
    data = parser.add_argument_group("data")
    positive = number(0, least_is_allowed=False)
    data.add_argument("--data", required=True, help=f"the training images: {DATA_HELP}")
    data.add_argument("--test-data", help="the test images, in the same forms; without it some are held out")
    data.add_argument(
        "--held-out", type=number(0, 1, False), default=0.1, help="share of each class held out (default 0.1)"
    )
    data.add_argument("--images-per-class", type=whole(1), help="train on so many of each class, drawn by the seed")
    data.add_argument("--test-images-per-class", type=whole(1), help="test on so many of each class")
    data.add_argument(
        "--image-size",
        type=whole(4),
        help="side of the images that the network sees, in pixels (default: small images' own, else 224). Where the "
        "first image is at most 64 px, all are decoded once and kept, and augmented by crops of the image padded "
        "by 4 px, and flips. Larger ones are decoded batch by batch, and augmented by random resized crops and "
        "flips; in testing they are resized to 8/7 of the size and cropped at the centre",
    )
    data.add_argument(
        "--smallest-crop", type=number(0, 1, False), default=0.08, help="least share of a large image in a random crop"
    )
    for name in ("mean", "std"):
        help_text = "of each channel in [0, 1], subtracted and divided by before the network (default 0.5)"
        kind = number(0) if name == "mean" else positive
        data.add_argument(f"--{name}", type=kind, nargs=3, default=[0.5] * 3, help=help_text)
    data.add_argument("--workers", type=whole(1), default=min(8, os.cpu_count() or 1), help="threads that decode")


def _add_training_options(parser: Parser, epochs: int, lr: float) -> None:
    positive = number(0, least_is_allowed=False)
    model = parser.add_argument_group("model and training")
    model.add_argument(
        "--model",
        required=True,
        help="as in a cmon config: torchvision:NAME, timm:NAME, package.module:function or file.py:function",
    )
    model.add_argument("--model-args", type=json_object, default={}, help='such as {"num_classes": 100}')
    model.add_argument("--epochs", type=whole(1), default=epochs, help=f"default {epochs}")
    model.add_argument("--batch-size", type=whole(2), default=128, help="default 128")
    model.add_argument("--lr", type=positive, default=lr, help=f"highest learning rate, of a cosine (default {lr})")
    model.add_argument("--warm-up", type=number(0), default=0.0, help="epochs until that rate is reached (default 0)")
    model.add_argument("--momentum", type=number(0, 1), default=0.9, help="Nesterov's (default 0.9)")
    model.add_argument("--weight-decay", type=number(0), default=5e-4, help="default 5e-4")
    model.add_argument("--seed", type=whole(0), default=0, help="decides weights, order, augmentation and attacks")
    model.add_argument("--save-epochs", type=epoch_list, help="such as 0,1,2,4: the epochs to save, and the last one")
    model.add_argument("--threads", type=whole(1), default=torch.get_num_threads(), help=THREADS_HELP)
    model.add_argument("--device", type=device_name, default="auto", help="auto, cpu, cuda or cuda:1")
    model.add_argument(
        "--precision", choices=PRECISIONS, default="float32", help="of training and testing; weights stay float32"
    )
