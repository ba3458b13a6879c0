"""The shared plane: where the units of one run lie among concepts and anchors at chosen checkpoints."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure

from cmon.figures import style
from cmon.figures.style import GREY, INK, SMALL, Page, Points, fit, styled
from cmon.records import IntArray, Study, Table, View

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


def letter(position: int) -> str:
    """Name a tracked unit in figures: A, B … Z, AA, AB …; anchors have the numbers."""
    return (letter(position // 26 - 1) if position >= 26 else "") + chr(ord("A") + position % 26)


def unit_columns(view: View, rows: style.Rows) -> Table:
    """Say rows of the table of units in people's words, as columns of equal length.

    Concept and category are "" where a unit is dead, score, x and y NaN; `tracked` is a letter, or "".
    """
    study, units = view.study, view.study.units
    letters = {key: letter(i) for i, key in enumerate(view.track)}
    keys = zip(units.layer[rows].tolist(), units.unit[rows].tolist(), strict=True)
    words = _words(study.concepts.names, units.concept[rows])
    return {
        "kind": _texts("unit" for _ in rows),
        "run": _words(study.runs, units.run[rows]),
        "checkpoint": _words([c.name for c in study.checkpoints], units.checkpoint[rows]),
        "step": _words([c.step for c in study.checkpoints], units.checkpoint[rows], np.int64),
        "layer": _words(study.layers, units.layer[rows]),
        "unit": units.unit[rows],
        "concept": words,
        "category": _words(study.concepts.categories, units.concept[rows]),
        "score": units.score[rows],
        "alive": units.alive[rows],
        "interpretable": units.interpretable[rows],
        "tracked": _texts(letters.get(key, "") for key in keys),
        "x": units.xy[rows, 0],
        "y": units.xy[rows, 1],
        "d_anchor": study.d_anchor[units.checkpoint[rows], units.layer[rows]],
    }


def word_columns(study: Study) -> Table:
    """Say where concepts and anchors lie, as further rows for `unit_columns`; unknown is "", -1 or NaN."""
    names = (*study.concepts.names, *study.anchors.names)
    kinds = ["concept"] * len(study.concepts.names) + ["anchor"] * len(study.anchors.names)
    xy = np.vstack([study.concept_xy.reshape(-1, 2), study.anchors.xy.reshape(-1, 2)])
    nothing, unknown = _texts("" for _ in names), np.full(len(names), np.nan, np.float32)
    table: Table = dict.fromkeys(("run", "checkpoint", "layer", "tracked"), nothing)
    table |= {name: np.full(len(names), -1) for name in ("step", "unit")}
    table |= {name: np.zeros(len(names), bool) for name in ("alive", "interpretable")}
    table |= {"kind": _texts(kinds), "concept": _texts(names), "x": xy[:, 0], "y": xy[:, 1]}
    table["category"] = _texts([*study.concepts.categories, *("" for _ in study.anchors.names)])
    return table | {"score": unknown, "d_anchor": unknown}


def joined(first: Table, second: Table) -> Table:
    """Put the rows of two tables with the same columns below one another."""
    return {name: np.concatenate([first[name], second[name]]) for name in first}


def chosen(table: Table, **values: object) -> Table:
    """Keep the rows in which the named columns have these values."""
    keep = np.ones(len(next(iter(table.values()))), bool)
    for name, value in values.items():
        keep &= table[name] == value
    return {name: column[keep] for name, column in table.items()}


def layers_of(view: View) -> list[str]:
    """List the layers that the view's run has, in forward order."""
    units = view.study.units
    return [view.study.layers[i] for i in np.unique(units.layer[units.run == view.run])]


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
        alive = chosen(units, alive=True)
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
        centres = style.place_labels(places, sizes, radius, self.extent, taken, crowd)
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
        letters = tracked["tracked"][tracked["alive"]].tolist()
        rings = RING | ({"ms": 6.0, "mew": 0.8} if self.is_small else {})
        self.axes.plot(xy[:, 0], xy[:, 1], ls="none", zorder=6, **rings)
        self.write(xy, letters, rings["ms"] / 2, taken, living(units), "bold")


def living(units: Table) -> Points:
    """Return the places (N, 2) of the units that are alive."""
    return np.stack([units["x"], units["y"]], axis=1)[units["alive"]].astype(np.float64)


def layer_marks(layers: Iterable[str], colours: dict[str, str]) -> list[style.Mark]:
    """List a legend's marks for layers."""
    return [(layer, {"marker": "o", "ms": 5.0, "color": colours[layer], "mec": "none"}) for layer in layers]


def settings(view: View) -> str:
    """Return the view's caption, with the plane's trustworthiness if that is known and not yet said."""
    known = view.study.facts.get("trustworthiness")
    said = known is None or "trustworthiness" in view.caption
    return view.caption if said else f"{view.caption} · trustworthiness of the plane {known:.2f}"


def table(view: View) -> Table:
    """List the units at the chosen checkpoints, then concepts and anchors."""
    rows = [view.rows(checkpoint) for checkpoint in view.steps]
    return joined(unit_columns(view, np.concatenate([np.zeros(0, np.intp), *rows])), word_columns(view.study))


@styled
def draw(view: View, table: Table) -> Figure:
    """Draw a panel for every chosen checkpoint, two in a row."""
    columns = min(2, max(1, len(view.steps)))
    title = f"{view.study.runs[view.run]}: units in the shared plane"
    page = Page(style.PAGE_WIDTH if columns == 2 else 5.0, title)
    width = (page.width - 0.2 - 0.2 * (columns - 1)) / columns
    window, colours = Window.of(view.study), style.layer_colours(view.study.layers)
    words, anchors = chosen(table, run=""), chosen(table, kind="anchor")
    places = np.stack([anchors["x"], anchors["y"]], axis=1).astype(np.float64)
    # By the units of all steps: an anchor's word then stands at the same spot in every panel.
    crowd = living(chosen(table, kind="unit"))
    for i, checkpoint in enumerate(view.steps):
        left, top = 0.1 + (i % columns) * (width + 0.2), page.y
        units = chosen(table, kind="unit", checkpoint=view.study.checkpoints[checkpoint].name)
        page.heading(left, f"step {view.step(checkpoint):,}", subtitle(units), width)
        panel = Panel(page, window, left, top + 0.3, width)
        panel.draw(words, units, colours, 9.0 if len(units["x"]) < 400 else 5.0)
        panel.ring(units, panel.write(places, anchors["concept"].tolist(), 3.0, np.zeros((0, 4)), crowd))
        if i % columns == columns - 1 or i == len(view.steps) - 1:
            page.y = top + 0.3 + width * window.ratio + 0.15
    marks = layer_marks(layers_of(view), colours)
    if not chosen(table, kind="unit", alive=True)["interpretable"].all():
        marks.append(("pale: not interpretable", {"marker": "o", "ms": 5.0, "color": "#c8c8c8", "mec": "none"}))
    page.legend([*marks, ("a concept", CONCEPT), *([("an anchor", ANCHOR)] if len(places) else [])])
    page.legend(_tracked_marks(view, table))
    return page.finish(settings(view))


def subtitle(units: Table) -> str:
    """Count a checkpoint's units in one line, with d_anchor where it is known."""
    alive, d_anchor = units["alive"], units["d_anchor"]
    parts = [f"{int(alive.sum())} units drawn, {int((~alive).sum())} dead"]
    if (known := alive & np.isfinite(d_anchor)).any():
        parts.append(f"d_anchor {d_anchor[known].mean():.3f}")
    return " · ".join(parts)


def story(table: Table, position: int) -> list[str]:
    """Return a tracked unit's first and last word among a table's rows, or the one there is."""
    words = chosen(table, kind="unit", tracked=letter(position))["concept"].tolist()
    return [word or "dead" for word in (words[:1] + words[1:][-1:])] or ["not in this run"]


def _tracked_marks(view: View, table: Table) -> list[style.Mark]:
    tracked = enumerate(view.track)
    names = [f"{letter(i)}: {view.study.layers[layer]} unit {unit}, " for i, (layer, unit) in tracked]
    return [(name + " → ".join(story(table, i)), RING) for i, name in enumerate(names)]


def _words(names: Sequence[object], indices: IntArray, kind: type = str) -> np.typing.NDArray[np.generic]:
    """Look names up, "" where the index is -1; an array of text even when it is empty."""
    return np.array([names[i] if i >= 0 else "" for i in indices.tolist()], dtype=kind)


def _texts(texts: Iterable[str]) -> np.typing.NDArray[np.str_]:
    return np.array(list(texts), dtype=str)
