"""What every training script does first: look what is there, read the data, build the model, and say so."""

import argparse
import json
from collections.abc import Callable, Sequence
from typing import Any

from torch import nn

from cmon.errors import ConfigError
from cmon.models import model_recipe
from training.data import Data, load_data
from training.networks import build_trainable, check_fits
from training.saving import Journal, all_finished, check_arguments, claim, clear_unfinished


def nothing_to_do(arguments: argparse.Namespace, journals: Sequence[Journal]) -> bool:
    """Refuse a folder that holds something else, clear away what a killed process left, and tell if all is there."""
    if arguments.warm_up >= arguments.epochs:
        raise ConfigError("--warm-up", f"{arguments.warm_up:g} is not below --epochs", "give a smaller one")
    check_arguments(arguments)
    clear_unfinished(arguments.out)
    return all_finished(arguments.out, journals)


def prepare(
    arguments: argparse.Namespace,
    build: Callable[[argparse.Namespace, Data], nn.Module] | None = None,
    inputs: dict[str, Any] | None = None,
) -> tuple[Data, nn.Module]:
    """Read the data and build the model, write arguments.json, and say what a cmon config needs.

    Args:
        arguments: of the command line.
        build: makes the model; None for that of --model.
        inputs: what else decides the numbers.
    """
    data = load_data(arguments)
    model = build(arguments, data) if build else build_trainable(arguments)
    check_fits(model, arguments, data)
    recipe = model_recipe(arguments.model, arguments.model_args)
    claim(arguments, {"model": recipe, **data.identity, **(inputs or {})})
    print(f"{len(data.train)} training and {len(data.test)} test images of {len(data.classes)} classes", flush=True)
    shown = ", ".join(f"{name} = {json.dumps(value)}" for name, value in arguments.model_args.items())
    print(
        f'for a cmon config: model = "{arguments.model}", model_args = {{{shown}}}, preprocess = {data.preprocess}',
        flush=True,
    )
    return data, model
