"""The probe as networks see it: decoded once, then batch by batch, with what each image shows."""

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from PIL import Image

from cmon import masks, pixels
from cmon.cache import prune
from cmon.claims import claim
from cmon.config import Preprocess
from cmon.errors import ConfigError, ProbeError
from cmon.fingerprint import Recipe
from cmon.masks import MaskCache
from cmon.pixels import BLOCK, PixelCache
from cmon.probes import Probe, crop
from cmon.profiling import Profile
from cmon.recipes import Plan
from cmon.records import IntArray, PackedLabels, Pixels
from cmon.work import Progress

if TYPE_CHECKING:
    from torch import Tensor

Cache = TypeVar("Cache", PixelCache, MaskCache)
# On a CPU few images, whose maps stay in its caches: 128 at a time take ResNet-18 a third longer.
ON_CPU = 32


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


def batch_size(asked: int | None, device: str) -> int:
    """Return how many images to run at a time, where the config leaves it open."""
    return asked or (ON_CPU if device == "cpu" else BLOCK)


def seen(block: Pixels, preprocess: Preprocess, size: int, device: str) -> Iterator["Tensor"]:
    """Yield (n, 3, h, w) float32 tensors of at most `size` images of a (n, h, w, 3) block, normalised on the device."""
    import torch

    width = block.shape[2]
    # For a row of pixels, since a step that covers three numbers at a time is slow.
    mean, std = (torch.tensor(values, device=device).repeat(width) for values in (preprocess.mean, preprocess.std))
    for part in torch.from_numpy(block).split(min(size, len(block))):  # type: ignore[no-untyped-call]
        # A GPU fetches from pinned memory by itself, while earlier batches are computed.
        images = (part.pin_memory() if device.startswith("cuda") else part).to(device, non_blocking=True)
        rows = images.flatten(2).float().div_(255).sub_(mean).div_(std)
        # (n, h, w, 3) in memory is (n, 3, h, w) in channels-last: nothing is moved.
        yield rows.unflatten(2, (width, 3)).permute(0, 3, 1, 2)


@dataclass(frozen=True)
class Labelled:
    """The same batches; after each one, `count` is told what its images show.

    Args:
        batches: of I images.
        masks: of all images.
        orders: (P, I) permutations p, of which each gives image i the labels of image orders[p][i].
        count: takes, of every image of a batch, its own labels and those that the permutations give it.
    """

    batches: Batches
    masks: MaskCache
    orders: IntArray
    count: Callable[[Iterator[list[PackedLabels]]], None]

    def __iter__(self) -> Iterator["Tensor"]:
        start = 0
        for batch in self.batches:
            yield batch
            self.count(self._given(image) for image in range(start, start + len(batch)))
            start += len(batch)

    def _given(self, image: int) -> list[PackedLabels]:
        return list(self.masks.take([image, *self.orders[:, image].tolist()]))


def packed_masks(plan: Plan, cache: PixelCache, preprocess: Preprocess, progress: Progress) -> MaskCache:
    """Return the masks of the probe, from the cache or freshly read into it.

    All are read before any forward pass, so that a wrong one shows before hours of them.

    Args:
        plan: of the study.
        cache: the decoded images.
        preprocess: of a run.
        progress: where the reading is counted.

    Raises:
        ProbeError: naming the first mask that is wrong.
    """
    folder, recipe = plan.workspace.masks, plan.masks(preprocess)

    def build() -> MaskCache:
        ids = cache.index.ids
        progress.begin("masks", len(ids))
        made = masks.build(folder, recipe, ids, lambda name: plan.labels.of(name, preprocess), progress.advance)
        progress.end()
        progress.kept()
        prune(folder, (plan.masks(run.preprocess) for run in plan.study.run))
        return made

    return _made_once(plan, "masks", lambda: masks.find(folder, recipe), build, progress)


def decoded(
    plan: Plan, preprocess: Preprocess, progress: Progress, profile: Profile, images: tuple[Probe, str] | None = None
) -> PixelCache:
    """Return the decoded images of the probe, from the cache or freshly decoded into it.

    Args:
        plan: of the study.
        preprocess: of a run.
        progress: where the decoding is counted.
        profile: where it is timed.
        images: other ones than the probe's, with their fingerprint.
    """
    probe, fingerprint = images or (plan.probe, plan.probe_fingerprint)
    folder, recipe = plan.workspace.pixels, plan.pixels(preprocess, fingerprint)

    def decode(index: int) -> Pixels | None:
        image = read_image(plan, probe, index)
        if image is None:
            return None
        try:
            return crop(image, preprocess)
        except ValueError as error:
            where = f"{probe.path}: {probe.ids[index]}"
            raise ProbeError(where, str(error), "set the run's preprocess.resize") from error

    def build() -> PixelCache:
        progress.begin("decoding", len(probe.ids))
        with profile.part("decoding images"):
            made = pixels.build(folder, recipe, probe.ids, decode, progress.advance)
        progress.end()
        progress.kept()
        prune(folder, _caches(plan))
        return made

    return _made_once(plan, "images", lambda: pixels.find(folder, recipe), build, progress)


def _made_once(
    plan: Plan, what: str, find: Callable[[], Cache | None], build: Callable[[], Cache], progress: Progress
) -> Cache:
    """Return a cache that is there, or build it, unless another process is at it: then wait for that."""
    if (found := find()) is not None:
        return found
    with claim(plan.workspace.claim(what), lambda: progress.wait(f"another process reads the {what}")):
        return find() or build()


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
