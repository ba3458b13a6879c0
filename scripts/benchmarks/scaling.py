"""Activations and labels of 30 checkpoints x 5,000 images: whether the last costs what the first does, and what one
changed checkpoint costs when all others are there.

Seconds of a checkpoint are those that its file of activations says it took. A re-run is both stages on the whole study,
from reading the config on, in a process that has its libraries loaded; it is compared with what a checkpoint took both
stages in the first run.
"""

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from benchmarks.image_study import make_study, save_checkpoint
from benchmarks.rows import Row, seconds
from cmon.activations import record_activations
from cmon.config import read_config
from cmon.console import Quiet
from cmon.dissect import dissect_checkpoints
from cmon.recipes import plan_study
from cmon.work import Options

CHECKPOINTS, IMAGES, RERUNS = 30, 5_000, 10
MODEL = str(Path(__file__).resolve().parents[2] / "sample_configs" / "demo" / "classifier.py") + ":build"


class Ticks(Quiet):
    """Notes when each unit of work was done."""

    def __init__(self) -> None:
        self.times: dict[str, list[float]] = {}

    def begin(self, label: str, total: int) -> None:
        self.times[label] = [time.perf_counter()]
        self._label = label

    def advance(self, count: int = 1, name: str = "") -> None:
        self.times[self._label].append(time.perf_counter())

    def each_s(self, label: str) -> np.ndarray:
        """Return the seconds of each unit of work."""
        return np.diff(self.times[label])


def rows(pairs: int) -> Iterator[Row]:
    """Run the study once, then again and again with one checkpoint changed."""
    del pairs  # each run is of 30 checkpoints
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "study"
        layers = ["layer1", "layer2", "layer3", "layer4"]
        config = make_study(folder, MODEL, layers, CHECKPOINTS, IMAGES, (64, 64), "{}", "png")
        ticks = Ticks()
        _run(config, ticks)
        recorded, labelled = ticks.each_s("activations run"), ticks.each_s("dissect clip_dissect")
        fifth = len(recorded) // 5
        figures = {
            "activations_s": recorded.round(3).tolist(),
            "dissect_s": labelled.round(3).tolist(),
            "dissect_last_over_first": float(np.median(labelled[-fifth:]) / np.median(labelled[1 : 1 + fifth])),
        }
        growth = float(np.median(recorded[-fifth:]) / np.median(recorded[1 : 1 + fifth]))
        what = (
            f"activations, {CHECKPOINTS} checkpoints x {IMAGES:,} images: a checkpoint of the last fifth over the first"
        )
        yield Row(what, growth, "x", 1.1, figures=figures)
        one = float(np.median(recorded) + np.median(labelled))
        reruns = []
        for number in range(RERUNS):
            save_checkpoint(folder / "run" / f"{number * 3:03}.pt", MODEL, 1000 + number)
            reruns.append(seconds(lambda: _run(config, Quiet())))
        figures = {"one_checkpoint_s": one, "reruns_s": np.round(reruns, 2).tolist()}
        what = f"the tenth re-run with one changed checkpoint of {CHECKPOINTS}, over what one checkpoint took"
        yield Row(what, reruns[-1] / one, "x", 1.5, figures=figures)


def _run(config: Path, progress: Quiet) -> None:
    plan = plan_study(read_config(config))
    for stage in (record_activations, dissect_checkpoints):
        outcome = stage(plan, Options(), progress)
        assert not outcome.failed, outcome.failed
    plan.memory.save()
