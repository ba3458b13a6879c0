"""Fine-tune a pretrained network on other classes, with a new linear head, and save a checkpoint of every epoch.

    python scripts/finetune.py OUT --data retina --weights resnet34.pth \\
        --model torchvision:resnet34 --model-args '{"num_classes": 5}' --lr 0.01

writes OUT/epoch_000.pt (the pretrained backbone with the new head, before training), OUT/epoch_001.pt, ... as
train_standard.py does. The weights' own head is left out, whatever its size. A killed training goes on with the
same command, to the same end.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn
from training.command import Parser, run_script, shared_parser
from training.data import Data
from training.loop import Clock, Trainer, epoch_name, saved_epochs, train_epochs
from training.networks import build_trainable, head_name
from training.randomness import derived_seed
from training.saving import Journal, locked
from training.start import nothing_to_do, prepare

from cmon.checkpoints import Weights, fit, read_checkpoint
from cmon.errors import ConfigError, ModelError, listing
from cmon.fingerprint import file_sha256


def train(arguments: argparse.Namespace) -> None:
    """Train, unless all checkpoints are there."""
    with locked(arguments.out):
        journal = Journal(arguments.out, [epoch_name(epoch) for epoch in saved_epochs(arguments)])
        if nothing_to_do(arguments, [journal]):
            return
        if not arguments.weights.is_file():
            raise ConfigError(arguments.weights, "there is no such file", "name the pretrained weights in --weights")
        data, model = prepare(arguments, pretrained, {"weights": file_sha256(arguments.weights)})
        train_epochs(Trainer(arguments, model, data), journal, Clock(arguments.epochs))


def pretrained(arguments: argparse.Namespace, data: Data) -> nn.Module:
    """Build the model with the weights' backbone and a new head of the data's classes.

    Raises:
        ModelError: where the model has no such head, or one that cmon would build of another size.
        CheckpointError: where the weights cannot be read, or do not fit.
    """
    model = build_trainable(arguments)
    name = arguments.head or head_name(model)
    linear = [place for place, module in model.named_modules() if isinstance(module, nn.Linear)]
    if name not in linear:
        hint = f"its linear layers are {listing(linear)}" if linear else "it has no linear layer: give another model"
        raise ModelError(arguments.model, f"has no linear layer {name}" if name else "has no linear layer", hint)
    old = model.get_submodule(name)
    if old.out_features != len(data.classes):
        what = f"has {old.out_features} outputs, and the images {len(data.classes)} classes"
        hint = f"give --model-args '{{\"num_classes\": {len(data.classes)}}}', or what the model calls it"
        raise ModelError(arguments.model, what, hint)
    model.set_submodule(name, nn.Identity())
    weights = without_head(read_checkpoint(arguments.weights, None, "raw", False), name)
    model.load_state_dict(fit(weights, model, arguments.weights))
    model.requires_grad_(not arguments.freeze)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derived_seed(arguments.seed, "head"))
        model.set_submodule(name, nn.Linear(old.in_features, len(data.classes)))
    return model


def without_head(weights: Weights, head: str) -> Weights:
    """Leave out the tensors of the head, which may stand behind a wrapper's prefix; a backbone has none."""
    found = [name for name in weights.tensors if f".{name}".endswith(f".{head}.weight")]
    if not found:
        return weights
    # A layer deeper in the network may end alike; the head is the outermost.
    place = min(found, key=lambda name: name.count(".")).removesuffix(".weight")
    gone = (f"{place}.weight", f"{place}.bias")
    return Weights({name: value for name, value in weights.tensors.items() if name not in gone}, weights.steps)


def parser() -> Parser:
    """Return the options."""
    parser = shared_parser(__doc__ or "", epochs=30, lr=0.01)
    tuning = parser.add_argument_group("fine-tuning")
    tuning.add_argument("--weights", type=Path, required=True, help="a checkpoint of the model, as cmon reads them")
    tuning.add_argument("--head", help="name of the linear layer to replace, such as fc (default: the last one)")
    tuning.add_argument("--freeze", action="store_true", help="train the head alone")
    return parser


def main(words: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    return run_script(train, parser(), words)


if __name__ == "__main__":
    sys.exit(main())
