"""One figure of a benchmark with its goal, and how pairs of functions are timed."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from cmon.profiling import mean_seconds

LEAST_S = 0.5


@dataclass(frozen=True)
class Row:
    """One measured figure.

    Args:
        what: was measured, with its sizes and precision.
        measured: the figure.
        unit: of the figure: "x" for a ratio, "s", "MiB", "%".
        goal: what it is held to.
        at_most: is the goal an upper bound; else a lower one.
        figures: what else was seen, such as both sides' seconds.
    """

    what: str
    measured: float
    unit: str
    goal: float
    at_most: bool = True
    figures: dict[str, Any] = field(default_factory=dict)

    @property
    def met(self) -> bool:
        """Tell whether the goal is reached."""
        return self.measured <= self.goal if self.at_most else self.measured >= self.goal


def compare(ours: Callable[[], object], baseline: Callable[[], object], pairs: int) -> dict[str, Any]:
    """Time two functions in turn, after a warm-up of each; ratios are medians over pairs, since machines are noisy.

    What is quick is done again until some time has passed: threads of the one go on spinning for milliseconds when the
    other has its turn.

    Returns:
        cmon_s, baseline_s and `ratio`, of cmon's seconds to the baseline's, with all of the ratios.
    """
    ours(), baseline()
    times = np.array([[mean_seconds(ours, LEAST_S), mean_seconds(baseline, LEAST_S)] for _ in range(pairs)])
    ratios = times[:, 0] / times[:, 1]
    medians = np.median(times, axis=0)
    figures = {"cmon_s": float(medians[0]), "baseline_s": float(medians[1]), "ratio": float(np.median(ratios))}
    return figures | {"ratios": ratios.round(3).tolist()}


def seconds(function: Callable[[], object]) -> float:
    """Time one call."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start
