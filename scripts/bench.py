"""Time cmon against its baselines, each pair in one process and on the same threads.

    make bench                      # on made-up images, with the demo's classifier and a ResNet-18
    CMON_DATA=data make bench       # on CIFAR-10's test images with a ResNet-20, and mini_broden.zip with a ResNet-18

recording   all that happens per checkpoint: reading and checking the decoded images, scaling, the forward pass, pooling
            in hooks; against the bare forward passes over the same images, already scaled and in memory.
counting    all that Network Dissection adds to that: thresholds in the same pass, then a second pass, with reading and
            decoding the masks, that counts pixels, also in 100 resamples of the images; against one bare forward pass.
draws       what 100 permutations and 100 resamples of the images take, for one layer of 960 units, 10,000 images and
            1,200 concepts of made-up features; their goals are 60 and 90 s.
thresholds  what finding thresholds takes, from made-up maps as large as a ResNet-18's layers 2 to 4: time an image,
            peak memory and the largest possible error, at 653 and at Broden's 63,305 images.

Ratios are medians over pairs, one of each in turn, since machines are noisy.
"""

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from concept_world import render, write_broden

from cmon import pixels
from cmon.activations import Batches, Labelled
from cmon.config import Preprocess, Probe
from cmon.detectors.drawing import null_scores, resampled_labels
from cmon.detectors.top_down import TopDownCorrelation
from cmon.detectors.wpmi import SoftWpmi
from cmon.models import build_model, select_layers
from cmon.probes import crop, open_labels, open_probe
from cmon.recording import Counter, Recorder, Thresholds
from cmon.records import Concepts, Evidence
from cmon.statistics import draw

DEMO_MODEL = Path(__file__).resolve().parents[1] / "sample_configs" / "demo" / "classifier.py"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--only", nargs="*", choices=["recording", "counting", "draws", "thresholds"])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--json", type=Path, help="also write the figures here")
    parser.add_argument("--thresholds-of", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.thresholds_of:
        print(json.dumps(find_thresholds(arguments.thresholds_of)))
        return
    machine = f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, {arguments.threads} threads"
    print(f"{machine}, torch {torch.__version__}, float32, medians of {arguments.pairs} pairs")
    timed = {"recording": time_recording, "counting": time_counting}
    rows = [time(arguments.pairs) for name, time in timed.items() if name in (arguments.only or timed)]
    for row in rows:
        print(f"{row['what']}: {row['cmon_s']:.2f} s against {row['baseline_s']:.2f} s, ratio {row['ratio']:.2f}")
    for row in time_draws() if "draws" in (arguments.only or ["draws"]) else ():
        rows.append(row)
        print(f"{row['what']}: {row['permutations_s']:.1f} s, {row['resamples_s']:.1f} s")
    if "thresholds" in (arguments.only or ["thresholds"]):
        for images in (653, 63_305):
            rows.append(row := measure_thresholds(images))
            print(
                f"thresholds over {images:,} images: {row['ms_per_image']:.2f} ms each, {row['peak_mib']} MiB at most,"
            )
            print(f"    error of at most {row['error']:.2g} of the positions")
    if arguments.json:
        arguments.json.write_text(json.dumps({"machine": machine, "rows": rows}, indent=2))


def time_recording(pairs: int) -> dict[str, object]:
    """Time the recording of every image against the bare forward passes."""
    data = data_folder()
    with tempfile.TemporaryDirectory() as folder:
        if data:
            probe = open_probe(Probe(kind="images", path=data / "cifar10_test.zip"))
            decode, ids = lambda i: crop(probe.image(i), Preprocess()), probe.ids
            source = f"{data / 'resnet20_epochs' / 'keras_resnet20.py'}:build"
            what = "recording ResNet-20, layers 1 to 3"
        else:
            made_up = np.random.default_rng(0).integers(0, 256, (10_000, 32, 32, 3), dtype=np.uint8)
            decode, ids = made_up.__getitem__, tuple(f"{i:05d}" for i in range(10_000))
            source, what = f"{DEMO_MODEL}:build", "recording the demo's classifier, layers 1 to 4"
        cache = pixels.build(Path(folder), {"bench": source}, ids, decode, lambda _: None)
        model = build_model(source, {}).to(memory_format=torch.channels_last)
        recorder = Recorder(select_layers(model, ["layer?"]))
        batches = Batches(cache, Preprocess(), 128, "cpu")
        forward = bare_forward(model, batches)
        return compare(f"{what}, {len(ids):,} images", lambda: recorder(model, batches, len(ids)), forward, pairs)


def time_counting(pairs: int) -> dict[str, object]:
    """Time both passes of Network Dissection over every image against one bare forward pass."""
    data = data_folder()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if data:
            path, preprocess = data / "mini_broden.zip", Preprocess()
        else:
            path, preprocess = folder / "world", Preprocess(resize=224)
            write_broden(render(300, seed=1), path)
        probe, labels = open_probe(Probe(kind="broden", path=path)), open_labels(path)
        ids = probe.ids
        cache = pixels.build(folder, {"bench": 1}, ids, lambda i: crop(probe.image(i), preprocess), lambda _: None)
        model = build_model("torchvision:resnet18", {}).to(memory_format=torch.channels_last)
        recorder = Recorder(select_layers(model, ["layer2", "layer3", "layer4"]))
        batches = Batches(cache, preprocess, 64, "cpu")
        groups = labels.concepts.groups(labels.categories)
        sizes = []

        def count() -> None:
            thresholds = Thresholds(len(ids), 0.005)
            recorder(model, batches, len(ids), thresholds.add)
            draws = draw(len(ids), 0, 100, 0)
            counter = Counter(thresholds.values(), groups, draws)
            recorder.watch(model, Labelled(batches, labels, draws.orders, counter.count), counter.add)
            sizes.append(sum(part.nbytes for one in counter.counts() for part in (one.intersection, one.unit_area)))

        what = f"counting for Network Dissection, ResNet-18, layers 2 to 4, {len(ids):,} images of 224 px"
        row = compare(what, count, bare_forward(model, batches), pairs)
        peak_mib = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
        return row | {"count_bytes": sizes[-1], "concepts": len(groups), "peak_mib": peak_mib}


def time_draws() -> Iterator[dict[str, object]]:
    """Time permutations and resamples of a large layer, for the default score and for the paper's."""
    images, units, concepts, count = 10_000, 960, 1_200, 100
    random = np.random.default_rng(0)
    features = [random.normal(size=(n, 512)).astype(np.float32) for n in (images, concepts)]
    features = [rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in features]
    words = Concepts(tuple(map(str, range(concepts))), ("",) * concepts)
    evidence = Evidence(tuple(map(str, range(images))), words, *features)
    activations = random.normal(size=(images, units)).astype(np.float32)
    permuted, resampled = draw(images, count, 0, 0), draw(images, 0, count, 0)
    for detector in (TopDownCorrelation(), SoftWpmi()):
        detector(activations, evidence)
        yield {
            "what": f"{detector.name}: {count} permutations, {count} resamples of {images:,} images, {units} units, "
            f"{concepts:,} concepts",
            "permutations_s": seconds(lambda detector=detector: null_scores(detector, activations, evidence, permuted)),
            "resamples_s": seconds(
                lambda detector=detector: resampled_labels(detector, activations, evidence, resampled)
            ),
        }


def measure_thresholds(images: int) -> dict[str, object]:
    """Find thresholds in a process of its own, for its peak memory."""
    command = [sys.executable, __file__, "--threads", str(torch.get_num_threads()), "--thresholds-of", str(images)]
    made = subprocess.run(command, capture_output=True, text=True, check=True)
    return {"what": "thresholds", "images": images, **json.loads(made.stdout)}


def find_thresholds(images: int) -> dict[str, float]:
    """Find thresholds over made-up maps, of another scale and shift in every batch."""
    random = torch.Generator().manual_seed(0)
    sizes = {"layer2": (128, 28), "layer3": (256, 14), "layer4": (512, 7)}
    maps = {name: torch.randn(64, units, side, side, generator=random) for name, (units, side) in sizes.items()}
    found, elapsed_s = Thresholds(images, 0.005), 0.0
    for start in range(0, images, 64):
        for name, made in maps.items():
            shift = 0.1 * torch.randn(1, made.shape[1], 1, 1, generator=random)
            batch = made[: images - start] * (0.5 + torch.rand(1, generator=random)) + shift
            batch = batch.contiguous(memory_format=torch.channels_last)
            elapsed_s += seconds(lambda name=name, batch=batch: found.add(name, batch))
    found.values()
    # Not getrusage, which on Linux begins with what the process that started this one had.
    peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    peak_mib = round(int(peak.split()[1]) / 1024)
    return {"ms_per_image": 1e3 * elapsed_s / images, "peak_mib": peak_mib, "error": found.rank_error}


def data_folder() -> Path | None:
    return Path(os.environ["CMON_DATA"]).resolve() if os.environ.get("CMON_DATA") else None


def bare_forward(model: torch.nn.Module, batches: Batches) -> Callable[[], None]:
    """Return the forward passes and nothing else, over images that are scaled and in memory."""
    ready = [batch.clone(memory_format=torch.channels_last) for batch in batches]

    def forward() -> None:
        with torch.inference_mode():
            for batch in ready:
                model(batch)

    return forward


def compare(what: str, ours: Callable[[], object], baseline: Callable[[], object], pairs: int) -> dict[str, object]:
    """Time two functions in turn, after a warm-up of each."""
    ours(), baseline()
    times = np.array([[seconds(ours), seconds(baseline)] for _ in range(pairs)])
    ratios = times[:, 0] / times[:, 1]
    medians = np.median(times, axis=0)
    row = {"what": what, "cmon_s": float(medians[0]), "baseline_s": float(medians[1])}
    return row | {"ratio": float(np.median(ratios)), "ratios": ratios.round(3).tolist()}


def seconds(function: Callable[[], object]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
