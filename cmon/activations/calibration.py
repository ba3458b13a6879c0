"""The images that batch normalisation is recalibrated on: a sample in an order that a fixed seed shuffles.

All that is fixed here decides the statistics, and none of it can be configured: a change raises ALGORITHM["batchnorm"].
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from cmon.activations.images import decoded, seen
from cmon.config import Preprocess, Run
from cmon.errors import ProbeError, listing
from cmon.pixels import PixelCache
from cmon.recipes import Plan
from cmon.recording import pick_device
from cmon.records import Pixels
from cmon.work import Options, Outcome, Progress

if TYPE_CHECKING:
    from torch import Tensor

# Held in memory for all of a run: 0.75 GB at 224 pixels.
MOST_IMAGES = 5000
# Whatever activations.batch_size is: it decides the statistics.
AT_A_TIME = 128
SEED = 0


@dataclass(frozen=True)
class Calibration:
    """Some images as a run's network sees them: an iterable of (n, 3, h, w) float32 tensors, n alike to within one.

    Args:
        images: (I, h, w, 3), shuffled: in the order of their names they are often sorted by class, and batches of one
            class would vary less than the images do.
        preprocess: of the run.
        device: a torch device.
    """

    images: Pixels
    preprocess: Preprocess
    device: str

    def __iter__(self) -> Iterator["Tensor"]:
        batches = -(-len(self.images) // AT_A_TIME)
        for part in np.array_split(self.images, batches):
            yield from seen(part, self.preprocess, AT_A_TIME, self.device)


def sample(cache: PixelCache) -> Pixels:
    """Take up to MOST_IMAGES of the images, in an order that depends on nothing but how many there are."""
    order = np.random.default_rng(SEED).permutation(len(cache.index.ids)).astype(np.int32)
    return cache.take(order[:MOST_IMAGES])


def open_calibration(
    plan: Plan, run: Run, probe: PixelCache, options: Options, progress: Progress, outcome: Outcome
) -> Calibration:
    """Return the images that a run is recalibrated on: the probe's, or those that it names.

    Raises:
        ProbeError: where its images cannot be decoded, or are of another size than the probe's.
    """
    cache, whose = probe, "the probe"
    if run.batchnorm_images is not None:
        whose = str(run.batchnorm_images)
        try:
            cache = decoded(plan, run.preprocess, progress, options.profile, plan.calibration(run))
        except ProbeError as error:
            where = whose if error.where == "probe" else error.where
            raise ProbeError(f"batchnorm_images: {where}", error.what, error.hint) from error
    sizes = [f"{one.index.shape[2]}x{one.index.shape[1]}" for one in (cache, probe)]
    if sizes[0] != sizes[1]:
        what = f"its images are {sizes[0]}, those of the probe {sizes[1]}"
        raise ProbeError(f"batchnorm_images: {whose}", what, "set preprocess.resize and crop, so that they are alike")
    if cache is not probe and cache.index.skipped:
        skipped = cache.index.skipped
        outcome.warnings.append(f"{whose}: {len(skipped)} unreadable images left out: {listing(skipped)}")
    images = sample(cache)
    progress.line(f"run {run.name}: batch normalisation recalibrated on {len(images)} images of {whose}")
    return Calibration(images, run.preprocess, pick_device(options.device))
