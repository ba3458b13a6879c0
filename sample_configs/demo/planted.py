"""A network whose units are detectors by construction, to hold the method against.

Every weight is written down by scripts/plant.py from the concept world's own palette, patterns and outlines;
none is learned. The architecture is here, apart from the world, as any user's model file is.
"""

import torch
from torch import Tensor, nn

COLORS = 10
TEXTURES = 7
SHAPES = 10
PHASES = 16  # shifts of one pattern
PATCH = 9  # pixels, height and width of a pattern's piece
VIEWS = 12  # sizes and rotations of one outline
OUTLINE = 27  # half-pixels, height and width of an outline's window
REACH = 13  # half-pixels, height and width of where a fit shows


class Closeness(nn.Module):
    """How near each pixel is to each paint: 1 at the paint, 0 from a distance on.

    The distance is the sum of |pixel - paint| over RGB, made of two rectified differences a channel:
    (n, 3, h, w) to (n, paints, h, w) in [0, 1].
    """

    def __init__(self, paints: int) -> None:
        super().__init__()
        self.differences = nn.Conv2d(3, 6 * paints, 1)
        self.sum = nn.Conv2d(6 * paints, paints, 1)

    def forward(self, pixels: Tensor) -> Tensor:
        """Compute closeness."""
        return self.sum(self.differences(pixels).relu()).clamp(0.0, 1.0)


class Matches(nn.Module):
    """How well the best of several templates fits at each place, where it fits better than a threshold.

    (n, inputs, h, w) to (n, units, h, w), at least 0. Each unit has `templates` kernels and one bias.
    """

    def __init__(self, inputs: int, units: int, templates: int, size: int) -> None:
        super().__init__()
        self.units = units
        self.templates = nn.Conv2d(inputs, units * templates, size, padding=size // 2)

    def forward(self, maps: Tensor) -> Tensor:
        """Compute the fit above the threshold."""
        fits = self.templates(maps)
        return fits.unflatten(1, (self.units, -1)).amax(2).relu()


class Outlines(Matches):
    """The same for outlines, shown over the object and not at its centre alone, which a ring does not cover.

    (n, 1, h, w), the share of each pixel that is object, to (n, units, h, w), at least 0.
    """

    def forward(self, maps: Tensor) -> Tensor:
        """Compute the best fit near each pixel of the object."""
        return nn.functional.max_pool2d(super().forward(maps), REACH, stride=1, padding=REACH // 2) * maps


class Planted(nn.Module):
    """Units for colours, textures and shapes.

    Input (n, 3, 64, 64) in [0, 1]; outputs of `color` (n, 10, 64, 64), `texture` (n, 7, 64, 64), `shape`
    (n, 10, 32, 32), all at least 0; of the whole (n, 27): each unit's greatest value.
    """

    def __init__(self) -> None:
        super().__init__()
        self.paint = Closeness(COLORS + 1)  # the last is ink
        self.color = Matches(COLORS + 1, COLORS, 1, 3)
        self.texture = Matches(2, TEXTURES, PHASES, PATCH)
        self.shrink = nn.MaxPool2d(2)
        self.shape = Outlines(1, SHAPES, VIEWS, OUTLINE)

    def forward(self, pixels: Tensor) -> Tensor:
        """Compute each unit's greatest value."""
        paint = self.paint(pixels)
        color = self.color(paint)
        tone = paint[:, :-1].sum(1, keepdim=True).clamp(max=1.0)
        ink = paint[:, -1:]
        texture = self.texture(torch.cat([tone, ink], 1))
        shape = self.shape(self.shrink((tone + ink).clamp(max=1.0)))
        return torch.cat([maps.amax((2, 3)) for maps in (color, texture, shape)], 1)


def build() -> nn.Module:
    """Build the network; its weights come from the file that scripts/plant.py writes."""
    return Planted()
