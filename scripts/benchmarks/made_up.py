"""Make the workspace of a study up: what `activations` and `dissect` would have left, without a forward pass.

The numbers are plausible rather than true. Units drift from colours and textures over parts to scenes and get clearer,
so that words, scores and places change from checkpoint to checkpoint as in a training; no two places are equal; some
units are dead at first, some for good. All files are written by cmon's own writers under
current fingerprints. Only the full scores are left out, which neither `embed` nor `report` reads.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice, product
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from cmon.config import read_config
from cmon.recipes import Plan, Unit, plan_study
from cmon.records import (
    ALIVE,
    CONSTANT,
    DEAD,
    QUALITY,
    TOP_CONCEPTS,
    TOP_IMAGES,
    CheckpointActivations,
    CheckpointLabels,
    Evidence,
    LayerActivations,
    LayerLabels,
)
from cmon.stores import write_activations, write_evidence, write_labels
from cmon.work import provenance

LAYERS = {"layer2": 128, "layer3": 256, "layer4": 512}  # ResNet-18's
BRODEN = {"color": 10, "texture": 40, "material": 30, "part": 220, "object": 500, "scene": 400}
WORDS, DIMENSIONS, IMAGES, RESAMPLES = sum(BRODEN.values()), 512, 300, 100
STAGES = 4
CANDIDATES = 16  # concepts of a unit that come first in some resample
INTERPRETABLE = 2.2  # nats; what a random word's best score hardly reaches
PROBE = 64  # pixels, both sides


@dataclass(frozen=True)
class Training:
    """How the units of one layer change: S stages, each with a word that the unit is near at that time.

    Args:
        words: (S, U, D) the features of these words.
        own: (U, D) what each unit never loses, so that no two are at one place.
        clear: (U,) how far a unit gets to its last word, in [0.3, 1].
        wakes: (U,) the share of the training from which a unit is alive; above 1 for those that never are.
    """

    words: np.ndarray
    own: np.ndarray
    clear: np.ndarray
    wakes: np.ndarray

    @classmethod
    def of(cls, features: np.ndarray, units: int, depth: float, numbers: np.random.Generator) -> "Training":
        """Draw one; words are of later categories with every stage, and in deep layers."""
        latest = depth * np.linspace(0.2, 1.0, STAGES)[:, None] * len(BRODEN)
        category = (latest - numbers.exponential(1.0, (STAGES, units))).clip(0, len(BRODEN) - 1).astype(int)
        sizes = np.array(list(BRODEN.values()))
        words = (np.cumsum(sizes) - sizes)[category] + (numbers.random(category.shape) * sizes[category]).astype(int)
        wakes = np.where(numbers.random(units) < 0.08, numbers.random(units) * 0.3, 0.0)
        wakes[numbers.random(units) < 0.02] = 2.0
        own = numbers.normal(size=(units, features.shape[1])) * 0.02
        return cls(features[words], own, numbers.uniform(0.3, 1.0, units), wakes)

    def at(self, time: float, numbers: np.random.Generator) -> np.ndarray:
        """Return where the units are going at a time in [0, 1], (U, D)."""
        weights = np.exp(-0.5 * np.square((time - np.linspace(0, 1, len(self.words))) / 0.2))
        heading = np.einsum("s,sud->ud", weights / weights.sum(), self.words)
        sure = self.clear * (0.45 + 0.55 * time)
        noise = numbers.normal(size=self.own.shape, scale=0.015 * (1.2 - time))
        return (sure[:, None] * heading + self.own + noise).astype(np.float32)


def make(folder: Path, checkpoints: int, runs: int = 1, projection: str = "umap") -> Path:
    """Make a study up in an empty folder.

    Args:
        folder: it is made.
        checkpoints: of each run.
        runs: with equal numbers of checkpoints; the second and later ones start as the first.
        projection: of the config.

    Returns:
        The config.
    """
    numbers = np.random.default_rng(0)
    folder.mkdir(parents=True)
    names = [f"run_{run}" for run in range(runs)]
    for name in names:
        (folder / name).mkdir()
        for k in range(checkpoints):
            torch.save({"epoch": k, "state_dict": {"weight": torch.full((1,), float(k))}}, folder / name / f"{k:03}.pt")
    features = _inputs(folder, numbers)
    config = folder / "study.toml"
    config.write_text(_config(names, projection), encoding="utf-8")
    plan = plan_study(read_config(config))
    image_features = np.load(folder / "image_features.npy")
    evidence = Evidence(plan.probe.ids, plan.concepts, image_features, features)
    write_evidence(plan.evidence.path, plan.evidence.recipe, provenance(), evidence)
    for name in names:
        units = [unit for unit in plan.units if unit.run.name == name]
        _train(plan, units, evidence, numbers)
    plan.memory.save()
    return config


def _inputs(folder: Path, numbers: np.random.Generator) -> np.ndarray:
    """Write images, words and their features; return those of the words, (C, D) unit norm."""
    (folder / "probe").mkdir()
    images = [f"{number:04}.jpg" for number in range(IMAGES)]
    for name in images:
        coarse = Image.fromarray(numbers.integers(0, 256, (6, 6, 3), dtype=np.uint8))
        coarse.resize((PROBE, PROBE), Image.Resampling.BICUBIC).save(folder / "probe" / name, quality=90)
    categories = [category for category, count in BRODEN.items() for _ in range(count)]
    words = list(_words(WORDS))
    rows = [f"{word},{category}" for word, category in zip(words, categories, strict=True)]
    (folder / "concepts.csv").write_text("\n".join(["concept,category", *rows]), encoding="utf-8")
    common = numbers.normal(size=DIMENSIONS)
    kinds = {category: numbers.normal(size=DIMENSIONS) for category in BRODEN}
    themes = numbers.normal(size=(150, DIMENSIONS))[np.sort(numbers.integers(0, 150, WORDS))]
    features = common + 0.6 * np.array([kinds[category] for category in categories]) + 0.6 * themes
    features = _unit_rows(features + 0.6 * numbers.normal(size=features.shape))
    np.save(folder / "concept_features.npy", features)
    np.save(folder / "image_features.npy", _unit_rows(features[numbers.integers(0, WORDS, IMAGES)] + themes[:IMAGES]))
    (folder / "concepts.txt").write_text("\n".join(words), encoding="utf-8")
    (folder / "images.txt").write_text("\n".join(images), encoding="utf-8")
    return features


def _words(count: int) -> Iterator[str]:
    """Make up words as long as Broden's."""
    syllables = ("ba", "ker", "stri", "mo", "nel", "da", "fur", "sha", "lon", "pi", "ge", "tu")
    return islice(("".join(parts) for parts in product(syllables, repeat=3)), count)


def _unit_rows(values: np.ndarray) -> np.ndarray:
    return (values / np.linalg.norm(values, axis=1, keepdims=True)).astype(np.float32)


def _config(runs: list[str], projection: str) -> str:
    """Write the config: one detector with its default score, all of a report's defaults."""
    files = ("image_features", "images", "concept_features", "concepts")
    endings = (".npy", ".txt", ".npy", ".txt")
    anchors = list(islice(_words(WORDS), 0, WORDS, WORDS // 20))
    lines = ['workspace = "work"', "[probe]", 'path = "probe"', "[concepts]", 'file = "concepts.csv"']
    lines += ["[encoder]", 'kind = "features"', *(f'{n} = "{n}{e}"' for n, e in zip(files, endings, strict=True))]
    for run in runs:
        lines += ["[[run]]", f'name = "{run}"', f'checkpoints = "{run}/*.pt"', 'start = "one"']
        lines += ['model = "torchvision:resnet18"', f"layers = {json.dumps(list(LAYERS))}"]
    lines += ["[[detector]]", 'kind = "clip_dissect"', "[embed]", f"anchors = {json.dumps(anchors)}"]
    return "\n".join([*lines, f'projection = "{projection}"', ""])


def _train(plan: Plan, units: list[Unit], evidence: Evidence, numbers: np.random.Generator) -> None:
    """Write what is known of a run's checkpoints."""
    (table,) = plan.study.detector
    depths = np.linspace(0.5, 1.0, len(LAYERS))
    trainings = {
        name: Training.of(evidence.concept_features, size, depth, numbers)
        for (name, size), depth in zip(LAYERS.items(), depths, strict=True)
    }
    for k, unit in enumerate(units):
        time = k / max(len(units) - 1, 1)
        places = {name: training.at(time, numbers) for name, training in trainings.items()}
        layers = tuple(
            _labels(name, place, trainings[name].wakes > time, evidence, numbers) for name, place in places.items()
        )
        about = (evidence.concepts, evidence.image_ids, layers, {"epoch": k}, "nats", np.full(WORDS, -1, np.int64), 0.0)
        target = plan.similarity(table, unit)
        write_labels(target.path, target.recipe, provenance(), CheckpointLabels(*about))
        target = plan.activations(unit)
        responses = tuple(LayerActivations(name, _responses(place, evidence)) for name, place in places.items())
        recorded = CheckpointActivations(evidence.image_ids, responses, {"epoch": k}, 0.0)
        write_activations(target.path, target.recipe, provenance(), recorded, "mean")


def _responses(places: np.ndarray, evidence: Evidence) -> np.ndarray:
    return np.ascontiguousarray(evidence.image_features @ places.T)


def _labels(
    name: str, places: np.ndarray, asleep: np.ndarray, evidence: Evidence, numbers: np.random.Generator
) -> LayerLabels:
    """Say what a detector would of units that are somewhere, the words near a unit having the highest scores."""
    cosines = places @ evidence.concept_features.T
    scores = 12 * (cosines - cosines.mean(axis=1, keepdims=True))
    best = np.argpartition(-scores, CANDIDATES, axis=1)[:, :CANDIDATES]
    top = np.take_along_axis(scores, best, axis=1)
    noise = 0.25 * numbers.standard_normal((len(top), RESAMPLES, CANDIDATES), dtype=np.float32)
    words, values = _ordered(best, top)
    again_words, again = _ordered(np.broadcast_to(best[:, None], noise.shape), top[:, None] + noise)
    again += (values[:, 0] - again[..., 0].mean(axis=1))[:, None, None]
    images = np.argsort(-_responses(places, evidence).T, axis=1)[:, :TOP_IMAGES].astype(np.int32)
    alive = ~asleep
    state = np.where(alive, ALIVE, np.where(np.arange(len(places)) % 3, DEAD, CONSTANT)).astype(np.int8)
    for of_words, of_scores in ((words, values), (again_words, again)):
        of_words[asleep], of_scores[asleep] = -1, np.nan
    images[asleep] = -1
    quality = np.where(alive[:, None], numbers.random((len(places), len(QUALITY))), np.nan).astype(np.float32)
    return LayerLabels(
        name=name,
        scores=None,
        log_prior=None,
        top_concept=words,
        top_score=values,
        top_images=images,
        state=state,
        p_value=np.where(alive, np.exp(-values[:, 0].clip(0)), np.nan).astype(np.float32),
        interpretable=values[:, 0] >= INTERPRETABLE,
        resampled_concept=again_words,
        resampled_score=again,
        resampled_interpretable=again[..., 0] >= INTERPRETABLE,
        ranking=np.zeros((len(places), 0), np.int32),
        quality=quality,
        facts={"units": float(alive.sum())},
    )


def _ordered(words: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Take the best ten of the candidates, best first."""
    order = np.argsort(-scores, axis=-1)[..., :TOP_CONCEPTS]
    chosen = np.take_along_axis(words, order, axis=-1).astype(np.int32)
    return chosen, np.take_along_axis(scores, order, axis=-1).astype(np.float32)
