"""What each of a model's layers puts out, and which of them can be recorded."""

from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from cmon.recording.outputs import NoUnitsError, Outputs, Tokens, first_of, kind_of, may_put_channels_last
from cmon.recording.patches import Patches, count_registers
from cmon.recording.recorder import model_errors

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass(frozen=True)
class LayerShape:
    """What one layer puts out for one image.

    Args:
        name: within the model.
        module: the name of its class.
        kind: columns (U,), a map (U, h, w) or with its units last (h, w, U), a series (U, t), or tokens (t, U); "" of
            what has no units.
        units: how many; 0 where it has none.
        shape: of its output, as it is; () where it is no tensor.
        prefix_tokens: tokens before the patches; None for what is not tokens, or where it cannot be told.
        problem: why it cannot be recorded; "" where it can.
    """

    name: str
    module: str
    kind: str = ""
    units: int = 0
    shape: tuple[int, ...] = ()
    prefix_tokens: int | None = None
    problem: str = ""


def describe_layers(
    model: "nn.Module", batch: "Tensor", tokens: Tokens = "class", prefix_tokens: int | None = None
) -> tuple[LayerShape, ...]:
    """Run a model once, and say of all its layers what they put out, in the order of named_modules.

    Args:
        model: in evaluation mode, on the device of the batch.
        batch: (n, 3, h, w) float32; two images do.
        tokens: what is to stand for an image in a sequence of tokens.
        prefix_tokens: how many tokens come before the patches; None where the model tells it.

    Raises:
        ModelError: where the model fails on the images.
    """
    import torch

    modules = {name: module for name, module in model.named_modules() if name}
    found = {name: LayerShape(name, type(module).__name__) for name, module in modules.items()}
    runs: Counter[str] = Counter()
    outputs = Outputs(may_put_channels_last(model), Patches(prefix_tokens, count_registers(model)))
    outputs.begin(batch)

    def keep(name: str, module: "nn.Module", inputs: Any, output: Any) -> None:  # noqa: ARG001
        runs[name] += 1
        if runs[name] == 1:
            found[name] = _described(found[name], outputs, module, first_of(output), tokens)

    with ExitStack() as hooks:
        hooks.enter_context(outputs.patches.watching(model))
        for name, module in modules.items():
            hooks.callback(module.register_forward_hook(partial(keep, name)).remove)
        with torch.inference_mode(), model_errors(batch):
            model(batch)
    return tuple(_counted(layer, runs[layer.name]) for layer in found.values())


def _described(layer: LayerShape, outputs: Outputs, module: "nn.Module", output: Any, tokens: Tokens) -> LayerShape:
    """Add what a layer puts out."""
    layer = replace(layer, shape=tuple(getattr(output, "shape", ())[1:]))
    try:
        read = outputs.read(layer.name, module, output)
        kind = "map, units last" if read.units_last else read.kind
        units = read.values.shape[2 if read.kind == "tokens" else 1]
        layer = replace(layer, kind=kind, units=units, prefix_tokens=read.prefix_tokens)
        read.pooled("mean", tokens)
    except NoUnitsError as error:
        return replace(layer, problem=f"puts out {kind_of(output)}, {error.what}")
    return layer


def _counted(layer: LayerShape, runs: int) -> LayerShape:
    """Add that a layer does not run once."""
    if runs == 1:
        return layer
    return replace(layer, problem="runs more than once in a forward pass" if runs else "does not run in a forward pass")
