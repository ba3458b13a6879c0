"""Stage 1: run every checkpoint over the probe, and the image-text model over probe and concepts."""

from cmon.activations.calibration import open_calibration
from cmon.activations.evidence import make_evidence
from cmon.activations.forward import Forward, Task
from cmon.activations.images import Batches, Labelled, batch_size, decoded, packed_masks
from cmon.config import Run
from cmon.errors import (
    CheckpointError,
    CmonError,
    ConfigError,
    ModelError,
    ProbeError,
    StoreError,
    UnfinishedError,
    listing,
)
from cmon.models import build_model, check_random, saved_names, select_layers
from cmon.recipes import Plan, Unit
from cmon.recording import Recorder, check_batch_norm, foldable, pick_device
from cmon.work import Options, Outcome, Progress
from cmon.workspace import Target

__all__ = ["Batches", "Forward", "Labelled", "Task", "record_activations"]


def record_activations(plan: Plan, options: Options, progress: Progress) -> Outcome:
    """Make activations and counts of all selected checkpoints, and the evidence, where they are not current.

    A checkpoint or a run that cannot be used is noted in the outcome, and the others are made.

    Raises:
        CmonError: where there is no evidence to be had.
    """
    outcome = Outcome()
    units = plan.roster.select(options.runs, options.checkpoints, options.shard)
    for run in plan.study.run:
        if not options.runs or run.name in options.runs:
            outcome.left |= plan.roster.left(run)
            outcome.aside |= plan.roster.aside(run)
    # Where another process is at the evidence, there is better to do than to wait for it.
    there = make_evidence(plan, options, progress, outcome, wait=False)
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
    if not there:
        make_evidence(plan, options, progress, outcome)
    return outcome


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
    asked = plan.study.activations
    recorder = Recorder(layers, asked.pooling, run.tokens, asked.precision, device, run.prefix_tokens)
    todo = _drawn(run, todo, outcome)
    if not todo:
        return
    cache = decoded(plan, run.preprocess, progress, options.profile)
    if cache.index.skipped:
        outcome.warnings.append(_skipped(plan, cache.index.skipped))
    masks = None
    if any(task.counts for task in todo):
        with options.profile.part("reading masks"):
            masks = packed_masks(plan, cache, run.preprocess, progress)
        outcome.warnings += _unlabelled(plan)
    batches = Batches(cache, run.preprocess, batch_size(asked.batch_size, device), device)
    anew = open_calibration(plan, run, cache, options, progress, outcome) if run.batchnorm == "recalibrate" else None
    record = Forward(plan, model, foldable(model, layers), recorder, batches, masks, anew, options, saved_names(model))
    progress.begin(f"activations {run.name}", len(todo))
    for task in todo:
        name = task.unit.checkpoint.name
        try:
            outcome.made += record(task, progress)
        except UnfinishedError as error:
            outcome.left[task.unit.name] = f"{error.where} {error.what}"
            continue
        except CheckpointError as error:
            outcome.failed.append((task.unit.name, _located(error, task.unit)))
            progress.failed(name)
            continue
        progress.done(name)
    progress.end()
    if record.averaged and run.weights == "raw":
        averaged = 'checkpoints hold averaged weights too: the raw ones are taken; weights = "ema" takes the others'
        outcome.warnings.append(f"run {run.name}: {averaged}")


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
