"""The probe as networks see it: decoded once, then batch by batch, with what each image shows."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from PIL import Image

from cmon import pixels
from cmon.config import Preprocess
from cmon.errors import ConfigError, ProbeError
from cmon.fingerprint import Recipe
from cmon.pixels import BLOCK, DECODERS, PixelCache
from cmon.probes import Labels, Probe, crop
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
        for block in self.cache.blocks():
            yield from seen(block, self.preprocess, self.size, self.device)


def seen(block: Pixels, preprocess: Preprocess, size: int, device: str) -> Iterator["Tensor"]:
    """Yield (n, 3, h, w) float32 tensors of at most `size` images of a (n, h, w, 3) block, normalised on the device."""
    import torch

    mean, std = (torch.tensor(values, device=device).view(3, 1, 1) for values in (preprocess.mean, preprocess.std))
    for part in torch.from_numpy(block).split(min(size, len(block))):  # type: ignore[no-untyped-call]
        # (n, h, w, 3) in memory is (n, 3, h, w) in channels-last: nothing is copied but the bytes themselves.
        images = part.to(device).permute(0, 3, 1, 2).float()
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


def decoded(
    plan: Plan, preprocess: Preprocess, progress: Progress, images: tuple[Probe, str] | None = None
) -> PixelCache:
    """Return the decoded images of the probe, from the cache or freshly decoded into it.

    Args:
        plan: of the study.
        preprocess: of a run.
        progress: where the decoding is counted.
        images: other ones than the probe's, with their fingerprint.
    """
    probe, fingerprint = images or (plan.probe, plan.probe_fingerprint)
    recipe = plan.pixels(preprocess, fingerprint)
    found = pixels.find(plan.workspace.pixels, recipe)
    if found is not None:
        return found

    def decode(index: int) -> Pixels | None:
        image = read_image(plan, probe, index)
        if image is None:
            return None
        try:
            return crop(image, preprocess)
        except ValueError as error:
            where = f"{probe.path}: {probe.ids[index]}"
            raise ProbeError(where, str(error), "set the run's preprocess.resize") from error

    progress.begin("decoding", len(probe.ids))
    cache = pixels.build(plan.workspace.pixels, recipe, probe.ids, decode, progress.advance)
    progress.end()
    pixels.prune(plan.workspace.pixels, _caches(plan))
    return cache


def _caches(plan: Plan) -> Iterator[Recipe]:
    """Yield the recipes of all caches that the study uses."""
    for run in plan.study.run:
        yield plan.pixels(run.preprocess)
        if run.batchnorm_images is not None:
            with suppress(ConfigError, ProbeError):  # what cannot be opened has no cache to keep
                yield plan.pixels(run.preprocess, plan.calibration(run)[1])


def read_image(plan: Plan, probe: Probe, index: int) -> Image.Image | None:
    """Decode one image; None for an unreadable one where the config says to skip it."""
    try:
        return probe.image(index)
    except ProbeError:
        if plan.study.probe.on_error == "skip":
            return None
        raise
