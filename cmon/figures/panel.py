"""A panel of the shared plane: its limits, its marks, its words."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.colors import to_rgba

from cmon.figures import style
from cmon.figures.columns import chosen, living
from cmon.figures.labels import place_labels
from cmon.figures.style import GREY, INK, SMALL, Page, Points, fit
from cmon.records import Study, Table

CONCEPT: dict[str, Any] = {"marker": ".", "ms": 3.0, "color": style.FAINT, "mec": "none"}
ANCHOR: dict[str, Any] = {"marker": "x", "ms": 4.5, "mew": 1.1, "color": INK}
RING: dict[str, Any] = {
    "marker": "o",
    "ms": 8.0,
    "mfc": "none",
    "mec": INK,
    "mew": 1.0,
    "color": INK,
}
LABEL: dict[str, Any] = {
    "xycoords": "axes fraction",
    "textcoords": "offset points",
    "ha": "center",
    "va": "center_baseline",
    "size": SMALL,
    "zorder": 5,
    "bbox": {"fc": "white", "ec": "none", "alpha": 0.75, "pad": 0.6},
}
MOST_DOTS = 1500  # that a label's place is weighed against


@dataclass(frozen=True)
class Window:
    """The part of the plane that holds the whole study, so that runs and steps can be compared.

    Args:
        low: (2,) lower left corner.
        high: (2,) upper right corner.
    """

    low: Points
    high: Points

    @classmethod
    def of(cls, study: Study) -> "Window":
        """Fit units, concepts and anchors of all runs, with a margin."""
        places = np.vstack([study.units.xy, study.concept_xy.reshape(-1, 2), study.anchors.xy.reshape(-1, 2)])
        places = places[np.isfinite(places).all(axis=1)].astype(np.float64)
        if not len(places):
            return cls(np.zeros(2), np.ones(2))
        low, high = places.min(axis=0), places.max(axis=0)
        middle, half = (low + high) / 2, (high - low) / 2
        # An equal scale on both axes, in a panel that is between square and 5:8.
        half = np.maximum(half, [half[1], half[0] * 0.62])
        half = half * 1.06 if half.max() > 0 else np.ones(2)
        return cls(middle - half, middle + half)

    @property
    def ratio(self) -> float:
        """Height by width."""
        width, height = self.high - self.low
        return float(height / width)


class Panel:
    """One picture of the plane on a page, of so many inches' width."""

    def __init__(self, page: Page, window: Window, left: float, top: float, width: float) -> None:
        self.window, self.scale = window, 72 * width / float(window.high[0] - window.low[0])
        self.extent, self.is_small = (72 * width, 72 * width * window.ratio), width < 2
        self.axes = page.panel(left, top, width, width * window.ratio)
        (x, y), (right, upper) = window.low, window.high
        self.axes.set(xlim=(x, right), ylim=(y, upper), xticks=[], yticks=[])

    def points(self, xy: Points) -> Points:
        """Convert places in the plane to points of type from the lower left corner."""
        return np.asarray((xy - self.window.low) * self.scale, dtype=np.float64)

    def draw(self, words: Table, units: Table, colours: dict[str, str], size: float) -> None:
        """Draw concepts and anchors as marks, living units as dots in their layers' colours."""
        concepts, anchors = chosen(words, kind="concept"), chosen(words, kind="anchor")
        self.axes.plot(concepts["x"], concepts["y"], ls="none", zorder=1, **CONCEPT)
        alive = chosen(units, state="alive")
        shades = [
            to_rgba(colours[layer], 0.85 if clear else 0.25)
            for layer, clear in zip(alive["layer"], alive["interpretable"], strict=True)
        ]
        # In a fixed random order, so that no layer lies on top of another.
        order = np.random.default_rng(0).permutation(len(shades))
        face = np.reshape(shades, (-1, 4))[order]
        self.axes.scatter(alive["x"][order], alive["y"][order], s=size, c=face, lw=0, zorder=2)
        crosses = ANCHOR | ({"ms": 3.0, "mew": 0.8} if self.is_small else {})
        self.axes.plot(anchors["x"], anchors["y"], ls="none", zorder=3, **crosses)

    def write(
        self,
        xy: Points,
        names: Sequence[str],
        radius: float,
        taken: Points,
        crowd: Points,
        weight: str = "normal",
    ) -> Points:
        """Write names near the marks at their places, so that none hides another.

        Args:
            xy: (N, 2) places in the plane.
            names: (N,)
            radius: of the marks, in points.
            taken: (M, 4) boxes to keep clear, in points from the lower left corner.
            crowd: (P, 2) places of dots that are better left visible.
            weight: of the letters.

        Returns:
            (N + N, 4) boxes that names and marks take.
        """
        room = min(1.3, self.extent[0] / 72 * 0.6)
        names = [fit(name, room, SMALL, weight) for name in names]
        places, crowd = self.points(xy), self.points(crowd[:: max(1, len(crowd) // MOST_DOTS)])
        wide = [72 * style.text_width(name, SMALL, weight) + 3 for name in names]
        sizes = np.stack([wide, np.full(len(names), SMALL + 3)], axis=1)
        centres = place_labels(places, sizes, radius, self.extent, taken, crowd)
        boxes = np.hstack([centres - sizes / 2, centres + sizes / 2])
        for name, place, centre, box in zip(names, places, centres, boxes, strict=True):
            spot, away = tuple(place / self.extent), tuple(centre - place)
            self.axes.annotate(name, xy=spot, xytext=away, weight=weight, **LABEL)
            edges = np.clip(places, box[:2], box[2:])
            gaps = np.hypot(*(edges - places).T)
            own = np.flatnonzero((places == place).all(axis=1))[0]
            if gaps[own] > min(radius + 5, gaps.min() + 1e-6):  # far off, or nearer to another's mark
                line = np.stack([place, edges[own]]) / self.extent
                self.axes.plot(*line.T, transform=self.axes.transAxes, color=GREY, lw=0.5, zorder=2.5)
        return np.vstack([boxes, np.hstack([places - radius, places + radius])])

    def ring(self, units: Table, taken: Points) -> None:
        """Ring the tracked living units, then write their letters beside them."""
        tracked = {name: column[units["tracked"] != ""] for name, column in units.items()}
        xy = living(tracked)
        letters = tracked["tracked"][tracked["state"] == "alive"].tolist()
        rings = RING | ({"ms": 6.0, "mew": 0.8} if self.is_small else {})
        self.axes.plot(xy[:, 0], xy[:, 1], ls="none", zorder=6, **rings)
        self.write(xy, letters, rings["ms"] / 2, taken, living(units), "bold")


def layer_marks(layers: Iterable[str], colours: dict[str, str]) -> list[style.Mark]:
    """List a legend's marks for layers."""
    return [(layer, {"marker": "o", "ms": 5.0, "color": colours[layer], "mec": "none"}) for layer in layers]
