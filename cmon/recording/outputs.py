"""What a layer puts out, read as units: which axis counts them, and which say where in the image."""

from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from cmon.recording.patches import Patches

if TYPE_CHECKING:
    from torch import Tensor, nn

Pooling: TypeAlias = Literal["mean", "max"]
Tokens: TypeAlias = Literal["class", "mean", "patches"]


class NoUnitsError(Exception):
    """An output cannot be read as units; it does not know of which layer."""

    def __init__(self, what: str, hint: str) -> None:
        super().__init__(what)
        self.what, self.hint = what, hint


@dataclass(frozen=True)
class Output:
    """One layer's output for a batch of n images.

    Args:
        kind: of the values: columns (n, U), a map (n, U, h, w), a series (n, U, t), or tokens (n, t, U).
        values: as the kind says, a view of the output itself.
        patches: of the same pass, where tokens have their places.
        units_last: did a map have its units last.
    """

    kind: Literal["columns", "map", "series", "tokens"]
    values: "Tensor"
    patches: Patches
    units_last: bool = False

    def pooled(self, pooling: Pooling, tokens: Tokens) -> "Tensor":
        """Reduce to (n, U) float32 of its own memory, without ever making a float32 copy of a map."""
        import torch

        values = self.values
        if self.kind == "columns":
            return values.to(torch.float32, copy=True)
        if self.kind == "tokens":
            return self._pooled_tokens(pooling, tokens)
        axes = (2, 3) if self.kind == "map" else (2,)
        return values.amax(axes).float() if pooling == "max" else values.mean(axes, dtype=torch.float32)

    def maps(self) -> "Tensor":
        """View as (n, U, h, w) float32: columns are one position, and tokens before the patches have no place."""
        if self.kind == "columns":
            return self.values[:, :, None, None].float()
        if self.kind == "map":
            return self.values.float()
        place = self.patches.find(self.values.shape[1]) if self.kind == "tokens" else None
        if place is None or place.grid is None:
            what = "whose positions have no place in the image, so that no mask can be compared with them"
            unset = "set the run's prefix_tokens, " if self.kind == "tokens" and self.patches.given is None else ""
            raise NoUnitsError(what, f"{unset}leave the layer out, or leave network_dissection out")
        images, _, units = self.values.shape
        return self.values[:, place.prefix :].mT.reshape(images, units, *place.grid).float()

    @property
    def prefix_tokens(self) -> int | None:
        """How many tokens come before the patches; None for what is not tokens, or where it cannot be told."""
        place = self.patches.find(self.values.shape[1]) if self.kind == "tokens" else None
        return place.prefix if place else None

    def _pooled_tokens(self, pooling: Pooling, tokens: Tokens) -> "Tensor":
        import torch

        values, prefix, count = self.values, self.prefix_tokens, self.values.shape[1]
        if tokens == "mean":
            return values.mean(1, dtype=torch.float32)
        if tokens == "class":
            if self.patches.lacks_class_token(count):
                unknown = ", or its prefix_tokens" if prefix is None else ""
                hint = f'set the run\'s tokens = "mean" or "patches"{unknown}'
                before = f"{prefix} registers and " if prefix else ""
                raise NoUnitsError(f"{before}a grid of patches without a class token", hint)
            return values[:, 0].to(torch.float32, copy=True)
        if prefix is None and self.patches.given is not None:
            what = f"{count} tokens, of which none is left after prefix_tokens = {self.patches.given}"
            raise NoUnitsError(what, 'leave the layer out, or set the run\'s tokens = "class" or "mean"')
        if prefix is None:
            what = f"{count} tokens, of which it is not known which are patches"
            raise NoUnitsError(what, "set the run's prefix_tokens, how many tokens come before the patches")
        values = values[:, prefix:]
        return values.amax(1).float() if pooling == "max" else values.mean(1, dtype=torch.float32)


@dataclass
class Outputs:
    """Reads the outputs of one forward pass after the other.

    Args:
        may_be_channels_last: can a layer that is none of torch's own put out (n, h, w, U).
        patches: of the network.
    """

    may_be_channels_last: bool
    patches: Patches = field(default_factory=Patches)
    images: int = 0
    size: tuple[int, int] = (0, 0)
    batch_first: set[str] = field(default_factory=set)  # layers whose first axis is known to count the images

    def begin(self, batch: "Tensor") -> None:
        """Say what goes into the network."""
        self.images, self.size = len(batch), (batch.shape[-2], batch.shape[-1])
        self.patches.begin(self.size)

    def read(self, name: str, module: "nn.Module", output: Any) -> Output:
        """Tell what a layer's output is.

        Raises:
            NoUnitsError: where it has no units, or does not say which of its axes counts them.
        """
        import torch

        if not isinstance(output, torch.Tensor) or output.ndim not in (2, 3, 4) or not output.is_floating_point():
            raise NoUnitsError("which has no units", "choose a convolution, linear or transformer layer")
        ambiguous = output.ndim == 3 and output.shape[1] == self.images > 1 and name not in self.batch_first
        if len(output) != self.images or ambiguous:
            self._refuse_batch(output)
        self.batch_first.add(name)
        if output.ndim == 2:
            return Output("columns", output, self.patches)
        if output.ndim == 3:
            return Output("series" if isinstance(module, _series_modules()) else "tokens", output, self.patches)
        units_last = self._positions(module, output) == (1, 2)
        return Output("map", output.permute(0, 3, 1, 2) if units_last else output, self.patches, units_last)

    def _refuse_batch(self, output: "Tensor") -> None:
        if len(output) != self.images:
            what, hint = f"for {self.images} images", "choose a layer that puts out one row an image"
        else:
            what = f"for {self.images} images, so that images and tokens cannot be told apart"
            hint = "set another activations.batch_size"
        raise NoUnitsError(what, hint)

    def _positions(self, module: "nn.Module", output: "Tensor") -> tuple[int, int]:
        """Say which two axes of a map are positions; the third counts the units.

        The type of the module says it, or the axes that are a grid of patches, or else those whose proportions are
        the image's: (n, U, h, w) for most networks, (n, h, w, U) for Swin and its kin. Where both could be, a
        network that normalises over the last axis anywhere may be either, and is refused; any other is (n, U, h, w).
        """
        from torch import nn

        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.BatchNorm2d | nn.GroupNorm):
            return 2, 3
        if type(module) in (nn.Linear, nn.LayerNorm, nn.RMSNorm):
            return 1, 2
        for fits in (self.patches.is_grid, partial(_proportioned, self.size)):
            first, last = (fits(*output.shape[k : k + 2]) for k in (2, 1))
            if first is not last:
                return (2, 3) if first else (1, 2)
        if self.may_be_channels_last and set(output.shape[1:]) != {1}:
            what = f"of which images of {self.size[0]} x {self.size[1]} do not say which axis counts the units"
            raise NoUnitsError(what, "choose a convolution, linear or LayerNorm layer within it")
        return 2, 3


def first_of(output: Any) -> Any:
    """Return the first of several outputs, of which a layer puts out a tuple, a list or transformers' ModelOutput."""
    if isinstance(output, dict) and hasattr(output, "to_tuple"):
        output = output.to_tuple()
    return output[0] if isinstance(output, tuple | list) and output else output


def kind_of(output: Any) -> str:
    """Say in words what an output is."""
    import torch

    return (
        f"a tensor of shape {tuple(output.shape)}" if isinstance(output, torch.Tensor) else f"a {type(output).__name__}"
    )


def may_put_channels_last(model: "nn.Module") -> bool:
    """Tell whether a network normalises over the last axis anywhere, as those do whose maps have their units last."""
    from torch import nn

    return any(isinstance(module, nn.LayerNorm | nn.RMSNorm) for module in model.modules())


def _proportioned(image: tuple[int, int], height: int, width: int) -> bool:
    """Tell whether a map may be a smaller image: exactly square for a square one, to within a position for others."""
    slack = 0 if image[0] == image[1] else max(image)
    return abs(height * image[1] - width * image[0]) <= slack


def _series_modules() -> "tuple[type[nn.Module], ...]":
    """Return torch's layers of one dimension, which put out (n, U, t)."""
    from torch import nn

    pooling = (nn.AvgPool1d, nn.MaxPool1d, nn.AdaptiveAvgPool1d, nn.AdaptiveMaxPool1d)
    return (nn.Conv1d, nn.BatchNorm1d, *pooling)
