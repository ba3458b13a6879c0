"""One layer's pixels, added up over images as they are, permuted and resampled."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from cmon.recording.grids import Grid

if TYPE_CHECKING:
    from torch import Tensor

# An intersection is no larger than its unit's area, and a batch adds less than as much again.
HALF_OF_INT32 = 2**30


@dataclass
class Sums:
    """Pixels of a layer's units above their thresholds.

    Arrangement 0 gives every image its own labels, arrangement p those of permutation p. Group G is all categories
    together: images that carry any label. Draws are the resamples, then one half of the images, then the other.

    Args:
        both: (U, 1 + P, C) int32, within a concept's mask, by arrangement.
        area: (U, 1 + P, G + 1) int64, in the images that carry a label of a group, by arrangement.
        drawn_both: (U, C, B + 2) int32, within a concept's mask, by draw.
        drawn_area: (U, G + 1, B + 2) int64, in the images that carry a label of a group, by draw.
    """

    both: "Tensor"
    area: "Tensor"
    drawn_both: "Tensor"
    drawn_area: "Tensor"

    @classmethod
    def empty(cls, units: int, concepts: int, groups: int, arrangements: int, draws: int, device: str) -> "Sums":
        """Return zeros; `groups` is G + 1."""
        import torch

        return cls(
            both=torch.zeros((units, arrangements, concepts), dtype=torch.int32, device=device),
            area=torch.zeros((units, arrangements, groups), dtype=torch.int64, device=device),
            drawn_both=torch.zeros((units, concepts, draws), dtype=torch.int32, device=device),
            drawn_area=torch.zeros((units, groups, draws), dtype=torch.int64, device=device),
        )

    def add(self, units: "Tensor", inside: "Tensor", grid: Grid, weight: "Tensor") -> None:
        """Add one image.

        Args:
            units: (a,) int64, those above their threshold somewhere in it, each once.
            inside: (a, pixels) 1 where they are, else 0.
            grid: the masks of these pixels.
            weight: (B + 2,) int32, how often each draw holds the image.
        """
        # Few pixels are inside any unit. Sums of ones in float32 are exact up to 16 million, more than an image has.
        some = inside.amax(0).nonzero()[:, 0]
        both = (inside.index_select(1, some) @ grid.masks.index_select(1, some).T).int()
        area = inside.sum(1).long()[:, None]
        self.both[units[:, None], grid.arrangement, grid.concept] += both
        self.area[units[:, None], grid.group_arrangement, grid.group] += area
        if grid.own:
            unit, mask = both[:, : grid.own].nonzero(as_tuple=True)
            self.drawn_both[units[unit], grid.concept[mask]] += both[unit, mask][:, None] * weight
            self.drawn_area[units[:, None], grid.group[: grid.own_groups]] += area[:, :, None] * weight

    def widen(self) -> None:
        """Take integers of 64 bits once an intersection might need more than 31; it doubles the memory."""
        if max(int(self.area.max()), int(self.drawn_area.max())) >= HALF_OF_INT32:
            self.both, self.drawn_both = self.both.long(), self.drawn_both.long()
