"""What the layers of a run's model put out for its images, and which of them the run chooses."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Any

import numpy as np

from cmon.activations.images import read_image, seen
from cmon.config import Run
from cmon.errors import CmonError, ConfigError, ModelError, ProbeError, listing, nearest, one_line
from cmon.models import build_model, select_layers
from cmon.probes import crop
from cmon.recipes import Plan
from cmon.recording import LayerShape, describe_layers
from cmon.records import Pixels

# Of the probe: with one alone, an axis of the images could not be told from one of the network's.
IMAGES = 2
HEADER = ("layer", "module", "kind", "units", "shape", "prefix", "chosen")


@dataclass(frozen=True)
class RunLayers:
    """The layers of one run's model.

    Args:
        run: its name.
        model: as the config names it.
        image: (3, h, w) the shape of what goes into it.
        layers: all of them, in the order of named_modules.
        chosen: names of those that the run records.
        mistakes: patterns of the run that name no layer.
    """

    run: str
    model: str
    image: tuple[int, ...]
    layers: tuple[LayerShape, ...]
    chosen: frozenset[str]
    mistakes: tuple[CmonError, ...]

    @property
    def title(self) -> str:
        """Say in a line what is shown."""
        return f"{self.run}: {one_line(self.model)} on images of {_size(self.image)}"

    def rows(self) -> list[tuple[object, ...]]:
        """Return a row a layer, under HEADER; of what is chosen and cannot be recorded, the run fails."""
        return [
            (
                layer.name,
                layer.module,
                layer.kind,
                layer.units or "",
                _size(layer.shape),
                "" if layer.prefix_tokens is None else layer.prefix_tokens,
                self._chosen(layer),
            )
            for layer in self.layers
        ]

    def _chosen(self, layer: LayerShape) -> str:
        if layer.name in self.chosen:
            return "fails" if layer.problem else "yes"
        return "cannot" if layer.problem else ""

    def remarks(self) -> list[list[str]]:
        """Return why a layer cannot be recorded, for each."""
        return [[layer.problem] if layer.problem else [] for layer in self.layers]

    def facts(self) -> dict[str, Any]:
        """Return all as JSON has it."""
        layers = [{**asdict(layer), "chosen": layer.name in self.chosen} for layer in self.layers]
        return {"run": self.run, "model": self.model, "image": self.image, "layers": layers}


def asked_runs(plan: Plan, names: Sequence[str]) -> list[Run]:
    """Return the named runs, all where none are named; they may have no checkpoints yet.

    Raises:
        ConfigError: for a name that the study's runs do not have.
    """
    known = [run.name for run in plan.study.run]
    for name in names:
        if name not in known:
            close = nearest(name, known, 3) or known
            raise ConfigError("--run", f"no {one_line(name)} in this study", f"there is {listing(close)}")
    return [run for run in plan.study.run if not names or run.name in names]


def run_layers(plan: Plan, run: Run) -> RunLayers:
    """Build a run's model, without a checkpoint's weights, and show it some images.

    Raises:
        CmonError: where the model cannot be built or fails on the images, or none of these can be read.
    """
    try:
        model = build_model(run.model, run.model_args)
        batch = next(seen(_pixels(plan, run), run.preprocess, IMAGES, "cpu"))
        layers = describe_layers(model, batch, run.tokens, run.prefix_tokens)
        chosen: set[str] = set()
        mistakes: list[CmonError] = []
        for pattern in run.layers:
            try:
                chosen.update(select_layers(model, [pattern]))
            except ModelError as error:
                mistakes.append(_within(run, error))
    except CmonError as error:
        raise _within(run, error) from error
    return RunLayers(run.name, run.model, tuple(batch.shape[1:]), layers, frozenset(chosen), tuple(mistakes))


def _pixels(plan: Plan, run: Run) -> Pixels:
    """Decode the first images of the probe that can be read."""
    probe = plan.probe
    images = (image for index in range(len(probe.ids)) if (image := read_image(plan, probe, index)) is not None)
    try:
        parts = [crop(image, run.preprocess) for image in islice(images, IMAGES)]
    except ValueError as error:
        raise ProbeError(probe.path, str(error), "set the run's preprocess.resize") from error
    if not parts:
        raise ProbeError(probe.path, f"none of its {len(probe.ids)} images can be read", "look at probe.path")
    return np.stack([part for part in parts if part.shape == parts[0].shape])


def _within(run: Run, error: CmonError) -> CmonError:
    """Name the run in an error that does not know it."""
    return type(error)(f"run {run.name}: {error.where}", error.what, error.hint)


def _size(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape))
