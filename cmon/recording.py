"""Record units: hooks that pool each layer's output inside the forward pass, so that no activation map is kept."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from cmon.errors import CheckpointError, ModelError, listing
from cmon.records import FloatArray, LayerActivations

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn


@dataclass(frozen=True)
class Recorder:
    """Pools the outputs of layers to one number per image and unit, all layers in one pass.

    A unit is a channel of a convolution's output (n, U, h, w), a feature of a transformer's tokens (n, T, U), or a
    column of (n, U).

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
            ModelError: for a layer that does not run exactly once a pass, or has no output that can be pooled.
            CheckpointError: for activations that are NaN or infinite.
        """
        import torch

        pooled: dict[str, Tensor] = {}
        kept: dict[str, FloatArray] = {}
        handles = [model.get_submodule(name).register_forward_hook(self._hook(name, pooled)) for name in self.layers]
        position = 0
        try:
            with torch.inference_mode(), self._autocast():
                for batch in batches:
                    pooled.clear()
                    model(batch.to(self.device, memory_format=torch.channels_last, non_blocking=True))
                    self._check_all_ran(pooled)
                    for name, values in pooled.items():
                        if name not in kept:
                            kept[name] = np.empty((images, values.shape[1]), dtype=np.float32)
                        kept[name][position : position + len(values)] = values.cpu().numpy()
                    position += len(batch)
        except (RuntimeError, ValueError, TypeError, IndexError) as error:
            shape = tuple(batch.shape[1:])
            hint = "look at the run's preprocess: does the model take images of this size?"
            raise ModelError("model", f"fails on images of shape {shape}: {_first_line(error)}", hint) from error
        finally:
            for handle in handles:
                handle.remove()
        assert position == images, "as many images as were announced"
        return _finite(LayerActivations(name, values) for name, values in kept.items())

    def _autocast(self) -> "torch.autocast":
        import torch

        return torch.autocast(self.device.split(":")[0], torch.bfloat16, enabled=self.precision == "bfloat16")

    def _hook(self, name: str, pooled: dict[str, "Tensor"]) -> Callable[..., None]:
        def keep(module: "nn.Module", inputs: Any, output: Any) -> None:  # noqa: ARG001
            if name in pooled:
                hint = "choose the layer around it, or one that runs once"
                raise ModelError(f"layer {name}", "runs more than once in a forward pass", hint)
            pooled[name] = self._pool(name, output)

        return keep

    def _pool(self, name: str, output: Any) -> "Tensor":
        """Reduce an output to (n, U) float32 at once, before a later in-place layer can change it."""
        import torch

        if isinstance(output, tuple | list) and output:
            output = output[0]
        if not isinstance(output, torch.Tensor) or output.ndim not in (2, 3, 4) or not output.is_floating_point():
            kind = (
                f"a tensor of shape {tuple(output.shape)}"
                if isinstance(output, torch.Tensor)
                else type(output).__name__
            )
            hint = "choose a convolution, linear or transformer layer"
            raise ModelError(f"layer {name}", f"puts out {kind}, which has no units", hint)
        if output.ndim == 4:
            # amax and mean of a map, without ever making a float32 copy of it
            return output.amax((2, 3)).float() if self.pooling == "max" else output.mean((2, 3), dtype=torch.float32)
        if output.ndim == 3:
            return output[:, 0].float() if self.tokens == "class" else output.mean(1, dtype=torch.float32)
        return output.float().clone()

    def _check_all_ran(self, pooled: dict[str, "Tensor"]) -> None:
        idle = [name for name in self.layers if name not in pooled]
        if idle:
            hint = "take it out of the run's layers"
            raise ModelError(f"layer {listing(idle)}", "does not run in a forward pass", hint)


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


def batches_of(pixels: Sequence[Any], size: int) -> list[slice]:
    """Cut images into batches."""
    return [slice(start, min(start + size, len(pixels))) for start in range(0, len(pixels), size)]
