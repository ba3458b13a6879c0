import io
import itertools
import zlib
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import matplotlib
import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text

from cmon import config
from cmon.figures import FIGURES, columns, plane, style, trajectories
from cmon.figures.categories import Groups, positions
from cmon.records import Anchors, CheckpointName, Concepts, Study, Units, View

pytestmark = pytest.mark.filterwarnings("error")

WORDS = {"stripe": "texture", "wood": "material", "dog": "object", "sky": "scene"}
Cell = list[tuple[str, float] | None]  # a layer at a checkpoint: word and score of each unit, None for a dead one

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


def a_study(
    runs: dict[str, list[list[Cell]]] = RUNS,
    words: dict[str, str] = WORDS,
    steps: Sequence[int] = STEPS,
    layers: Sequence[str] = ("early", "late"),
    anchors: Sequence[str] = ("leaf", "cat"),
    tau: float = 1.0,
) -> Study:
    names = list(words)
    columns: dict[str, list[Any]] = {name: [] for name in Units.__dataclass_fields__}
    checkpoints = []
    for run, run_name in enumerate(runs):
        for step, cells in zip(steps, runs[run_name], strict=True):
            checkpoints.append(CheckpointName(run, f"epoch_{step}", step))
            for layer, cell in enumerate(cells):
                for unit, found in enumerate(cell):
                    concept, score = (names.index(found[0]), found[1]) if found else (-1, np.nan)
                    images = [unit % 6, layer % 6, 5] if found else []
                    row = {"run": run, "checkpoint": len(checkpoints) - 1, "layer": layer, "unit": unit}
                    row |= {"concept": concept, "score": score, "alive": bool(found)}
                    row |= {"interpretable": bool(found) and score >= tau, "embedding": [score] * 2}
                    row |= {"top_concept": [concept] + [-1] * 9, "top_score": [score] + [np.nan] * 9}
                    row |= {"top_images": images + [-1] * (20 - len(images))}
                    row |= {"xy": [concept + step / 40, unit + layer / 4] if found else [np.nan] * 2}
                    for name, value in row.items():
                        columns[name].append(value)
    kinds = {"score": np.float32, "top_score": np.float32, "embedding": np.float32, "xy": np.float32}
    kinds |= {"alive": np.bool_, "interpretable": np.bool_}
    units = Units(**{name: np.array(values, kinds.get(name, np.int32)) for name, values in columns.items()})
    spread = np.random.default_rng(3).normal(size=(len(anchors), 2)).astype(np.float32)
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
        anchors=Anchors(tuple(anchors), spread, spread),
        d_anchor=np.tile(np.arange(len(layers), dtype=np.float32) + 0.5, (len(checkpoints), 1)),
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
    alive = units.alive & (np.arange(len(units.alive)) % 7 != 6)
    score = np.where(alive, np.where(units.checkpoint % 4 == 3, 0.03, 0.3), np.nan).astype(np.float32)
    concept = np.where(alive, len(names) - 1 - units.concept, -1).astype(np.int32)
    return replace(
        study,
        detector="network_dissection",
        score_unit="IoU",
        concepts=Concepts(names, old.categories[::-1]),
        concept_features=features_of(names),
        units=replace(units, concept=concept, score=score, alive=alive, interpretable=score >= 0.04),
    )


def a_view(study: Study, **changes: Any) -> View:
    def thumbnail(index: int) -> np.ndarray:
        return np.full((32, 24 + index, 3), 40 * index, np.uint8)

    run = changes.get("run", 0)
    steps = tuple(k for k, name in enumerate(study.checkpoints) if name.run == run)[::2]
    view = View(study, 0, ((0, 1), (1, 2)), steps, 2, 4, "soft_wpmi, tau 1 · 6 images", thumbnail)
    return replace(view, **changes)


def fitting(name: str, view: View) -> View:
    """Give a view what the figure of this name needs."""
    return replace(view, other=another(view.study)) if FIGURES[name].compares else view


def drawn(name: str, view: View) -> Figure:
    view = fitting(name, view)
    return FIGURES[name].draw(view, FIGURES[name].table(view))


def saved(figure: Figure, form: str) -> bytes:
    file = io.BytesIO()
    style.save(figure, file, form, 60)
    return file.getvalue()


LONG = "an_unusually $long$ word of 40 letters, 漢字 ñ"
MANY = 150_000
DEAD: Cell = [None, None, None]
LAYERS_9 = [f"stages.{i}.blocks.11.mlp" for i in range(9)]
CELL: Cell = [("stripe", 1.0), ("dog", 2.0), None]
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
    assert units["alive"].tolist() == [
        True,
        True,
        False,
        True,
        True,
        True,
        True,
        False,
        False,
        True,
        True,
        True,
    ]
    np.testing.assert_array_equal(units["x"][:3], np.array([0, 0, np.nan], np.float32))
    np.testing.assert_array_equal(units["y"][3:6], np.array([0.25, 1.25, 2.25], np.float32))
    assert table["concept"][12:].tolist() == [*WORDS, "leaf", "cat"]
    assert table["kind"][12:].tolist() == ["concept"] * 4 + ["anchor"] * 2


def test_the_planes_subtitle_counts_the_dead_and_averages_d_anchor_over_the_living():
    units = columns.chosen(plane.table(a_view(a_study())), kind="unit", step=20)
    # One unit of the early layer, at 0.5, and three of the late one, at 1.5.
    assert plane.subtitle(units) == "4 units drawn, 2 dead · d_anchor 1.250"


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
    assert table["state"].tolist()[:6] == ["interpretable"] * 4 + ["not interpretable", "dead"]
    assert counts == {
        (0, "early"): [0, 0, 0, 1, 1, 1],
        (0, "late"): [0, 0, 1, 0, 2, 0],
        (10, "early"): [0, 0, 1, 1, 0, 1],
        (10, "late"): [2, 1, 0, 0, 0, 0],
        (20, "early"): [0, 0, 0, 1, 0, 2],
        (20, "late"): [2, 0, 0, 0, 1, 0],
    }
    np.testing.assert_array_equal(table["share"], table["units"] / 3)


def test_without_categories_the_most_frequent_words_of_all_runs_are_counted():
    words = dict.fromkeys([f"word {i}" for i in range(10)], "")
    often: Cell = [("word 9", 1.0), ("word 9", 1.0), *((f"word {i}", 1.0) for i in range(9))]
    study = a_study({"plain": [[often]], "robust": [[[("word 8", 1.0)]]]}, words, (0,), ["only"])
    groups = Groups.of(study)
    assert groups.names == ("word 8", "word 9", *(f"word {i}" for i in range(6)), "other words")
    table = FIGURES["categories"].table(a_view(study, track=()))
    assert table["concept"].tolist() == [*groups.names, "", ""]
    assert table["units"].tolist() == [1, 2, 1, 1, 1, 1, 1, 1, 2, 0, 0]
    figure = drawn("categories", a_view(study, track=()))
    said = " ".join(text.get_text() for text in figure.axes[0].texts)
    assert "concepts have no categories" in said


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


def test_text_is_measured_as_it_is_drawn():
    for words in ("step 10", "a much longer line, with 0.123 and ×"):
        figure = Figure(figsize=(6, 1), dpi=300)
        text = figure.text(0, 0, words, size=style.SMALL, parse_math=False)
        with matplotlib.rc_context({"text.hinting": "none"}):
            drawn_width = text.get_window_extent().width / 300
        assert style.text_width(words, style.SMALL) == pytest.approx(drawn_width, rel=0.02)


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
