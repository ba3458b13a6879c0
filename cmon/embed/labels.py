"""All labels of a study under one detector: by run and step, under the prior that is asked for, and of baselines."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from cmon.checkpoints import resolve_steps
from cmon.config import Detector as DetectorTable
from cmon.config import Run
from cmon.detectors import chance_scores, detector_from, relabel, study_log_prior
from cmon.errors import ConfigError, listing
from cmon.recipes import Plan, Unit, has_study_prior
from cmon.records import Baseline, CheckpointLabels, CheckpointName, Evidence, FloatArray, LayerLabels
from cmon.stores import read_labels, read_scores


@dataclass(frozen=True)
class StudyLabels:
    """What the study's similarity files hold together.

    Args:
        names: (K,) checkpoints by run, then by step.
        labels: (K,) theirs.
        baselines: (N,) untrained networks, each with the index of its run.
        untrained: (N,) their labels.
    """

    names: tuple[CheckpointName, ...]
    labels: list[CheckpointLabels]
    baselines: list[tuple[int, Unit]]
    untrained: list[CheckpointLabels]

    def baseline(self, layers: Sequence[str]) -> Baseline:
        """Count the units of untrained networks, a row for each layer of each."""
        rows = [
            (run, layers.index(layer.name), unit.seed, len(layer.state), layer.alive.sum(), layer.interpretable.sum())
            for (run, unit), labels in zip(self.baselines, self.untrained, strict=True)
            for layer in labels.layers
        ]
        return Baseline(*np.array(rows, dtype=np.int32).reshape(-1, 6).T)


def read_study_labels(plan: Plan, table: DetectorTable, evidence: Evidence) -> StudyLabels:
    """Read all labels; under the study's prior they are scored and tested anew."""
    names: list[CheckpointName] = []
    units: list[Unit] = []
    labels: list[CheckpointLabels] = []
    for index, run in enumerate(plan.study.run):
        mine = [unit for unit in plan.units if unit.run is run]
        read = [read_labels(plan.similarity(table, unit).path) for unit in mine]
        steps = resolve_steps(run, [unit.checkpoint.name for unit in mine], [one.steps for one in read])
        for position in np.argsort(steps, kind="stable"):
            name = mine[position].checkpoint.name
            names.append(CheckpointName(index, name, int(steps[position]), read[position].sparsity))
            units.append(mine[position])
            labels.append(read[position])
    baselines = [(plan.study.run.index(unit.run), unit) for unit in plan.baselines]
    untrained = [read_labels(plan.similarity(table, unit).path) for _, unit in baselines]
    if has_study_prior(table):
        under_prior = _study_prior(plan, table, evidence, labels)
        labels = [under_prior(unit, one) for unit, one in zip(units, labels, strict=True)]
        untrained = [under_prior(unit, one) for (_, unit), one in zip(baselines, untrained, strict=True)]
    labels = [_renamed(unit.run, one) for unit, one in zip(units, labels, strict=True)]
    untrained = [_renamed(unit.run, one) for (_, unit), one in zip(baselines, untrained, strict=True)]
    return StudyLabels(tuple(names), labels, baselines, untrained)


def _renamed(run: Run, labels: CheckpointLabels) -> CheckpointLabels:
    """Call layers as the config wants them called.

    Raises:
        ConfigError: for a layer that the run does not have, or two of one name.
    """
    known = [layer.name for layer in labels.layers]
    unknown = [name for name in run.layer_names if name not in known]
    if unknown:
        raise ConfigError(f"run {run.name}: layer_names", f"no layer {unknown[0]}", f"there is {listing(known)}")
    layers = tuple(replace(layer, name=run.layer_names.get(layer.name, layer.name)) for layer in labels.layers)
    if len({layer.name for layer in layers}) < len(layers):
        what = f"two layers would be called the same: {listing(layer.name for layer in layers)}"
        raise ConfigError(f"run {run.name}: layer_names", what, "choose other names")
    return replace(labels, layers=layers)


def _study_prior(
    plan: Plan, table: DetectorTable, evidence: Evidence, labels: Iterable[CheckpointLabels]
) -> Callable[[Unit, CheckpointLabels], CheckpointLabels]:
    """Return what puts one file's labels under the prior of all these."""
    detector, testing = detector_from(table), plan.testing(table)
    draws = testing.draw(len(evidence.image_ids))
    by_layer: dict[str, list[LayerLabels]] = {}
    for one in labels:
        for layer in one.layers:
            by_layer.setdefault(layer.name, []).append(layer)
    priors: dict[str, FloatArray] = {}
    nulls: dict[str, FloatArray] = {}
    for name, layers in by_layer.items():
        if any(layer.log_prior is not None for layer in layers):
            priors[name] = study_log_prior(layers)
            nulls[name] = chance_scores(detector, evidence, priors[name], draws)
    nothing = np.zeros(len(evidence.concepts.names), np.float32)

    def under_prior(unit: Unit, one: CheckpointLabels) -> CheckpointLabels:
        path = plan.similarity(table, unit).path
        made = []
        for layer in one.layers:
            scored = replace(layer, scores=read_scores(path, layer.name))
            prior, null = priors.get(layer.name, nothing), nulls.get(layer.name, nothing[:0])
            made.append(relabel(detector, scored, prior, evidence, testing.test, draws, null))
        return replace(one, layers=tuple(made))

    return under_prior
