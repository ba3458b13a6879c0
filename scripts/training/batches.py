"""Batches of images: kept in memory or decoded on demand, augmented by draws that the seed and epoch decide."""

import argparse
import math
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from cmon.config import Preprocess
from cmon.probes.images import crop
from training.randomness import generator

PADDING = 4  # pixels around a small image before it is cropped at random
AHEAD = 4  # batches that are decoded before they are asked for
TEST_BATCH = 500
DRAWS = 5  # uniform numbers that augment an image: place down and across, flip, area and ratio of its crop


@dataclass(frozen=True)
class Images:
    """Labelled images of one size.

    Args:
        arguments: of the command line.
        labels: (n,) int64.
        preprocess: what a network sees of an image in testing.
        pixels: (n, h, w, 3) uint8 on the device; None where images are decoded on demand.
        read: decodes the image of an index to RGB.
        size: height and width in pixels of images that are decoded on demand.
    """

    arguments: argparse.Namespace
    labels: Tensor
    preprocess: Preprocess
    pixels: Tensor | None = None
    read: Callable[[int], Image.Image] | None = None
    size: int = 0

    def __len__(self) -> int:
        return len(self.labels)

    def only(self, rows: Tensor) -> "Images":
        """Keep some of the images: rows (m,) int64."""
        if self.pixels is not None:
            return replace(self, labels=self.labels[rows], pixels=self.pixels[rows.to(self.pixels.device)])
        read = self.read
        assert read is not None
        return replace(self, labels=self.labels[rows], read=lambda index: read(int(rows[index])))

    def steps(self) -> int:
        """Return how many batches an epoch has: the last one is left out unless it is whole, or the only one."""
        return max(1, len(self) // self.arguments.batch_size)

    def training_batches(self, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield (b, 3, h, w) float32 in [0, 1] and (b,) int64 on the device: an epoch in its order, augmented."""
        seed, size = self.arguments.seed, min(self.arguments.batch_size, len(self))
        order = torch.randperm(len(self), generator=generator(seed, "order", epoch))[: self.steps() * size]
        draws = torch.rand(len(self), DRAWS, generator=generator(seed, "augmentation", epoch))
        return self._batches(order, size, draws[order])

    def testing_batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield all images in order, as `training_batches` does, but not augmented."""
        size = TEST_BATCH if self.pixels is not None else self.arguments.batch_size
        return self._batches(torch.arange(len(self)), size, None)

    def _batches(self, order: Tensor, size: int, draws: Tensor | None) -> Iterator[tuple[Tensor, Tensor]]:
        device = self.arguments.device
        augmentation = draws.split(size) if draws is not None else [None] * math.ceil(len(order) / size)
        parts = list(zip(order.split(size), augmentation, strict=True))
        batches = self._kept(parts) if self.pixels is not None else self._decoded(parts)
        for (rows, _), pixels in zip(parts, batches, strict=True):
            # Images are stored with the channels last, and stay so: what convolutions are fastest on.
            yield pixels.permute(0, 3, 1, 2).to(device).float().div_(255), self.labels[rows].to(device)

    def _kept(self, parts: list[tuple[Tensor, Tensor | None]]) -> Iterator[Tensor]:
        pixels = self.pixels
        assert pixels is not None
        for rows, draws in parts:
            batch = pixels[rows.to(pixels.device)]
            yield batch if draws is None else crop_padded(batch, draws)

    def _decoded(self, parts: list[tuple[Tensor, Tensor | None]]) -> Iterator[Tensor]:
        pool = ThreadPoolExecutor(self.arguments.workers)
        waiting: deque[list[Future[np.ndarray]]] = deque()
        try:
            for rows, draws in parts:
                numbers = [None] * len(rows) if draws is None else draws.tolist()
                pairs = zip(rows.tolist(), numbers, strict=True)
                waiting.append([pool.submit(self._decode, row, drawn) for row, drawn in pairs])
                if len(waiting) > AHEAD:
                    yield _stacked(waiting.popleft())
            while waiting:
                yield _stacked(waiting.popleft())
        finally:
            pool.shutdown(cancel_futures=True)

    def _decode(self, row: int, drawn: list[float] | None) -> np.ndarray:
        assert self.read is not None
        image = self.read(row)
        if drawn is None:
            return crop(image, self.preprocess)
        return crop_resized(image, drawn, self.size, self.arguments.smallest_crop)


def _stacked(decoded: list["Future[np.ndarray]"]) -> Tensor:
    return torch.from_numpy(np.stack([image.result() for image in decoded]))


def crop_padded(pixels: Tensor, draws: Tensor) -> Tensor:
    """Crop images (b, h, w, 3), padded with black, at drawn places, and mirror those drawn; draws are (b, DRAWS)."""
    height, width = pixels.shape[1:3]
    padded = torch.nn.functional.pad(pixels, (0, 0, PADDING, PADDING, PADDING, PADDING))
    draws = draws.to(pixels.device)
    top, left = (draws[:, :2] * (2 * PADDING + 1)).long().T
    rows = top[:, None] + torch.arange(height, device=pixels.device)
    columns = left[:, None] + torch.arange(width, device=pixels.device)
    columns = torch.where(draws[:, 2:3] < 0.5, columns.flip(1), columns)
    images = torch.arange(len(pixels), device=pixels.device)
    return padded[images[:, None, None], rows[:, :, None], columns[:, None, :]]


def crop_resized(image: Image.Image, drawn: list[float], size: int, smallest: float) -> np.ndarray:
    """Cut a drawn part of at least the share `smallest` from an image, resize it to (size, size, 3), maybe flip it."""
    down, across, flip, area, ratio = drawn
    width, height = image.size
    area = (smallest + (1 - smallest) * area) * width * height
    stretch = math.exp((2 * ratio - 1) * math.log(4 / 3) / 2)  # the sides' ratio is between 3/4 and 4/3
    wide, high = min(width, math.sqrt(area) * stretch), min(height, math.sqrt(area) / stretch)
    left, top = across * (width - wide), down * (height - high)
    cut = image.resize((size, size), Image.Resampling.BILINEAR, box=(left, top, left + wide, top + high))
    pixels = np.asarray(cut, dtype=np.uint8)
    return pixels[:, ::-1].copy() if flip < 0.5 else pixels
