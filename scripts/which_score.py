"""Print how often each score over concepts gives a unit its right word, in situations where that is known.

    python scripts/which_score.py --json build/which_score.json

Rows are scores: cmon's own detectors, then some that cmon does not have. Columns are situations; cells are percent
right, with the half-width of their 95 % interval. Below the table is what each column is, and here where truth is from:

- planted: 64 synthetic units each, activation = strength x presence of a word + noise. "net" is scripts/plant.py's
  network with noise of each unit's spread.
- trained: units of layers 2 to 4 of the demo's classifier, at every epoch and several seeds. Truth is the word whose
  presence the activation predicts best, by average precision over all images, less chance; only units with a clear
  truth, or all units. The encoder is the demo's; or a flat one, like CLIP: cosines around 0.2, 0.03 apart, most of that
  each word's and each image's own offset, and noise. Foreign words have constant cosines, noise, or random mixtures.
- demo: the units of `make demo`'s own workspace, where Network Dissection has labels too.
- cifar10: the ResNet-20 of sample_configs/cifar10_resnet20.toml at 12 checkpoints. A word's class is the class name
  nearest to it by text. Truth is a class, by average precision as above; "c10 top" has all units of layer 3, their
  truth the class most frequent among the top 100 images, which favours scores of the top 100 images.

Units that are not alive do not count. Intervals are over seeds, of the network and of the probe; over units where there
is one network (demo, cifar10).
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from check_cifar10 import class_names, true_classes, word_classes
from concept_world import World, render, words
from plant import TRUTH, planted_network
from scipy.stats import t as student
from train_demo_classifier import EPOCHS, build_classifier
from world_truth import average_precision, cosines

from cmon.detectors.base import Detector, label_layer
from cmon.detectors.clip_dissect import (
    CosSimilarity,
    CosSimilarityCubed,
    RankReorder,
    SoftWpmi,
    TopDownCorrelation,
    Wpmi,
)
from cmon.detectors.study_prior import relabel, study_log_prior
from cmon.records import ALIVE, Concepts, Evidence, LayerActivations, Scores
from cmon.statistics import Test, draw, top_images, unit_states
from cmon.stores import read_activations, read_evidence, read_labels

ROOT = Path(__file__).resolve().parents[1]
ENCODER = ROOT / "sample_configs" / "demo" / "encoder"
LAYERS = ("layer2", "layer3", "layer4")
PROBE_IMAGES, PROBE_SEED = 3000, 3000  # seeds of nothing else
UNITS = 64
DEMO_PROBE = 3000, 1  # images and seed, as `make demo` renders it
# A truth is clear where the best word's average precision beats chance by half of it, and the next word by a quarter.
LEAST_GAIN, LEAST_LEAD = 0.5, 0.25
SLOW = 1000  # words from which rank_reorder is not tried
COLUMNS = {
    "mixed": "planted: of words at random, at three strengths",
    "crowded": "planted: of four words, or all of one",
    "two": "planted: of two words at once, or of either",
    "odd": "planted: with heavy tails, rectified, or with two outlying images",
    "rare": "planted: of words on a few of some 1,500 images, flat encoder, 300 foreign words",
    "hard": "planted: mixed, crowded, two and odd with the flat encoder and 300 foreign words",
    "net": "planted: a network built by hand, noise added",
    "own": "trained, clear truth: the demo's encoder and words",
    "+20": "trained, clear truth: with 20 foreign words",
    "+300": "trained, clear truth: with 300 foreign words",
    "flat": "trained, clear truth: flat encoder",
    "flat+": "trained, clear truth: flat encoder, 300 foreign words",
    "all": "trained, all units: the demo's encoder and words",
    "all+": "trained, all units: flat encoder, 300 foreign words",
    "demo": "trained, clear truth: the units of `make demo`",
    "c10 1": "cifar10, layer1, clear truth",
    "c10 2": "cifar10, layer2, clear truth",
    "c10 3": "cifar10, layer3, clear truth",
    "c10 top": "cifar10, layer3, all units: class of the top 100 images",
}


@dataclass(frozen=True, eq=False)
class Study:
    """One layer of U units at K checkpoints, against the words of one encoder.

    Args:
        checkpoints: (I, U) activations each.
        evidence: of these I images and C words.
        right: of every column that counts these units the words that are right, (K x U, C) bool; none of a unit that
            does not count: where the truth is not clear, or the unit is not alive.
        cluster: (K x U,) what of a unit is independent of others: of which network, or which unit of the one network.
    """

    checkpoints: list[np.ndarray]
    evidence: Evidence
    right: dict[str, np.ndarray]
    cluster: np.ndarray


def study_of(
    checkpoints: list[np.ndarray], evidence: Evidence, right: dict[str, np.ndarray], cluster: int | np.ndarray
) -> Study:
    """Make a study in which units count only where they are alive.

    Args:
        checkpoints: (I, U) each.
        evidence: of C words.
        right: (K x U, W) each, of the first W words; others are never right.
        cluster: one for all, or (U,).
    """
    parts = [part.astype(np.float32) for part in checkpoints]
    alive = np.concatenate([unit_states(part) == ALIVE for part in parts])[:, None]
    count = len(evidence.concepts.names)
    wide = {name: np.pad(one & alive, ((0, 0), (0, count - one.shape[1]))) for name, one in right.items()}
    return Study(parts, evidence, wide, np.tile(np.broadcast_to(cluster, parts[0].shape[1]), len(parts)))


def evidence_with(cosine: np.ndarray) -> Evidence:
    """Make evidence whose cosines are exactly these, (I, C)."""
    images, count = cosine.shape
    concepts = Concepts(tuple(f"word {c}" for c in range(count)), ("",) * count)
    ids = tuple(f"{i:05}" for i in range(images))
    return Evidence(ids, concepts, cosine.astype(np.float32), np.eye(count, dtype=np.float32))


def standardised(columns: np.ndarray) -> np.ndarray:
    """Take off means and divide by standard deviations; 0 for a column that is constant but for rounding."""
    centred = columns - columns.mean(axis=0, dtype=np.float64)
    spread = centred.std(axis=0)
    varies = spread > 1e-6 * np.abs(columns).max(axis=0)
    return (centred / np.where(varies, spread, 1) * varies).astype(np.float32)


# Scores: a study -> the place of each unit's word, (K x U,), -1 where it is not alive.

Scoring = Callable[[Study], np.ndarray]


def label(study: Study, detector: Detector, prior: str = "layer") -> np.ndarray:
    """Label the units as cmon does: under their layer's prior at one checkpoint, or at all of them."""
    nothing, test = draw(len(study.checkpoints[0]), 0, 0, 0), Test()
    # Without a prior a unit's word does not depend on the others.
    parts = study.checkpoints if isinstance(detector, Wpmi) else [np.hstack(study.checkpoints)]
    labels = [label_layer(detector, LayerActivations("", part), study.evidence, test, nothing) for part in parts]
    if prior == "study":
        log_prior, null = study_log_prior(labels), np.empty(0, np.float32)
        labels = [relabel(detector, one, log_prior, study.evidence, test, nothing, null) for one in labels]
    return np.concatenate([one.top_concept[:, 0] for one in labels])


def shipped() -> dict[str, Scoring]:
    """Return cmon's own scores."""
    scores: dict[str, Scoring] = {}
    temperatures = {"a 10": SoftWpmi(), "a auto": SoftWpmi(a="auto"), "a auto .12": SoftWpmi(a="auto", a_spread=0.12)}
    for name, detector in temperatures.items():
        for lam in (1.0, 0.6, 0.3, 0.0):
            scores[f"soft_wpmi {name}, lam {lam:g}"] = partial(label, detector=replace(detector, lam=lam))
        scores[f"soft_wpmi {name}, study"] = partial(label, detector=detector, prior="study")
    others = {one.name: one for one in (Wpmi(), CosSimilarity(), CosSimilarityCubed(), RankReorder())}
    others |= {f"top_down, power {power:g}": TopDownCorrelation(power) for power in (1, 2, 2.5, 3, 4)}
    return scores | {name: partial(label, detector=detector) for name, detector in others.items()}


def candidates() -> dict[str, Scoring]:
    """Return scores that cmon does not have."""
    made = {
        "image prior, a auto": partial(image_prior, in_deviations=False),
        "image prior z, a auto": partial(image_prior, in_deviations=True),
        "top z, 100 images": partial(correlation, weigh=partial(among_top, count=100)),
        "top z, 200 images": partial(correlation, weigh=partial(among_top, count=200)),
        "top z of log Pt, a 10": partial(correlation, weigh=partial(among_top, count=100), of=log_probability),
        "correlation": partial(correlation, weigh=np.asarray),
        "correlation, relu(z)^2": partial(correlation, weigh=lambda values: np.maximum(standardised(values), 0) ** 2),
    }
    return {name: partial(label, detector=detector) for name, detector in made.items()}


def image_prior(activations: np.ndarray, evidence: Evidence, in_deviations: bool) -> Scores:
    """L less its mean over random sets of images, as a sum over 10 values of p; divided by its deviation over them."""
    detector, mean, variance = SoftWpmi(a="auto"), 0.0, 0.0
    every = np.arange(len(activations), dtype=np.int32)[:, None]
    for member in detector.membership()[5::10]:
        terms = replace(detector, top_k=1, p_start=member).log_likelihood(every, evidence)
        mean, variance = mean + 10 * terms.mean(axis=0), variance + 10 * terms.var(axis=0)
    above = detector.log_likelihood(top_images(activations, 100), evidence) - mean
    return Scores(above / np.sqrt(np.maximum(variance, 1e-12)) if in_deviations else above, None, {})


def correlation(
    activations: np.ndarray,
    evidence: Evidence,
    weigh: Callable[[np.ndarray], np.ndarray],
    of: Callable[[Evidence], np.ndarray] = lambda evidence: evidence.cosines,
) -> Scores:
    """Correlate (I, U) weights of the images with the cosines, or with what else is made of the evidence, (I, C)."""
    return Scores(standardised(weigh(activations)).T @ standardised(of(evidence)), None, {})


def among_top(activations: np.ndarray, count: int) -> np.ndarray:
    """Weigh a unit's top images by 1, others by 0: what correlates best has the greatest mean z-score among the top."""
    weights = np.zeros(activations.shape, np.float32)
    np.put_along_axis(weights, top_images(activations, count).T, 1, axis=0)
    return weights


def log_probability(evidence: Evidence) -> np.ndarray:
    return np.log(evidence.probability(10.0))


# Situations


def flat(cosine: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Make an encoder's cosines like CLIP's: offsets of words and images, and noise, outweigh the signal."""
    images, count = cosine.shape
    gain = 0.012 * np.exp(0.4 * random.standard_normal(count))
    offset = 0.2 + 0.02 * random.standard_normal(count) + 0.01 * random.standard_normal((images, 1))
    return offset + gain * standardised(cosine) + 0.012 * random.standard_normal(cosine.shape)


def with_foreign(cosine: np.ndarray, count: int, random: np.random.Generator) -> np.ndarray:
    """Add words that no image shows: nearly constant cosines, noise, and random mixtures of the others' cosines."""
    spread = cosine.std(axis=0).mean()
    noise = random.standard_normal((len(cosine), count))
    mixture = standardised(cosine) @ random.standard_normal((cosine.shape[1], count))
    kind = np.arange(count) % 3
    shape = np.where(kind == 0, 1e-3 * noise, np.where(kind == 1, noise, mixture / mixture.std(axis=0)))
    return np.hstack([cosine, cosine.mean() + spread * (random.standard_normal(count) + shape)])


def truth(activations: np.ndarray, presence: np.ndarray, clear_only: bool) -> np.ndarray:
    """Mark each unit's one right word, (N, C) bool; none where the truth is not clear and only clear ones count."""
    chance = presence.mean(axis=0)
    gain = average_precision(activations, presence) - chance
    best, ordered = gain.argmax(axis=1), np.sort(gain, axis=1)
    lead = ordered[:, -1] - ordered[:, -2]
    clear = (ordered[:, -1] >= LEAST_GAIN * chance[best]) & (lead >= LEAST_LEAD * ordered[:, -1])
    return np.eye(len(chance), dtype=bool)[best] & (clear[:, None] if clear_only else True)


def planted(
    presence: np.ndarray, cosine: np.ndarray, random: np.random.Generator, seed: int, column: str | None = None
) -> Iterator[Study]:
    """Yield layers of synthetic units, of one column if it is given."""
    count, evidence = presence.shape[1], evidence_with(cosine)
    signal, names = presence.astype(np.float64), np.eye(count, dtype=bool)

    def layer(
        name: str, words: np.ndarray, strength: float = 2.0, shape: Callable[[np.ndarray], np.ndarray] = np.asarray
    ) -> Study:
        activations = shape(strength * signal[:, words] + random.standard_normal((len(presence), len(words))))
        return study_of([activations], evidence, {column or name: names[words]}, seed)

    def pairs(combine: np.ufunc, strength: float) -> Study:
        color, other = random.integers(0, 10, UNITS), random.integers(10, 27, UNITS)
        activations = strength * combine(signal[:, color], signal[:, other])
        activations += random.standard_normal(activations.shape)
        return study_of([activations], evidence, {column or "two": names[color] | names[other]}, seed)

    def at_random(among: int = count) -> np.ndarray:
        return random.choice(random.permutation(count)[:among], UNITS)

    def rectified(x: np.ndarray) -> np.ndarray:
        return np.maximum(x - 3, 0)

    def outlying(x: np.ndarray) -> np.ndarray:
        return x + 50 * (random.random(x.shape) < 2 / len(x))

    yield from (layer("mixed", at_random(), strength) for strength in (1, 2, 4))
    yield from (layer("crowded", at_random(among)) for among in (4, 1))
    yield from (pairs(np.minimum, 3), pairs(np.maximum, 2))
    yield from (layer("odd", at_random(), shape=shape) for shape in (np.exp, rectified, outlying))


def planted_rare(presence: np.ndarray, cosine: np.ndarray, random: np.random.Generator, seed: int) -> Study:
    """Thin out half of the colours and of the shapes to a few images each, and plant units of these words."""
    rare = np.concatenate([random.permutation(10)[:5], 17 + random.permutation(10)[:5]])
    kept = random.random(len(presence)) < np.prod(np.where(presence[:, rare], 0.01, 1), axis=1)
    presence = presence[kept]
    words = random.choice(rare[presence[:, rare].any(axis=0)], UNITS)
    activations = 3.0 * presence[:, words] + random.standard_normal((len(presence), UNITS))
    evidence = evidence_with(with_foreign(flat(cosine[kept], random), 300, random))
    return study_of([activations], evidence, {"rare": np.eye(presence.shape[1], dtype=bool)[words]}, seed)


def planted_net(
    stored: dict[str, np.ndarray], evidence: Evidence, random: np.random.Generator, seed: int
) -> Iterator[Study]:
    """Mix noise into the planted network's units."""
    for layer, names in TRUTH.items():
        values = stored[f"planted {layer}"]
        noisy = values + values.std(axis=0) * random.standard_normal(values.shape)
        yield study_of([noisy], evidence, {"net": np.array([[a == b for b in words()] for a in names])}, seed)


def concept_world(stored: dict[str, np.ndarray], seed: int) -> Iterator[Study]:
    """Yield all studies of one seed in the concept world."""
    presence, own, random = stored["presence"], stored["cosines"], np.random.default_rng(seed)
    yield from planted(presence, own, random, seed)
    yield planted_rare(stored["more presence"], stored["more cosines"], random, seed)
    yield from planted(presence, with_foreign(flat(own, random), 300, random), random, seed, "hard")
    yield from planted_net(stored, evidence_with(own), random, seed)
    flattened = flat(own, random)
    flat_and_foreign = with_foreign(flattened, 300, random)
    columns = {
        ("own", "all"): own,
        ("+20",): with_foreign(own, 20, random),
        ("+300",): with_foreign(own, 300, random),
        ("flat",): flattened,
        ("flat+", "all+"): flat_and_foreign,
    }
    layers = [[stored[f"{layer} {epoch}"] for epoch in range(EPOCHS + 1)] for layer in LAYERS]
    right = [[truth(np.hstack(parts), presence, clear_only) for clear_only in (True, False)] for parts in layers]
    for names, cosine in columns.items():
        evidence = evidence_with(cosine)
        for parts, of_layer in zip(layers, right, strict=True):
            yield study_of(parts, evidence, dict(zip(names, of_layer, strict=False)), seed)


def demo(workspace: Path) -> Iterator[tuple[Study, np.ndarray]]:
    """Read the demo's own workspace: its studies, and the places of Network Dissection's words for the same units."""
    evidence, presence = read_evidence(workspace / "evidence.h5"), render(*DEMO_PROBE).presence()
    paths = sorted((workspace / "activations" / "shapes").glob("*.h5"))
    checkpoints = [{one.name: one.values for one in read_activations(path, "mean").layers} for path in paths]
    labels = [read_labels(workspace / "similarity" / "network_dissection" / "shapes" / path.name) for path in paths]
    place_of_word = np.array([*map(words().index, labels[0].concepts.names), -1])
    for place, layer in enumerate(LAYERS):
        values = [checkpoint[layer] for checkpoint in checkpoints]
        clusters = 1000 * place + np.arange(values[0].shape[1])
        of_layer = [next(one for one in stored.layers if one.name == layer).top_concept[:, 0] for stored in labels]
        right = {"demo": truth(np.hstack(values), presence, True)}
        yield study_of(values, evidence, right, clusters), place_of_word[np.concatenate(of_layer)]


def cifar10(workspace: Path) -> Iterator[Study]:
    """Read the CIFAR-10 run."""
    evidence = read_evidence(workspace / "evidence.h5")
    of_image = np.array([image.split("/")[-2] for image in evidence.image_ids])
    presence = of_image[:, None] == np.array(class_names(evidence))
    of_word = np.eye(presence.shape[1], dtype=bool)[:, word_classes(evidence)]
    checkpoints = [read_activations(path, "mean").layers for path in sorted(workspace.glob("activations/*/*.h5"))]
    for place, layer in enumerate(checkpoints[0]):
        parts = [layers[place] for layers in checkpoints]
        values = [part.values for part in parts]
        clear = truth(np.hstack(values), presence, clear_only=True)
        right = {f"c10 {layer.name.removeprefix('layer')}": clear.astype(np.int64) @ of_word > 0}
        if layer.name == "layer3":
            right["c10 top"] = of_word[np.concatenate([true_classes(part, evidence) for part in parts])]
        yield study_of(values, evidence, right, np.arange(layer.values.shape[1]))


def seed_cache(build: Path, seed: int) -> dict[str, np.ndarray]:
    """Return a probe of the seed with cosines and activations of a network trained with it; made where not there."""
    path = build / f"seed_{seed}.npz"
    if not path.exists():
        folder = build / f"classifier_{seed}"
        command = [sys.executable, "scripts/train_demo_classifier.py", str(folder.resolve()), "--seed", str(seed)]
        subprocess.run(command, cwd=ROOT, check=True)
        world, more = render(PROBE_IMAGES, PROBE_SEED + seed), render(2 * PROBE_IMAGES, PROBE_SEED + 1000 + seed)
        content = {"presence": world.presence(), "cosines": cosines(ENCODER, world)}
        content |= {"more presence": more.presence(), "more cosines": cosines(ENCODER, more)}
        means = layer_means(planted_network(), world, tuple(TRUTH))
        content |= {f"planted {layer}": values for layer, values in means.items()}
        model = build_classifier().eval()
        for epoch in range(EPOCHS + 1):
            model.load_state_dict(torch.load(folder / f"epoch_{epoch}.pt", weights_only=True)["state_dict"])
            content |= {f"{layer} {epoch}": values for layer, values in layer_means(model, world, LAYERS).items()}
        np.savez(path, **content)
    with np.load(path) as stored:
        return dict(stored)


@torch.inference_mode()
def layer_means(model: torch.nn.Module, world: World, layers: tuple[str, ...]) -> dict[str, np.ndarray]:
    """Return each layer's activations, mean over space, (I, U)."""
    parts: dict[str, list[torch.Tensor]] = {layer: [] for layer in layers}
    hooks = [
        model.get_submodule(layer).register_forward_hook(lambda _, __, out, kept=kept: kept.append(out.mean((2, 3))))
        for layer, kept in parts.items()
    ]
    for start in range(0, len(world), 250):
        model(torch.from_numpy(world.images[start : start + 250]).permute(0, 3, 1, 2).float() / 255)
    for hook in hooks:
        hook.remove()
    return {layer: torch.cat(kept).numpy() for layer, kept in parts.items()}


# The table


@dataclass
class Column:
    """Units that count: their clusters, and which of them each score gives a right word, both in parts."""

    clusters: list[np.ndarray] = field(default_factory=list)
    hits: dict[str, list[np.ndarray]] = field(default_factory=dict)

    def add(self, right: np.ndarray, cluster: np.ndarray, places: dict[str, np.ndarray]) -> None:
        """Count units by right words (N, C), clusters (N,), and the places of found words, (N,); -1 is wrong."""
        rows = np.flatnonzero(right.any(axis=1))
        self.clusters.append(cluster[rows])
        for name, place in places.items():
            self.hits.setdefault(name, []).append(right[rows, place[rows]] & (place[rows] >= 0))

    def sizes(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the cluster of each unit, (N,) from 0, and the size of each cluster."""
        _, cluster, units = np.unique(np.concatenate(self.clusters), return_inverse=True, return_counts=True)
        return cluster, units

    def cell(self, name: str) -> dict[str, float] | None:
        """Return the share right and the half-width of its interval; None where the score was not tried."""
        if name not in self.hits:
            return None
        cluster, units = self.sizes()
        hits = np.bincount(cluster, weights=np.concatenate(self.hits[name]))
        share, count = hits.sum() / units.sum(), len(units)
        # A ratio estimator's error: clusters differ in how many units count.
        residual = (hits - share * units) / units.mean()
        error = student.ppf(0.975, count - 1) * residual.std(ddof=1) / np.sqrt(count)
        return {"right": float(share), "half_width": float(error)}


def label_by_each(study: Study) -> dict[str, np.ndarray]:
    slow = len(study.evidence.concepts.names) > SLOW
    return {name: score(study) for name, score in SCORES.items() if not (slow and name == RankReorder.name)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", type=Path, default=ROOT / "build" / "which_score", help="where trainings are kept")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--demo", type=Path, default=ROOT / "build" / "demo" / "work")
    parser.add_argument("--cifar10", type=Path, default=ROOT / "build" / "cifar10_resnet20")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    if arguments.seeds < 2:
        parser.error("an interval over seeds needs two of them")
    columns: dict[str, Column] = {name: Column() for name in COLUMNS}

    def count(study: Study, more: dict[str, np.ndarray] | None = None) -> None:
        places = label_by_each(study) | (more or {})
        for name, right in study.right.items():
            columns[name].add(right, study.cluster, places)

    for seed in range(1, arguments.seeds + 1):
        for study in concept_world(seed_cache(arguments.build, seed), seed):
            count(study)
        print(f"seed {seed} of {arguments.seeds}", file=sys.stderr, flush=True)
    if (arguments.demo / "similarity" / "network_dissection").is_dir():
        for study, labels in demo(arguments.demo):
            count(study, {"network_dissection": labels})
    else:
        print(f"{arguments.demo}: no labels of Network Dissection, skipped; `make demo` makes them")
    if (arguments.cifar10 / "evidence.h5").is_file():
        for study in cifar10(arguments.cifar10):
            count(study)
    else:
        print(f"{arguments.cifar10}: skipped; CMON_DATA=data cmon run sample_configs/cifar10_resnet20.toml makes it")
    columns = {name: column for name, column in columns.items() if column.clusters}
    show(columns)
    if arguments.json:
        table = {name: {column: of.cell(name) for column, of in columns.items()} for name in ROWS}
        units = {name: len(column.sizes()[0]) for name, column in columns.items()}
        arguments.json.write_text(json.dumps({"columns": COLUMNS, "units": units, "scores": table}, indent=1) + "\n")


def show(columns: dict[str, Column]) -> None:
    """Print the table, then what its columns are."""
    width = max(map(len, ROWS))
    print(" " * width + "".join(f"{name:>8}" for name in columns) + "   least   mean")
    for name in ROWS:
        cells = [column.cell(name) for column in columns.values()]
        shares = [cell["right"] for cell in cells if cell]
        line = "".join(f"{100 * c['right']:4.0f} ±{100 * c['half_width']:<2.0f}" if c else "       -" for c in cells)
        print(f"{name:{width}}{line}{100 * min(shares):8.0f}{100 * np.mean(shares):7.1f}")
    print()
    for name, column in columns.items():
        cluster, units = column.sizes()
        print(f"{name:8}{COLUMNS[name]}; {len(cluster)} units in {len(units)} clusters")


SCORES = shipped() | candidates()
ROWS = (*SCORES, "network_dissection")

if __name__ == "__main__":
    main()
