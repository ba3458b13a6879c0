"""Print how many units pass that detect nothing, and how many of those that detect something, where the truth is known.

    python scripts/calibrate.py            # about 10 minutes on 2 cores
    python scripts/calibrate.py --seeds 2 --only network_dissection

1. false discoveries: layers of 100 units of noise and 3 x 10 planted ones of three strengths, against 100, 1,200 and
   20,000 concepts: the share that passes fdr:0.05, and beside it the share that passes a fixed tau, which is chosen as
   its users choose it (0.04 for IoU; for CLIP-Dissect what 5 % of the noise units pass at 1,200 concepts). Units of
   noise are not independent: they share factors, as those of a network do.
2. the prior: the score of one unit that does not change, while its neighbours learn the concept that it detects.

An error is 1.96 standard errors of the mean over seeds.
"""

import argparse
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from cmon.detectors.base import label_layer
from cmon.detectors.network_dissection import NetworkDissection
from cmon.detectors.study_prior import study_log_prior
from cmon.detectors.top_down import TopDownCorrelation
from cmon.detectors.wpmi import SoftWpmi
from cmon.recording import Counter, Thresholds
from cmon.records import CheckpointCounts, Concepts, Evidence, ImageLabels, LayerActivations, LayerLabels
from cmon.statistics import Test, draw

NOISE, PLANTED = 100, 10
STRENGTHS = {"weak": 0.5, "middle": 1.0, "strong": 2.0}
SIZES = (100, 1_200, 20_000)
RATE = 0.05
IMAGES, DIMENSIONS = 2_000, 128
MASK_IMAGES, SIDE = 2_000, 7


def units(presence: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Make activations of units of noise, then of planted ones by the (I, 3 x PLANTED) presence of their concepts."""
    images = len(presence)
    factors = random.normal(size=(images, 8)) @ random.normal(size=(8, NOISE)) / np.sqrt(8)
    noise = 0.7 * factors + 0.7 * random.normal(size=(images, NOISE))
    planted = np.repeat(list(STRENGTHS.values()), PLANTED) * presence + random.normal(size=presence.shape)
    # As after a rectifier: half of the images are equal, at 0.
    return np.maximum(np.hstack([noise, planted]), 0).astype(np.float32)


def clip_world(concepts: int, random: np.random.Generator) -> tuple[Evidence, np.ndarray]:
    """Make features whose cosines are as CLIP's, about 0.2 with a standard deviation of 0.03, and what images show.

    Returns:
        Evidence, and the presence (I, 3 x PLANTED) of the first concepts, each on a twentieth of the images.
    """
    words = random.normal(size=(concepts, DIMENSIONS))
    words /= np.linalg.norm(words, axis=1, keepdims=True)
    common = np.eye(1, DIMENSIONS + 1, DIMENSIONS)
    presence = random.random((IMAGES, len(STRENGTHS) * PLANTED)) < 0.05
    seen = presence @ words[: presence.shape[1]] + random.normal(size=(IMAGES, DIMENSIONS)) / np.sqrt(DIMENSIONS)
    text, images = (np.hstack([x, np.zeros((len(x), 1))]) + level * common for x, level in ((words, 1.0), (seen, 0.3)))
    text, images = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (text, images))
    names = tuple(f"word {c}" for c in range(concepts))
    ids = tuple(f"{i:05}" for i in range(IMAGES))
    known = Concepts(names, ("",) * concepts)
    return Evidence(ids, known, images.astype(np.float32), text.astype(np.float32)), presence


def clip_layer(detector: object, concepts: int, seed: int) -> LayerLabels:
    random = np.random.default_rng([seed, concepts])
    evidence, presence = clip_world(concepts, random)
    layer = LayerActivations("layer", units(presence, random))
    return label_layer(detector, layer, evidence, Test(rate=RATE), draw(IMAGES, 100, 0, seed))


def mask_layer(concepts: int, seed: int) -> LayerLabels:
    """Count made-up maps within made-up masks: rectangles, about 10 an image, of concepts that are common or rare."""
    random = np.random.default_rng([seed, concepts])
    planted = len(STRENGTHS) * PLANTED
    share = np.r_[np.full(planted, 0.005), 0.85 / np.log(concepts) / np.arange(20, concepts - planted + 20)]
    labels = [rectangles(random.choice(concepts, 10, p=share / share.sum()), random) for _ in range(MASK_IMAGES)]
    factors = random.normal(size=(MASK_IMAGES, 8, SIDE, SIDE))
    noise = np.einsum("ifyx,fu->iuyx", factors, random.normal(size=(8, NOISE))) / np.sqrt(8)
    noise = 0.7 * noise + 0.7 * random.normal(size=noise.shape)
    seen = np.zeros((MASK_IMAGES, planted, SIDE, SIDE))
    for image, one in enumerate(labels):
        for concept, mask in zip(one.concepts, one.masks, strict=True):
            if concept < planted:
                seen[image, concept] = mask.reshape(SIDE, 2, SIDE, 2).mean((1, 3))
    strength = 3 * np.repeat(list(STRENGTHS.values()), PLANTED)[:, None, None]
    maps = torch.from_numpy(np.concatenate([noise, strength * seen + random.normal(size=seen.shape)], 1)).float()
    thresholds = Thresholds(MASK_IMAGES, 0.005)
    thresholds.add("layer", maps)
    draws = draw(MASK_IMAGES, 20, 0, seed)
    counter = Counter(thresholds.values(), [0] * concepts, draws)
    for start in range(0, MASK_IMAGES, 100):
        some = range(start, start + 100)
        counter.add("layer", maps[start : start + 100])
        counter.count([labels[i], *(labels[order[i]] for order in draws.orders)] for i in some)
    known = Concepts(tuple(f"word {c}" for c in range(concepts)), ("object",) * concepts)
    ids = tuple(f"{i:05}" for i in range(MASK_IMAGES))
    seen_by = (counter.concept_area, counter.concept_images, counter.counts(), 0.005, thresholds.rank_error)
    counts = CheckpointCounts(known, ("object",), ids, *seen_by)
    layer = LayerActivations("layer", maps.mean((2, 3)).numpy())
    return label_layer(NetworkDissection(), layer, counts.of_layer("layer"), Test(rate=RATE), draws)


def rectangles(concepts: np.ndarray, random: np.random.Generator) -> ImageLabels:
    """Draw a rectangle of 4 to 14 pixels a side for each concept."""
    side = 2 * SIDE
    found = np.unique(concepts).astype(np.int32)
    masks = np.zeros((len(found), side, side), dtype=np.bool_)
    for mask in masks:
        (height, width) = random.integers(4, side + 1, 2)
        top, left = random.integers(0, side - height + 1), random.integers(0, side - width + 1)
        mask[top : top + height, left : left + width] = True
    centres = tuple(((np.arange(side) + 0.5) / side).tolist())
    return ImageLabels(found, masks, centres, centres)


DETECTORS: dict[str, Callable[[int, int], LayerLabels]] = {
    "clip_dissect, top_down": lambda concepts, seed: clip_layer(TopDownCorrelation(), concepts, seed),
    "clip_dissect, soft_wpmi": lambda concepts, seed: clip_layer(SoftWpmi(), concepts, seed),
    "network_dissection": mask_layer,
}


def false_discoveries(detector: str, seeds: int) -> list[dict[str, object]]:
    """Print and return the rows of the first table."""
    rows, tau = [], 0.04
    if detector != "network_dissection":
        scores = [DETECTORS[detector](1_200, seed).top_score[:NOISE, 0] for seed in range(100, 105)]
        tau = float(np.quantile(scores, 1 - RATE))
    for concepts in SIZES:
        found = [DETECTORS[detector](concepts, seed) for seed in range(seeds)]
        for test in (f"fdr:{RATE}", f"tau = {tau:.3g}"):
            passed = [one.interpretable if test.startswith("fdr") else one.top_score[:, 0] >= tau for one in found]
            groups = {"noise": slice(0, NOISE)}
            groups |= {name: slice(NOISE + i * PLANTED, NOISE + (i + 1) * PLANTED) for i, name in enumerate(STRENGTHS)}
            row: dict[str, object] = {"detector": detector, "concepts": concepts, "test": test, "seeds": seeds}
            for name, which in groups.items():
                shares = np.array([one[which].mean() for one in passed])
                row[name], row[f"{name}_error"] = shares.mean(), 1.96 * shares.std(ddof=1) / np.sqrt(seeds)
            rows.append(row)
            cells = "".join(f"{row[name]:>9.1%} ± {row[f'{name}_error']:5.1%}" for name in groups)
            print(f"{detector:24}{concepts:>8,}  {test:12}{cells}", flush=True)
    return rows


def unchanged_unit(learned: int, seed: int) -> dict[str, float]:
    """Score one unit of 64 at five checkpoints, where so many others learn its concept between the first and the last.

    Returns:
        name -> its score for the concept at the last checkpoint.
    """
    random = np.random.default_rng(seed)
    evidence, presence = clip_world(100, random)
    noise = random.normal(size=(IMAGES, 64))
    found: dict[str, list[LayerLabels]] = {"soft_wpmi": [], "top_down": []}
    detectors = {"soft_wpmi": SoftWpmi(), "top_down": TopDownCorrelation()}
    for step in range(5):
        knows = np.r_[True, np.arange(63) < round(learned * step / 4)]
        layer = LayerActivations("layer", (noise + 3 * presence[:, :1] * knows).astype(np.float32))
        for name, detector in detectors.items():
            found[name].append(label_layer(detector, layer, evidence, Test(), draw(IMAGES, 0, 0, 0)))
    last = found["soft_wpmi"][-1]
    study = last.scores[0, 0] + last.log_prior[0] - study_log_prior(found["soft_wpmi"])[0]
    by_layer, top_down = float(last.scores[0, 0]), float(found["top_down"][-1].scores[0, 0])
    first = found["soft_wpmi"][0]
    first_study = first.scores[0, 0] + first.log_prior[0] - study_log_prior(found["soft_wpmi"])[0]
    return {
        "layer, first": float(first.scores[0, 0]),
        "layer, last": by_layer,
        "study, first": float(first_study),
        "study, last": float(study),
        "top_down, first": float(found["top_down"][0].scores[0, 0]),
        "top_down, last": top_down,
    }


def neighbours() -> list[dict[str, float]]:
    """Print and return the second table."""
    rows = [{"learned": float(n), **unchanged_unit(n, seed=0)} for n in (0, 1, 4, 16, 63)]
    names = [name for name in rows[0] if name != "learned"]
    print(f"{'neighbours that learn it':26}" + "".join(f"{name:>17}" for name in names))
    for row in rows:
        print(f"{row['learned']:>26.0f}" + "".join(f"{row[name]:>17.2f}" for name in names))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--only", nargs="*", choices=[*DETECTORS, "prior"], help="all without it")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    arguments = parser.parse_args()
    wanted = arguments.only or [*DETECTORS, "prior"]
    columns = "".join(f"{name:>17}" for name in ("noise", *STRENGTHS))
    print(f"{'share of units that pass':24}{'C':>8}  {'test':12}{columns}")
    tables = {name: false_discoveries(name, arguments.seeds) for name in DETECTORS if name in wanted}
    if "prior" in wanted:
        tables["prior"] = neighbours()
    if arguments.json:
        arguments.json.write_text(json.dumps(tables, indent=2))


if __name__ == "__main__":
    main()
