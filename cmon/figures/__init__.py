"""The figures of a report; each is one module with `table(view)` and `draw(view, table)`."""

from collections.abc import Callable
from dataclasses import dataclass

from matplotlib.figure import Figure

from cmon.figures import agreement, categories, evolution, plane, top_units, trajectories
from cmon.records import Table, View


@dataclass(frozen=True)
class Drawing:
    """One kind of figure.

    Args:
        title: a heading for the report.
        explanation: what is seen and what each mark means, in one sentence.
        table: the numbers of the figure, from a view.
        draw: the figure, from the view and its table.
        compares: does it show two detectors, `view.study` and `view.other`.
    """

    title: str
    explanation: str
    table: Callable[[View], Table]
    draw: Callable[[View, Table], Figure]
    compares: bool = False


FIGURES: dict[str, Drawing] = {
    "plane": Drawing(
        "Units in the shared plane",
        "Each dot is a living unit at one checkpoint, placed by its best concepts and coloured by its "
        "layer (pale where it is not interpretable), among the concepts (grey dots) and the anchors "
        "(crosses with their words); rings with letters are tracked units, d_anchor is the mean distance "
        "from a unit to its nearest anchor in the embedding space itself, and distances in the plane are "
        "not to be read as numbers.",
        plane.table,
        plane.draw,
    ),
    "evolution": Drawing(
        "Tracked units over training",
        "A column is a checkpoint: above, the plane with the tracked units ringed; below it a row for "
        "each of them with the images that activate it most, its word (grey where it is not "
        "interpretable) and the word's score; at the foot, for each layer, the shares of its units by "
        "category, with how many of all its units are interpretable.",
        evolution.table,
        evolution.draw,
    ),
    "categories": Drawing(
        "Interpretable units by category",
        "For each layer, the share of its units that detect a concept of each category at every "
        "checkpoint (a tick each); above them, units that are not interpretable in pale grey and dead "
        "units hatched, so that the whole layer is always 100 %.",
        categories.table,
        categories.draw,
    ),
    "trajectories": Drawing(
        "Paths of tracked units",
        "Each line is one unit's path through the shared plane from its first checkpoint (hollow end) to "
        "its last (filled end, with its letter), getting darker with every checkpoint, broken where the "
        "unit is dead, among the concepts (grey dots) and the numbered anchors (crosses); the key gives "
        "the unit's first and last word.",
        trajectories.table,
        trajectories.draw,
    ),
    "top_units": Drawing(
        "The most interpretable units",
        "For each layer and chosen checkpoint, the interpretable units with the highest scores at that "
        "checkpoint, best first: the unit's number, its word after its category's colour, the word's "
        "score, and the images that activate it most.",
        top_units.table,
        top_units.draw,
    ),
    "agreement": Drawing(
        "Where two detectors agree",
        "For each layer, of its units that have an interpretable word from both detectors, the share whose "
        "two words are the same (dots), near in meaning (triangles) or of the same category (squares, of the "
        "units whose words both have one) at every checkpoint; dotted, in the same colours, the shares that "
        "dealing the second detector's words to these units at random would give.",
        agreement.table,
        agreement.draw,
        compares=True,
    ),
}
