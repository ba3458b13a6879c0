"""Both passes of Network Dissection over every image, against two bare forward passes; and what thresholds take.

What is timed on cmon's side is all that happens per checkpoint from the second one on: both passes with the reading of
decoded images and packed masks, thresholds, counting in 100 resamples of the images, alone and with 20 permutations of
their masks, and the best concepts of all of these. The bare passes are two of the same network in float32, in the same
layout and batches, over images that are scaled and in memory; those with the normalisation folded in, as cmon does,
stand beside them. The network is a ResNet-18 with layers 2 to 4 at 224 px, the images are mini_broden's, or of a
made-up world where CMON_DATA is not set.

Thresholds are found over made-up maps as large as these layers', at 653 and at Broden's 63,305 images, in a process of
its own for its peak memory.
"""

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
from concept_world import render, write_broden

from benchmarks.processes import in_new_process, memory_bytes
from benchmarks.rows import Row, compare, seconds
from cmon import masks, pixels
from cmon.activations import Batches, Labelled
from cmon.activations.images import batch_size
from cmon.config import Preprocess, Probe
from cmon.masks import MaskCache
from cmon.models import build_model, select_layers
from cmon.probes import Labels, crop, open_labels, open_probe
from cmon.recording import Counter, Recorder, Thresholds, foldable, folded
from cmon.statistics import draw

SHARE, RESAMPLES, MADE_UP = 0.005, 100, 300
SIZES = {"layer2": (128, 28), "layer3": (256, 14), "layer4": (512, 7)}


def rows(pairs: int) -> Iterator[Row]:
    """Measure both passes, without and with permutations, and the thresholds' error and memory."""
    with tempfile.TemporaryDirectory() as name:
        one = Dissected.of(Path(name))
        for permutations in (0, 20):
            yield one.against_bare_forward(permutations, pairs)
    for images in (653, 63_305):
        found = in_new_process(find_thresholds, images)
        what = f"thresholds over {images:,} images"
        yield Row(f"{what}: possible error, of all positions", 100 * found["error"], "%", 0.005, figures=found)
        yield Row(f"{what}: peak memory", found["peak_mib"], "MiB", 1024, figures=found)


@dataclass(frozen=True)
class Dissected:
    """A probe, decoded, and a network that is dissected over it."""

    batches: Batches
    labels: Labels
    masks: MaskCache
    masks_s: float
    model: torch.nn.Module
    layers: tuple[str, ...]

    @classmethod
    def of(cls, folder: Path) -> "Dissected":
        """Decode images and masks into a folder."""
        if data := os.environ.get("CMON_DATA"):
            path, preprocess = Path(data).resolve() / "mini_broden.zip", Preprocess()
        else:
            path, preprocess = folder / "world", Preprocess(resize=224)
            write_broden(render(MADE_UP, seed=1), path)
        probe, labels = open_probe(Probe(kind="broden", path=path)), open_labels(path)
        ids = probe.ids
        cache = pixels.build(folder, {"bench": 1}, ids, lambda i: crop(probe.image(i), preprocess), lambda _: None)
        packed: list[MaskCache] = []

        def read() -> None:
            shown = masks.build(folder, {"bench": 2}, ids, lambda name: labels.of(name, preprocess), lambda _: None)
            packed.append(shown)

        masks_s = seconds(read)
        model = build_model("torchvision:resnet18", {}).to(memory_format=torch.channels_last)
        batches = Batches(cache, preprocess, batch_size(None, "cpu"), "cpu")
        return cls(batches, labels, packed[0], masks_s, model, select_layers(model, list(SIZES)))

    def against_bare_forward(self, permutations: int, pairs: int) -> Row:
        """Time both passes against two of the network alone."""
        images, words = len(self.batches.cache.index.ids), len(self.labels.concepts.names)
        bare = compare(lambda: self.dissect(permutations), self.forward(fold=False), pairs)
        figures = bare | {
            "folded": compare(lambda: self.dissect(permutations), self.forward(fold=True), max(1, pairs // 2)),
            "over_two_passes_ms_per_image": 1e3 * (bare["cmon_s"] - bare["baseline_s"]) / images,
            "reading_masks_once_s": self.masks_s,
            "concepts": words,
        }
        what = f"Network Dissection, ResNet-18, layers 2 to 4, {images} images of 224 px, {RESAMPLES} resamples"
        what += f", {permutations} permutations" if permutations else ""
        return Row(f"{what}: time over two bare forward passes", bare["ratio"], "x", 1.3, figures=figures)

    def dissect(self, permutations: int) -> None:
        """Do what cmon does for a checkpoint."""
        images = len(self.batches.cache.index.ids)
        recorder, thresholds = Recorder(self.layers), Thresholds(images, SHARE)
        draws = draw(images, permutations, RESAMPLES, 0)
        with folded(self.model, foldable(self.model, self.layers)):
            recorder(self.model, self.batches, images, thresholds.add)
            counter = Counter(thresholds.values(), self.labels.concepts.groups(self.labels.categories), draws)
            shown = Labelled(self.batches, self.masks, draws.orders, counter.count)
            recorder.watch(self.model, shown, counter.add)
        counter.counts()

    def forward(self, fold: bool) -> Callable[[], None]:
        """Return two passes and nothing else, over images that are scaled and in memory."""
        ready = [batch.clone(memory_format=torch.channels_last) for batch in self.batches]
        pairs = foldable(self.model, self.layers)

        def run() -> None:
            with torch.inference_mode(), folded(self.model, pairs) if fold else nullcontext():
                for batch in (*ready, *ready):
                    self.model(batch)

        return run


def find_thresholds(images: int) -> dict[str, float]:
    """Find thresholds over made-up maps, of another scale and shift in every batch."""
    random = torch.Generator().manual_seed(0)
    maps = {name: torch.randn(64, units, side, side, generator=random) for name, (units, side) in SIZES.items()}
    found, elapsed_s = Thresholds(images, SHARE), 0.0
    Thresholds(64, SHARE).add("compiled now", maps["layer4"])
    for start in range(0, images, 64):
        for name, made in maps.items():
            shift = 0.1 * torch.randn(1, made.shape[1], 1, 1, generator=random)
            batch = made[: images - start] * (0.5 + torch.rand(1, generator=random)) + shift
            batch = batch.contiguous(memory_format=torch.channels_last)
            elapsed_s += seconds(lambda name=name, batch=batch: found.add(name, batch))
    found.values()
    peak_mib = round(memory_bytes("VmHWM") / 2**20)
    return {"ms_per_image": 1e3 * elapsed_s / images, "peak_mib": peak_mib, "error": found.rank_error}
