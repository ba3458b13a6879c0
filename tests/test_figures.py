import io
import itertools
import re
import zlib
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import matplotlib
import numpy as np
import pytest
import torch
from conftest import TinyStudy
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.text import Text

from cmon import config
from cmon.figures import FIGURES, columns, indicators, intervals, plane, retention, style, timeline, trajectories
from cmon.figures.categories import Groups, positions
from cmon.records import STATES, Anchors, Baseline, CheckpointName, Concepts, Match, Study, Units, View

pytestmark = pytest.mark.filterwarnings("error")

WORDS = {"stripe": "texture", "wood": "material", "dog": "object", "sky": "scene"}
# A layer at a checkpoint: word and score of each unit, None for a dead one, else what it is that is not alive.
Cell = list[tuple[str, float] | str | None]

# Two runs of three checkpoints and two layers with three units each; a score of at least 1 is interpretable.
RUNS: dict[str, list[list[Cell]]] = {
    "plain": [
        [[("stripe", 2.0), ("stripe", 0.5), None], [("wood", 1.0), ("dog", 0.25), ("stripe", 0.75)]],
        [[("stripe", 2.5), ("wood", 1.5), None], [("dog", 3.0), ("dog", 1.25), ("sky", 3.5)]],
        [[("stripe", 3.0), None, None], [("dog", 4.0), ("dog", 4.0), ("sky", 0.5)]],
    ],
    "robust": [[[None, ("sky", 5.0), ("sky", 5.0)], [("sky", 5.0), ("wood", 5.0), ("wood", 5.0)]]] * 3,
}
STEPS = (0, 10, 20)


FLOATS = ("score", "p_value", "quality", "resampled_score", "top_score", "embedding", "xy")


def a_study(
    runs: dict[str, list[list[Cell]]] = RUNS,
    words: dict[str, str] = WORDS,
    steps: Sequence[int] = STEPS,
    layers: Sequence[str] = ("early", "late"),
    anchors: Sequence[str] = ("leaf", "cat"),
    tau: float = 1.0,
    resamples: int = 8,
) -> Study:
    """Make a study; in a resample of the images some words are others, and scores differ."""
    names = list(words)
    columns: dict[str, list[Any]] = {name: [] for name in Units.__dataclass_fields__}
    checkpoints = []
    for run, run_name in enumerate(runs):
        for step, cells in zip(steps, runs[run_name], strict=True):
            checkpoints.append(CheckpointName(run, f"epoch_{step}", step))
            for layer, cell in enumerate(cells):
                for unit, found in enumerate(cell):
                    alive, state = isinstance(found, tuple), found if isinstance(found, str) else "dead"
                    concept, score = (names.index(found[0]), found[1]) if alive else (-1, np.nan)
                    images = [unit % 6, layer % 6, 5] if alive else []
                    random = np.random.default_rng([len(checkpoints), layer, unit])
                    other, flips = random.integers(len(names), size=resamples), random.random(resamples) < 0.3
                    drawn_words = np.where(flips, other, concept) if alive else np.full(resamples, -1)
                    scores = score + random.normal(0, 0.5, resamples)
                    row = {"run": run, "checkpoint": len(checkpoints) - 1, "layer": layer, "unit": unit}
                    row |= {"concept": concept, "score": score, "state": STATES.index("alive" if alive else state)}
                    row |= {"interpretable": alive and score >= tau, "embedding": [score] * 2}
                    row |= {"resampled_concept": drawn_words, "resampled_interpretable": scores >= tau}
                    row |= {"resampled_score": scores}
                    row |= {"p_value": np.nan, "quality": [np.nan] * 4}
                    row |= {"top_concept": [concept] + [-1] * 9, "top_score": [score] + [np.nan] * 9}
                    row |= {"top_images": images + [-1] * (20 - len(images))}
                    row |= {"xy": [concept + step / 40, unit + layer / 4] if alive else [np.nan] * 2}
                    for name, value in row.items():
                        columns[name].append(value)
    kinds = dict.fromkeys(FLOATS, np.float32)
    kinds |= {"state": np.int8, "interpretable": np.bool_, "resampled_interpretable": np.bool_}
    units = Units(**{name: np.array(values, kinds.get(name, np.int32)) for name, values in columns.items()})
    random = np.random.default_rng(3)
    places = random.normal(size=(len(anchors), 2)).astype(np.float32)
    d_anchor = np.tile(np.arange(len(layers), dtype=np.float32) + 0.5, (len(checkpoints), 1))
    noise = random.normal(0, 0.02, (2, *d_anchor.shape, resamples)).astype(np.float32)
    base = list(itertools.product(range(len(runs)), range(len(layers)), range(3)))
    return Study(
        detector="clip_dissect",
        score_unit="nats",
        runs=tuple(runs),
        checkpoints=tuple(checkpoints),
        layers=tuple(layers),
        concepts=Concepts(tuple(names), tuple(words.values())),
        concept_features=features_of(names),
        concept_xy=np.stack([np.arange(len(names)), np.zeros(len(names))], axis=1).astype(np.float32),
        image_ids=tuple(f"{i}.png" for i in range(6)),
        units=units,
        anchors=Anchors(tuple(anchors), places, places),
        d_anchor=d_anchor,
        d_anchor_resampled=d_anchor[..., None] + noise[0],
        spread=d_anchor / 2,
        spread_resampled=d_anchor[..., None] / 2 + noise[1],
        baseline=Baseline(*np.array([[*place, 20, 18, 1 + sum(place)] for place in base], np.int32).T),
        prior_perplexity=np.full((len(checkpoints), len(layers)), np.nan, np.float32),
        facts={"trustworthiness": 0.876},
    )


def features_of(words: Sequence[str]) -> np.ndarray:
    """Give every word a direction of its own, (C, 8), the same in every list of words."""
    rows = [np.random.default_rng(zlib.crc32(word.encode())).normal(size=8) for word in words]
    return np.array([row / np.linalg.norm(row) for row in rows], np.float32)


def another(study: Study) -> Study:
    """Label the units of a study by a second detector: half of the words are others, some units are dead."""
    old, units = study.concepts, study.units
    names = tuple(name if i % 2 else f"not {name}" for i, name in enumerate(old.names))[::-1]
    state = np.where(np.arange(len(units.state)) % 7 == 6, np.maximum(units.state, 1), units.state)
    alive = state == 0
    resampled = np.where(alive[:, None], len(names) - 1 - units.resampled_concept, -1).astype(np.int32)
    score = np.where(alive, np.where(units.checkpoint % 4 == 3, 0.03, 0.3), np.nan).astype(np.float32)
    concept = np.where(alive, len(names) - 1 - units.concept, -1).astype(np.int32)
    return replace(
        study,
        detector="network_dissection",
        score_unit="IoU",
        concepts=Concepts(names, old.categories[::-1]),
        concept_features=features_of(names),
        units=replace(
            units,
            concept=concept,
            score=score,
            state=state,
            interpretable=score >= 0.04,
            resampled_concept=resampled,
            resampled_interpretable=units.resampled_interpretable & alive[:, None],
        ),
    )


def a_view(study: Study, **changes: Any) -> View:
    def thumbnail(index: int) -> np.ndarray:
        return np.full((32, 24 + index, 3), 40 * index, np.uint8)

    run = changes.get("run", 0)
    steps = tuple(k for k, name in enumerate(study.checkpoints) if name.run == run)[::2]
    view = View(study, 0, ((0, 1), (1, 2)), steps, 2, 4, "soft_wpmi, tau 1 · 6 images", thumbnail)
    return replace(view, **changes)


def with_two_runs(study: Study) -> Study:
    """Add to a study of one run another one of the same units with other words, and prune all runs step by step."""
    if len(study.runs) == 1:
        units, number = study.units, len(study.concepts.names)
        again = {
            "run": units.run + 1,
            "checkpoint": units.checkpoint + len(study.checkpoints),
            "concept": np.where(units.alive, (units.concept + 1) % number, -1).astype(np.int32),
            "resampled_concept": np.where(units.alive[:, None], (units.resampled_concept[:, ::-1] + 1) % number, -1),
        }
        both = {name: np.concatenate([column, again.get(name, column)]) for name, column in vars(units).items()}
        checkpoints = (*study.checkpoints, *(replace(name, run=1) for name in study.checkpoints))
        study = replace(study, runs=(*study.runs, f"{LONG} again"), checkpoints=checkpoints, units=Units(**both))
        tiled = ("d_anchor", "d_anchor_resampled", "spread", "spread_resampled", "prior_perplexity")
        study = replace(study, **{name: np.concatenate([getattr(study, name)] * 2) for name in tiled})
    pruned = [replace(name, sparsity=1 - 0.6 ** (k % 3)) for k, name in enumerate(study.checkpoints)]
    return replace(study, checkpoints=tuple(pruned))


def paired(study: Study, run: int, other: int, layer: int, same_start: bool = False) -> Match:
    """Match all units of a layer with those of another run, the last with the first."""
    units = study.units
    ends = [max(k for k, name in enumerate(study.checkpoints) if name.run == one) for one in (run, other)]
    own, others = (np.sort(units.unit[(units.checkpoint == k) & (units.layer == layer)]) for k in ends)
    size = min(len(own), len(others))
    correlation = np.linspace(0.1, 0.9, size, dtype=np.float32)
    correlation[:1] = np.nan
    chance = np.full(size, np.nan, np.float32) if same_start else np.linspace(0.3, -0.1, size, dtype=np.float32)
    partner = others[:size] if same_start else others[::-1][:size]
    return Match(run, other, layer, *ends, own[:size], partner, correlation, chance, same_start)


def among_runs(view: View) -> View:
    """Show all runs of a study together, at least two."""
    study = with_two_runs(view.study)
    others = [run for run in range(len(study.runs)) if run != view.run]
    matches = [paired(study, view.run, other, i) for other in others for i in range(len(study.layers))]
    late = np.linspace(0.2, 0.9, len(study.checkpoints)).astype(np.float32)
    metrics = {"accuracy": late, "robust_accuracy": np.where(late < 0.5, np.nan, late / 2), "loss": 3 - late}
    changed = {"steps": (), "track": (), "reference": None, "runs": (view.run, *others)}
    return replace(view, study=study, metrics=metrics, matches=tuple(matches), **changed)


def fitting(name: str, view: View) -> View:
    """Give a view what the figure of this name needs."""
    if FIGURES[name].shows == "runs":
        return among_runs(view)
    return replace(view, other=another(view.study)) if FIGURES[name].shows == "detectors" else view


def drawn(name: str, view: View) -> Figure:
    view = fitting(name, view)
    return FIGURES[name].draw(view, FIGURES[name].table(view))


def saved(figure: Figure, form: str) -> bytes:
    file = io.BytesIO()
    style.save(figure, file, form, 60)
    return file.getvalue()


def with_a_hole(study: Study) -> Study:
    """Leave one layer out at one checkpoint."""
    kept = (study.units.checkpoint != 1) | (study.units.layer != 0)
    return replace(study, units=replace(study.units, **{k: v[kept] for k, v in vars(study.units).items()}))


LONG = "an_unusually $long$ word of 40 letters, 漢字 ñ"
MANY = 150_000
DEAD: Cell = [None, None, None]
LIFELESS: Cell = [("stripe", 2.0), None, "constant", "saturated", None]
LAYERS_9 = [f"stages.{i}.blocks.11.mlp" for i in range(9)]
CELL: Cell = [("stripe", 1.0), ("dog", 2.0), None]
WITH_AXES = [
    *("categories", "indicators", "retention", "timeline", "agreement", "finetune"),
    *("compare_categories", "compare_retention", "compare_units", "accuracy", "pruning"),
]
SLACK = np.array([0, 1, 0, -1])
CROWD = tuple(f"anchor word {i}" for i in range(19))
HARD = {
    "as it is": lambda: a_view(a_study()),
    "the second run": lambda: a_view(a_study(), run=1),
    "one checkpoint": lambda: a_view(a_study({"plain": RUNS["plain"][:1]}, steps=(7,))),
    "one layer": lambda: a_view(a_study({"plain": [[CELL]] * 3}, layers=["only"]), track=((0, 0),)),
    "nine layers": lambda: a_view(a_study({"plain": [[CELL] * 9] * 3}, layers=LAYERS_9)),
    "thirty checkpoints": lambda: a_view(
        a_study({"plain": [[CELL, CELL]] * 30}, steps=range(0, MANY, MANY // 30), anchors=CROWD)
    ),
    "no anchors": lambda: a_view(a_study(anchors=())),
    "nothing tracked": lambda: a_view(a_study(), track=()),
    "a dead layer": lambda: a_view(a_study({"plain": [[DEAD, CELL]] * 3})),
    "all dead": lambda: a_view(a_study({"plain": [[DEAD, DEAD]] * 3}, anchors=())),
    "no threshold": lambda: a_view(a_study(tau=-np.inf)),
    "nothing interpretable": lambda: a_view(a_study(tau=np.inf)),
    "hard words": lambda: a_view(
        a_study({"plain": [[[(LONG, 1.0), ("$", 2.0), ("a_b", 1.0)]] * 2] * 3}, {LONG: "", "$": "", "a_b": ""})
    ),
    "no resamples": lambda: a_view(a_study(resamples=0)),
    "one resample": lambda: a_view(a_study(resamples=1)),
    "dead, constant and saturated units": lambda: a_view(a_study({"plain": [[LIFELESS, LIFELESS[1:]]] * 3})),
    "no unit alive, some dead and some constant": lambda: a_view(a_study({"plain": [[LIFELESS[1:]] * 2] * 3})),
    "the last step as reference": lambda: a_view(a_study(), reference=2),
    "a layer not at every checkpoint": lambda: a_view(with_a_hole(a_study())),
    "many tracked": lambda: a_view(
        a_study({"plain": [[CELL * 10, CELL * 10]] * 3}), track=tuple((0, i) for i in range(30))
    ),
}


@pytest.fixture(params=HARD)
def hard_view(request: pytest.FixtureRequest) -> View:
    return HARD[request.param]()


def test_the_registry_holds_the_figures_that_a_config_may_name():
    assert tuple(FIGURES) == config.FIGURES
    for kind in FIGURES.values():
        assert kind.title and kind.explanation.endswith(".")
    assert [name for name, kind in FIGURES.items() if kind.shows == "detectors"] == ["agreement"]
    together = ["compare_categories", "compare_retention", "compare_units", "examples", "accuracy", "pruning"]
    assert [name for name, kind in FIGURES.items() if kind.shows == "runs"] == together


@pytest.mark.parametrize("name", FIGURES)
def test_a_hard_study_is_drawn_without_a_warning_and_within_the_page(name: str, hard_view: View):
    hard_view = fitting(name, hard_view)
    table = FIGURES[name].table(hard_view)
    assert len({len(column) for column in table.values()}) == 1
    assert all(column.dtype != object for column in table.values())
    figure = FIGURES[name].draw(hard_view, table)
    assert saved(figure, "png")
    assert_texts_keep_apart(figure, name)


@pytest.mark.parametrize("form", ["png", "pdf", "svg"])
@pytest.mark.parametrize("name", FIGURES)
def test_equal_views_give_equal_bytes(name: str, form: str):
    view = a_view(a_study())
    assert saved(drawn(name, view), form) == saved(drawn(name, view), form)


def assert_texts_keep_apart(figure: Figure, name: str) -> None:
    """Check that captions, keys and headings neither overlap nor leave the page."""
    boxes = {text: text.get_window_extent() for text in texts(figure, figure.axes[0])}
    width, height = figure.bbox.size
    for text, box in boxes.items():
        assert box.x0 > 0 and box.y0 > 0 and box.x1 < width and box.y1 < height, (name, text)
    for (one, box), (other, second) in itertools.combinations(boxes.items(), 2):
        # Boxes of neighbouring lines may share a pixel of empty ascenders.
        assert not touch(box.extents + SLACK, second.extents + SLACK), (name, one, other)


def texts(figure: Figure, axes: Any) -> list[Text]:
    with matplotlib.rc_context({"text.hinting": "none"}):
        figure.draw_without_rendering()
    return [text for text in axes.texts if text.get_text()]


def touch(one: np.ndarray, other: np.ndarray) -> bool:
    return bool(one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3])


def test_names_in_a_crowded_plane_do_not_overlap():
    study = a_study({"plain": [[CELL * 8, CELL * 8]] * 3}, anchors=CROWD)
    view = a_view(study, track=((0, 0), (0, 1), (1, 3), (1, 4)))
    figure = drawn("plane", view)
    for axes in figure.axes[1:]:
        boxes = [text.get_window_extent().extents for text in texts(figure, axes)]
        assert len(boxes) == len(CROWD) + len(view.track)
        assert not any(touch(*pair) for pair in itertools.combinations(boxes, 2))


def test_the_plane_lists_units_then_concepts_then_anchors():
    table = plane.table(a_view(a_study()))
    units = columns.chosen(table, kind="unit")
    assert units["step"].tolist() == [0] * 6 + [20] * 6
    assert units["layer"].tolist() == (["early"] * 3 + ["late"] * 3) * 2
    assert units["unit"].tolist() == [0, 1, 2] * 4
    assert units["concept"].tolist() == [
        "stripe",
        "stripe",
        "",
        "wood",
        "dog",
        "stripe",
        "stripe",
        "",
        "",
        "dog",
        "dog",
        "sky",
    ]
    assert units["category"].tolist()[:4] == ["texture", "texture", "", "material"]
    assert units["tracked"].tolist() == ["", "A", "", "", "", "B"] * 2
    alive, dead = "alive", "dead"
    assert units["state"].tolist() == [alive] * 2 + [dead] + [alive] * 4 + [dead] * 2 + [alive] * 3
    np.testing.assert_array_equal(units["x"][:3], np.array([0, 0, np.nan], np.float32))
    np.testing.assert_array_equal(units["y"][3:6], np.array([0.25, 1.25, 2.25], np.float32))
    assert table["concept"][12:].tolist() == [*WORDS, "leaf", "cat"]
    assert table["kind"][12:].tolist() == ["concept"] * 4 + ["anchor"] * 2


def test_the_planes_subtitle_counts_the_dead_and_averages_d_anchor_over_the_living():
    # One unit of the early layer, at 0.5, and three of the late one, at 1.5.
    view = a_view(a_study(resamples=0))
    assert (plane.subtitle(view, 2), plane.distance(view, 2)) == ("4 units drawn, 2 dead", "d_anchor 1.250")
    study = a_study(resamples=5)
    resampled = [(1 * early + 3 * late) / 4 for early, late in study.d_anchor_resampled[2].T.tolist()]
    error = 1.959964 * np.std(resampled, ddof=1)
    assert plane.distance(a_view(study), 2) == f"d_anchor 1.250 ± {error:.3f}"
    assert plane.distance(HARD["all dead"](), 2) == ""


def test_the_plane_has_the_same_limits_in_all_panels_and_runs():
    study = a_study()
    figures = [drawn(name, a_view(study, run=run)) for name in ("plane", "trajectories") for run in (0, 1)]
    panels = [axes for figure in figures for axes in figure.axes[1:]]
    assert len({(*axes.get_xlim(), *axes.get_ylim()) for axes in panels}) == 1


def test_evolution_lists_each_tracked_unit_at_each_chosen_step():
    table = FIGURES["evolution"].table(a_view(a_study()))
    assert table["step"].tolist() == [0, 20, 0, 20]
    assert table["tracked"].tolist() == ["A", "A", "B", "B"]
    assert table["concept"].tolist() == ["stripe", "", "stripe", "sky"]
    np.testing.assert_array_equal(table["score"], np.array([0.5, np.nan, 0.75, 0.5], np.float32))
    assert table["image_1"].tolist() == ["1.png", "", "2.png", "2.png"]
    assert table["image_3"].tolist() == ["5.png", "", "5.png", "5.png"]
    assert table["image_4"].tolist() == ["", "", "", ""]


def test_evolution_says_dead_where_a_tracked_unit_is():
    said = [text.get_text() for text in drawn("evolution", a_view(a_study())).axes[0].texts]
    assert said.count("dead") == 2  # the unit, and the legend


def test_categories_count_every_unit_of_a_layer_once():
    table = FIGURES["categories"].table(a_view(a_study()))
    counts = {
        (step, layer): columns.chosen(table, step=step, layer=layer)["units"].tolist()
        for step in STEPS
        for layer in ("early", "late")
    }
    assert columns.chosen(table, step=0, layer="early")["category"].tolist()[:4] == [
        "object",
        "scene",
        "material",
        "texture",
    ]
    assert table["state"].tolist()[:8] == ["interpretable"] * 4 + ["not interpretable", "dead", "constant", "saturated"]
    assert counts == {
        (0, "early"): [0, 0, 0, 1, 1, 1, 0, 0],
        (0, "late"): [0, 0, 1, 0, 2, 0, 0, 0],
        (10, "early"): [0, 0, 1, 1, 0, 1, 0, 0],
        (10, "late"): [2, 1, 0, 0, 0, 0, 0, 0],
        (20, "early"): [0, 0, 0, 1, 0, 2, 0, 0],
        (20, "late"): [2, 0, 0, 0, 1, 0, 0, 0],
    }
    np.testing.assert_array_equal(table["share"], table["units"] / 3)


def test_without_categories_the_most_frequent_words_of_all_runs_are_counted():
    words = dict.fromkeys([f"word {i}" for i in range(10)], "")
    often: Cell = [("word 9", 1.0), ("word 9", 1.0), *((f"word {i}", 1.0) for i in range(9))]
    study = a_study({"plain": [[often]], "robust": [[[("word 8", 1.0)]]]}, words, (0,), ["only"])
    groups = Groups.of(study)
    assert groups.names == ("word 8", "word 9", *(f"word {i}" for i in range(6)), "other words")
    table = FIGURES["categories"].table(a_view(study, track=()))
    assert table["concept"].tolist() == [*groups.names, "", "", "", ""]
    assert table["units"].tolist() == [1, 2, 1, 1, 1, 1, 1, 1, 2, 0, 0, 0, 0]
    figure = drawn("categories", a_view(study, track=()))
    said = " ".join(text.get_text() for text in figure.axes[0].texts)
    assert "concepts have no categories" in said


def in_resample(study: Study, b: int) -> Study:
    """Return the study that one resample of the images would have been."""
    units = study.units
    nothing = {"resampled_concept": units.resampled_concept[:, :0]}
    nothing |= {"resampled_interpretable": units.resampled_interpretable[:, :0]}
    nothing |= {"resampled_score": units.resampled_score[:, :0]}
    clear = units.resampled_interpretable[:, b] & units.alive
    return replace(study, units=replace(units, concept=units.resampled_concept[:, b], interpretable=clear, **nothing))


def assert_intervals(table: dict, values: Sequence[np.ndarray], value: np.ndarray, low: str, high: str, most: Any):
    """Check that intervals are 1.96 standard deviations of the values in single resamples, about the value."""
    error = 1.959964 * np.std(np.array(values, np.float64), axis=0, ddof=1)
    np.testing.assert_allclose(table[low], np.clip(value - error, 0, most), atol=1e-9)
    np.testing.assert_allclose(table[high], np.clip(value + error, 0, most), atol=1e-9)


def test_the_intervals_of_categories_are_those_of_the_counts_in_single_resamples():
    study = a_study({"plain": [[LIFELESS * 3, CELL * 3]] * 3}, resamples=6)
    table = FIGURES["categories"].table(a_view(study))
    whole = np.isin(table["state"], ["dead", "constant", "saturated"])
    assert np.isnan(table["low"][whole]).all() and np.isnan(table["high"][whole]).all()
    assert table["units"][whole].reshape(3, 2, 3).tolist() == [[[6, 3, 3], [3, 0, 0]]] * 3
    counts = [FIGURES["categories"].table(a_view(in_resample(study, b)))["units"] for b in range(6)]
    most = np.where(table["layer"] == "early", 3, 6)
    some = {name: column[~whole] for name, column in table.items()}
    assert_intervals(some, [one[~whole] for one in counts], some["units"], "low", "high", most[~whole])


def test_a_unit_that_is_not_alive_is_in_no_category_whatever_resamples_say_of_it():
    study = a_study()
    claimed = replace(
        study.units,
        interpretable=study.units.interpretable | ~study.units.alive,
        resampled_interpretable=study.units.resampled_interpretable
        | (~study.units.alive[:, None] & np.eye(8, dtype=bool)[0]),
    )
    table = FIGURES["categories"].table(a_view(study))
    for name, column in FIGURES["categories"].table(a_view(replace(study, units=claimed))).items():
        np.testing.assert_array_equal(column, table[name])


def test_without_resamples_there_are_no_intervals():
    view = a_view(a_study(resamples=0))
    for name in (*WITH_AXES, "examples"):
        table = FIGURES[name].table(fitting(name, view))
        for column in (column for column in table if column.endswith(("low", "high"))):
            known = table["checkpoint"] != "" if "checkpoint" in table else np.ones(len(table[column]), bool)
            assert known.any()
            assert np.isnan(table[column][known]).all(), (name, column)


def test_whiskers_stand_on_the_boundary_of_the_interpretable_share():
    study = a_study({"plain": [[LIFELESS * 3, CELL * 3]] * 3}, resamples=6)
    view = a_view(study)
    for panel, (layer, size) in enumerate([("early", 15), ("late", 9)], start=1):
        collections = drawn("categories", view).axes[panel].collections
        (whiskers,) = (one for one in collections if isinstance(one, LineCollection))
        assert len(whiskers.get_segments()) == 3
        for k, segment in enumerate(whiskers.get_segments()):
            rows = view.rows(k, study.layers.index(layer))
            counts = study.units.resampled_interpretable[rows][study.units.alive[rows]].sum(axis=0)
            total, alive = study.units.interpretable[rows].sum(), study.units.alive[rows].sum()
            error = 1.959964 * np.std(counts, ddof=1)
            ends = np.clip([total - error, total + error], 0, alive) / size
            np.testing.assert_allclose(sorted(segment[:, 1]), ends)


def words_of(figure: Figure) -> list[str]:
    return [text.get_text() for axes in figure.axes for text in axes.texts]


@pytest.mark.parametrize("name", ["categories", "evolution"])
def test_a_legend_names_the_states_that_occur(name: str):
    states = ("dead", "constant", "saturated", "not interpretable")
    some = set(words_of(drawn(name, a_view(a_study(), track=()))))
    every = set(words_of(drawn(name, a_view(a_study({"plain": [[LIFELESS, CELL]] * 3}, tau=1.5), track=()))))
    assert some & set(states) == {"dead", "not interpretable"}
    assert every & set(states) == set(states)


def test_states_are_counted_apart_wherever_units_are_counted():
    view = a_view(a_study({"plain": [[LIFELESS, LIFELESS[1:]]] * 3}), track=((0, 2), (0, 3)))
    assert "4 dead" in plane.subtitle(view, 0) and "2 constant, 2 saturated" in plane.subtitle(view, 0)
    assert "4 dead, 2 constant, 2 saturated" in " ".join(words_of(drawn("evolution", view)))
    assert "2 dead, 1 constant, 1 saturated" in words_of(drawn("top_units", view))
    assert columns.story(trajectories.table(view), 0) == ["constant", "constant"]
    said = words_of(drawn("evolution", view))
    assert said.count("constant") == said.count("saturated") == 2 + 1  # at both steps, and in the legend
    assert "all 3 units dead" in words_of(drawn("top_units", HARD["a dead layer"]()))


def test_evolution_says_how_many_units_may_more_or_less_be_interpretable():
    study = a_study({"plain": [[CELL * 12, CELL * 12]] * 3}, resamples=5)
    table = FIGURES["categories"].table(a_view(study))
    others = columns.chosen(table, state="not interpretable", layer="early", step=0)
    error = 1.959964 * np.std((study.units.resampled_interpretable & study.units.alive[:, None])[:36].sum(0), ddof=1)
    assert others["units"][0] == 0 and error > 0.5
    assert f"24 ± {error:.0f} of 36" in words_of(drawn("evolution", a_view(study)))
    assert "24 of 36" in words_of(drawn("evolution", a_view(replace_resamples(study))))


def replace_resamples(study: Study) -> Study:
    """Take a study's resamples away."""
    units = study.units
    return replace(
        study,
        units=replace(
            units,
            resampled_concept=units.resampled_concept[:, :0],
            resampled_interpretable=units.resampled_interpretable[:, :0],
            resampled_score=units.resampled_score[:, :0],
        ),
    )


def test_a_word_is_shown_with_the_share_of_resamples_that_give_it():
    view = a_view(a_study(resamples=20))
    table = FIGURES["top_units"].table(view)
    units = view.study.units
    shares = [
        (r == c).mean() if c >= 0 else np.nan for c, r in zip(units.concept, units.resampled_concept, strict=True)
    ]
    row = columns.chosen(table, step=0, layer="early")
    assert row["label_confidence"].tolist() == [shares[0]]
    assert f"2.00 · {100 * shares[0]:.0f} %" in words_of(drawn("top_units", view))
    assert f"0.50 · {100 * shares[1]:.0f} %" in words_of(drawn("evolution", view))
    assert "0.50" in words_of(drawn("evolution", HARD["no resamples"]()))


# Indices by step


def test_indicators_counted_by_hand():
    table = indicators.table(a_view(a_study()))
    assert list(table) == ["run", "checkpoint", "step", "layer", "indicator", "value", "low", "high"]

    def values(indicator: str, layer: str) -> list[float]:
        rows = columns.chosen(table, indicator=indicator, layer=layer)
        assert rows["step"].tolist() == list(STEPS)
        return rows["value"].tolist()

    assert values("interpretable_share", "early") == [1 / 3, 2 / 3, 1 / 3]
    assert values("dead_share", "early") == [1 / 3, 1 / 3, 2 / 3]
    assert values("constant_share", "late") == values("saturated_share", "late") == [0, 0, 0]
    assert values("unique_concepts", "late") == [1, 2, 1]
    assert values("effective_concepts", "late") == pytest.approx([1, 3 / 2 ** (2 / 3), 1])
    assert values("d_anchor", "late") == [1.5] * 3
    # Of the early layer's two units alive at steps 0 and 10 one changed, of the one alive at 10 and 20 none.
    assert values("changed", "early")[1:] == [1 / 2, 0]
    assert np.isnan(values("changed", "early")[0])
    untrained = columns.chosen(table, indicator="untrained_interpretable_share")
    assert untrained["step"].tolist() == [-1, -1]
    assert untrained["value"].tolist() == pytest.approx([2 / 20, 3 / 20])
    assert untrained["low"].tolist() == pytest.approx([1 / 20, 2 / 20])
    assert untrained["high"].tolist() == pytest.approx([3 / 20, 4 / 20])


def test_the_intervals_of_indicators_are_those_of_the_values_in_single_resamples():
    study = a_study({"plain": [[LIFELESS * 3, [("dog", 1.2)] * 5]] * 3}, resamples=6)
    table = indicators.table(a_view(study))
    names = ["interpretable_share", "unique_concepts", "effective_concepts", "changed"]
    kept = np.isin(table["indicator"], names) & np.isfinite(table["value"])
    singles = [indicators.table(a_view(in_resample(study, b)))["value"][kept] for b in range(6)]
    some = {name: column[kept] for name, column in table.items()}
    most = np.where(np.isin(some["indicator"], ["unique_concepts", "effective_concepts"]), np.inf, 1)
    assert_intervals(some, singles, some["value"], "low", "high", most)
    assert columns.chosen(some, indicator="interpretable_share", layer="late")["high"].tolist() == [1, 1, 1]
    # Where nothing is drawn, whatever resamples say.
    for name in ("dead_share", "constant_share", "saturated_share", "drifted", "label_confidence"):
        assert np.isnan(columns.chosen(table, indicator=name)["low"]).all()


def test_a_band_and_whiskers_stretch_an_axis_no_further_than_themselves():
    axes, places = Figure().add_subplot(), np.arange(3.0)
    intervals.draw_band(axes, places, np.full(3, 0.01), np.full(3, 0.03), "C0")
    intervals.draw_whiskers(axes, places, np.full(3, np.nan), np.full(3, np.nan))
    assert axes.get_ylim()[1] < 0.04


def test_a_layer_has_no_indicators_where_it_is_not():
    table = indicators.table(HARD["a layer not at every checkpoint"]())
    assert columns.chosen(table, layer="early", indicator="interpretable_share")["step"].tolist() == [0, 20]
    assert columns.chosen(table, layer="late", indicator="interpretable_share")["step"].tolist() == [0, 10, 20]


def headings(view: View) -> list[str]:
    shown = words_of(drawn("indicators", view))
    return [panel.heading for panel in indicators.PANELS if panel.heading in shown]


def test_only_indices_that_are_known_have_a_panel():
    every = [panel.heading for panel in indicators.PANELS]
    assert headings(a_view(a_study())) == every
    silent = a_study(anchors=())
    silent = replace(silent, d_anchor=0 * silent.d_anchor + np.nan)
    assert headings(a_view(silent)) == [name for name in every if name != "d_anchor"]
    assert headings(HARD["one checkpoint"]()) == [name for name in every if name != "words that changed"]
    assert headings(HARD["no resamples"]()) == [name for name in every if name != "confidence"]


def test_the_lines_of_indicators_are_the_tables_values():
    view = a_view(a_study({"plain": [[CELL, LIFELESS]] * 2 + [[LIFELESS, CELL]]}))
    table, figure = indicators.table(view), drawn("indicators", view)
    colours = style.layer_colours(view.study.layers)
    for i, panel in enumerate(indicators.PANELS):
        lines = {(line.get_color(), tuple(line.get_ydata())) for line in figure.axes[1 + i].get_lines()}
        for layer, indicator in itertools.product(("early", "late"), panel.looks):
            values = columns.chosen(table, layer=layer, indicator=indicator)["value"]
            shown = [one for colour, one in lines if colour == colours[layer]]
            assert any(np.array_equal(values, one, equal_nan=True) for one in shown), (layer, indicator)


def test_a_state_that_no_unit_is_in_has_no_line_and_no_legend():
    said = words_of(drawn("indicators", a_view(a_study())))
    assert any("dead" in text for text in said)
    assert not any("constant" in text or "saturated" in text for text in said)
    said = words_of(drawn("indicators", HARD["dead, constant and saturated units"]()))
    assert any("constant" in text for text in said) and any("saturated" in text for text in said)


# Retention


def test_retention_lists_every_kind_at_every_x():
    view = a_view(a_study(), near=0.9)
    table = retention.table(view)
    assert set(table["kind"]) == {"strict", "final", "category", "meaning", "flicker"}
    late = columns.chosen(table, layer="late", kind="strict")
    assert late["percent"].tolist() == [5, 10, 20, 30, 40, 50, 75, 100]
    assert late["units"].tolist() == [1] * 8  # only wood is interpretable at the start, which becomes dog
    assert late["share"].tolist() == [0] * 8
    early = columns.chosen(table, layer="early", percent=100)
    assert early["share"].tolist()[:4] == [1, 1, 1, 1]  # stripe stays
    assert set(early["reference_step"]) == {0} and set(early["last_step"]) == {20}
    assert set(table["near"]) == {0.9}


def test_retention_follows_units_from_the_reference_by_their_scores_there():
    study = a_study()
    from_10 = columns.chosen(retention.table(a_view(study, reference=1)), layer="late", kind="final")
    # At step 10: sky 3.5, dog 3.0, dog 1.25; at step 20: sky, dog, dog.
    assert from_10["units"].tolist() == [1, 1, 1, 1, 2, 2, 3, 3]
    assert from_10["share"].tolist() == [1] * 8
    moved = replace(study.units, concept=study.units.concept.copy())
    (sky,) = (r for r in a_view(study).rows(2, 1) if moved.unit[r] == 2)
    moved.concept[sky] = 0
    found = columns.chosen(
        retention.table(a_view(replace(study, units=moved), reference=1)), layer="late", kind="final"
    )
    assert found["share"].tolist() == [0] * 4 + [1 / 2] * 2 + [2 / 3] * 2
    with pytest.raises(AssertionError, match="of the run"):
        retention.table(a_view(study, run=1, reference=1))


def test_retention_says_its_steps_its_cosine_and_why_there_is_none():
    said = words_of(drawn("retention", a_view(a_study(), near=0.875)))
    assert any("from step 0 to step 20" in text for text in said)
    assert any("0.875" in text for text in said)
    missing = "there is no later checkpoint"
    assert words_of(drawn("retention", HARD["one checkpoint"]())).count(missing) == 2
    assert missing in words_of(drawn("retention", HARD["the last step as reference"]()))
    assert "no unit was interpretable" in words_of(drawn("retention", HARD["nothing interpretable"]()))
    assert not any("category" in text for text in words_of(drawn("retention", HARD["hard words"]())))
    assert any("in resamples of the images" in text for text in said)
    assert not any("in resamples" in text for text in words_of(drawn("retention", HARD["no resamples"]())))


# Births and deaths


def test_the_timeline_counted_by_hand():
    table = timeline.table(a_view(a_study()))

    def counts(kind: str) -> list[float]:
        return columns.chosen(table, layer="late", kind=kind)["count"].tolist()

    # Held in the late layer: wood; dog, dog and sky; dog and dog.
    assert counts("births")[1:] == [2, 0] and counts("deaths")[1:] == [1, 1]
    assert np.isnan(counts("births")[0]) and np.isnan(counts("deaths")[0])
    lives = columns.chosen(table, layer="late", kind="lifetime")
    names = ("concept", "category", "born_step", "last_step", "checkpoints", "count", "step")
    assert set(zip(*(lives[name].tolist() for name in names), strict=True)) == {
        ("wood", "material", 0, 0, 1, 1, 0),
        ("dog", "object", 10, 20, 2, 2, 10),
        ("sky", "scene", 10, 10, 1, 1, 10),
    }
    drawn_units = columns.chosen(table, layer="late", kind="units")
    assert drawn_units["concept"].tolist() == ["wood"] * 3 + ["sky"] * 3 + ["dog"] * 3  # as they die
    assert drawn_units["count"].tolist() == [1, 0, 0, 0, 1, 0, 0, 2, 2]


def test_the_intervals_of_the_timeline_are_those_of_single_resamples():
    study = a_study({"plain": [[LIFELESS * 3, CELL * 3]] * 3}, resamples=6)
    table = timeline.table(a_view(study))
    singles = [timeline.table(a_view(in_resample(study, b))) for b in range(6)]
    for kind in ("births", "deaths"):
        rows, others = columns.chosen(table, kind=kind), [columns.chosen(one, kind=kind) for one in singles]
        known = np.isfinite(rows["count"])
        some = {name: column[known] for name, column in rows.items()}
        assert_intervals(some, [one["count"][known] for one in others], some["count"], "low", "high", np.inf)
    for kind in ("units", "lifetime"):
        rows = columns.chosen(table, kind=kind)
        for i, (layer, concept, checkpoint) in enumerate(
            zip(rows["layer"], rows["concept"], rows["checkpoint"], strict=True)
        ):
            index = list(WORDS).index(concept)
            here = (study.units.layer == study.layers.index(layer)) & (study.units.concept >= 0)
            here &= study.units.checkpoint == [name.name for name in study.checkpoints].index(checkpoint)
            held = study.units.resampled_interpretable[here] & (study.units.resampled_concept[here] == index)
            one = {name: column[i : i + 1] for name, column in rows.items()}
            assert_intervals(one, held.sum(axis=0)[:, None], one["count"], "low", "high", np.inf)


def test_the_timeline_draws_the_twelve_words_that_most_units_hold():
    names = [f"word {i}" for i in range(20)]
    cell: Cell = [(name, 1.0) for i, name in enumerate(names) for _ in range(1 + i)]
    study = a_study({"plain": [[cell]] * 2}, dict.fromkeys(names, ""), (0, 1), ["only"], resamples=0)
    view = a_view(study, track=())
    table = timeline.table(view)
    assert set(columns.chosen(table, kind="units")["concept"]) == set(names[8:])
    assert len(columns.chosen(table, kind="lifetime")["concept"]) == 20
    said = words_of(drawn("timeline", view))
    assert "the 12 words that most units hold" in said and "20 words at the first step, 20 at the last, 20 ever" in said
    assert set(names[8:]) <= set(said) and "word 7" not in said


def test_births_are_drawn_upwards_and_deaths_downwards():
    view = a_view(a_study())
    figure, table = drawn("timeline", view), timeline.table(view)
    bars = [bar.get_height() for bar in figure.axes[3].patches]
    births, deaths = (columns.chosen(table, layer="late", kind=kind)["count"] for kind in ("births", "deaths"))
    np.testing.assert_array_equal(bars, [*births, *-deaths])
    assert "there is one checkpoint" in words_of(drawn("timeline", HARD["one checkpoint"]()))
    assert "no unit is interpretable" in words_of(drawn("timeline", HARD["nothing interpretable"]()))


def test_two_concepts_of_one_name_are_two():
    cell: Cell = [("stripe", 1.0), ("dog", 2.0), ("dog", 2.0)]
    study = a_study({"plain": [[cell]] * 2}, steps=(0, 1), layers=["only"], resamples=0)
    twice = Concepts(("stripe", "wood", "stripe", "sky"), ("texture", "material", "object", "scene"))
    view = a_view(replace(study, concepts=twice), track=())
    lives = columns.chosen(timeline.table(view), kind="lifetime")
    found = set(zip(lives["concept"], lives["category"], lives["count"], strict=True))
    assert found == {("stripe", "texture", 1), ("stripe", "object", 2)}
    said = words_of(drawn("timeline", view))
    assert said.count("stripe") == 2 and {"1", "2"} <= set(said)


@pytest.mark.parametrize("case", HARD)
@pytest.mark.parametrize("name", WITH_AXES)
def test_axes_and_their_numbers_stay_within_the_page_and_apart(name: str, case: str):
    assert_axes_keep_apart(drawn(name, HARD[case]()), name)


def assert_axes_keep_apart(figure: Figure, name: str) -> None:
    """Check that axes with their numbers are within the page, and overlap neither one another nor other texts."""
    outside = [text.get_window_extent().extents for text in texts(figure, figure.axes[0])]
    width, height = figure.bbox.size
    boxes = [axes.get_tightbbox().extents for axes in figure.axes[1:]]
    for x, y, right, upper in boxes:
        assert x > 0 and y > 0 and right < width and upper < height
    for i, box in enumerate(boxes):
        assert not any(touch(box, other) for other in boxes[:i]), name
        assert not any(touch(box + 1.5 * SLACK, other + 1.5 * SLACK) for other in outside), name
    for axes in figure.axes[1:]:
        for text in axes.texts:
            inside, whole = text.get_window_extent(), axes.get_window_extent()
            assert whole.x0 < inside.x0 and inside.x1 < whole.x1
            assert text.get_size() >= style.SMALL


def test_trajectories_list_every_checkpoint_of_the_run_and_number_the_anchors():
    table = trajectories.table(a_view(a_study()))
    paths = columns.chosen(table, kind="unit")
    assert paths["step"].tolist() == [0, 10, 20] * 2
    assert paths["concept"].tolist() == ["stripe", "wood", "", "stripe", "sky", "sky"]
    np.testing.assert_array_equal(paths["x"], np.array([0, 1.25, np.nan, 0, 3.25, 3.5], np.float32))
    assert columns.chosen(table, kind="anchor")["number"].tolist() == [1, 2]
    assert columns.story(table, 0) == ["stripe", "dead"]
    assert columns.story(table, 1) == ["stripe", "sky"]
    assert columns.story(table, 2) == ["not in this run"]


def test_top_units_are_the_best_interpretable_ones_of_each_step_with_ties_by_number():
    table = FIGURES["top_units"].table(a_view(a_study()))
    rows = zip(*(table[name].tolist() for name in ("step", "layer", "rank", "unit", "concept")), strict=True)
    assert list(rows) == [
        (0, "early", 1, 0, "stripe"),
        (0, "late", 1, 0, "wood"),
        (20, "early", 1, 0, "stripe"),
        (20, "late", 1, 0, "dog"),
        (20, "late", 2, 1, "dog"),
    ]
    assert table["image_1"].tolist() == ["0.png", "0.png", "0.png", "0.png", "1.png"]


def test_categories_keep_their_colours_whatever_other_ones_there_are():
    few, many = style.category_colours(["texture", "zebra"]), style.category_colours([*style.BRODEN, "zebra"])
    assert few["texture"] == many["texture"] == style.CATEGORIES["texture"]
    assert len(set(many.values())) == len(many)


def test_lines_of_light_colours_have_a_darker_edge_and_others_have_none():
    assert [colour for colour in (*style.CYCLE, *style.MORE) if style.edged(colour)] == ["#f0e442", "#ddcc77"]
    words = {"wood": "material", "disc": "shape"}
    study = a_study({"plain": [[[("wood", 2.0), ("disc", 2.0)]]] * 3}, words, layers=["only"])
    axes = drawn("finetune", a_view(study, track=())).axes[1:]
    edges = {line.get_color(): bool(line.get_path_effects()) for panel in axes for line in panel.get_lines()}
    assert edges["#f0e442"] and not edges["#cc79a7"]


def test_text_is_measured_as_it_is_drawn():
    for words in ("step 10", "a much longer line, with 0.123 and ×"):
        figure = Figure(figsize=(6, 1), dpi=300)
        text = figure.text(0, 0, words, size=style.SMALL, parse_math=False)
        with matplotlib.rc_context({"text.hinting": "none"}):
            drawn_width = text.get_window_extent().width / 300
        assert style.text_width(words, style.SMALL) == pytest.approx(drawn_width, rel=0.02)


@pytest.mark.parametrize(
    ("name", "width", "shortened"),
    [
        ("vit.layers.10.mlp.activation_fn", 3.0, "vit.layers.10.mlp.activation_fn"),
        ("vit.layers.10.mlp.activation_fn", 1.3, "v.l.10.mlp.activation_fn"),
        ("vit.layers.10.mlp.activation_fn", 1.1, "v.l.10.m.activation_fn"),
        ("vit.layers.10.mlp.activation_fn", 0.8, "v.l.10.m.activ…"),
        ("stages.2.blocks.1.mlp.act", 0.95, "s.2.b.1.mlp.act"),
        ("layer4.12.conv2", 0.6, "l4.12.conv2"),
        ("a_layer_of_one_level", 0.5, "a_layer_…"),
    ],
)
def test_a_layers_name_is_shortened_to_its_numbers_and_last_level(name: str, width: float, shortened: str):
    assert style.fit_layer(name, width, style.SMALL) == shortened
    assert style.text_width(shortened, style.SMALL) <= width


def test_long_names_of_layers_stay_apart_and_beside_their_units():
    layers = [f"vit.encoder.layer.{i}.intermediate.intermediate_act_fn" for i in range(9)]
    view = a_view(a_study({"plain": [[CELL] * 9] * 3}, layers=layers), track=((3, 1),))
    for name in ("evolution", "categories", "top_units", "timeline"):
        shown = [text for text in words_of(drawn(name, view)) if re.match(r"v\w*\.e", text)]
        assert {re.sub(r".*\.(\d)\.i.*", r"\1", text) for text in shown} == set("012345678"), (name, shown)
    assert any(re.fullmatch(r"A: .*\.3\..* unit 1", text) for text in words_of(drawn("trajectories", view)))


def test_runs_without_a_layer_in_common_have_all_colours_each_and_others_the_same():
    cells = {"vit": [[CELL, CELL, [], []]], "cnn": [[[], [], CELL, CELL]], "cnn again": [[[], [], [], CELL]]}
    study = a_study(cells, steps=(0,), layers=["block.0", "block.1", "layer1", "layer2"])
    vit, cnn, again = (columns.layers_alike(a_view(study, run=run)) for run in range(3))
    assert vit == ["block.0", "block.1"] and cnn == again == ["layer1", "layer2"]
    marks = [
        [how["color"] for text, how in plane.plane_marks(view, plane.table(view)) if "concept" not in text][:2]
        for view in (a_view(study, run=0, track=()), a_view(study, run=1, track=()))
    ]
    assert marks[0] == marks[1] == list(style.layer_colours(["any", "other"]).values())


def test_a_long_word_is_cut_to_fit_and_letters_without_a_glyph_become_boxes():
    assert style.text_width(style.fit(LONG, 1.0), style.NORMAL) <= 1.0
    assert style.fit(LONG, 1.0).endswith("…")
    assert style.fit("short", 1.0) == "short"
    assert style.printable("a\n $b$") == "a $b$"
    assert style.printable("\U000e0fff") in ("□", "")


def test_words_are_never_read_as_mathematics():
    said = [text.get_text() for text in drawn("top_units", HARD["hard words"]()).axes[0].texts]
    assert {"$", "a_b"} <= set(said)
    assert not any(text.get_parse_math() for text in drawn("plane", HARD["hard words"]()).axes[0].texts)


def test_fonts_in_a_pdf_are_truetype():
    content = saved(drawn("plane", a_view(a_study())), "pdf")
    assert b"/TrueType" in content or b"/CIDFontType2" in content
    assert b"/Type3" not in content


@pytest.mark.parametrize(
    ("steps", "evenly"),
    [((0,), True), ((0, 10, 20), False), ((0, 1, 2, 4, 8, 1000), True), ((3, 3, 4), True)],
)
def test_checkpoints_are_spaced_evenly_where_their_steps_would_hide_them(steps: tuple[int, ...], evenly: bool):
    places, said = positions(np.array(steps))
    assert said == evenly
    assert places.tolist() == (list(range(len(steps))) if evenly else list(steps))


def test_captions_say_which_tokens_and_which_weights_were_looked_at(study: TinyStudy):
    for epoch in (1, 2, 3):
        content = torch.load(study.checkpoint(f"epoch_{epoch}"))
        torch.save({**content, "state_dict_ema": content["state_dict"]}, study.checkpoint(f"epoch_{epoch}"))
    plain = study.tables["run"][0]
    study.tables["run"] = [{**plain, "tokens": "mean"}, {**plain, "name": "averaged", "weights": "ema"}]
    study.edit("report", figures=["categories", "compare_categories"])
    assert study.cmon("run").code == 0
    page = (study.workspace / "report" / "index.html").read_text()
    captions = [line.partition("batchnorm as saved")[2] for line in page.splitlines() if "batchnorm as saved" in line]
    ends = ["; tokens mean</p>", "; weights ema</p>", "; tokens mean; weights plain raw, averaged ema</p>"]
    assert captions == ends
