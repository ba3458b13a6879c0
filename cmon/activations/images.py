"""The probe as networks see it: decoded once, then batch by batch, with what each image shows."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

from PIL import Image

from cmon import pixels
from cmon.config import Preprocess
from cmon.errors import ProbeError
from cmon.pixels import BLOCK, DECODERS, PixelCache
from cmon.probes import Labels, crop
from cmon.recipes import Plan
from cmon.records import ImageLabels, IntArray, Pixels
from cmon.work import Progress

if TYPE_CHECKING:
    from torch import Tensor

# Images whose masks are held at once: by permutations each has many, and counting them takes all processors too.
AT_A_TIME = 16


@dataclass(frozen=True)
class Batches:
    """The probe as a run's network sees it: an iterable of (n, 3, h, w) float32 tensors on a device."""

    cache: PixelCache
    preprocess: Preprocess
    size: int
    device: str

    def __iter__(self) -> Iterator["Tensor"]:
        import torch

        mean, std = (
            torch.tensor(values, device=self.device).view(3, 1, 1)
            for values in (self.preprocess.mean, self.preprocess.std)
        )
        for block in self.cache.blocks():
            for part in torch.from_numpy(block).split(min(self.size, len(block))):  # type: ignore[no-untyped-call]
                # (n, h, w, 3) in memory is (n, 3, h, w) in channels-last: nothing is copied but the bytes themselves.
                images = part.to(self.device).permute(0, 3, 1, 2).float()
                yield images.div_(255).sub_(mean).div_(std)


@dataclass(frozen=True)
class Labelled:
    """The same batches; after each one, `count` is told what its images show.

    Args:
        batches: of I images.
        labels: of all images.
        orders: (P, I) permutations p, of which each gives image i the labels of image orders[p][i].
        count: takes, of every image of a batch, its own labels and those that the permutations give it.
    """

    batches: Batches
    labels: Labels
    orders: IntArray
    count: Callable[[Iterator[list[ImageLabels]]], None]

    def __iter__(self) -> Iterator["Tensor"]:
        start = 0
        with ThreadPoolExecutor(DECODERS) as pool:
            for batch in self.batches:
                yield batch
                self.count(self._shown(pool, range(start, start + len(batch))))
                start += len(batch)

    def _shown(self, pool: ThreadPoolExecutor, images: range) -> Iterator[list[ImageLabels]]:
        for some in range(0, len(images), AT_A_TIME):
            yield from list(pool.map(self._given, images[some : some + AT_A_TIME]))

    def _given(self, image: int) -> list[ImageLabels]:
        ids, preprocess = self.batches.cache.index.ids, self.batches.preprocess
        return [self.labels.of(ids[number], preprocess) for number in (image, *self.orders[:, image].tolist())]


def check_masks(labels: Labels, cache: PixelCache, preprocess: Preprocess, progress: Progress) -> None:
    """Read every mask once, so that a wrong one shows before hours of forward passes.

    Raises:
        ProbeError: naming the first wrong one.
    """
    ids = cache.index.ids
    progress.begin("masks", len(ids))
    with ThreadPoolExecutor(DECODERS) as pool:
        for start in range(0, len(ids), BLOCK):
            names = ids[start : start + BLOCK]
            progress.advance(sum(1 for _ in pool.map(lambda name: labels.of(name, preprocess), names)))
    progress.end()


def decoded(plan: Plan, preprocess: Preprocess, progress: Progress) -> PixelCache:
    """Return the probe's decoded images, from the cache or freshly decoded into it."""
    recipe = plan.pixels(preprocess)
    found = pixels.find(plan.workspace.pixels, recipe)
    if found is not None:
        return found

    def decode(index: int) -> Pixels | None:
        image = read_image(plan, index)
        if image is None:
            return None
        try:
            return crop(image, preprocess)
        except ValueError as error:
            where = f"{plan.probe.path}: {plan.probe.ids[index]}"
            raise ProbeError(where, str(error), "set the run's preprocess.resize") from error

    progress.begin("decoding", len(plan.probe.ids))
    cache = pixels.build(plan.workspace.pixels, recipe, plan.probe.ids, decode, progress.advance)
    progress.end()
    pixels.prune(plan.workspace.pixels, [plan.pixels(run.preprocess) for run in plan.study.run])
    return cache


def read_image(plan: Plan, index: int) -> Image.Image | None:
    """Decode one image; None for an unreadable one where the config says to skip it."""
    try:
        return plan.probe.image(index)
    except ProbeError:
        if plan.study.probe.on_error == "skip":
            return None
        raise
