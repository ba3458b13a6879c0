"""What goes into every file of a study: one target with its recipe for each, worked out without a forward pass.

A recipe holds exactly what can change the numbers. Nothing here imports torch, so that a study that is up to date
says so at once.
"""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from cmon.checkpoints import Roster, Unit
from cmon.concepts import read_concepts
from cmon.config import Detector, Features, Preprocess, Run, Study
from cmon.detectors import detector_from
from cmon.encoders import encoder_recipe, feature_concepts
from cmon.errors import ConfigError, ProbeError
from cmon.fingerprint import HashMemory, Recipe, fingerprint
from cmon.manifest import Manifest
from cmon.metrics import metrics_fingerprints
from cmon.models import model_recipe
from cmon.probes import Labels, Probe, broden_concepts, open_labels, open_probe
from cmon.records import Concepts
from cmon.testing import Testing, has_study_prior, testing_of
from cmon.workspace import Target, Workspace

__all__ = ["ALGORITHM", "Plan", "Testing", "Unit", "has_study_prior", "plan_study"]

# Raised by hand when equal parameters give other numbers than before.
ALGORITHM = {
    "pixels": 1,
    "masks": 1,
    "batchnorm": 1,
    "activations": 3,
    "counts": 2,
    "evidence": 1,
    "similarity": 3,
    "embedding": 5,
    "matches": 1,
    "report": 5,
}


@dataclass(frozen=True)
class Plan:
    """A study's files and their recipes: its config, where files lie, the memory of hashes, its units of work."""

    study: Study
    workspace: Workspace
    memory: HashMemory
    roster: Roster

    @cached_property
    def units(self) -> tuple[Unit, ...]:
        """All checkpoints of all runs, in the config's order, then by name; not those that are still being written."""
        return tuple(unit for run in self.study.run for unit in self.roster.trained(run))

    @cached_property
    def left(self) -> dict[str, str]:
        """The checkpoints that are still being written, and why."""
        return {name: reason for run in self.study.run for name, reason in self.roster.left(run).items()}

    @cached_property
    def baselines(self) -> tuple[Unit, ...]:
        """The untrained networks of all runs that ask for some, in the config's order, then by seed."""
        return tuple(unit for run in self.study.run for unit in self.roster.untrained(run))

    @cached_property
    def probe(self) -> Probe:
        """The images."""
        return open_probe(self.study.probe)

    @cached_property
    def probe_fingerprint(self) -> str:
        """The sha256 over the images' names and bytes."""
        return self.probe.fingerprint(self.memory)

    @cached_property
    def concepts(self) -> Concepts:
        """The words, from the config's file, else from a Broden probe or the precomputed features."""
        if self.study.concepts.file is not None:
            return read_concepts(self.study.concepts.file)
        if self.study.probe.kind == "broden":
            return broden_concepts(self.study.probe.path)
        if isinstance(self.study.encoder, Features):
            words = feature_concepts(self.study.encoder)
            return Concepts(words, ("",) * len(words))
        raise ConfigError("concepts.file", "is missing", "name a .csv or .txt of concepts")

    @cached_property
    def uses(self) -> frozenset[str]:
        """What the detectors use: "evidence" of the images, "counts" of pixels within masks, or both."""
        return frozenset(detector_from(table).uses for table in self.study.detector)

    @cached_property
    def labels(self) -> Labels:
        """What the images show, and where."""
        assert self.probe.ids, "the probe's own index is sound"
        return open_labels(self.study.probe.path)

    @cached_property
    def labels_fingerprint(self) -> str:
        """The sha256 over the tables and masks."""
        return self.labels.fingerprint(self.memory)

    @cached_property
    def _calibrations(self) -> dict[Path, tuple[Probe, str]]:
        return {}  # those asked for so far: what one run names may be missing, and another run's be there

    def calibration(self, run: Run) -> tuple[Probe, str]:
        """Return the images that a run's batch normalisation is recalibrated on, and their fingerprint."""
        path = run.batchnorm_images
        if path is None:
            return self.probe, self.probe_fingerprint
        if path not in self._calibrations:
            where = f"run {run.name}: batchnorm_images"
            if self.workspace.lies_in(path):
                raise ConfigError(where, f"the workspace lies in {path}", "name a folder of images alone")
            try:
                probe = open_probe(self.study.probe.model_copy(update={"kind": "images", "path": path}))
                self._calibrations[path] = probe, probe.fingerprint(self.memory)
            except ProbeError as error:
                raise ProbeError(f"{where}: {error.where}", error.what, "name a folder or zip of images") from error
        return self._calibrations[path]

    def pixels(self, preprocess: Preprocess, images: str | None = None) -> Recipe:
        """Return the recipe of the probe's decoded images, or of others by their fingerprint."""
        return {
            "algorithm": ALGORITHM["pixels"],
            "probe": images or self.probe_fingerprint,
            "on_error": self.study.probe.on_error,
            "geometry": preprocess.geometry(),
        }

    def masks(self, preprocess: Preprocess) -> Recipe:
        """Return the recipe of the probe's masks as a run sees them."""
        return self.pixels(preprocess) | {"labels": self.labels_fingerprint, "masks": ALGORITHM["masks"]}

    def activations(self, unit: Unit) -> Target:
        """Return one checkpoint's activations."""
        path = self.workspace.activations(unit.folder, unit.checkpoint.name)
        recipe = self._forward(unit) | {"algorithm": ALGORITHM["activations"], "tokens": unit.run.tokens}
        return Target(path, "activations", recipe | {"pooling": self.study.activations.pooling})

    def counts(self, unit: Unit) -> Target:
        """Return one checkpoint's counts of pixels."""
        path = self.workspace.counts(unit.folder, unit.checkpoint.name)
        own = {
            "algorithm": ALGORITHM["counts"],
            "labels": self.labels_fingerprint,
            "quantile": self.study.activations.quantile,
            **dict(zip(("permutations", "resamples", "seed"), self.mask_draws, strict=True)),
        }
        return Target(path, "counts", self._forward(unit) | own)

    @property
    def mask_draws(self) -> tuple[int, int, int]:
        """How often masks are permuted and images resampled as pixels are counted, and the seed of both."""
        tests = [self.testing(table) for table in self.study.detector if detector_from(table).uses == "counts"]
        permutations = max((test.permutations for test in tests), default=0)
        resamples = max((test.resamples for test in tests), default=0)
        return permutations, resamples, self.study.statistics.seed

    def _forward(self, unit: Unit) -> Recipe:
        """Return what decides the outputs of a network's layers."""
        run = unit.run
        batchnorm = {}
        if run.batchnorm == "recalibrate":  # where it is not, recipes have no such key, and are as they were before it
            batchnorm = {"batchnorm": {"recalibrate": self.calibration(run)[1], "algorithm": ALGORITHM["batchnorm"]}}
        return {
            **unit.weights(self.memory),
            **batchnorm,
            "probe": self.probe_fingerprint,
            "on_error": self.study.probe.on_error,
            "model": model_recipe(run.model, run.model_args),
            "layers": list(run.layers),
            "preprocess": run.preprocess.recipe(),
            "precision": self.study.activations.precision,
            **({} if run.prefix_tokens is None else {"prefix_tokens": run.prefix_tokens}),
        }

    @cached_property
    def evidence(self) -> Target:
        """What the image-text model says of the probe."""
        # Without a detector that asks what the images show, only words are encoded, for the embedding.
        images = {"probe": self.probe_fingerprint, "on_error": self.study.probe.on_error}
        recipe = {
            "algorithm": ALGORITHM["evidence"],
            **(images if "evidence" in self.uses else {}),
            "concepts": [list(self.concepts.names), list(self.concepts.categories)],
            "prompt": self.study.concepts.prompt,
            "encoder": encoder_recipe(self.study.encoder, self.memory),
        }
        return Target(self.workspace.evidence, "evidence", recipe)

    def similarity(self, detector: Detector, unit: Unit) -> Target:
        """Return one checkpoint's labels under one detector."""
        path = self.workspace.similarity(detector.name, unit.folder, unit.checkpoint.name)
        made = detector_from(detector)
        used = self.counts(unit) if made.uses == "counts" else self.evidence
        recipe = {
            "algorithm": ALGORITHM["similarity"],
            "activations": self.activations(unit).fingerprint,
            made.uses: used.fingerprint,
            "detector": made.recipe(),
            # Under the study's prior, which is known at the join only, units are tested there.
            **({"prior": "study"} if has_study_prior(detector) else self._tested(detector)),
        }
        return Target(path, "similarity", recipe)

    def _tested(self, detector: Detector) -> Recipe:
        """Return what decides p-values, resamples, and how words are judged."""
        labels = {"labels": self.labels_fingerprint} if self.study.probe.kind == "broden" else {}
        halves = {"seed": self.study.statistics.seed}  # which images are in which half, drawn where nothing else is
        quality = {"quality": {**labels, **halves}} if self.study.statistics.quality else {}
        return self.testing(detector).recipe() | quality

    def testing(self, detector: Detector) -> Testing:
        """Say how a detector's best scores are tested, and how often images are permuted and resampled for it."""
        return testing_of(detector, self.study.statistics)

    def embedding(self, detector: Detector) -> Target:
        """Return one detector's joint file."""
        recipe = {
            "algorithm": ALGORITHM["embedding"],
            "evidence": self.evidence.fingerprint,
            "checkpoints": {unit.name: self.similarity(detector, unit).fingerprint for unit in self.units},
            "baselines": {unit.name: self.similarity(detector, unit).fingerprint for unit in self.baselines},
            "runs": [run.name for run in self.study.run],
            "steps": {run.name: run.steps for run in self.study.run},
            # A table of its own: the projection has a seed too.
            **({"testing": self.testing(detector).recipe()} if has_study_prior(detector) else {}),
            **self._layer_names,
            **self.study.embed.recipe(),
        }
        return Target(self.workspace.embedding(detector.name), "embedding", recipe)

    @property
    def _layer_names(self) -> Recipe:
        renamed = {run.name: run.layer_names for run in self.study.run if run.layer_names}
        return {"layer_names": renamed} if renamed else {}

    @property
    def matches(self) -> Target:
        """Return the pairs of units that figures compare between runs, where the study has any."""
        compared = [self.study.run[index].name for pair in self.study.pairs_of_runs for index in pair]
        recipe = {
            "algorithm": ALGORITHM["matches"],
            "activations": {u.name: self.activations(u).fingerprint for u in self.units if u.run.name in compared},
            "runs": [run.name for run in self.study.run],
            "steps": {run.name: run.steps for run in self.study.run},
            "pairs": [[*pair, self.study.same_start(*pair)] for pair in self.study.pairs_of_runs],
            "seed": self.study.statistics.seed,
            **self._layer_names,
        }
        return Target(self.workspace.matches, "matches", recipe)

    @cached_property
    def report(self) -> Recipe:
        """Return the recipe of the report's folder."""
        return {
            "algorithm": ALGORITHM["report"],
            "embedding": {d.name: fingerprint(self.embedding(d).recipe) for d in self.study.detector},
            **({"matches": self.matches.fingerprint} if self.study.pairs_of_runs else {}),
            "metrics": metrics_fingerprints(self.study.run, self.memory),
            **self.study.report.recipe(),
        }


def plan_study(study: Study, manifest: Manifest | None = None) -> Plan:
    """Return the plan of a config.

    Args:
        study: the config.
        manifest: the units of work as a submission has listed them; without it those that are there now.

    Raises:
        ConfigError: for what would only show after hours of work: a detector's parameters, a workspace in the
            probe, metrics that are not there.
        ProbeError: for tables of labels that contradict themselves, for the same reason.
    """
    for detector in study.detector:
        detector_from(detector)
        if detector_from(detector).uses == "counts" and study.probe.kind != "broden":
            what, hint = "compares units with masks, which this probe has not", 'take a probe of kind = "broden"'
            raise ConfigError(f"detector {detector.name}", what, hint)
    workspace = Workspace(study.workspace)
    if study.probe.kind == "images" and workspace.lies_in(study.probe.path):
        what = f"{study.workspace} lies in the probe's folder, so that its pictures would become images of the probe"
        raise ConfigError("workspace", what, "set a folder outside of probe.path")
    memory = workspace.memory()
    roster = Roster(study.run, memory, *((manifest.checkpoints, manifest.due) if manifest else ()))
    plan = Plan(study, workspace, memory, roster)
    metrics_fingerprints(study.run, plan.memory)
    if "counts" in plan.uses:
        assert plan.labels.rows, "tables without rows are an error of their own"
    return plan
