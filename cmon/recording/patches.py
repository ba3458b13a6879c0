"""Where the patches are in a sequence of tokens: how many tokens come before them, and the grid that they form."""

import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from torch import Tensor, nn

Grid: TypeAlias = tuple[int, int]

# Class, distillation and register tokens together: DINOv3 has five, and no network is known to have more than nine.
MOST_PREFIX_TOKENS = 16


@dataclass(frozen=True)
class Place:
    """Where the patches of a sequence are.

    Args:
        prefix: how many tokens come before them.
        grid: rows and columns of the patches; None where their number is no grid's.
    """

    prefix: int
    grid: Grid | None


@dataclass
class Patches:
    """Finds the patches in the sequences of one forward pass after the other.

    A patch embedding is a convolution of the image whose kernels lie side by side. While it is watched, the grid of
    its output is known, and what is longer than that has other tokens first. Networks that merge patches in squares
    of four have grids of half the sides too. What is as long as one of these, or one longer, is taken for it, and in
    a network without a patch embedding what is as long as some grid that divides the image.

    Args:
        given: the number of tokens before the patches, where the user has stated it.
        registers: how many of these are registers.
    """

    given: int | None = None
    registers: int = 0
    image: tuple[int, int] = (0, 0)
    _grids: set[Grid] = field(default_factory=set)

    @contextmanager
    def watching(self, model: "nn.Module") -> Iterator[None]:
        """Note the grids of a model's patch embeddings."""
        with ExitStack() as hooks:
            for embedding in patch_embeddings(model):
                hooks.callback(embedding.register_forward_hook(self._note).remove)
            yield

    def begin(self, image: tuple[int, int]) -> None:
        """Forget the last pass; say how high and wide the images are."""
        self.image = image
        self._grids.clear()

    def find(self, tokens: int) -> Place | None:
        """Say where the patches are among so many tokens; None where it cannot be told."""
        grids = self._merged() if self._grids else _dividing(self.image)
        if self.given is not None:
            return Place(self.given, grids.get(tokens - self.given)) if tokens > self.given else None
        if self._grids:
            before = {tokens - height * width: (height, width) for height, width in self._grids}
            found = min((count for count in before if 0 <= count <= MOST_PREFIX_TOKENS), default=None)
            if found is not None:
                return Place(found, before[found])
        for count in (0, 1):
            if grid := grids.get(tokens - count):
                return Place(count, grid)
        return None

    def lacks_class_token(self, tokens: int) -> bool:
        """Tell whether the first of so many tokens is known to be none that stands for the whole image."""
        place = self.find(tokens)
        if place is None:
            return self.registers > 0 or tokens in _dividing(self.image)
        return place.prefix <= self.registers

    def is_grid(self, height: int, width: int) -> bool:
        """Tell whether a map is as large as a patch embedding's, or as one that is merged from it."""
        return (height, width) in self._merged().values()

    def _note(self, module: "nn.Module", inputs: Any, output: "Tensor") -> None:  # noqa: ARG002
        self._grids.add((output.shape[-2], output.shape[-1]))

    def _merged(self) -> dict[int, Grid]:
        """Return the grids and those of half their sides, again and again, by their number of patches."""
        grids = set(self._grids)
        todo = list(grids)
        while todo:
            height, width = todo.pop()
            halves = {(height // 2, width // 2), (-(-height // 2), -(-width // 2))} - grids
            halves = {half for half in halves if half[0] * half[1] > 1}
            grids |= halves
            todo += halves
        return {height * width: (height, width) for height, width in sorted(grids) if height * width > 1}


def patch_embeddings(model: "nn.Module") -> "list[nn.Conv2d]":
    """List the convolutions of three channels whose kernels neither overlap nor leave anything out."""
    from torch import nn

    return [
        module
        for module in model.modules()
        if isinstance(module, nn.Conv2d)
        and module.in_channels == 3
        and module.kernel_size == module.stride
        and max(module.kernel_size) > 1
    ]


def count_registers(model: "nn.Module") -> int:
    """Count the register tokens of a model, by the names that timm, transformers and DINO give to their parameter."""
    named = re.compile(r"(.*\.)?(reg|register|storage)_tokens?")
    found = [value for name, value in model.named_parameters() if named.fullmatch(name) and value.ndim > 1]
    return sum(value.shape[-2] for value in found)


def _dividing(image: tuple[int, int]) -> dict[int, Grid]:
    """Return how many patches there can be, with their grid, for all sides of a patch that divide the image."""
    height, width = image
    sides = [side for side in range(1, min(image) + 1) if height % side == 0 and width % side == 0]
    grids = {(height // side) * (width // side): (height // side, width // side) for side in sides}
    return {count: grid for count, grid in grids.items() if count > 1}
