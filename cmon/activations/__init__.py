"""Stage 1: run every checkpoint over the probe, and the image-text model over probe and concepts."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from cmon.activations.calibration import Calibration, open_calibration
from cmon.activations.evidence import make_evidence
from cmon.activations.images import Batches, Labelled, check_masks, decoded
from cmon.checkpoints import Untrained, load_into, mask_weights, read_checkpoint, read_masks, sparsity
from cmon.config import Run
from cmon.errors import CheckpointError, CmonError, ConfigError, ModelError, ProbeError, StoreError, listing
from cmon.fingerprint import changes
from cmon.models import build_model, check_random, select_layers
from cmon.recipes import Plan, Unit
from cmon.recording import Counter, Recorder, Thresholds, check_batch_norm, pick_device, recalibrate
from cmon.records import CheckpointActivations, CheckpointCounts
from cmon.statistics import draw
from cmon.stores import write_activations, write_counts
from cmon.work import Options, Outcome, Progress, Stopwatch, provenance
from cmon.workspace import Target

if TYPE_CHECKING:
    from torch import nn

__all__ = ["Batches", "Labelled", "record_activations"]


def record_activations(plan: Plan, options: Options, progress: Progress) -> Outcome:
    """Make activations and counts of all selected checkpoints, and the evidence, where they are not current.

    A checkpoint or a run that cannot be used is noted in the outcome, and the others are made.

    Raises:
        CmonError: where there is no evidence to be had.
    """
    outcome = Outcome()
    units = plan.select(options.runs, options.checkpoints)
    if not options.dry_run:
        plan.workspace.sweep()
    make_evidence(plan, options, progress, outcome)
    for run in plan.study.run:
        todo = _stale(plan, [unit for unit in units if unit.run is run], options, progress, outcome)
        if not todo or options.dry_run:
            continue
        try:
            _record_run(plan, run, todo, options, progress, outcome)
        except (ConfigError, ProbeError) as error:
            outcome.failed.append((run.name, _within(f"run {run.name}", error)))
        except StoreError as error:  # a full or read-only disk: the next file would fare no better
            outcome.failed.append((run.name, error))
            break
    return outcome


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


def _stale(plan: Plan, units: list[Unit], options: Options, progress: Progress, outcome: Outcome) -> list[Task]:
    """Return what must be made, and say why."""
    todo = []
    for unit in units:
        try:
            wanted = [plan.activations(unit), *([plan.counts(unit)] if "counts" in plan.uses else [])]
            states = [target.state() for target in wanted]
        except (CheckpointError, ConfigError, ProbeError, StoreError) as error:
            outcome.failed.append((unit.name, error))
            continue
        found: dict[str, Target] = {}
        for target, state in zip(wanted, states, strict=True):
            name = f"{target.kind} {unit.name}"
            if state.current and not options.force:
                outcome.current += 1
                continue
            if not state.current and state.status != "missing":
                progress.line(f"{name}: {state}")
            outcome.made += [name] if options.dry_run else []
            found[target.kind] = target
        if found:
            todo.append(Task(unit, found.get("activations"), found.get("counts")))
    return todo


def _record_run(plan: Plan, run: Run, todo: list[Task], options: Options, progress: Progress, outcome: Outcome) -> None:
    device = pick_device(options.device)
    model = build_model(run.model, run.model_args)
    if run.batchnorm == "recalibrate":
        check_batch_norm(model)
    layers = select_layers(model, run.layers)
    recorder = Recorder(layers, plan.study.activations.pooling, run.tokens, plan.study.activations.precision, device)
    todo = _drawn(run, todo, outcome)
    if not todo:
        return
    cache = decoded(plan, run.preprocess, progress)
    if cache.index.skipped:
        outcome.warnings.append(_skipped(plan, cache.index.skipped))
    if any(task.counts for task in todo):
        check_masks(plan.labels, cache, run.preprocess, progress)
        outcome.warnings += _unlabelled(plan)
    batches = Batches(cache, run.preprocess, plan.study.activations.batch_size, device)
    anew = open_calibration(plan, run, cache, device, progress, outcome) if run.batchnorm == "recalibrate" else None
    progress.begin(f"activations {run.name}", len(todo))
    for task in todo:
        name = task.unit.checkpoint.name
        try:
            outcome.made += _record(plan, task, model, recorder, batches, anew, options)
        except CheckpointError as error:
            outcome.failed.append((task.unit.name, _located(error, task.unit)))
            progress.advance(1, f"{name} failed")
            continue
        progress.advance(1, name)
    progress.end()


def _drawn(run: Run, todo: list[Task], outcome: Outcome) -> list[Task]:
    """Leave out the untrained networks, noted as failed, where the model does not draw its weights at random."""
    untrained = [task for task in todo if task.unit.seed is not None]
    if not untrained:
        return todo
    try:
        check_random(run.model, run.model_args)
    except ModelError as error:
        outcome.failed += [(task.unit.name, _within(f"run {run.name}: baseline", error)) for task in untrained]
        return [task for task in todo if task.unit.seed is None]
    return todo


def _record(
    plan: Plan,
    task: Task,
    model: "nn.Module",
    recorder: Recorder,
    batches: Batches,
    anew: Calibration | None,
    options: Options,
) -> list[str]:
    """Make one checkpoint's files, and name them; counts take a second pass, once the first has found thresholds.

    Where batch normalisation is recalibrated, this comes before both.
    """
    import torch

    watch = Stopwatch()
    model, step = _network(task.unit, model, options)
    _check_unchanged(plan, task)
    model.to(recorder.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    if anew is not None:
        recalibrate(model, anew, recorder.device)
    ids = batches.cache.index.ids
    thresholds = Thresholds(len(ids), plan.study.activations.quantile, recorder.device) if task.counts else None
    recorded = recorder(model, batches, len(ids), thresholds.add if thresholds else None)
    if task.activations:
        result = CheckpointActivations(ids, recorded, step, sparsity(model))
        made = provenance(watch, recorder.device)
        write_activations(task.activations.path, task.activations.recipe, made, result, recorder.pooling)
    if task.counts and thresholds:
        counts = _counted(plan, model, recorder, batches, thresholds)
        write_counts(task.counts.path, task.counts.recipe, provenance(watch, recorder.device), counts)
    return [f"{target.kind} {task.unit.name}" for target in task.targets]


def _network(unit: Unit, model: "nn.Module", options: Options) -> "tuple[nn.Module, int | None]":
    """Return the model with a checkpoint's masked weights, and its step; or a new one, as its seed draws it."""
    run, checkpoint = unit.run, unit.checkpoint
    if isinstance(checkpoint, Untrained):
        return build_model(run.model, run.model_args, checkpoint.seed), None
    weights = read_checkpoint(checkpoint.path, run.state_dict_key, options.trust_pickle)
    load_into(model, weights, checkpoint.path)
    if unit.masks is not None:
        mask_weights(model, read_masks(unit.masks, options.trust_pickle), unit.masks)
    return model, weights.step


def _counted(
    plan: Plan, model: "nn.Module", recorder: Recorder, batches: Batches, thresholds: Thresholds
) -> CheckpointCounts:
    """Count pixels in a second pass over the same batches."""
    labels = plan.labels
    draws = draw(len(batches.cache.index.ids), *plan.mask_draws)
    counter = Counter(thresholds.values(), labels.concepts.groups(labels.categories), draws, recorder.device)
    recorder.watch(model, Labelled(batches, labels, draws.orders, counter.count), counter.add)
    return CheckpointCounts(
        concepts=labels.concepts,
        categories=labels.categories,
        image_ids=batches.cache.index.ids,
        concept_area=counter.concept_area,
        concept_images=counter.concept_images,
        layers=counter.counts(),
        quantile=thresholds.share,
        rank_error=thresholds.rank_error,
    )


def _check_unchanged(plan: Plan, task: Task) -> None:
    """Raise where the files have changed since they were hashed: what was read may not be what the recipe says."""
    now = {"activations": plan.activations, "counts": plan.counts}
    for target in task.targets:
        if changed := changes(target.recipe, now[target.kind](task.unit).recipe):
            what = f"changed while it was read: {listing(changed)}"
            raise CheckpointError(task.unit.where, what, "run again once it is written")


def _skipped(plan: Plan, skipped: tuple[str, ...]) -> str:
    return f"{plan.probe.path}: {len(skipped)} unreadable images left out: {listing(skipped)}"


def _unlabelled(plan: Plan) -> list[str]:
    count, images = plan.labels.unlabelled, len(plan.labels.rows)
    told = f"{plan.probe.path}: {count} of {images} images carry no label: they count for thresholds only"
    return [told] if count else []


def _within(place: str, error: CmonError) -> CmonError:
    """Name the run in an error that does not know it."""
    located = type(error)(f"{place}: {error.where}", error.what, error.hint)
    located.__cause__ = error
    return located


def _located(error: CheckpointError, unit: Unit) -> CheckpointError:
    """Name the checkpoint's file in an error that knows neither it nor the file of its masks."""
    return (
        error if error.where in (unit.where, str(unit.masks)) else CheckpointError(unit.where, error.what, error.hint)
    )
