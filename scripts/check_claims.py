"""Hold what the paper reports of its four case studies against the small ones, claim by claim.

    make small                              # trains, watches, and ends with this
    python scripts/check_claims.py          # prints the table alone

Every number is of the networks that `make small` trains, in build/small, with half of its 95 % interval: over resamples
of the probe's images for units, the binomial one over test images for accuracies. A claim is "yes" where the
difference has the paper's sign and its interval excludes 0, "no" where it has the other sign and excludes 0, and
"open" where it holds 0. Nothing here tells of another training: there is one network of each kind.
"""

import csv
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from cmon.records import Study
from cmon.statistics import half_width
from cmon.statistics.comparison import interpretable_counts
from cmon.statistics.history import History, Sampled
from cmon.statistics.retention import KINDS, PERCENTS, Lexicon, retention
from cmon.statistics.trends import category_codes
from cmon.stores import read_study

SMALL = Path(__file__).resolve().parents[1] / "build" / "small"
# A column of the table: its heading, the end of the study's name, and the detector.
COLUMNS = (
    ("mini_broden, IoU", "broden", "network_dissection"),
    ("world, IoU", "world", "network_dissection"),
    ("world, top_down", "world", "clip_dissect"),
)
LOW, HIGH = ("color", "texture", "material"), ("object", "scene", "shape")
TEST_IMAGES, ROBUST_IMAGES, TEXTURE_IMAGES = 10_000, 1_000, 600
KINDS_OF_TRAINING = ("standard", "robust")


@dataclass(frozen=True)
class Finding:
    """What one study says of a claim: numbers in words, and the difference that the claim is about, signed so that
    the paper's is positive; None where nothing is claimed."""

    text: str
    difference: float | None = None
    error: float = np.nan

    @property
    def agrees(self) -> str:
        """Say whether the difference has the paper's sign."""
        if self.difference is None:
            return ""
        if not np.isfinite(self.error) or abs(self.difference) <= self.error:
            return "open"
        return "yes" if self.difference > 0 else "no"


@dataclass(frozen=True)
class Claim:
    """One of the paper's claims, and how a study is asked about it."""

    case: str
    paper: str
    ask: Callable[[str, str], Finding]


@cache
def study_of(name: str, detector: str) -> Study:
    return read_study(SMALL / name / "embedding" / f"{detector}.h5")


def checkpoint(study: Study, run: str, place: int) -> int:
    """Return a run's first (0), last (-1) or other checkpoint by step."""
    return [k for k, name in enumerate(study.checkpoints) if study.runs[name.run] == run][place]


def count(study: Study, at: int, layers: Sequence[str], categories: Sequence[str] | None = None) -> Sampled:
    """Count interpretable units of some layers at a checkpoint, whose words are of some categories; None: of any."""
    chosen = [study.layers.index(layer) for layer in layers]
    rows = np.flatnonzero((study.units.checkpoint == at) & np.isin(study.units.layer, chosen))
    named = np.array(study.concepts.categories)
    group = np.where(np.isin(named, list(categories or set(named.tolist()))), 0, -1).astype(np.int32)
    counts = interpretable_counts(study.units, rows, group, 1)
    return Sampled(counts.value[0], counts.resampled[0])


def said(number: Sampled, digits: int = 0) -> str:
    return plus_minus(float(number.value), float(half_width(number.resampled)), digits)


def plus_minus(value: float, error: float, digits: int = 0) -> str:
    return f"{value:.{digits}f}" + (f" ± {error:.{digits}f}" if np.isfinite(error) else "")


def compared(before: Sampled, after: Sampled, sign: int, digits: int = 0, arrow: str = "→") -> Finding:
    """Say two numbers and their difference; `sign` is +1 where the paper says that the second is higher."""
    change = after.minus(before)
    error = float(half_width(change.resampled))
    text = f"{said(before, digits)} {arrow} {said(after, digits)} (difference {float(change.value):+.{digits}f} ± "
    return Finding(f"{text}{error:.{digits}f})", sign * float(change.value), error)


# Case I: the standard run of the adversarial studies.


def spreads(probe: str, detector: str) -> Finding:
    study = study_of(f"adversarial_{probe}", detector)
    if detector == "network_dissection" and probe == "broden":
        return Finding("not measured: the tiny encoder does not know these words")
    layer = study.layers.index("layer4")
    ends = [checkpoint(study, "standard", place) for place in (0, -1)]
    before, after = (Sampled(study.spread[k, layer], study.spread_resampled[k, layer]) for k in ends)
    return compared(before, after, 1, 4)


def by_category(categories: Sequence[str], sign: int, layers: Sequence[str] = ("layer4",)) -> Callable:
    """Ask how the units of some categories change from before the training to its end."""

    def ask(probe: str, detector: str) -> Finding:
        study = study_of(f"adversarial_{probe}", detector)
        before, after = (count(study, checkpoint(study, "standard", k), layers, categories) for k in (0, -1))
        return compared(before, after, sign)

    return ask


def early_textures(probe: str, detector: str) -> Finding:
    """Compare layer 4's texture units after the first epoch with those at the end."""
    study = study_of(f"adversarial_{probe}", detector)
    mine = [k for k, name in enumerate(study.checkpoints) if study.runs[name.run] == "standard"]
    counts = [count(study, k, ["layer4"], ["texture"]) for k in mine]
    return compared(counts[1], counts[-1], -1)


def low_and_high(probe: str, detector: str) -> Finding:
    """Compare the share of low-level words in layers 2 and 3 with that in layer 4, at the end."""
    study = study_of(f"adversarial_{probe}", detector)
    last = checkpoint(study, "standard", -1)
    shares = []
    for layers in (["layer2", "layer3"], ["layer4"]):
        low, of_all = count(study, last, layers, LOW), count(study, last, layers)
        with np.errstate(divide="ignore", invalid="ignore"):
            shares.append(Sampled(100 * low.value / of_all.value, 100 * low.resampled / of_all.resampled))
    finding = compared(shares[1], shares[0], 1)
    return Finding(f"% low-level, layer 4 and layers 2, 3: {finding.text}", finding.difference, finding.error)


def other_probe(_probe: str, _detector: str) -> Finding:
    study = study_of("standard_cifar10", "clip_dissect")
    layer = study.layers.index("layer4")
    ends = [checkpoint(study, "standard", place) for place in (0, -1)]
    before, after = (Sampled(study.d_anchor[k, layer], study.d_anchor_resampled[k, layer]) for k in ends)
    return compared(before, after, -1, 3)


def same_trends(probe: str, _detector: str) -> Finding:
    """Compare the changes of layer 4's categories, first to last, by the two detectors."""
    if probe == "broden":
        return Finding("one detector only")
    changes: dict[str, list[tuple[float, float]]] = {}
    for detector in ("clip_dissect", "network_dissection"):
        study = study_of("adversarial_world", detector)
        for category in ("color", "texture", "shape", "scene"):
            before, after = (count(study, checkpoint(study, "standard", k), ["layer4"], [category]) for k in (0, -1))
            change = after.minus(before)
            changes.setdefault(category, []).append((float(change.value), float(half_width(change.resampled))))
    parts = [f"{name} {plus_minus(*one)} and {plus_minus(*other)}" for name, (one, other) in changes.items()]
    same = sum(np.sign(one[0]) == np.sign(other[0]) for one, other in changes.values())
    return Finding(f"top_down and IoU: {'; '.join(parts)}: {same} of {len(changes)} of the same sign")


# Case II: the lottery.


def after_rewinding(epoch: int, kind: str) -> Callable:
    """Ask how layer 4's interpretable units right after rewinding change from the dense stage to the sparsest."""

    def ask(probe: str, detector: str) -> Finding:
        study = study_of(f"lottery_{probe}", detector)
        ends = [checkpoint(study, f"rewind{epoch}-{kind}", place) for place in (0, -1)]
        return compared(*(count(study, k, ["layer4"]) for k in ends), 1 if epoch == 0 else -1)

    return ask


def kept(epoch: int) -> Callable:
    """Ask how many of layer 4's units have the same word at every stage: of the clearest fifth, and of all."""

    def ask(probe: str, detector: str) -> Finding:
        study = study_of(f"lottery_{probe}", detector)
        run, layer = study.runs.index(f"rewind{epoch}-trained"), study.layers.index("layer4")
        first, units = checkpoint(study, f"rewind{epoch}-trained", 0), study.units
        rows = np.flatnonzero((units.checkpoint == first) & (units.layer == layer))
        lexicon = Lexicon(category_codes(study.concepts.categories), study.concept_features, 1.0)
        scores = (units.score[rows], units.resampled_score[rows])
        share = retention(History.of(study, run, layer), 0, *scores, lexicon).share
        kind, (fifth, everyone) = KINDS.index("strict"), (PERCENTS.index(20), PERCENTS.index(100))
        one, other = (Sampled(100 * share.value[kind, x], 100 * share.resampled[kind, x]) for x in (everyone, fifth))
        finding = compared(one, other, 1, arrow="and")
        return Finding(f"% of all and of the clearest 20 %: {finding.text}", finding.difference, finding.error)

    return ask


# Case III: adversarial training.


def robust(layers: Sequence[str], sign: int, categories: Sequence[str] | None = None) -> Callable:
    """Ask how the robust network's units at the end differ from the standard one's."""

    def ask(probe: str, detector: str) -> Finding:
        study = study_of(f"adversarial_{probe}", detector)
        if categories and not set(categories) & set(study.concepts.categories):
            return Finding(f"no {categories[0]} in this probe")
        ends = [checkpoint(study, run, -1) for run in ("standard", "robust")]
        return compared(*(count(study, k, layers, categories) for k in ends), sign, arrow="and")

    return ask


def accuracy(name: str, sign: int, images: int) -> Callable:
    def ask(_probe: str, _detector: str) -> Finding:
        (one, error), (other, other_error) = (
            measured(f"adversarial/{kind}", name, images) for kind in KINDS_OF_TRAINING
        )
        text = f"{plus_minus(100 * one, 100 * error, 1)} and {plus_minus(100 * other, 100 * other_error, 1)} %"
        return Finding(text, sign * (other - one), float(np.hypot(error, other_error)))

    return ask


def top_1(folder: str, images: int, of: str) -> Callable:
    """Ask for a training's accuracy, of which nothing is claimed for other data."""

    def ask(_probe: str, _detector: str) -> Finding:
        value, error = measured(folder, "accuracy", images)
        return Finding(f"{plus_minus(100 * value, 100 * error, 1)} % of {of}")

    return ask


def measured(folder: str, name: str, images: int) -> tuple[float, float]:
    """Return an accuracy at a training's end, with half of its binomial interval."""
    with (SMALL / folder / "metrics.csv").open(encoding="utf-8") as file:
        value = float(list(csv.DictReader(file))[-1][name])
    return value, 1.96 * (value * (1 - value) / images) ** 0.5


# Case IV: fine-tuning.


def finetuned(categories: Sequence[str], sign: int) -> Callable:
    def ask(probe: str, detector: str) -> Finding:
        study = study_of(f"finetune_{probe}", detector)
        if not set(categories) & set(study.concepts.categories):
            return Finding(f"no {' or '.join(categories)} in this probe")
        ends = [checkpoint(study, "finetune", place) for place in (0, -1)]
        layers = [layer for layer in study.layers if layer != "layer1"]
        return compared(*(count(study, k, layers, categories) for k in ends), sign)

    return ask


CLAIMS = (
    Claim("I", "48.3 % top-1 of 365 scenes", top_1("adversarial/standard", TEST_IMAGES, "10 classes")),
    Claim("I", "layer 4's units clump at first and spread: mean cosine distance rises", spreads),
    Claim("I", "early texture words go: layer 4's texture units, after the first epoch and at the end", early_textures),
    Claim(
        "I", "later objects (shapes) and scenes come: layer 4's, before training and at the end", by_category(HIGH, 1)
    ),
    Claim("I", "layers 2 and 3 are low level, layer 4 high level, at the end", low_and_high),
    Claim(
        "I b", "under another probe units approach its words: layer 4's d_anchor to ten class names falls", other_probe
    ),
    Claim("I c", "both detectors show the same trends", same_trends),
    Claim(
        "II",
        "rewound to epoch 0: layer 4's interpretable units rise with sparsity (recalibrated)",
        after_rewinding(0, "rewound"),
    ),
    Claim("II", "the same, statistics of batch normalisation as saved", after_rewinding(0, "as-saved")),
    Claim(
        "II", "rewound to a later epoch (here 2): they fall with sparsity (recalibrated)", after_rewinding(2, "rewound")
    ),
    Claim("II", "the same, as saved", after_rewinding(2, "as-saved")),
    Claim("II", "the clearest units keep their words over all stages more often, rewound to 0", kept(0)),
    Claim("II", "the same, rewound to epoch 2", kept(2)),
    Claim("III", "layer 4: standard 293 interpretable of 512, robust 215", robust(["layer4"], -1)),
    Claim("III", "layer 3: 91 against 125 of 256", robust(["layer3"], 1)),
    Claim("III", "color over layers 2 to 4: 15 against 74", robust(["layer2", "layer3", "layer4"], 1, ["color"])),
    Claim("III", "texture: 154 against 97", robust(["layer2", "layer3", "layer4"], -1, ["texture"])),
    Claim("III", "material: 10 against 2", robust(["layer2", "layer3", "layer4"], -1, ["material"])),
    Claim("III", "clean accuracy 94.29 % against 83.42 %", accuracy("accuracy", -1, TEST_IMAGES)),
    Claim("III", "robust accuracy: 50.00 % of the robust one", accuracy("robust_accuracy", 1, ROBUST_IMAGES)),
    Claim("IV", "72.77 % of 5 grades of retinopathy", top_1("finetune", TEXTURE_IMAGES, "7 textures")),
    Claim("IV", "object (shape) units of layers 2 to 4 fall", finetuned(["object", "shape"], -1)),
    Claim("IV", "material and texture units rise", finetuned(["material", "texture"], 1)),
)


def rows() -> Iterator[list[str]]:
    """Yield the table's lines: case, claim, and of each column what it shows and whether it agrees; a claim that does
    not depend on probe or detector is said once."""
    for claim in CLAIMS:
        findings = [claim.ask(probe, detector) for _, probe, detector in COLUMNS]
        cells = [finding.text + (f": **{finding.agrees}**" if finding.agrees else "") for finding in findings]
        cells = [cell if cell not in cells[:i] else "as left" for i, cell in enumerate(cells)]
        yield [claim.case, claim.paper, *cells]


def main() -> None:
    missing = [name for name in ("adversarial", "lottery", "finetune") if not (SMALL / f"{name}_world").exists()]
    if missing:
        sys.exit(f"error: {SMALL / (missing[0] + '_world')}: is not there\nhint: run make small")
    heading = ["case", "the paper says", *(column[0] for column in COLUMNS)]
    print("| " + " | ".join(heading) + " |\n|" + "---|" * len(heading))
    for row in rows():
        print("| " + " | ".join(row) + " |", flush=True)


if __name__ == "__main__":
    main()
