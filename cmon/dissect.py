"""Stage 2: give every unit its concepts, by arithmetic on what stage 1 has stored."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

from cmon.config import Detector as DetectorTable
from cmon.detectors import detector_from
from cmon.detectors.base import label_layer
from cmon.detectors.judging import with_quality
from cmon.detectors.study_prior import ranked
from cmon.errors import CheckpointError, ConfigError, DetectorError, ProbeError, StaleInputError, StoreError, listing
from cmon.probes import read_presence
from cmon.profiling import Profile
from cmon.recipes import Plan, Unit, has_study_prior
from cmon.records import (
    CheckpointCounts,
    CheckpointLabels,
    Concepts,
    Evidence,
    LayerActivations,
    LayerLabels,
    LongArray,
    Presence,
)
from cmon.statistics import Draws, Test, draw, is_low_prior
from cmon.stores import read_activations, read_counts, read_evidence, write_labels
from cmon.threads import blas_in_one_thread
from cmon.work import Options, Outcome, Progress, Stopwatch, making, provenance
from cmon.workspace import Target, shown

# A concept on fewer images than this, and the share of a run's words from which that is worth a warning.
RARE_IMAGES, RARE_SHARE = 10, 0.1

# What a run's network sees of the probe's labels, by the run's name and the concepts that are asked for.
Presences: TypeAlias = dict[tuple[str, Concepts], Presence]


@blas_in_one_thread()
def dissect_checkpoints(plan: Plan, options: Options, progress: Progress) -> Outcome:
    """Label the units of all selected checkpoints under every detector, where the labels are not current.

    Activations that are missing, stale or damaged are noted in the outcome, and the other checkpoints are labelled.

    Raises:
        StaleInputError: where the evidence is missing or stale.
        StoreError: where the evidence is damaged.
    """
    outcome = Outcome()
    units = plan.roster.select(options.runs, options.checkpoints, options.shard)
    look_again = options.patience(progress)
    plan.evidence.require("activations", plan.workspace.root, look_again)
    evidence: Evidence | None = None
    presences: Presences = {}
    for table in plan.study.detector:
        todo = [pair for unit in units if (pair := _stale(plan, table, unit, options, progress, outcome, look_again))]
        if not todo or options.dry_run:
            continue
        with options.profile.part("reading files"):
            evidence = evidence or read_evidence(plan.evidence.path)
        try:
            _label_all(Labeller(plan, table, evidence, presences, options.profile), todo, progress, outcome)
        except StoreError as error:  # a full or read-only disk: the next file would fare no better
            outcome.failed.append((table.name, error))
            break
    return outcome


def _label_all(label: "Labeller", todo: list[tuple[Unit, Target]], progress: Progress, outcome: Outcome) -> None:
    """Label checkpoints under one detector; one whose activations are damaged or do not do is noted as failed."""
    labelled: dict[str, list[LayerLabels]] = {}
    table = label.table
    progress.begin(f"dissect {table.name}", len(todo))
    for unit, target in todo:
        watch = Stopwatch()
        try:
            labels = label(unit)
        except (DetectorError, StoreError) as error:
            outcome.failed.append((unit.name, error))
            progress.failed(unit.name)
            continue
        with label.profile.writing(target.path):
            write_labels(target.path, target.recipe, provenance(), labels)
        label.plan.workspace.note_making(target.path, making(watch))
        labelled.setdefault(unit.folder, []).extend(replace(layer, scores=None) for layer in labels.layers)
        outcome.made.append(f"similarity {table.name} {unit.name}")
        progress.done(unit.name)
    progress.end()
    for run, layers in labelled.items():
        if not has_study_prior(table):
            outcome.warnings += _low_prior(table, run, [layer for layer in layers if is_low(layer)])
        outcome.warnings += _rare_words(table, run, layers)


def is_low(layer: LayerLabels) -> bool:
    """Tell whether a layer's scores rest on a prior that is too concentrated to be trusted."""
    facts = layer.facts
    return facts.get("lam", 0) > 0 and is_low_prior(facts["prior_perplexity"], facts["units"])


def _stale(
    plan: Plan,
    table: DetectorTable,
    unit: Unit,
    options: Options,
    progress: Progress,
    outcome: Outcome,
    look_again: Callable[[], bool],
) -> tuple[Unit, Target] | None:
    """Return the unit where it must and can be made; note in the outcome where it need not or cannot."""
    name = f"similarity {table.name} {unit.name}"
    try:
        target = plan.similarity(table, unit)
        state = target.state()
        if state.current and not options.force:
            outcome.current += 1
            return None
        if not options.dry_run:
            plan.activations(unit).require("activations", plan.workspace.root, look_again)
            if detector_from(table).uses == "counts":
                plan.counts(unit).require("activations", plan.workspace.root, look_again)
    except (StaleInputError, CheckpointError, ConfigError, ProbeError, StoreError) as error:
        outcome.failed.append((unit.name, error))
        return None
    if not state.current and state.status != "missing":
        progress.line(f"{name}: {state}")
    outcome.made += [name] if options.dry_run else []
    return unit, target


@dataclass
class Labeller:
    """Labels one checkpoint after another under one detector."""

    plan: Plan
    table: DetectorTable
    evidence: Evidence
    presences: Presences
    profile: Profile
    draws: dict[int, Draws] = field(default_factory=dict)

    def __call__(self, unit: Unit) -> CheckpointLabels:
        """Label one checkpoint.

        Raises:
            DetectorError: for activations or parameters that do not do.
            StoreError: for files that are damaged, or do not fit together.
        """
        plan, detector = self.plan, detector_from(self.table)
        source = plan.activations(unit).path
        used: Evidence | CheckpointCounts = self.evidence
        with self.profile.part("reading files"):
            recorded = read_activations(source, plan.study.activations.pooling)
            if detector.uses == "counts":
                used = read_counts(plan.counts(unit).path)
        if recorded.image_ids != used.image_ids:
            where, hint = shown(source, plan.workspace.root), "delete both, and run cmon activations"
            raise StoreError(where, f"holds other images than the {detector.uses}", hint)
        try:
            layers = [self._layer(detector, layer, used, unit) for layer in recorded.layers]
        except DetectorError as error:
            raise DetectorError(f"{unit.name}: {error.where}", error.what, error.hint) from error
        images = self._concept_images(used, unit)
        facts = (recorded.steps, detector.score_unit, images, recorded.sparsity)
        return CheckpointLabels(used.concepts, used.image_ids, tuple(layers), *facts)

    def _layer(
        self, detector: Any, layer: LayerActivations, used: Evidence | CheckpointCounts, unit: Unit
    ) -> LayerLabels:
        testing, evidence = self.plan.testing(self.table), used.of_layer(layer.name)
        images = len(layer.values)
        if has_study_prior(self.table):  # it is known at the join only
            none = draw(images, 0, 0, 0)
            return ranked(detector, label_layer(detector, layer, evidence, Test(), none, self.profile), layer)
        if images not in self.draws:
            self.draws[images] = testing.draw(images)
        draws = self.draws[images]
        labels = label_layer(detector, layer, evidence, testing.test, draws, self.profile)
        if self.plan.study.statistics.quality:
            with self.profile.part("quality of words"):
                labels = with_quality(detector, labels, layer, evidence, self._presence(used, unit), draws)
        return _with_rare_words(labels, used) if isinstance(used, CheckpointCounts) else labels

    def _concept_images(self, used: Evidence | CheckpointCounts, unit: Unit) -> LongArray | None:
        """Say how many images show each concept; None where that would have to be read for its own sake."""
        if isinstance(used, CheckpointCounts):
            return used.concept_images
        return self._presence(used, unit).images if self.plan.study.statistics.quality else None

    def _presence(self, used: Evidence | CheckpointCounts, unit: Unit) -> Presence:
        """Read what the run's network sees of the probe's labels, once for all detectors of the same concepts."""
        run, probe = unit.run, self.plan.study.probe
        key = (run.name, used.concepts)
        if key not in self.presences:
            labels = self.plan.labels if probe.kind == "broden" else None
            self.presences[key] = read_presence(probe, labels, used.image_ids, used.concepts, run.preprocess)
        return self.presences[key]


def _with_rare_words(layer: LayerLabels, counts: CheckpointCounts) -> LayerLabels:
    """Note how many interpretable units have a word that hardly an image shows: chance alone gives it a high IoU."""
    rare = counts.concept_images[layer.top_concept[layer.interpretable, 0]] < RARE_IMAGES
    return replace(layer, facts={**layer.facts, "rare_words": float(rare.sum())})


def _rare_words(detector: DetectorTable, run: str, layers: list[LayerLabels]) -> list[str]:
    """Warn once of a run whose words are often of concepts that hardly an image shows."""
    rare = int(sum(layer.facts.get("rare_words", 0) for layer in layers))
    clear = int(sum(layer.interpretable.sum() for layer in layers))
    if rare <= RARE_SHARE * clear:
        return []
    advice = 'union = "all", or a larger probe' if getattr(detector, "union", "all") == "category" else "a larger probe"
    return [
        f"{detector.name} {run}: {rare:,} of {clear:,} interpretable units x checkpoints have a word that fewer than "
        f"{RARE_IMAGES} images show; chance alone gives such words a high IoU: try {advice}"
    ]


def _low_prior(detector: DetectorTable, run: str, low: list[LayerLabels]) -> list[str]:
    """Warn once of all layers and checkpoints of a run, with the worst one's numbers, and say what to try."""
    if not low:
        return []
    worst = min(low, key=lambda layer: layer.facts["prior_perplexity"] / layer.facts["units"]).facts
    layers = dict.fromkeys(layer.name for layer in low)
    advice = "a smaller a_spread" if getattr(detector, "a", None) == "auto" else 'a = "auto"'
    return [
        f"{detector.name} {run}: the prior rests on as few as {worst['prior_perplexity']:.1f} of "
        f"{worst['units']:.0f} units ({listing(layers, 4)}), so that a score says which unit is best for a word and "
        f"not what a unit shows; a x sd(cosines) is {worst['a'] * worst['spread']:.2f}, with CLIP 0.30 at a = 10; "
        f"try {advice}, or a smaller lam"
    ]
