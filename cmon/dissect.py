"""Stage 2: give every unit its concepts, by arithmetic on what stage 1 has stored."""

import numpy as np

from cmon.config import Detector as DetectorTable
from cmon.detectors import detector_from
from cmon.detectors.base import Detector, label_layer
from cmon.errors import CheckpointError, ConfigError, DetectorError, StaleInputError, StoreError
from cmon.recipes import Plan, Unit
from cmon.records import CheckpointLabels, Evidence, LayerLabels
from cmon.stores import read_activations, read_evidence, write_labels
from cmon.work import Options, Outcome, Progress, Stopwatch, provenance
from cmon.workspace import Target, shown

# Below this share of a layer's units the prior is a few units' own likelihood rather than a mean over the layer.
LOW_PERPLEXITY_SHARE = 0.25


def dissect_checkpoints(plan: Plan, options: Options, progress: Progress) -> Outcome:
    """Label the units of all selected checkpoints under every detector, where the labels are not current.

    Activations that are missing, stale or damaged are noted in the outcome, and the other checkpoints are labelled.

    Raises:
        StaleInputError: where the evidence is missing or stale.
        StoreError: where the evidence is damaged.
    """
    outcome = Outcome()
    units = plan.select(options.runs, options.checkpoints)
    plan.evidence.require("activations", plan.workspace.root)
    evidence: Evidence | None = None
    for table in plan.study.detector:
        todo = [pair for unit in units if (pair := _stale(plan, table, unit, options, progress, outcome))]
        if not todo or options.dry_run:
            continue
        evidence = evidence or read_evidence(plan.evidence.path)
        try:
            _label_all(plan, table, todo, evidence, progress, outcome)
        except StoreError as error:  # a full or read-only disk: the next file would fare no better
            outcome.failed.append((table.name, error))
            break
    return outcome


def _label_all(
    plan: Plan,
    table: DetectorTable,
    todo: list[tuple[Unit, Target]],
    evidence: Evidence,
    progress: Progress,
    outcome: Outcome,
) -> None:
    """Label checkpoints under one detector; one whose activations are damaged or do not do is noted as failed."""
    low: dict[tuple[str, str], list[LayerLabels]] = {}
    progress.begin(f"dissect {table.name}", len(todo))
    for unit, target in todo:
        watch = Stopwatch()
        try:
            labels = _label(plan, table, unit, evidence)
        except (DetectorError, StoreError) as error:
            outcome.failed.append((unit.name, error))
            progress.advance(1, f"{unit.name} failed")
            continue
        write_labels(target.path, target.recipe, provenance(watch), labels)
        for layer in labels.layers:
            if is_low(layer):
                low.setdefault((unit.run.name, layer.name), []).append(layer)
        outcome.made.append(f"similarity {table.name} {unit.name}")
        progress.advance(1, unit.name)
    progress.end()
    outcome.warnings += [_low_prior(table.name, *place, layers) for place, layers in low.items()]


def is_low(layer: LayerLabels) -> bool:
    """Tell whether a layer's prior is too concentrated for its scores to be trusted (METHOD: the prior's nature)."""
    perplexity, units = layer.facts.get("prior_perplexity", np.inf), layer.facts.get("units", 0)
    return layer.facts.get("lam", 0) > 0 and (perplexity < LOW_PERPLEXITY_SHARE * units or units == 1)


def _stale(
    plan: Plan, table: DetectorTable, unit: Unit, options: Options, progress: Progress, outcome: Outcome
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
            plan.activations(unit).require("activations", plan.workspace.root)
    except (StaleInputError, CheckpointError, ConfigError, StoreError) as error:
        outcome.failed.append((unit.name, error))
        return None
    if not state.current and state.status != "missing":
        progress.line(f"{name}: {state}")
    outcome.made += [name] if options.dry_run else []
    return unit, target


def _label(plan: Plan, table: DetectorTable, unit: Unit, evidence: Evidence) -> CheckpointLabels:
    source = plan.workspace.activations(unit.run.name, unit.checkpoint.name)
    recorded = read_activations(source, plan.study.activations.pooling)
    if recorded.image_ids != evidence.image_ids:
        where = shown(source, plan.workspace.root)
        raise StoreError(where, "holds other images than evidence.h5", "delete both, and run cmon activations")
    detector: Detector = detector_from(table)
    tau = None if table.tau == "none" else float(table.tau)
    try:
        layers = tuple(label_layer(detector, layer, evidence, tau) for layer in recorded.layers)
    except DetectorError as error:
        raise DetectorError(f"{unit.name}: {error.where}", error.what, error.hint) from error
    return CheckpointLabels(evidence.concepts, evidence.image_ids, layers, recorded.step, detector.score_unit)


def _low_prior(detector: str, run: str, layer: str, layers: list[LayerLabels]) -> str:
    worst = min(layers, key=lambda labels: labels.facts["prior_perplexity"])
    facts = worst.facts
    return (
        f"{detector} {run}/{layer}: the prior rests on {facts['prior_perplexity']:.1f} of {facts['units']:.0f} units "
        f"at {len(layers)} checkpoints, so that a score says which unit is best and not what it shows "
        f'(a x sd = {facts["a"] * facts["spread"]:.2f}, CLIP\'s is 0.30); try a = "auto", a smaller a_spread or lam'
    )
