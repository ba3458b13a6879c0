"""Stage 1: run every checkpoint over the probe, once, and the image-text model over probe and concepts."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from cmon import pixels
from cmon.checkpoints import load_into, read_checkpoint
from cmon.config import Preprocess, Run
from cmon.encoders import Encoder, open_encoder
from cmon.errors import CheckpointError, CmonError, ConfigError, DamagedStoreError, ProbeError, StoreError, listing
from cmon.fingerprint import changes
from cmon.h5 import read_header
from cmon.models import build_model, select_layers
from cmon.pixels import PixelCache
from cmon.probes import crop
from cmon.recipes import Plan, Unit
from cmon.recording import Recorder, pick_device
from cmon.records import CheckpointActivations, Evidence, FloatArray, Pixels
from cmon.stores import read_evidence, write_activations, write_evidence
from cmon.work import Options, Outcome, Progress, Stopwatch, provenance
from cmon.workspace import Target

if TYPE_CHECKING:
    from torch import Tensor


def record_activations(plan: Plan, options: Options, progress: Progress) -> Outcome:
    """Make the activations of all selected checkpoints, and the evidence, where they are not current.

    A checkpoint or a run that cannot be used is noted in the outcome, and the others are made.

    Raises:
        CmonError: where there is no evidence to be had.
    """
    outcome = Outcome()
    units = plan.select(options.runs, options.checkpoints)
    if not options.dry_run:
        plan.workspace.sweep()
    _make_evidence(plan, options, progress, outcome)
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


def _stale(
    plan: Plan, units: list[Unit], options: Options, progress: Progress, outcome: Outcome
) -> list[tuple[Unit, Target]]:
    """Return the units that must be made, and say why each one must."""
    todo = []
    for unit in units:
        try:
            target = plan.activations(unit)
            state = target.state()
        except (CheckpointError, ConfigError, StoreError) as error:
            outcome.failed.append((unit.name, error))
            continue
        if state.current and not options.force:
            outcome.current += 1
            continue
        if not state.current and state.status != "missing":
            progress.line(f"activations {unit.name}: {state}")
        outcome.made += [f"activations {unit.name}"] if options.dry_run else []
        todo.append((unit, target))
    return todo


def _record_run(
    plan: Plan,
    run: Run,
    todo: list[tuple[Unit, Target]],
    options: Options,
    progress: Progress,
    outcome: Outcome,
) -> None:
    import torch

    device = pick_device(options.device)
    model = build_model(run.model, run.model_args)
    layers = select_layers(model, run.layers)
    recorder = Recorder(layers, plan.study.activations.pooling, run.tokens, plan.study.activations.precision, device)
    cache = decoded(plan, run.preprocess, progress)
    if cache.index.skipped:
        outcome.warnings.append(_skipped(plan, cache.index.skipped))
    batches = Batches(cache, run.preprocess, plan.study.activations.batch_size, device)
    progress.begin(f"activations {run.name}", len(todo))
    for unit, target in todo:
        watch = Stopwatch()
        try:
            weights = read_checkpoint(unit.checkpoint.path, run.state_dict_key, options.trust_pickle)
            load_into(model, weights, unit.checkpoint.path)
            _check_unchanged(plan, unit, target)
            model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
            recorded = recorder(model, batches, len(cache.index.ids))
        except CheckpointError as error:
            outcome.failed.append((unit.name, _located(error, unit.checkpoint.path)))
            progress.advance(1, f"{unit.checkpoint.name} failed")
            continue
        result = CheckpointActivations(cache.index.ids, recorded, weights.step)
        write_activations(target.path, target.recipe, provenance(watch, device), result, recorder.pooling)
        outcome.made.append(f"activations {unit.name}")
        progress.advance(1, unit.checkpoint.name)
    progress.end()


def _check_unchanged(plan: Plan, unit: Unit, target: Target) -> None:
    """Raise where the files have changed since they were hashed: what was read may not be what the recipe says."""
    if changed := changes(target.recipe, plan.activations(unit).recipe):
        what = f"changed while it was read: {listing(changed)}"
        raise CheckpointError(unit.checkpoint.path, what, "run again once it is written")


@dataclass(frozen=True)
class Batches:
    """The probe as a run's network sees it: an iterable of (n, 3, h, w) float32 tensors on a device."""

    cache: PixelCache
    preprocess: Preprocess
    size: int
    device: str

    def __iter__(self) -> Iterator["Tensor"]:
        import torch

        mean, std = (
            torch.tensor(values, device=self.device).view(3, 1, 1)
            for values in (self.preprocess.mean, self.preprocess.std)
        )
        for block in self.cache.blocks():
            for part in torch.from_numpy(block).split(min(self.size, len(block))):  # type: ignore[no-untyped-call]
                # (n, h, w, 3) in memory is (n, 3, h, w) in channels-last: nothing is copied but the bytes themselves.
                images = part.to(self.device).permute(0, 3, 1, 2).float()
                yield images.div_(255).sub_(mean).div_(std)


def decoded(plan: Plan, preprocess: Preprocess, progress: Progress) -> PixelCache:
    """Return the probe's decoded images, from the cache or freshly decoded into it."""
    recipe = plan.pixels(preprocess)
    found = pixels.find(plan.workspace.pixels, recipe)
    if found is not None:
        return found

    def decode(index: int) -> Pixels | None:
        image = _image(plan, index)
        if image is None:
            return None
        try:
            return crop(image, preprocess)
        except ValueError as error:
            where = f"{plan.probe.path}: {plan.probe.ids[index]}"
            raise ProbeError(where, str(error), "set the run's preprocess.resize") from error

    progress.begin("decoding", len(plan.probe.ids))
    cache = pixels.build(plan.workspace.pixels, recipe, plan.probe.ids, decode, progress.advance)
    progress.end()
    pixels.prune(plan.workspace.pixels, [plan.pixels(run.preprocess) for run in plan.study.run])
    return cache


def _image(plan: Plan, index: int) -> Image.Image | None:
    """Decode one image; None for an unreadable one where the config says to skip it."""
    try:
        return plan.probe.image(index)
    except ProbeError:
        if plan.study.probe.on_error == "skip":
            return None
        raise


def _make_evidence(plan: Plan, options: Options, progress: Progress, outcome: Outcome) -> None:
    target = plan.evidence
    state = target.state()
    if state.current and not options.force:
        outcome.current += 1
        return
    if state.status not in ("missing", "current"):
        progress.line(f"evidence: {state}")
    outcome.made.append("evidence")
    if options.dry_run:
        return
    watch, device = Stopwatch(), pick_device(options.device)
    encoder = open_encoder(plan.study.encoder, device, options.trust_pickle)
    words = encoder.text_features(plan.concepts.names, plan.study.concepts.prompt)
    ids, features = (None if options.force else _known_image_features(target)) or _encode_images(
        plan, encoder, progress
    )
    evidence = Evidence(ids, plan.concepts, features, words)
    write_evidence(target.path, target.recipe, provenance(watch, device), evidence)


def _known_image_features(target: Target) -> tuple[tuple[str, ...], FloatArray] | None:
    """Return the images of the old evidence, where only its words are out of date: a new word costs no image."""
    try:
        header = read_header(target.path, target.kind)
        of_images = ("algorithm", "probe", "on_error", "encoder")
        if header is None or any(header.recipe.get(key) != target.recipe[key] for key in of_images):
            return None
        evidence = read_evidence(target.path)
    except DamagedStoreError:
        return None
    return evidence.image_ids, evidence.image_features


def _encode_images(plan: Plan, encoder: Encoder, progress: Progress) -> tuple[tuple[str, ...], FloatArray]:
    readable = [i for i in range(len(plan.probe.ids)) if plan.study.probe.on_error == "stop" or _image(plan, i)]
    ids = tuple(plan.probe.ids[i] for i in readable)
    if not ids:
        raise ProbeError(plan.probe.path, "none of its images can be read", "look at probe.path")
    progress.begin("evidence", len(ids))

    def images() -> Iterator[Image.Image]:
        for index in readable:
            yield plan.probe.image(index)
            progress.advance()

    features = encoder.image_features(ids, images())
    progress.end()
    return ids, features


def _skipped(plan: Plan, skipped: tuple[str, ...]) -> str:
    return f"{plan.probe.path}: {len(skipped)} unreadable images left out: {listing(skipped)}"


def _within(place: str, error: CmonError) -> CmonError:
    """Name the run in an error that does not know it."""
    located = type(error)(f"{place}: {error.where}", error.what, error.hint)
    located.__cause__ = error
    return located


def _located(error: CheckpointError, path: Path) -> CheckpointError:
    """Name the checkpoint's file in an error that does not know it."""
    return error if error.where == str(path) else CheckpointError(path, error.what, error.hint)
