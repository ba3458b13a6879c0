"""Activations of a ResNet-18 at 224 px, from the second checkpoint on, against bare forward passes and CLIP-Dissect.

What is timed on cmon's side is all that happens per checkpoint: reading the weights, reading and checking the decoded
images, scaling them, the forward passes with their hooks, writing the file. The bare forward passes are of the same
network in the same precision, layout and batches, over images that are scaled and in memory, and of all its layers;
those with the normalisation folded in as cmon does stand beside them. The published procedure decodes JPEG files of
500 x 375 pixels anew at every checkpoint, and saves its activations.

How many words bfloat16 changes is measured where words mean something: on epochs of a trained network, with an
encoder's features of real images, if CMON_DATA has them.
"""

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import torch
from published import clip_dissect_recording, clip_dissect_scores

from benchmarks.image_study import MEAN, STD, make_study
from benchmarks.rows import Row, compare
from cmon.activations import Batches, Forward, Task
from cmon.activations.images import batch_size, decoded
from cmon.checkpoints import load_into, read_checkpoint
from cmon.config import Preprocess, Probe, read_config
from cmon.console import Quiet
from cmon.detectors.top_down import TopDownCorrelation
from cmon.detectors.wpmi import SoftWpmi
from cmon.models import build_model, select_layers
from cmon.probes import crop, open_probe
from cmon.recipes import Plan, plan_study
from cmon.recording import Recorder, foldable, folded, pick_device
from cmon.records import Concepts, Evidence, FloatArray
from cmon.statistics import top_images
from cmon.stores import read_activations
from cmon.work import Options

MODEL, LAYERS, IMAGES = "torchvision:resnet18", ["layer2", "layer3", "layer4"], 1_000
EPOCHS = ("epoch_003", "epoch_006", "epoch_012", "epoch_024")


def rows(pairs: int) -> Iterator[Row]:
    """Measure speed in both precisions, agreement with the published procedure, and words under bfloat16."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        preprocess = f"{{resize = 256, crop = 224, mean = {MEAN}, std = {STD}}}"
        config = make_study(folder / "study", MODEL, LAYERS, 2, IMAGES, (500, 375), preprocess)
        for precision, times in (("float32", 1.8), ("bfloat16", 3.5)):
            one = Recorded.of(config, precision)
            yield _against_bare_forward(one, precision, pairs)
            against = compare(one.record, lambda one=one: one.publish(folder), 1)
            what = f"activations, ResNet-18, {IMAGES:,} JPEGs, {precision}: times as fast as published, per checkpoint"
            yield Row(what, 1 / against["ratio"], "x", times, at_most=False, figures=against)
            if precision == "float32":
                yield one.difference(folder)
    if data := os.environ.get("CMON_DATA"):
        yield from _words_in_bfloat16(Path(data))


class Recorded:
    """A study of which one checkpoint is recorded, as often as is asked."""

    def __init__(self, plan: Plan, precision: str) -> None:
        run = plan.study.run[0]
        self.plan, self.device = plan, pick_device("auto")
        self.model = build_model(run.model, run.model_args)
        layers = select_layers(self.model, run.layers)
        self.recorder = Recorder(layers, "mean", run.tokens, precision, self.device)
        cache = decoded(plan, run.preprocess, Quiet(), Options().profile)
        self.batches = Batches(cache, run.preprocess, batch_size(None, self.device), self.device)
        self.pairs = foldable(self.model, layers)
        self.forward = Forward(plan, self.model, self.pairs, self.recorder, self.batches, None, None, Options(), {})
        unit = plan.units[1]
        self.task = Task(unit, plan.activations(unit), None)

    @classmethod
    def of(cls, config: Path, precision: str) -> "Recorded":
        study = read_config(config)
        settings = study.activations.model_copy(update={"precision": precision})
        return cls(plan_study(study.model_copy(update={"activations": settings})), precision)

    def record(self) -> None:
        """Do what cmon does for a checkpoint."""
        self.forward(self.task, Quiet())
        if self.device != "cpu":
            torch.cuda.synchronize()

    def publish(self, folder: Path) -> None:
        """Do what is published for it."""
        unit = self.plan.units[1]
        model = build_model(MODEL, {})
        model.load_state_dict(torch.load(unit.checkpoint.path, weights_only=True)["state_dict"])
        images = self.plan.study.probe.path
        clip_dissect_recording.record(model.to(self.device), LAYERS, images, folder, MEAN, STD)

    def difference(self, folder: Path) -> Row:
        """Compare the published scores of published activations with cmon's of its own.

        It is L that is compared, which the prior, a mean over the layer's units, does not touch. Two images whose
        activations differ by no more than rounding may change places, and this moves their unit's scores: such units
        stand among the figures.
        """
        encoder = self.plan.study.encoder
        features = [np.load(path) for path in (encoder.image_features, encoder.concept_features)]
        probability = clip_dissect_scores.probabilities(*(torch.from_numpy(rows).double() for rows in features))
        words = Concepts(tuple(map(str, range(len(features[1])))), ("",) * len(features[1]))
        evidence = Evidence(self.plan.probe.ids, words, *features)
        off, relative, ordered = [], [], []
        for layer in read_activations(self.task.activations.path, "mean").layers:
            theirs = torch.load(folder / f"{layer.name}.pt")
            off.append(np.abs(layer.values - theirs.numpy()).max() / np.abs(layer.values).max())
            # Which of equal activations are the top ones is anyone's choice.
            apart = (np.diff(np.sort(theirs.numpy(), axis=0)[-101:], axis=0) > 0).all(axis=0)
            best = clip_dissect_scores.top_images(theirs[:, apart])
            published = clip_dissect_scores.soft_wpmi(best, probability, lam=0.0).numpy()
            ours = layer.values[:, apart]
            relative.append(np.abs(SoftWpmi(lam=0.0)(ours, evidence).values / published - 1).max(axis=1))
            ordered.append((top_images(ours, len(best)) == best.numpy().T).all(axis=1))
        same, difference = np.concatenate(ordered), np.concatenate(relative)
        figures = {
            "activations": float(max(off)),
            "units": len(same),
            "units_in_another_order": int((~same).sum()),
            "greatest_in_these": float(difference[~same].max(initial=0)),
        }
        what = "soft-WPMI's L, published throughout and cmon's, float32: greatest relative difference"
        return Row(what, float(difference[same].max()), "", 1e-4, figures=figures)


def _against_bare_forward(one: Recorded, precision: str, pairs: int) -> Row:
    ready = [batch.clone(memory_format=torch.channels_last) for batch in one.batches]
    model = one.model.to(one.device, memory_format=torch.channels_last)

    def forward(fold: bool) -> Callable[[], None]:
        def run() -> None:
            autocast = torch.autocast(one.device, torch.bfloat16, enabled=precision == "bfloat16")
            with torch.inference_mode(), autocast, folded(model, one.pairs) if fold else nullcontext():
                for batch in ready:
                    model(batch)
            if one.device != "cpu":
                torch.cuda.synchronize()

        return run

    bare = compare(one.record, forward(fold=False), pairs)
    rate = IMAGES / bare["cmon_s"]
    figures = bare | {"folded": compare(one.record, forward(fold=True), pairs), "images_per_s": rate}
    figures["broden_x_30_checkpoints_min"] = 63_305 * 30 / rate / 60
    what = f"activations, ResNet-18 at 224, {IMAGES:,} images, {precision}: time over the bare forward passes"
    return Row(what, bare["ratio"], "x", 1.08, figures=figures)


def _words_in_bfloat16(data: Path) -> Iterator[Row]:
    """Compare top words between precisions, of a ResNet-20 at four epochs, under CIFAR-10's 10,000 test images."""
    probe = open_probe(Probe(kind="images", path=data / "cifar10_test.zip"))
    pixels = np.stack([crop(probe.image(index), Preprocess()) for index in range(len(probe.ids))])
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2).float().div_(255)
    words = tuple((data / "cifar10_test_features" / "concepts.txt").read_text().splitlines())
    features = [np.load(data / "cifar10_test_features" / f"{name}_features.npy") for name in ("image", "concept")]
    features = [(rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32) for rows in features]
    evidence = Evidence(probe.ids, Concepts(words, ("",) * len(words)), *features)
    model = build_model(f"{data / 'resnet20_epochs' / 'keras_resnet20.py'}:build", {})
    layers = select_layers(model, ["layer?"])
    equal: dict[str, list[np.ndarray]] = {"top_down": [], "soft_wpmi": []}
    for epoch in EPOCHS:
        path = data / "resnet20_epochs" / f"{epoch}.pt"
        load_into(model, read_checkpoint(path, None, "raw", False), path)
        model.to(memory_format=torch.channels_last)
        exact, rounded = (
            Recorder(layers, precision=precision)(model, images.split(128), len(images))
            for precision in ("float32", "bfloat16")
        )
        for detector in (TopDownCorrelation(), SoftWpmi()):
            tops = [
                [_top_words(detector, layer.values, evidence) for layer in recorded] for recorded in (exact, rounded)
            ]
            equal[detector.name] += [one == other for one, other in zip(*tops, strict=True)]
    for name, found in equal.items():
        same = np.concatenate(found)
        what = (
            f"top words equal in bfloat16 and float32, {name}, ResNet-20 at {len(EPOCHS)} epochs, {len(words):,} words"
        )
        yield Row(what, 100 * float(same.mean()), "%", 99, at_most=False, figures={"units": len(same)})


def _top_words(detector: Callable[..., object], activations: FloatArray, evidence: Evidence) -> np.ndarray:
    """Return the best word of every unit that is not constant."""
    values = activations[:, np.ptp(activations, axis=0) > 1e-6 * np.abs(activations).max(axis=0)]
    return detector(values, evidence).values.argmax(axis=1)
