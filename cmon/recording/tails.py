"""The activation that each unit exceeds at a stated share of all positions, in one pass of bounded memory."""

import math
from typing import TYPE_CHECKING

import numpy as np

from cmon.compiled import compiled
from cmon.recording.kernels import count_above, keep_above
from cmon.records import blocks

if TYPE_CHECKING:
    from torch import Tensor

# Values kept of a unit at each weight. Up to half as many wanted ones are kept without any error.
CAPACITY = 8192
LEAST = 512


class Thresholds:
    """Finds every layer's thresholds T, batch by batch.

    Args:
        images: how many there are in all.
        share: of the positions, above a threshold.
        device: a torch device.
    """

    def __init__(self, images: int, share: float, device: str = "cpu") -> None:
        self.images, self.share, self.device = images, share, device
        self._tails: dict[str, Tail] = {}

    def add(self, layer: str, maps: "Tensor") -> None:
        """Take in one layer's maps of a batch, (n, U, h, w) float32."""
        _, units, height, width = maps.shape
        if layer not in self._tails:
            self._tails[layer] = Tail(units, self.images * height * width, self.share, self.device)
        self._tails[layer].add(maps.permute(0, 2, 3, 1).reshape(-1, units))

    def values(self) -> dict[str, "Tensor"]:
        """Return the (U,) thresholds of each layer."""
        import torch

        with torch.inference_mode():  # in which the passes were made
            return {layer: tail.thresholds() for layer, tail in self._tails.items()}

    @property
    def rank_error(self) -> float:
        """The largest of all layers, as a share of positions."""
        return max(tail.rank_error for tail in self._tails.values())


class Tail:
    """The upper tail of many streams of values at once: exact while it fits into memory, then a sketch of it.

    It keeps what may still be among the wanted largest values. Where these are too many, two sorted runs of equal
    weight become one of double weight that holds every other value (Munro and Paterson 1980; Manku, Rajagopalan and
    Lindsay 1998), which can move a rank by that weight. Nothing is drawn at random.

    Args:
        units: U streams.
        positions: values that each stream will have in all, N.
        share: of the positions, above the quantile; 0.005 in Network Dissection.
        device: a torch device.
        capacity: values kept of a unit at each weight.
    """

    def __init__(self, units: int, positions: int, share: float, device: str = "cpu", capacity: int = CAPACITY) -> None:
        import torch

        place = share * (positions - 1)  # from the largest value down, as numpy's and torch's quantiles interpolate
        self.positions, self.rank = positions, math.floor(place)
        self.fraction = place - self.rank
        self.wanted = min(self.rank + 2, positions)
        self.size = min(capacity, max(LEAST, 2 * self.wanted))
        self.seen, self.error, self._skip = 0, 0, 1
        self._compiled = device == "cpu"
        self._bound = torch.full((units,), -math.inf, device=device)  # what is not above it cannot matter
        self._buffer = torch.full((units, self.size), -math.inf, device=device)
        self._filled = torch.zeros(units, dtype=torch.long, device=device)
        self._runs: list[Tensor | None] = []  # sorted, descending; the values of run i have the weight 2^i

    @property
    def rank_error(self) -> float:
        """By what share of all positions the true share above a threshold may differ from the asked one, at most."""
        return self.error / self.positions

    def add(self, values: "Tensor") -> None:
        """Take in (P, U) float32 values."""
        self.seen += len(values)
        for start in range(0, len(values), self.size):
            self._add(values[start : start + self.size])

    def thresholds(self) -> "Tensor":
        """Return the (U,) float32 quantiles, each between two values of its stream.

        They are those of numpy's `quantile(values, 1 - share)`, but for ranks that are off by `rank_error` at most.
        """
        assert self.seen == self.positions, "as many values as were announced"
        self._flush()
        ranks = (min(rank, self.wanted - 1) for rank in (self.rank, self.rank + 1))
        upper, lower = (self._ranked(rank).cpu().double() for rank in ranks)
        return (upper + (lower - upper) * self.fraction).float().to(self._bound.device)

    def _add(self, part: "Tensor") -> None:
        counts = self._passing(part)
        if int((self._filled + counts).max()) > self.size:
            self._flush()
            counts = self._passing(part)
        if self._compiled:
            values = (part, self._bound, self._buffer, self._filled)
            compiled(keep_above)(*(value.numpy() for value in values))
        else:
            self._keep(part, counts)

    def _passing(self, part: "Tensor") -> "Tensor":
        """Count the values above the bound, (U,) int64."""
        import torch

        if not self._compiled:
            return (part > self._bound).sum(0)
        counts = np.zeros(part.shape[1], np.int32)
        compiled(count_above)(part.numpy(), self._bound.numpy(), counts)
        return torch.from_numpy(counts)

    def _keep(self, part: "Tensor", counts: "Tensor") -> None:
        """Put the values above the bound into the buffer, on any device."""
        import torch

        unit, position = (part > self._bound).T.nonzero(as_tuple=True)
        first = self._filled - counts.cumsum(0) + counts
        slot = torch.arange(len(unit), device=unit.device) + first[unit]
        self._buffer[unit, slot] = part[position, unit]
        self._filled += counts

    def _flush(self) -> None:
        """Merge the buffer into the runs, raise the bound by it, and halve runs that are then too long."""
        import torch

        held = self._take(0)
        run = self._descending(self._buffer if held is None else torch.cat([held, self._buffer], 1))
        self._buffer.fill_(-math.inf)
        self._filled.zero_()
        self._bound = self._ranked(self.wanted - 1 + self.error, run)
        self._runs = [held if held is None else self._above_bound(held) for held in self._runs]
        run = self._above_bound(run)
        level = 0
        while run.shape[1] > self.size:
            # In turn the second and the first of each pair, so that errors of many halvings cancel.
            run = run[:, self._skip :: 2].contiguous()
            self._skip = 1 - self._skip
            self.error += 2**level
            level += 1
            if (held := self._take(level)) is not None:
                run = self._descending(torch.cat([held, run], 1))
        self._runs[level] = run

    def _descending(self, values: "Tensor") -> "Tensor":
        """Sort each row."""
        import torch

        if self._compiled:  # numpy sorts numbers alone, torch with indices, which takes ten times as long
            return torch.from_numpy(-np.sort(-values.numpy(), axis=1))
        ordered = values.clone()
        for rows in blocks(len(values), 12 * values.shape[1]):
            ordered[rows] = values[rows].sort(1, descending=True).values
        return ordered

    def _take(self, level: int) -> "Tensor | None":
        """Take the run of a level away."""
        if level == len(self._runs):
            self._runs.append(None)
        held, self._runs[level] = self._runs[level], None
        return held

    def _above_bound(self, run: "Tensor") -> "Tensor":
        """Cut the columns off in which no unit has a value above its bound."""
        above = int((run > self._bound[:, None]).sum(1).max())
        return run if above == run.shape[1] else run[:, :above].clone()

    def _ranked(self, rank: int, *runs: "Tensor") -> "Tensor":
        """Return the (U,) values that `rank` values are before, by weight; the bound where too few are kept."""
        import torch

        weighted = [(run, 1) for run in runs] + [(run, 2**i) for i, run in enumerate(self._runs) if run is not None]
        if len(weighted) == 1 and weighted[0][1] == 1:  # it is sorted
            run = weighted[0][0]
            return run[:, rank].maximum(self._bound) if rank < run.shape[1] else self._bound.clone()
        weighted.append((self._bound[:, None], 2**60))  # as often as is asked for
        weights = torch.cat([torch.full((run.shape[1],), w, device=run.device) for run, w in weighted])
        found = torch.empty_like(self._bound)
        for units in blocks(len(found), 32 * len(weights)):
            values, order = torch.cat([run[units] for run, _ in weighted], 1).sort(1, descending=True)
            column = (weights[order].cumsum(1) <= rank).sum(1, keepdim=True)
            found[units] = values.gather(1, column)[:, 0]
        return found
