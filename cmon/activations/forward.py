"""The forward passes of one checkpoint after another of a run, and the files that they fill."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from cmon.activations.calibration import Calibration
from cmon.activations.images import Batches, Labelled
from cmon.checkpoints import Untrained, load_into, mask_weights, read_checkpoint, read_masks, sparsity
from cmon.errors import CheckpointError, UnfinishedError, listing
from cmon.fingerprint import changes
from cmon.masks import MaskCache
from cmon.models import build_model
from cmon.recipes import Plan, Unit
from cmon.recording import Counter, MemoryShortageError, Pairs, Recorder, Thresholds, folded, recalibrate
from cmon.records import CheckpointActivations, CheckpointCounts, LayerActivations
from cmon.statistics import draw
from cmon.stores import write_activations, write_counts
from cmon.work import Options, Progress, Stopwatch, making, provenance
from cmon.workspace import Target

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class Task:
    """What one checkpoint still lacks: its activations, its counts, or both."""

    unit: Unit
    activations: Target | None
    counts: Target | None

    @property
    def targets(self) -> tuple[Target, ...]:
        """The files to make."""
        return tuple(target for target in (self.activations, self.counts) if target is not None)


@dataclass
class Forward:
    """Makes the files of one checkpoint after another of a run.

    Args:
        plan: of the study.
        model: of the run, whose weights are replaced by each checkpoint's.
        pairs: of its modules, to be folded.
        recorder: of the run's layers.
        batches: of the probe; they are halved where memory does not do for them.
        masks: of the same images, where pixels are counted.
        anew: the images that batch normalisation is recalibrated on, if it is.
        options: of the command.
        saved_as: what files call a tensor -> what the model calls it, where these differ.
    """

    plan: Plan
    model: "nn.Module"
    pairs: Pairs
    recorder: Recorder
    batches: Batches
    masks: MaskCache | None
    anew: Calibration | None
    options: Options
    saved_as: dict[str, str]
    unset: tuple[str, ...] = ()  # tensors that the checkpoint in hand lets be missing
    averaged: bool = False  # do checkpoints hold raw and averaged weights both

    def __call__(self, task: Task, progress: Progress) -> list[str]:
        """Make one checkpoint's files, and name them.

        Raises:
            CheckpointError: where it cannot be used, or was written while it was read.
            MemoryShortageError: where there is no room for a single image.
        """
        while True:
            try:
                return self._record(task)
            except MemoryShortageError:
                size = self.batches.size
                if size == 1:
                    raise
            # Here and not in the handler, where the error holds on to all tensors of the failed pass.
            progress.line(f"out of memory with {size} images at a time: {size // 2} from here on")
            self.batches = replace(self.batches, size=size // 2)

    def _record(self, task: Task) -> list[str]:
        """Make both files; counts take a second pass, once the first has found thresholds."""
        import torch

        watch, profile, recorder = Stopwatch(), self.options.profile, self.recorder
        made = provenance(recorder.device)
        with profile.part("reading weights"):
            try:
                model, steps = self._network(task.unit)
            except CheckpointError:
                self._check_unchanged(task)  # what is wrong with a file that is being written is not worth telling
                raise
            self._check_unchanged(task)
            model.to(recorder.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
            zeros = sparsity(model)
        if self.anew is not None:
            with profile.part("recalibrating"):
                recalibrate(model, self.anew, recorder.device)
        with folded(model, self.pairs):
            thresholds = self._thresholds() if task.counts else None
            recorded = self._recorded(model, thresholds)
            if task.activations:
                ids = self.batches.cache.index.ids
                with profile.writing(task.activations.path):
                    result = CheckpointActivations(ids, recorded, steps, zeros)
                    write_activations(task.activations.path, task.activations.recipe, made, result, recorder.pooling)
            if task.counts and thresholds:
                counts = self._counted(model, thresholds)
                with profile.writing(task.counts.path):
                    write_counts(task.counts.path, task.counts.recipe, made, counts)
        for target in task.targets:
            self.plan.workspace.note_making(target.path, making(watch, recorder.device))
        return [f"{target.kind} {task.unit.name}" for target in task.targets]

    def _network(self, unit: Unit) -> "tuple[nn.Module, dict[str, int]]":
        """Return the model with a checkpoint's masked weights, and its steps; or a new one, as its seed draws it."""
        run, checkpoint, trust = unit.run, unit.checkpoint, self.options.trust_pickle
        self.unset = ()
        if isinstance(checkpoint, Untrained):
            return build_model(run.model, run.model_args, checkpoint.seed), {}
        weights = read_checkpoint(checkpoint.path, run.state_dict_key, run.weights, trust)
        self.averaged |= weights.averaged
        self.unset = load_into(self.model, weights, checkpoint.path, run.allow_missing, self.saved_as)
        if unit.masks is not None:
            mask_weights(self.model, read_masks(unit.masks, trust), unit.masks)
        return self.model, weights.steps

    def _check_unchanged(self, task: Task) -> None:
        """Raise where files have changed since they were hashed: what was read may not be what the recipe says.

        Raises:
            UnfinishedError: where the checkpoint has.
            CheckpointError: where another file has.
        """
        now = {"activations": self.plan.activations, "counts": self.plan.counts}
        for target in task.targets:
            changed = changes(target.recipe, now[target.kind](task.unit).recipe)
            if "checkpoint" in changed:
                raise UnfinishedError(task.unit.where, "changed while it was read")
            if changed:
                what = f"changed while it was read: {listing(changed)}"
                raise CheckpointError(task.unit.where, what, "run again once it is written")

    def _thresholds(self) -> Thresholds:
        images, quantile = len(self.batches.cache.index.ids), self.plan.study.activations.quantile
        return Thresholds(images, quantile, self.recorder.device)

    def _recorded(self, model: "nn.Module", thresholds: Thresholds | None) -> tuple[LayerActivations, ...]:
        """Run the first pass."""
        profile, images = self.options.profile, len(self.batches.cache.index.ids)
        with profile.part("forward passes"):
            batches = profile.each("images", self.batches)
            watch = profile.timed("thresholds", thresholds.add) if thresholds else None
            try:
                return self.recorder(model, batches, images, watch)
            except CheckpointError as error:
                if not self.unset:
                    raise
                what = f"{error.what}: allow_missing takes out {listing(self.unset, 3)}, on which they depend"
                raise CheckpointError(error.where, what, "take these layers out of the run's layers") from error

    def _counted(self, model: "nn.Module", thresholds: Thresholds) -> CheckpointCounts:
        """Count pixels in a second pass over the same batches."""
        plan, profile, ids = self.plan, self.options.profile, self.batches.cache.index.ids
        assert self.masks is not None, "counts are asked for"
        labels = plan.labels
        draws = draw(len(ids), *plan.mask_draws)
        groups = labels.concepts.groups(labels.categories)
        counter = Counter(thresholds.values(), groups, draws)
        with profile.part("forward passes"):
            shown = Labelled(self.batches, self.masks, draws.orders, counter.count)
            self.recorder.watch(model, profile.each("images, counting", shown), counter.add)
        return CheckpointCounts(
            concepts=labels.concepts,
            categories=labels.categories,
            image_ids=ids,
            concept_area=counter.concept_area,
            concept_images=counter.concept_images,
            layers=counter.counts(),
            quantile=thresholds.share,
            rank_error=thresholds.rank_error,
        )
