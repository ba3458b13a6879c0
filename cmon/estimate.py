"""What a study will take: minutes, disk and memory of all that is not current, from timed samples of the work."""

import shutil
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import repeat

import numpy as np
from PIL import Image

from cmon import pixels
from cmon.activations.images import batch_size, read_image, seen
from cmon.config import Detector, Run
from cmon.detectors import detector_from
from cmon.detectors.base import label_layer
from cmon.encoders import open_encoder
from cmon.errors import ProbeError
from cmon.fingerprint import fingerprint
from cmon.models import build_model, select_layers
from cmon.pixels import DECODERS
from cmon.probes import crop
from cmon.profiling import duration, mean_seconds, size_text
from cmon.recipes import Plan
from cmon.recording import Recorder, foldable, folded, pick_device
from cmon.records import TOP_CONCEPTS, TOP_IMAGES, Concepts, Evidence, LayerActivations, Pixels
from cmon.statistics import Draws, draw
from cmon.status import file_states
from cmon.work import Options, peak_memory_mib

TIMED = "batches of the probe's images"
# How much of each kind of work is done to time it.
IMAGES, SECONDS, UNITS, DRAWS = 64, 1.0, 64, 5
LEAST_IMAGES, COSINES = 500, 10**7
# What a pass that counts pixels takes, of one that records activations.
COUNTING = 1.2
# What a unit of a checkpoint takes `embed` and `report`, and these at least, in seconds: measured on two cores.
EMBED_S, REPORT_S, LEAST_S = 0.0007, 0.00005, 8.0
# The dimension of an image-text model's features, where it is not known without loading it.
DIMENSION = 512
# What the joint file holds of each resample of a unit while it is made, beside what it keeps; and a run's figures.
RESAMPLED_BYTES, REPORT_BYTES = 160, 5e6
# What a process has in memory that draws, or runs UMAP.
LIBRARIES_BYTES = 7e8


@dataclass(frozen=True)
class Estimate:
    """What one stage's work comes to.

    Args:
        what: is made.
        count: of what is to be made: images, files or figures.
        elapsed_s: for all of them.
        size_bytes: on disk.
        memory_bytes: of the process, at most; 0 where nothing is known of it.
        how: the time was found.
    """

    what: str
    count: int
    elapsed_s: float
    size_bytes: float
    memory_bytes: float
    how: str


def estimate_study(plan: Plan, options: Options) -> Iterator[Estimate]:
    """Yield estimates of all that is not current, in the order of the stages; nothing is written.

    Raises:
        CmonError: where images, models or the encoder cannot be used.
    """
    due = Counter(_owner(file.name) for file in file_states(plan) if not file.state.current)
    if not due:
        return
    runs = [Sample.of(plan, run, options) for run in plan.study.run]
    images, rows = len(plan.probe.ids), sum(_units_of(plan, one) for one in runs)
    undecoded = {fingerprint(plan.pixels(one.run.preprocess)): one for one in runs if not one.is_decoded}
    for one in undecoded.values():
        elapsed_s = images * one.decoding_s
        yield Estimate("decoded images", images, elapsed_s, images * one.image_bytes, 0, "some images")
    if due["evidence", ""]:
        yield _evidence(plan, options, runs[0])
    for one in runs:
        yield from _activations(plan, one, due)
    for table in plan.study.detector:
        for one in runs:
            if count := due[f"similarity/{table.name}", one.run.name]:
                yield _labels(plan, table, one, count)
    for table in plan.study.detector:
        if due[f"embedding/{table.name}", ""]:
            size = rows * (4 * DIMENSION + _kept_bytes(plan.testing(table).resamples))
            held = LIBRARIES_BYTES + size + RESAMPLED_BYTES * rows * plan.testing(table).resamples
            yield Estimate(f"embedding {table.name}", 1, LEAST_S + EMBED_S * rows, size, held, "the number of units")
    if due["report", ""]:
        drawn = len(plan.study.detector) * (LEAST_S + REPORT_S * rows)
        yield Estimate("report", 1, drawn, REPORT_BYTES * len(runs), LIBRARIES_BYTES, "the number of units")


def estimate_lines(plan: Plan, options: Options) -> list[str]:
    """Return the estimates as a table, with their sums and how much room there is."""
    estimates = list(estimate_study(plan, options))
    if not estimates:
        return ["all is current: nothing is left to do"]
    width = max(len(one.what) for one in estimates)
    lines = [f"{'to make':{width}}   count     time      disk    memory   timed on"]
    for one in estimates:
        memory = size_text(one.memory_bytes) if one.memory_bytes else ""
        spent, size = duration(one.elapsed_s), size_text(one.size_bytes)
        lines.append(f"{one.what:{width}} {one.count:7,} {spent:>8} {size:>9} {memory:>9}   {one.how}")
    elapsed_s, size = (sum(getattr(one, name) for one in estimates) for name in ("elapsed_s", "size_bytes"))
    memory = size_text(max(one.memory_bytes for one in estimates))
    lines.append(f"{'in all':{width}} {'':7} {duration(elapsed_s):>8} {size_text(size):>9} {memory:>9}   at most")
    root = plan.workspace.root
    free = shutil.disk_usage(next(path for path in (root, *root.parents) if path.exists()))
    lines.append(f"{size_text(free.free)} are free in {root}")
    return lines


@dataclass(frozen=True)
class Sample:
    """What some images of the probe took one run.

    Args:
        run: a training.
        is_decoded: are all images decoded already.
        decoding_s: seconds an image.
        pixels: (n, h, w, 3) the images.
        forward_s: seconds an image, for one forward pass with what is recorded in it.
        units: of each layer.
        memory_bytes: that the process had at most.
    """

    run: Run
    is_decoded: bool
    decoding_s: float
    pixels: Pixels
    forward_s: float
    units: tuple[int, ...]
    memory_bytes: float

    @classmethod
    def of(cls, plan: Plan, run: Run, options: Options) -> "Sample":
        """Decode some images, and run the network on them until a second has passed."""
        is_decoded = pixels.find(plan.workspace.pixels, plan.pixels(run.preprocess)) is not None
        start = time.perf_counter()
        block = _decoded(plan, run)
        decoding_s = (time.perf_counter() - start) / len(block) / DECODERS
        device, settings = pick_device(options.device), plan.study.activations
        model = build_model(run.model, run.model_args)
        layers = select_layers(model, run.layers)
        recorder = Recorder(layers, settings.pooling, run.tokens, settings.precision, device)
        pairs = foldable(model, layers)
        batch = next(seen(block, run.preprocess, batch_size(settings.batch_size, device), device))
        with folded(model.to(recorder.device), pairs):
            recorded = recorder(model, [batch], len(batch))  # slow: libraries make ready what they need
            both_s = mean_seconds(lambda: recorder(model, repeat(batch, 2), 2 * len(batch)), SECONDS)
        units = tuple(layer.values.shape[1] for layer in recorded)
        forward_s = both_s / (2 * len(batch))
        return cls(run, is_decoded, decoding_s, block, forward_s, units, peak_memory_mib() * 2**20)

    @property
    def image_bytes(self) -> int:
        """How large a decoded image is."""
        return int(np.prod(self.pixels.shape[1:]))


def _owner(name: str) -> tuple[str, str]:
    """Say what a file's work is counted with: its kind, with the detector's name, and the run's."""
    parts = name.removesuffix(".h5").split("/")
    kind = "/".join(parts[:2]) if parts[0] in ("similarity", "embedding") else parts[0]
    run = {"activations": 1, "counts": 1, "similarity": 2}.get(parts[0])
    return kind, parts[run].partition("~")[0] if run else ""


def _units_of(plan: Plan, one: Sample) -> int:
    """Count units over all checkpoints of a run."""
    return sum(one.units) * sum(unit.run is one.run for unit in plan.units)


def _decoded(plan: Plan, run: Run) -> Pixels:
    """Decode images from all over the probe."""
    chosen = np.unique(np.linspace(0, len(plan.probe.ids) - 1, IMAGES).astype(int)).tolist()
    found = [image for index in chosen if (image := read_image(plan, plan.probe, index)) is not None]
    if not found:
        raise ProbeError(plan.probe.path, f"none of {len(chosen)} images can be read", "look at probe.path")
    try:
        parts = [crop(image, run.preprocess) for image in found]
        return np.stack([part for part in parts if part.shape == parts[0].shape])
    except ValueError as error:
        raise ProbeError(plan.probe.path, str(error), "set the run's preprocess.resize") from error


def _evidence(plan: Plan, options: Options, one: Sample) -> Estimate:
    """Encode some images and words; precomputed features only need reading."""
    encoder = open_encoder(plan.study.encoder, pick_device(options.device), options.trust_pickle)
    images = len(plan.probe.ids) if "evidence" in plan.uses else 0
    words = plan.concepts.names[:IMAGES]
    word_s = mean_seconds(lambda: encoder.text_features(words, plan.study.concepts.prompt), SECONDS) / len(words)
    image_s = 0.0
    if images and plan.study.encoder.kind != "features":
        ids = plan.probe.ids[: len(one.pixels)]
        encoded_s = mean_seconds(lambda: encoder.image_features(ids, map(Image.fromarray, one.pixels)), SECONDS)
        image_s = encoded_s / len(ids)
    elapsed_s = images * (image_s + one.decoding_s) + len(plan.concepts.names) * word_s
    size = 4 * DIMENSION * (images + len(plan.concepts.names))
    return Estimate("evidence", 1, elapsed_s, size, peak_memory_mib() * 2**20, "some images and words")


def _activations(plan: Plan, one: Sample, due: Counter[tuple[str, str]]) -> Iterator[Estimate]:
    """Take both passes from the one that was timed; counting costs a little more than recording."""
    images, units, name = len(plan.probe.ids), sum(one.units), one.run.name
    recorded, counted = due["activations", name], due["counts", name]
    pass_s = images * one.forward_s
    held = one.memory_bytes + 4 * images * units + (1 + pixels.AHEAD) * pixels.BLOCK * one.image_bytes
    if recorded:
        yield Estimate(f"activations {name}", recorded, recorded * pass_s, 4.0 * recorded * images * units, held, TIMED)
    if counted:
        permutations, resamples, _ = plan.mask_draws
        concepts = len(plan.labels.concepts.names)
        size = units * (8 * concepts + 2 * (4 * permutations + 8 * TOP_CONCEPTS * resamples))
        held += units * concepts * (8 + 4 * (permutations + resamples + 2))
        passes = 1 if recorded else 2  # the first is the one in which activations are recorded, if they are
        elapsed_s = counted * passes * COUNTING * pass_s
        yield Estimate(f"counts {name}", counted, elapsed_s, float(counted * size), held, TIMED)


def _labels(plan: Plan, table: Detector, one: Sample, count: int) -> Estimate:
    """Label some made-up units, with some of the draws."""
    detector, testing = detector_from(table), plan.testing(table)
    images, units = len(plan.probe.ids), sum(one.units)
    of_masks = detector.uses == "counts"
    concepts = len((plan.labels.concepts if of_masks else plan.concepts).names)
    elapsed_s = 0.0 if of_masks else _labelling_s(plan, table, images, units, concepts)
    size = units * (4 * concepts + _kept_bytes(testing.resamples)) + 32 * images
    held = peak_memory_mib() * 2**20 + (0 if of_masks else 6 * images * concepts)
    how = "nothing: it is arithmetic" if of_masks else "some made-up units and draws"
    return Estimate(f"similarity {table.name} {one.run.name}", count, count * elapsed_s, count * size, held, how)


def _labelling_s(plan: Plan, table: Detector, images: int, units: int, concepts: int) -> float:
    """Time the labels of one checkpoint on few units, images and draws; what a unit adds is told by two numbers."""
    testing, random = plan.testing(table), np.random.default_rng(0)
    some = min(images, max(LEAST_IMAGES, COSINES // concepts))
    rows = [random.normal(size=(n, DIMENSION)).astype(np.float32) for n in (some, concepts)]
    words = Concepts(tuple(map(str, range(concepts))), ("",) * concepts)
    evidence = Evidence(tuple(map(str, range(some))), words, *(r / np.linalg.norm(r, axis=1)[:, None] for r in rows))
    activations = random.normal(size=(some, UNITS)).astype(np.float32)
    drawn = draw(some, min(testing.permutations, DRAWS), min(testing.resamples, DRAWS), 0)
    more = (testing.permutations + testing.resamples) / max(1, len(drawn.orders) + len(drawn.resamples))

    def label(count: int, draws: Draws) -> object:
        layer = LayerActivations("layer", activations[:, :count])
        return label_layer(detector_from(table), layer, evidence, testing.test, draws)

    label(UNITS, drawn)  # slow: what is worked out once a study
    few_s = mean_seconds(lambda: label(UNITS // 4, drawn), SECONDS)
    all_s = mean_seconds(lambda: label(UNITS, drawn), SECONDS)
    scored_s = mean_seconds(lambda: label(UNITS, draw(some, 0, 0, 0)), SECONDS)
    of_units = max(all_s - few_s, 0) / (UNITS - UNITS // 4)
    drawn_s = max(all_s - scored_s, 0) + of_units * (units - UNITS)
    return (scored_s * units / UNITS + max(drawn_s, 0) * more) * images / some


def _kept_bytes(resamples: int) -> int:
    """How large what is kept of a unit's words and images is."""
    return 8 * TOP_CONCEPTS + 4 * TOP_IMAGES + (8 * TOP_CONCEPTS + 1) * resamples
