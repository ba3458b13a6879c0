"""Record units: hooks that take what is wanted of each layer's output inside the forward pass, and keep no map."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from cmon.errors import USER_CODE_ERRORS, CheckpointError, CmonError, ModelError, listing
from cmon.recording.outputs import (
    NoUnitsError,
    Output,
    Outputs,
    Pooling,
    Tokens,
    first_of,
    kind_of,
    may_put_channels_last,
)
from cmon.recording.patches import Patches, count_registers, patch_embeddings
from cmon.records import FloatArray, LayerActivations

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

# Images whose pooled values may wait on the device: each fetch waits for all that the device has yet to do.
FETCH_EVERY = 1024

# What is done with the maps of a layer, (n, U, h, w) float32, while they are there.
Watch: TypeAlias = Callable[[str, "Tensor"], None]


@dataclass(frozen=True)
class Recorder:
    """Runs a network over images, and takes what is wanted of all layers in one pass.

    A unit is a channel of a map, (n, U, h, w) or as in Swin (n, h, w, U), a feature of a transformer's tokens
    (n, T, U), or a column of (n, U).

    Nothing after the last of the layers is computed, but in the first batch, which tells whether one runs twice.

    Args:
        layers: names of modules.
        pooling: over the positions of a map.
        tokens: what stands for an image in a sequence of tokens: the class token, which is the first; the mean of
            all; or the patches, pooled as a map's positions are.
        precision: of the forward pass; what is done with its outputs is done in float32 always.
        device: a torch device.
        prefix_tokens: how many tokens come before the patches; None where the model tells it.
    """

    layers: tuple[str, ...]
    pooling: Pooling = "mean"
    tokens: Tokens = "class"
    precision: str = "float32"
    device: str = "cpu"
    prefix_tokens: int | None = None

    def __call__(
        self, model: "nn.Module", batches: Iterable["Tensor"], images: int, watch: Watch | None = None
    ) -> tuple[LayerActivations, ...]:
        """Run the model over the batches and pool every layer to one number per image and unit.

        Args:
            model: in evaluation mode.
            batches: (n, 3, h, w) float32 tensors.
            images: how many there are in all.
            watch: called with each layer's maps too.

        Returns:
            One (images, U) float32 array a layer, in forward order.

        Raises:
            ModelError: for a layer that does not run exactly once a pass, or whose output has no units, or does not
                say which of its axes counts them.
            MemoryShortageError: where the batches are too large for the device.
            CheckpointError: for activations that are NaN or infinite.
        """
        import torch

        kept: dict[str, FloatArray] = {}
        pooled: dict[str, list[Tensor]] = {}
        position = waiting = 0

        def take(name: str, output: Output) -> None:
            pooled.setdefault(name, []).append(output.pooled(self.pooling, self.tokens))
            if watch is not None:
                watch(name, output.maps())

        def fetch() -> None:
            for name, parts in pooled.items():
                values = torch.cat(parts).cpu().numpy()
                kept.setdefault(name, np.empty((images, values.shape[1]), dtype=np.float32))
                kept[name][position : position + len(values)] = values
                parts.clear()

        for count in self._run(model, batches, take):
            waiting += count
            if waiting >= FETCH_EVERY:
                fetch()
                position, waiting = position + waiting, 0
        fetch()
        assert position + waiting == images, "as many images as were announced"
        return _finite(LayerActivations(name, values) for name, values in kept.items())

    def watch(self, model: "nn.Module", batches: Iterable["Tensor"], watch: Watch) -> None:
        """Run the model over the batches and show every layer's maps, without recording anything.

        Raises:
            ModelError: as for a call.
        """
        for _ in self._run(model, batches, lambda name, output: watch(name, output.maps())):
            pass

    def _run(
        self, model: "nn.Module", batches: Iterable["Tensor"], take: Callable[[str, Output], None]
    ) -> Iterator[int]:
        """Run batch after batch, giving every layer's output to `take`; yield the number of images after each."""
        import torch

        patches = Patches(self.prefix_tokens, count_registers(model))
        outputs, learns = Outputs(may_put_channels_last(model), patches), bool(patch_embeddings(model))
        seen = _Pass(outputs, take, self.device, self.layers, learns)
        # On a GPU, cuDNN rounds float32 convolutions to 10 bits unless it is told not to.
        full_precision = torch.backends.cudnn.flags(enabled=True, allow_tf32=False)
        hooked = self._hooked(model, seen)
        with torch.inference_mode(), full_precision, self._autocast(), patches.watching(model), hooked:
            try:
                for batch in batches:
                    if seen.learns:
                        self._run_batch(model, batch[:1], seen)
                        seen.learns = False
                    self._run_batch(model, batch, seen)
                    seen.ends_early = True
                    yield len(batch)
            except (MemoryError, RuntimeError) as error:
                if not is_out_of_memory(error):
                    raise
                raise _shortage(seen.outputs.images) from error

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

    def _run_batch(self, model: "nn.Module", batch: "Tensor", seen: "_Pass") -> None:
        import torch

        seen.begin(batch)
        try:
            with model_errors(batch):
                model(batch.to(self.device, memory_format=torch.channels_last, non_blocking=True))
        except _LastLayer:
            return
        idle = [name for name in self.layers if name not in seen.names]
        if idle:
            raise ModelError(
                f"layer {listing(idle)}", "does not run in a forward pass", "take it out of the run's layers"
            )


class MemoryShortageError(ModelError):
    """A batch is too large for the memory; a smaller one may do."""


@contextmanager
def model_errors(batch: "Tensor") -> Iterator[None]:
    """Turn what a model's code raises on a batch into a ModelError of one line; ours pass."""
    try:
        yield
    except CmonError:
        raise  # a hook's own
    except USER_CODE_ERRORS as error:
        if is_out_of_memory(error):
            raise _shortage(len(batch)) from error
        what = f"fails on images of shape {tuple(batch.shape[1:])}: {type(error).__name__}: {_first_line(error)}"
        hint = "look at the run's preprocess: does the model take images of this size?"
        raise ModelError("model", what, hint) from error


class _LastLayer(BaseException):
    """All layers have run: not an error, so that no handler in a model takes it for one."""


@dataclass
class _Pass:
    """One forward pass as its hooks see it.

    A pass that learns takes nothing. It is of one image: its tokens are more, and so are told from images, which a
    batch of as many images as tokens cannot do.
    """

    outputs: Outputs
    take: Callable[[str, Output], None]
    device: str
    layers: tuple[str, ...]
    learns: bool
    names: set[str] = field(default_factory=set)  # the layers that have run
    ends_early: bool = False

    def begin(self, batch: "Tensor") -> None:
        """Forget the last batch."""
        self.outputs.begin(batch)
        self.names.clear()

    def keep(self, name: str, module: "nn.Module", inputs: Any, output: Any) -> None:  # noqa: ARG002
        """Take a layer's output at once, before a later in-place layer can change it: the forward hook."""
        import torch

        if name in self.names:
            what, hint = "runs more than once in a forward pass", "choose the layer around it, or one that runs once"
            raise ModelError(f"layer {name}", what, hint)
        self.names.add(name)
        output = first_of(output)
        try:
            with torch.autocast(self.device.split(":")[0], enabled=False):
                read = self.outputs.read(name, module, output)
                if not self.learns:
                    self.take(name, read)
        except NoUnitsError as error:
            if self.learns:
                return  # the batch itself will say so, in its own shape
            raise ModelError(f"layer {name}", f"puts out {kind_of(output)}, {error.what}", error.hint) from None
        if self.ends_early and len(self.names) == len(self.layers):
            raise _LastLayer


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether an error is for want of memory; torch's allocator on the CPU raises a plain RuntimeError."""
    import torch

    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "allocate memory" in str(error)


def _shortage(images: int) -> MemoryShortageError:
    what = f"runs out of memory with {images} images at a time"
    hint = "set a smaller activations.batch_size, or a smaller preprocess.resize and crop"
    return MemoryShortageError("model", what, hint)


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
