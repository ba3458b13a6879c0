"""Record units: hooks that pool each layer's output inside the forward pass, so that no activation map is kept."""

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from cmon.errors import USER_CODE_ERRORS, CheckpointError, CmonError, ModelError, listing
from cmon.records import FloatArray, LayerActivations

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn


@dataclass(frozen=True)
class Recorder:
    """Pools the outputs of layers to one number per image and unit, all layers in one pass.

    A unit is a channel of a map, (n, U, h, w) or as in Swin (n, h, w, U), a feature of a transformer's tokens
    (n, T, U), or a column of (n, U).

    Args:
        layers: names of modules.
        pooling: over the positions of a map.
        tokens: what stands for an image in a sequence of tokens: the first, or their mean.
        precision: of the forward pass; pooling is in float32 always.
        device: a torch device.
    """

    layers: tuple[str, ...]
    pooling: Literal["mean", "max"] = "mean"
    tokens: Literal["class", "mean"] = "class"
    precision: Literal["float32", "bfloat16"] = "float32"
    device: str = "cpu"

    def __call__(self, model: "nn.Module", batches: Iterable["Tensor"], images: int) -> tuple[LayerActivations, ...]:
        """Run the model over the batches and record every layer.

        Args:
            model: in evaluation mode.
            batches: (n, 3, h, w) float32 tensors.
            images: how many there are in all.

        Returns:
            One (images, U) float32 array a layer, in forward order.

        Raises:
            ModelError: for a layer that does not run exactly once a pass, or whose output has no units, or does not
                say which of its axes counts them.
            CheckpointError: for activations that are NaN or infinite.
        """
        import torch

        seen = _Pass(self.pooling, self.tokens, _may_put_channels_last(model))
        kept: dict[str, FloatArray] = {}
        position = 0
        # On a GPU, cuDNN rounds float32 convolutions to 10 bits unless it is told not to.
        full_precision = torch.backends.cudnn.flags(enabled=True, allow_tf32=False)
        with torch.inference_mode(), full_precision, self._autocast(), self._hooked(model, seen):
            for batch in batches:
                self._run(model, batch, seen)
                for name, values in seen.pooled.items():
                    if name not in kept:
                        kept[name] = np.empty((images, values.shape[1]), dtype=np.float32)
                    kept[name][position : position + len(batch)] = values.cpu().numpy()
                position += len(batch)
        assert position == images, "as many images as were announced"
        return _finite(LayerActivations(name, values) for name, values in kept.items())

    def _autocast(self) -> "torch.autocast":
        import torch

        return torch.autocast(self.device.split(":")[0], torch.bfloat16, enabled=self.precision == "bfloat16")

    @contextmanager
    def _hooked(self, model: "nn.Module", seen: "_Pass") -> Iterator[None]:
        with ExitStack() as hooks:
            for name in self.layers:
                handle = model.get_submodule(name).register_forward_hook(partial(seen.keep, name))
                hooks.callback(handle.remove)
            yield

    def _run(self, model: "nn.Module", batch: "Tensor", seen: "_Pass") -> None:
        """Run one batch, leaving all layers' pooled outputs in `seen`."""
        import torch

        seen.begin(batch)
        try:
            model(batch.to(self.device, memory_format=torch.channels_last, non_blocking=True))
        except CmonError:
            raise  # a hook's own
        except USER_CODE_ERRORS as error:
            hint = "look at the run's preprocess: does the model take images of this size?"
            if isinstance(error, torch.OutOfMemoryError | MemoryError) or "allocate memory" in str(error):
                hint = "set a smaller activations.batch_size"
            what = f"fails on images of shape {tuple(batch.shape[1:])}: {type(error).__name__}: {_first_line(error)}"
            raise ModelError("model", what, hint) from error
        idle = [name for name in self.layers if name not in seen.pooled]
        if idle:
            raise ModelError(
                f"layer {listing(idle)}", "does not run in a forward pass", "take it out of the run's layers"
            )


@dataclass
class _Pass:
    """One forward pass as its hooks see it: what went in, and what each layer put out, pooled."""

    pooling: Literal["mean", "max"]
    tokens: Literal["class", "mean"]
    may_be_channels_last: bool
    images: int = 0
    size: tuple[int, int] = (0, 0)
    pooled: dict[str, "Tensor"] = field(default_factory=dict)
    batch_first: set[str] = field(default_factory=set)  # layers whose first axis is known to count the images

    def begin(self, batch: "Tensor") -> None:
        """Forget the last batch."""
        self.images, self.size = len(batch), (batch.shape[-2], batch.shape[-1])
        self.pooled.clear()

    def keep(self, name: str, module: "nn.Module", inputs: Any, output: Any) -> None:  # noqa: ARG002
        """Pool a layer's output at once, before a later in-place layer can change it: the forward hook."""
        if name in self.pooled:
            what, hint = "runs more than once in a forward pass", "choose the layer around it, or one that runs once"
            raise ModelError(f"layer {name}", what, hint)
        if isinstance(output, tuple | list) and output:
            output = output[0]
        try:
            self.pooled[name] = self._pool(name, module, output)
        except _NoUnitsError as error:
            raise ModelError(f"layer {name}", f"puts out {_kind(output)}, {error.what}", error.hint) from None

    def _pool(self, name: str, module: "nn.Module", output: Any) -> "Tensor":
        """Reduce an output to (n, U) float32 of its own memory."""
        import torch

        if not isinstance(output, torch.Tensor) or output.ndim not in (2, 3, 4) or not output.is_floating_point():
            raise _NoUnitsError("which has no units", "choose a convolution, linear or transformer layer")
        ambiguous = output.ndim == 3 and output.shape[1] == self.images > 1 and name not in self.batch_first
        if len(output) != self.images or ambiguous:
            self._refuse_batch(output)
        self.batch_first.add(name)
        if output.ndim == 2:
            return output.to(torch.float32, copy=True)
        if output.ndim == 3 and not isinstance(module, torch.nn.Conv1d | torch.nn.BatchNorm1d):
            return self._pool_tokens(output)
        axes = (2,) if output.ndim == 3 else self._positions(module, output)
        # amax and mean of a map, without ever making a float32 copy of it
        return output.amax(axes).float() if self.pooling == "max" else output.mean(axes, dtype=torch.float32)

    def _refuse_batch(self, output: "Tensor") -> None:
        if len(output) != self.images:
            what, hint = f"for {self.images} images", "choose a layer that puts out one row an image"
        else:
            what = f"for {self.images} images, so that images and tokens cannot be told apart"
            hint = "set another activations.batch_size"
        raise _NoUnitsError(what, hint)

    def _pool_tokens(self, output: "Tensor") -> "Tensor":
        import torch

        if self.tokens == "mean":
            return output.mean(1, dtype=torch.float32)
        if output.shape[1] in _grids(self.size):
            raise _NoUnitsError("a grid of patches without a class token", 'set the run\'s tokens = "mean"')
        return output[:, 0].to(torch.float32, copy=True)

    def _positions(self, module: "nn.Module", output: "Tensor") -> tuple[int, int]:
        """Say which two axes of a map are positions; the third counts the units.

        The type of the module says it, or the axes whose proportions are the image's: (n, U, h, w) for most
        networks, (n, h, w, U) for Swin and its kin. Where both could be, a network that normalises over the last
        axis anywhere may be either, and is refused; any other is (n, U, h, w).
        """
        from torch import nn

        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.BatchNorm2d | nn.GroupNorm):
            return 2, 3
        if type(module) in (nn.Linear, nn.LayerNorm, nn.RMSNorm):
            return 1, 2
        first, last = (_proportioned(self.size, *output.shape[k : k + 2]) for k in (2, 1))
        if first is not last:
            return (2, 3) if first else (1, 2)
        if self.may_be_channels_last and set(output.shape[1:]) != {1}:
            what = f"of which images of {self.size[0]} x {self.size[1]} do not say which axis counts the units"
            raise _NoUnitsError(what, "choose a convolution, linear or LayerNorm layer within it")
        return 2, 3


class _NoUnitsError(Exception):
    """An output cannot be pooled; it does not know of which layer."""

    def __init__(self, what: str, hint: str) -> None:
        super().__init__(what)
        self.what, self.hint = what, hint


def _kind(output: Any) -> str:
    import torch

    return (
        f"a tensor of shape {tuple(output.shape)}" if isinstance(output, torch.Tensor) else f"a {type(output).__name__}"
    )


def _may_put_channels_last(model: "nn.Module") -> bool:
    from torch import nn

    return any(isinstance(module, nn.LayerNorm | nn.RMSNorm) for module in model.modules())


def _proportioned(image: tuple[int, int], height: int, width: int) -> bool:
    """Tell whether a map may be a smaller image: exactly square for a square one, to within a position for others."""
    slack = 0 if image[0] == image[1] else max(image)
    return abs(height * image[1] - width * image[0]) <= slack


def _grids(image: tuple[int, int]) -> set[int]:
    """Return how many patches there can be, for all sides of a patch that divide the image into more than one."""
    height, width = image
    sides = [side for side in range(1, min(image) + 1) if height % side == 0 and width % side == 0]
    return {(height // side) * (width // side) for side in sides} - {1}


def pick_device(asked: str) -> str:
    """Return the torch device to run on; "auto" is a GPU where there is one.

    Raises:
        ModelError: where the asked one is not there.
    """
    import torch

    if asked == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=asked)
    except (RuntimeError, AssertionError) as error:
        raise ModelError("--device", f"{asked} cannot be used: {_first_line(error)}", "try --device cpu") from error
    return asked


def _finite(layers: Iterable[LayerActivations]) -> tuple[LayerActivations, ...]:
    recorded = tuple(layers)
    for layer in recorded:
        bad = ~np.isfinite(layer.values).all(axis=0)
        if bad.any():
            what = f"units {listing(np.flatnonzero(bad).tolist())} of layer {layer.name} are NaN or infinite"
            raise CheckpointError("activations", what, "look at this checkpoint's weights")
    return recorded


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
