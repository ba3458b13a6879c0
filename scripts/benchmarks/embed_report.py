"""Time `cmon embed` and `cmon report` on made-up studies of many checkpoints, as commands of their own.

What is timed is the whole command, from Python's start on; peak memory is the process's. There is no baseline: the
goals are seconds. Reports on a quarter, on half and on all of 100 checkpoints show that time grows no faster than
their number.
"""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np

from benchmarks.made_up import make
from benchmarks.rows import Row

UNITS = "896 units"
EMBED, REPORT = 30, (25, 50, 100)  # checkpoints
EMBED_S, REPORT_S, REPORT_MIB = 60, 40, 2048  # goals
LINEAR = 2  # what twice as many checkpoints may take


class Cost(NamedTuple):
    """What a command took."""

    elapsed_s: float
    peak_mib: float


def rows(pairs: int) -> Iterator[Row]:
    """Measure each command so often, and yield the medians."""
    with tempfile.TemporaryDirectory() as folder:
        yield _embedded(make(Path(folder) / "embed", EMBED), pairs)
    costs = {}
    for checkpoints in REPORT:
        with tempfile.TemporaryDirectory() as folder:
            # The plane is the same to draw, and a PCA takes seconds.
            config = make(Path(folder) / "report", checkpoints, projection="pca")
            _command("embed", config)
            costs[checkpoints] = [_command("report", config) for _ in range(pairs)]
    yield from _reported(costs)
    with tempfile.TemporaryDirectory() as folder:
        config = make(Path(folder) / "runs", REPORT[-1] // 2, runs=2, projection="pca")
        _command("embed", config)
        found = [_command("report", config) for _ in range(pairs)]
        what = f"report, 2 runs x {REPORT[-1] // 2} checkpoints x {UNITS}, runs together too"
        yield Row(what, _median(found), "s", 2 * REPORT_S, figures=_figures(found))


def _embedded(config: Path, pairs: int) -> Row:
    found = [_command("embed", config) for _ in range(pairs)]
    return Row(f"embed, {EMBED} checkpoints x {UNITS}, UMAP", _median(found), "s", EMBED_S, figures=_figures(found))


def _reported(costs: dict[int, list[Cost]]) -> Iterator[Row]:
    most = REPORT[-1]
    what = f"report, {most} checkpoints x {UNITS}"
    yield Row(what, _median(costs[most]), "s", REPORT_S, figures=_figures(costs[most]))
    yield Row(f"{what}: peak memory", max(cost.peak_mib for cost in costs[most]), "MiB", REPORT_MIB)
    seconds = {checkpoints: _median(found) for checkpoints, found in costs.items()}
    twice = [seconds[b] / seconds[a] for a, b in pairwise(REPORT)]
    figures = {f"{count} checkpoints, s each": round(found / count, 3) for count, found in seconds.items()}
    yield Row("report: its time to that of half the checkpoints, at most", max(twice), "x", LINEAR, figures=figures)


def _median(costs: list[Cost]) -> float:
    return float(np.median([cost.elapsed_s for cost in costs]))


def _figures(costs: list[Cost]) -> dict[str, object]:
    return {
        "all, s": [round(cost.elapsed_s, 2) for cost in costs],
        "peak, MiB": round(max(cost.peak_mib for cost in costs)),
    }


def _command(name: str, config: Path) -> Cost:
    """Run a command to its end, whatever it has made before.

    Raises:
        CalledProcessError: where it fails.
    """
    words = [sys.executable, "-m", "cmon", name, str(config), "--force", "--quiet"]
    start = time.perf_counter()
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    elapsed_s = time.perf_counter() - start
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, words)
    peak_kib = usage.ru_maxrss / 1024 if sys.platform == "darwin" else usage.ru_maxrss
    return Cost(elapsed_s, peak_kib / 1024)
