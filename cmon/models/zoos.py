"""Models of torchvision's and timm's zoos, without weights, and what goes wrong as a model is built."""

import importlib
import inspect
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import ModuleType
from typing import TYPE_CHECKING, Any

from cmon.errors import USER_CODE_ERRORS, CmonError, ConfigError, ModelError, listing, nearest, one_line
from cmon.torchvision_import import torchvision

if TYPE_CHECKING:
    from torch import nn

PRETRAINED = ("pretrained", "weights", "weights_backbone", "pretrained_backbone", "checkpoint_path")


def torchvision_model(name: str, arguments: dict[str, Any]) -> "nn.Module":
    """Build a model of torchvision's zoo, without weights."""
    arguments = without_pretrained(f"torchvision:{name}", arguments)
    models = torchvision().models
    if name not in models.list_models():
        raise unknown_model(f"torchvision:{name}", name, models.list_models())
    # Detection and segmentation models fetch a backbone's weights unless they are told not to.
    parameters = inspect.signature(models.get_model_builder(name)).parameters
    backbone = {"weights_backbone": None} if "weights_backbone" in parameters else {}
    with build_errors(f"torchvision:{name}"), warnings.catch_warnings():
        # GoogLeNet and Inception warn that their initialisation will change: it is replaced anyway.
        warnings.simplefilter("ignore", FutureWarning)
        model: nn.Module = models.get_model(name, weights=None, **backbone, **arguments)
    return model


def timm_model(name: str, arguments: dict[str, Any]) -> "nn.Module":
    """Build a model of timm, without weights; a name on the Hugging Face hub would need the internet."""
    arguments = without_pretrained(f"timm:{name}", arguments)
    torchvision()
    import timm

    if ":" in name or not timm.is_model(name):
        raise unknown_model(f"timm:{name}", name, timm.list_models())
    with build_errors(f"timm:{name}"):
        model: nn.Module = timm.create_model(name, pretrained=False, **arguments)
    return model


@contextmanager
def build_errors(source: str, what: str = "cannot be built") -> Iterator[None]:
    """Turn what a model's code raises into a ModelError of one line; ours pass."""
    try:
        yield
    except CmonError:
        raise
    except USER_CODE_ERRORS as error:
        reason = f"{type(error).__name__}: {one_line(error, 200)}".removesuffix(": ")
        hint = "check model_args" if isinstance(error, TypeError) else "mend the model's code or its model_args"
        raise ModelError(source, f"{what}: {reason}", hint) from error


def without_pretrained(source: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """Leave out the arguments that say that no weights are wanted, and refuse those that want some."""
    for name in PRETRAINED:
        if arguments.get(name):
            what = f"model_args.{name} asks for weights, which the checkpoints bring"
            raise ConfigError(source, what, f"leave {name} out: nothing is downloaded")
    return {name: value for name, value in arguments.items() if name not in PRETRAINED}


def unknown_model(source: str, name: str, known: Sequence[str]) -> ModelError:
    """Return the error for a name that a zoo does not have."""
    close = nearest(name, known, 5)
    hint = f"the nearest are {listing(close)}" if close else f"`{source.partition(':')[0]}` lists its models"
    return ModelError(source, "there is no model of this name", hint)


def import_optional(package: str, extra: str, where: str) -> ModuleType:
    """Import a package that cmon does without where nobody asks for it.

    Args:
        package: its name.
        extra: of cmon's distribution, which installs it.
        where: what asks for it, for the error.

    Raises:
        ModelError: where it is not installed.
    """
    try:
        return importlib.import_module(package)
    except ModuleNotFoundError as error:
        if error.name != package:
            raise
        hint = f"pip install 'concept-monitor[{extra}]'"
        raise ModelError(where, f"needs the package {package}, which is not installed", hint) from error
