"""The figures of a report; each is one module with `table(view)` and `draw(view, table)`."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from matplotlib.figure import Figure

from cmon.figures import (
    accuracy,
    agreement,
    categories,
    compare_categories,
    compare_retention,
    compare_units,
    evolution,
    examples,
    finetune,
    indicators,
    plane,
    pruning,
    retention,
    timeline,
    top_units,
    trajectories,
)
from cmon.records import Table, View


def always(_: View) -> str:
    """Say that there is something to draw of any view."""
    return ""


@dataclass(frozen=True)
class Drawing:
    """One kind of figure.

    Args:
        title: a heading for the report.
        explanation: what is seen and what each mark means, in one sentence.
        table: the numbers of the figure, from a view.
        draw: the figure, from the view and its table.
        shows: one run, `view.run`; two detectors of one run, `view.study` and `view.other`; or several runs,
            `view.runs`, the first being what others are compared with.
        applies: "" where there is something to draw of a view, else why there is not, in a few words.
    """

    title: str
    explanation: str
    table: Callable[[View], Table]
    draw: Callable[[View, Table], Figure]
    shows: Literal["run", "detectors", "runs"] = "run"
    applies: Callable[[View], str] = always


FIGURES: dict[str, Drawing] = {
    "plane": Drawing(
        "Units in the shared plane",
        "Each dot is a living unit at one checkpoint, placed by its best concepts and coloured by its "
        "layer (pale where it is not interpretable), among the concepts (grey dots) and the anchors "
        "(crosses with their words); rings with letters are tracked units, d_anchor is the mean distance "
        "from a unit to its nearest anchor in the embedding space itself (± the half of a 95 % interval over resamples "
        "of the probe's images), and distances in the plane are not to be read as numbers.",
        plane.table,
        plane.draw,
    ),
    "evolution": Drawing(
        "Tracked units over training",
        "A column is a checkpoint: above, the plane with the tracked units ringed; below it a row for "
        "each of them with the images that activate it most, its word (grey where it is not interpretable), "
        "the word's score and the share of resamples of the probe's images that give it the same word; at the "
        "foot, for each layer, the shares of its units by category, with how many of all its units are "
        "interpretable (± the half of a 95 % interval over these resamples).",
        evolution.table,
        evolution.draw,
    ),
    "categories": Drawing(
        "Interpretable units by category",
        "For each layer, the share of its units that detect a concept of each category at every "
        "checkpoint (a tick each); above them, units that are not interpretable in pale grey and those "
        "that are dead, constant or saturated patterned, so that the whole layer is always 100 %; upright lines are "
        "95 % intervals of the share of all interpretable units over resamples of the probe's images.",
        categories.table,
        categories.draw,
    ),
    "indicators": Drawing(
        "Indices by step",
        "A panel for each index with a line for each layer over the checkpoints (marks); units that are not alive are "
        "dead, constant or saturated, confidence is the share of resamples of the probe's images that give an "
        "interpretable unit the same word, a word changed where a living unit's is another one than at the checkpoint "
        "before, and drifted where such a change goes beyond what resamples do to it anyway; pale bands are "
        "95 % intervals over these resamples, and the dashed lines with their bands are the mean over untrained "
        "networks and their range.",
        indicators.table,
        indicators.draw,
    ),
    "retention": Drawing(
        "Retention of words",
        "For each layer, of the x % most interpretable units at the first of the two steps, the share that has the "
        "same word at every later checkpoint (dots) or at the last one (diamonds), a word near in meaning (triangles) "
        "or one of the same category (squares, of the units whose word has one), whether or not it is interpretable "
        "there; pale bands are 95 % intervals over resamples of the probe's images, and the dotted line is the "
        "share that these resamples keep at the first step itself.",
        retention.table,
        retention.draw,
    ),
    "timeline": Drawing(
        "Births and deaths of words",
        "For each layer, on the left, at every checkpoint how many words an interpretable unit holds for the "
        "first time (upwards) and how many were held for the last time at the checkpoint before (downwards), with thin "
        "lines for 95 % intervals over resamples of the probe's images; on the right, the words that most units hold, "
        "from their first to their last checkpoint, as thick as units hold them, in their categories' colours, with "
        "the greatest number of units.",
        timeline.table,
        timeline.draw,
    ),
    "trajectories": Drawing(
        "Paths of tracked units",
        "Each line is one unit's path through the shared plane from its first checkpoint (hollow end) to "
        "its last (filled end, with its letter), getting darker with every checkpoint, broken where the "
        "unit is not alive, among the concepts (grey dots) and the numbered anchors (crosses); the key gives "
        "the unit's first and last word.",
        trajectories.table,
        trajectories.draw,
    ),
    "top_units": Drawing(
        "The most interpretable units",
        "For each layer and chosen checkpoint, the interpretable units with the highest scores at that "
        "checkpoint, best first: the unit's number, its score and the share of resamples of the probe's images that "
        "give it the same word, below them the word after its category's colour, and the images that activate it "
        "most.",
        top_units.table,
        top_units.draw,
    ),
    "agreement": Drawing(
        "Where two detectors agree",
        "For each layer, of its units that have an interpretable word from both detectors, the share whose "
        "two words are the same (dots), near in meaning (triangles) or of the same category (squares, of the "
        "units whose words both have one) at every checkpoint; pale bands are 95 % intervals over resamples of the "
        "probe's images, and dotted, in the same colours, are the shares that dealing the second detector's words to "
        "these units at random would give.",
        agreement.table,
        agreement.draw,
        "detectors",
    ),
    "finetune": Drawing(
        "Changes from the first checkpoint on",
        "For each layer, and for all together, on the left the number of interpretable units of each category at every "
        "checkpoint, with pale bands for 95 % intervals over resamples of the probe's images; on the right, by how "
        "many units each of these numbers has changed from the first checkpoint to the last, with the interval of the "
        "change itself (hollow where it holds 0) and both numbers; below, the shared plane at both checkpoints.",
        finetune.table,
        finetune.draw,
        applies=finetune.applies,
    ),
    "compare_categories": Drawing(
        "Interpretable units by category, run by run",
        "For each layer that two of the runs have, and for all layers together, the runs' shares of units by category "
        "at every checkpoint, drawn as for a single run; on the right, by how much each number of units at a run's "
        "last checkpoint is greater than at the first run's last one (shares of the layer where its sizes differ), "
        "with the 95 % interval of the difference itself over resamples of the probe's images, the same for both runs "
        "(hollow where it holds 0).",
        compare_categories.table,
        compare_categories.draw,
        "runs",
        compare_categories.applies,
    ),
    "compare_retention": Drawing(
        "Retention of words, run by run",
        "For each layer that two of the runs have, of the x % most interpretable units at a run's first checkpoint, "
        "the share that has the same word at every later checkpoint of this run, and dotted, of few runs, at its last "
        "one; pale bands are 95 % intervals over resamples of the probe's images.",
        compare_retention.table,
        compare_retention.draw,
        "runs",
        compare_retention.applies,
    ),
    "compare_units": Drawing(
        "Matched units of two runs",
        "For each layer, the first run's units are matched with another's at the last checkpoints of both, by their "
        "number where the runs began with the same weights, else so that their responses to the probe's images "
        "correlate most: on the left the correlation of each pair, from the most alike to the least, and dotted, what "
        "such a matching gives by chance; on the right, of the pairs that are interpretable in both runs, the share "
        "whose two words are the same, near in meaning or of the same category (of those whose words both have one), "
        "with 95 % intervals over resamples of the images and upright marks where dealing the words at random would "
        "put it.",
        compare_units.table,
        compare_units.draw,
        "runs",
        compare_units.applies,
    ),
    "examples": Drawing(
        "The commonest words, run by run",
        "A column is a run: the words that most interpretable units of its last layer have at its last checkpoint, "
        "after their categories' colours, with the number of these units (± the half of a 95 % interval over resamples "
        "of the probe's images) and that of the first run's units with this word; below each word the units with the "
        "highest scores, with the share of resamples that give them the same word and the images that activate them "
        "most.",
        examples.table,
        examples.draw,
        "runs",
        examples.applies,
    ),
    "accuracy": Drawing(
        "What the training recorded",
        "A line for each run over the checkpoints, as the training itself has recorded it: accuracies in one panel, "
        "with their last values, a panel for each other metric; where one run counts far more steps than another, such "
        "as batches and epochs, each goes from its own first to its own last; no intervals are known.",
        accuracy.table,
        accuracy.draw,
        "runs",
        accuracy.applies,
    ),
    "pruning": Drawing(
        "Interpretable units by pruned weights",
        "For each layer, the number of interpretable units at the checkpoints of each run, by the share of weights "
        "that are pruned, with pale bands for 95 % intervals over resamples of the probe's images; dotted, the units "
        "that are dead or constant.",
        pruning.table,
        pruning.draw,
        "runs",
        pruning.applies,
    ),
}
