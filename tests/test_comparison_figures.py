from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from matplotlib.collections import LineCollection
from test_figures import (
    HARD,
    LAYERS_9,
    LONG,
    RUNS,
    a_study,
    a_view,
    among_runs,
    assert_axes_keep_apart,
    assert_texts_keep_apart,
    drawn,
    in_resample,
    paired,
    saved,
    with_two_runs,
    words_of,
)

from cmon.figures import (
    FIGURES,
    accuracy,
    compare_categories,
    compare_retention,
    compare_units,
    comparing,
    examples,
    finetune,
    pruning,
    retention,
)
from cmon.figures.columns import chosen
from cmon.records import Study, View

pytestmark = pytest.mark.filterwarnings("error")

TOGETHER = [name for name, kind in FIGURES.items() if kind.shows == "runs"]
Z = 1.959964


def together(study: Study, runs: tuple[int, ...] = (0, 1), **changes: Any) -> View:
    return a_view(study, **{"run": runs[0], "runs": runs, "track": (), "steps": (), **changes})


def drawn_from(module: Any, view: View) -> Any:
    return module.draw(view, module.table(view))


def assert_ends(
    table: dict, name: str, ends: tuple[str, str], singles: list[dict], least: Any, most: Any, known: Any
) -> None:
    """Check that intervals are 1.96 standard deviations of what single resamples of the images give."""
    error = Z * np.std([single[name][known] for single in singles], axis=0, ddof=1)
    value = table[name][known]
    np.testing.assert_allclose(table[ends[0]][known], np.clip(value - error, least, most), atol=1e-9)
    np.testing.assert_allclose(table[ends[1]][known], np.clip(value + error, least, most), atol=1e-9)
    assert (error > 0).any()


def at_steps(study: Study, run: int, steps: tuple[int, ...]) -> Study:
    """Give the checkpoints of a run other steps."""
    mine = iter(steps)
    names = [replace(name, step=next(mine)) if name.run == run else name for name in study.checkpoints]
    return replace(study, checkpoints=tuple(names))


def without(study: Study, run: int, layer: int) -> Study:
    """Take a layer from a run."""
    kept = (study.units.run != run) | (study.units.layer != layer)
    return replace(study, units=replace(study.units, **{name: part[kept] for name, part in vars(study.units).items()}))


# What there is to draw


def test_a_figure_says_why_there_is_nothing_to_draw_of_a_view():
    study = a_study()
    view = among_runs(a_view(study))
    alone = replace(view, runs=(0,))
    assert all(FIGURES[name].applies(view) == "" for name in FIGURES)
    assert finetune.applies(HARD["one checkpoint"]()) == "there is one checkpoint only"
    assert compare_categories.applies(alone) == "there is one run only"
    assert compare_retention.applies(alone) == compare_units.applies(alone) == "there is one run only"
    short = among_runs(HARD["one checkpoint"]())
    assert compare_retention.applies(short) == "no run has a later checkpoint"
    assert compare_units.applies(replace(view, matches=())) == "the runs share no layer"
    nothing = among_runs(HARD["nothing interpretable"]())
    assert examples.applies(nothing) == "no run has an interpretable unit at its end"
    unknown = {"accuracy": np.full(6, np.nan, np.float32)}
    assert accuracy.applies(replace(view, metrics=unknown)) == "no run has metrics"
    assert accuracy.applies(replace(view, metrics={}, runs=())) == "the run has no metrics"
    others = np.array([np.nan] * 3 + [0.5] * 3, np.float32)
    assert accuracy.applies(replace(view, metrics={"accuracy": others}, runs=())) == "the run has no metrics"
    assert accuracy.applies(replace(view, metrics={"accuracy": others})) == ""
    assert pruning.applies(together(study)) == "no checkpoint has pruned weights"
    dense = tuple(replace(name, sparsity=0.0) for name in study.checkpoints)
    assert pruning.applies(together(replace(study, checkpoints=dense))) == "no checkpoint has pruned weights"


@pytest.mark.parametrize("name", TOGETHER)
def test_figures_of_runs_are_drawn_where_there_is_nothing_to_draw(name: str):
    view = replace(among_runs(HARD["one checkpoint"]()), runs=(0,), matches=(), metrics={})
    dense = tuple(replace(name, sparsity=float("nan")) for name in view.study.checkpoints)
    figure = drawn_from(FIGURES[name], replace(view, study=replace(view.study, checkpoints=dense)))
    assert saved(figure, "png")
    assert_texts_keep_apart(figure, name)


@pytest.mark.parametrize("name", TOGETHER)
def test_six_runs_of_eight_layers_with_long_names_are_legible(name: str):
    cell = [("stripe", 1.0), ("dog", 2.0), ("sky", 1.5), None]
    runs = {f"{LONG} {i}": [[cell[i % 3 :] + cell] * 8] * 3 for i in range(6)}
    study = without(without(a_study(runs, layers=LAYERS_9[:8], steps=(0, 50_000, 100_000), resamples=4), 0, 3), 4, 7)
    study = at_steps(with_two_runs(study), 2, (5, 6, 7))
    study = replace(study, concepts=replace(study.concepts, names=("stripe", "wood", "dog" * 20, LONG)))
    view = among_runs(a_view(study))
    shared = [(other, layer) for other in range(1, 6) for layer in range(8) if layer != 3 and (other, layer) != (4, 7)]
    view = replace(view, matches=tuple(paired(study, 0, *place, same_start=place[0] == 2) for place in shared))
    figure = drawn_from(FIGURES[name], view)
    assert saved(figure, "png")
    assert_texts_keep_apart(figure, name)
    assert_axes_keep_apart(figure, name)


def test_runs_look_unlike_one_another_by_colour_marker_and_line():
    view = together(a_study({f"run {i}": RUNS["plain"] for i in range(12)}), tuple(range(12)))
    looks = comparing.run_looks(view)
    assert list(looks) == list(range(12))
    for names in (("color", "marker"), ("marker", "ls"), ("color", "ls")):
        assert len({tuple(str(look[name]) for name in names) for look in looks.values()}) == 12
    again = comparing.run_looks(replace(view, run=5, runs=(5, 1)))
    assert (again[5], again[1]) == (looks[0], looks[1])  # the first is what others are compared with


# Categories


def units_of(table: dict, **place: Any) -> dict[str, int]:
    rows = chosen(table, **place)
    labels = np.where(rows["category"] == "", rows["state"], rows["category"])
    return {label: count for label, count in zip(labels.tolist(), rows["units"].tolist(), strict=True) if count}


def differences_of(table: dict, **place: Any) -> dict[str, float]:
    rows = chosen(table, **place)
    labels = np.where(rows["category"] == "", rows["state"], rows["category"])
    return {label: n for label, n in zip(labels.tolist(), rows["difference"].tolist(), strict=True) if n}


def test_categories_of_runs_are_counted_and_compared_by_hand():
    table = compare_categories.table(together(a_study()))
    every, new, dead = "all interpretable", "not interpretable", "dead"
    assert units_of(table, run="plain", step=20, layer="early") == {"texture": 1, dead: 2, every: 1}
    assert units_of(table, run="plain", step=20, layer="all layers") == {
        "texture": 1,
        "object": 2,
        new: 1,
        dead: 2,
        every: 3,
    }
    last = {"run": "robust", "compared": "last checkpoints"}
    assert units_of(table, layer="all layers", **last) == {"scene": 3, "material": 2, dead: 1, every: 5}
    assert differences_of(table, layer="early", **last) == {"texture": -1, "scene": 2, dead: -1, every: 1}
    assert differences_of(table, layer="late", **last) == {"object": -2, "scene": 1, "material": 2, new: -1, every: 1}
    whole = {"texture": -1, "object": -2, "scene": 3, "material": 2, new: -1, dead: -1, every: 2}
    assert differences_of(table, layer="all layers", **last) == whole
    first = {"run": "robust", "compared": "same step", "step": 0, "layer": "late"}
    # Wood alone is interpretable in the first run's late layer then.
    assert differences_of(table, **first) == {"scene": 1, "material": 1, every: 2, new: -2}
    np.testing.assert_allclose(table["share_difference"], table["difference"] / table["layer_units"])
    own = chosen(table, run="plain")
    assert set(own["compared"]) == {""} and np.isnan(own["difference"]).all()
    assert set(own["reference_units"].tolist()) == {-1}


def test_steps_that_the_first_run_lacks_are_not_compared_but_the_ends_are():
    table = compare_categories.table(together(at_steps(a_study(), 1, (0, 15, 40))))
    other = chosen(table, run="robust", layer="late", state="all interpretable")
    found = zip(*(other[name].tolist() for name in ("step", "compared", "reference_step", "units")), strict=True)
    assert list(found) == [(0, "same step", 0, 3), (15, "", -1, 3), (40, "", -1, 3), (40, "last checkpoints", 20, 3)]
    np.testing.assert_array_equal(other["difference"], [2, np.nan, np.nan, 1])


def test_the_intervals_of_differences_are_those_of_differences_in_single_resamples():
    # Layers of 3 units in the first run and of 12 in the other.
    times = {"plain": 1, "robust": 4}
    cells = {name: [[cell * times[name] for cell in cells] for cells in run] for name, run in RUNS.items()}
    study = a_study(cells, resamples=6)
    table = compare_categories.table(together(study))
    singles = [compare_categories.table(together(in_resample(study, b))) for b in range(6)]
    alive = ~np.isin(table["state"], ["dead", "constant", "saturated"])
    assert_ends(table, "units", ("low", "high"), singles, 0, table["layer_units"][alive], alive)
    compared = alive & (table["compared"] != "")
    size, other = (table[name][compared] for name in ("layer_units", "reference_layer_units"))
    assert set((size / other).tolist()) == {4}
    assert_ends(table, "difference", ("difference_low", "difference_high"), singles, -other, size, compared)
    shares = table["units"][compared] / size - table["reference_units"][compared] / other
    np.testing.assert_allclose(table["share_difference"][compared], shares)
    assert_ends(table, "share_difference", ("share_difference_low", "share_difference_high"), singles, -1, 1, compared)
    for name in ("low", "difference_low", "share_difference_high"):
        assert np.isnan(table[name][~alive]).all()


def test_a_layer_that_only_one_of_two_runs_has_is_in_the_table_alone():
    view = together(without(a_study(), 1, 0))
    table = compare_categories.table(view)
    assert set(chosen(table, run="robust")["layer"]) == {"late", "all layers"}
    assert set(chosen(table, run="robust", layer="all layers")["layer_units"]) == {3}
    said = words_of(drawn_from(compare_categories, view))
    assert {"late", "all layers"} <= set(said) and "early" not in said
    # All layers of the one are six units, those of the other three.
    labels = [axes.get_xlabel() for axes in drawn_from(compare_categories, view).axes]
    assert "more % than in plain" in labels and "more units than in plain" in labels


def test_a_layer_that_one_of_three_runs_lacks_is_left_blank_and_said_so():
    study = a_study({"plain": RUNS["plain"], "robust": RUNS["robust"], "third": RUNS["plain"]})
    said = words_of(drawn_from(compare_categories, together(without(study, 1, 0), (0, 1, 2))))
    assert said.count("has no such layer") == 1 and "nothing to compare" not in said
    assert (
        words_of(drawn_from(compare_categories, together(without(study, 0, 0), (0, 1, 2)))).count("nothing to compare")
        == 1
    )


def test_runs_that_share_no_layer_are_compared_in_all_their_layers_together():
    view = together(without(without(a_study(), 0, 0), 1, 1))
    said = words_of(drawn_from(compare_categories, view))
    assert "all layers" in said and not {"early", "late", "has no such layer"} & set(said)
    assert compare_retention.applies(view) == "the runs share no layer"
    assert compare_retention.applies(together(a_study())) == ""


def forest(axes: Any) -> list[tuple[float, bool]]:
    """Return the differences that a forest draws, from above, and whether each mark is hollow."""
    marks = [line for line in axes.get_lines() if len(line.get_xdata()) == 1]
    marks.sort(key=lambda line: line.get_ydata()[0])
    return [(float(line.get_xdata()[0]), line.get_markerfacecolor() == "white") for line in marks]


def test_a_forest_draws_the_tables_differences_hollow_where_the_interval_holds_0():
    view, seen = together(a_study()), set()
    table, figure = compare_categories.table(view), drawn_from(compare_categories, view)
    forests = [axes for axes in figure.axes if axes.get_xlabel() == "more units than in plain"]
    for axes, layer in zip(forests, ("early", "late", "all layers"), strict=True):
        rows = chosen(table, run="robust", compared="last checkpoints", layer=layer)
        some = (rows["units"] + rows["reference_units"] > 0) & np.isin(rows["state"], ["interpretable", comparing.ALL])
        hollow = (rows["difference_low"] <= 0) & (rows["difference_high"] >= 0)
        expected = list(zip(rows["difference"][some].tolist(), hollow[some].tolist(), strict=True))
        seen |= {one for _, one in expected}
        assert forest(axes) == [expected[-1], *expected[:-1]]  # all that is interpretable stands above
        whiskers = [one.get_segments()[0][:, 0] for one in axes.collections if isinstance(one, LineCollection)]
        ends = np.stack([rows["difference_low"], rows["difference_high"]], axis=1)[some]
        np.testing.assert_allclose(whiskers, [ends[-1], *ends[:-1]])
    assert seen == {True, False}


def test_finetune_counts_changes_from_the_first_checkpoint_by_hand():
    table = finetune.table(a_view(a_study()))

    def changes(layer: str, category: str, state: str = "interpretable") -> list[float]:
        rows = chosen(table, layer=layer, category=category, state=state)
        assert rows["step"].tolist() == [0, 10, 20] and set(rows["first_step"].tolist()) == {0}
        return rows["change"].tolist()

    assert changes("late", "object") == [0, 2, 2]
    assert changes("late", "material") == [0, -1, -1]
    assert changes("late", "scene") == [0, 1, 0]
    assert changes("late", "", "all interpretable") == [0, 2, 1]
    assert changes("early", "", "dead") == [0, 0, 1]
    assert changes("all layers", "", "all interpretable") == [0, 3, 1]
    assert chosen(table, layer="all layers", step=10, category="material")["units"].tolist() == [1]
    assert set(chosen(table, layer="all layers")["layer_units"].tolist()) == {6}


def test_the_intervals_of_finetune_are_those_of_changes_in_single_resamples():
    study = a_study({"plain": [[cell * 4 for cell in cells] for cells in RUNS["plain"]]}, resamples=6)
    table = finetune.table(a_view(study))
    singles = [finetune.table(a_view(in_resample(study, b))) for b in range(6)]
    known = ~np.isin(table["state"], ["dead", "constant", "saturated"])
    size = table["layer_units"][known]
    assert_ends(table, "change", ("change_low", "change_high"), singles, -size, size, known)
    assert_ends(table, "units", ("low", "high"), singles, 0, size, known)
    begin = known & (table["step"] == 0)
    assert not table["change_low"][begin].any() and not table["change_high"][begin].any()


def test_finetune_draws_both_planes_and_both_numbers():
    figure = drawn("finetune", a_view(a_study()))
    said = words_of(figure)
    assert {"step 0", "step 20"} <= set(said) and "step 10" not in said
    assert said.count("0 → 2") == 2 and "change from step 0 to 20" in said  # object, in the late layer and in all
    assert "there is one checkpoint" in words_of(drawn("finetune", HARD["one checkpoint"]()))


# Retention


def test_retention_of_runs_is_that_of_each_with_the_difference_to_the_first():
    study = a_study({"plain": RUNS["plain"], "robust": RUNS["robust"], "again": RUNS["plain"]})
    view = together(study, (1, 0, 2))
    table = compare_retention.table(view)
    for run in (1, 0, 2):
        rows = chosen(table, run=study.runs[run])
        for name, column in retention.table(view.of_run(run)).items():
            np.testing.assert_array_equal(rows[name], column)
    first, other = (chosen(table, run=name) for name in ("robust", "plain"))
    known = other["kind"] != "flicker"
    np.testing.assert_array_equal(other["difference"][known], (other["share"] - first["share"])[known])
    assert np.isnan(other["difference"][~known]).all() and np.isnan(first["difference"]).all()
    assert set(other["reference"]) == {"robust"} and set(first["reference"]) == {""}
    # Wood, the one word of the late layer, is lost; those of the other run all stay.
    late = chosen(other, layer="late", kind="strict")
    assert set(late["difference"].tolist()) == {-1}


def test_the_intervals_of_differences_in_retention_are_those_of_single_resamples():
    study = a_study({name: [[cell * 4 for cell in cells] for cells in run] for name, run in RUNS.items()}, resamples=6)
    near = 0.5
    table = compare_retention.table(together(study, near=near))
    singles = []
    for b in range(6):
        single = in_resample(study, b)
        units = replace(single.units, score=study.units.resampled_score[:, b])
        singles.append(compare_retention.table(together(replace(single, units=units), near=near)))
    known = np.isfinite(table["difference"])
    assert_ends(table, "difference", ("difference_low", "difference_high"), singles, -1, 1, known)


def test_retention_has_no_difference_where_the_first_run_lacks_the_layer():
    table = compare_retention.table(together(without(a_study(), 0, 1)))
    assert set(chosen(table, run="plain")["layer"]) == {"early"}
    assert np.isnan(chosen(table, run="robust", layer="late")["difference"]).all()
    assert np.isfinite(chosen(table, run="robust", layer="early", kind="strict")["difference"]).all()


def test_the_lines_of_retention_are_the_runs_and_of_few_runs_both_kinds():
    study = a_study({f"run {i}": RUNS["plain" if i % 2 else "robust"] for i in range(4)})
    for runs, kinds in (((0, 1), ("strict", "final")), ((0, 1, 2, 3), ("strict",))):
        view = together(study, runs)
        table, figure = compare_retention.table(view), drawn_from(compare_retention, view)
        assert any("dotted" in text for text in words_of(figure)) == (len(kinds) == 2)
        for axes, layer in zip(figure.axes[1:], ("early", "late"), strict=True):
            lines = [line.get_ydata().tolist() for line in axes.get_lines()]
            rows = [chosen(table, layer=layer, run=study.runs[run], kind=kind) for run in runs for kind in kinds]
            assert sorted(lines) == sorted(row["share"].tolist() for row in rows)


# Units


WORDS = {"dog": "object", "cat": "object", "sky": "scene", "red": ""}
FEATURES = np.array([(1.0, 0.0), (0.96, 0.28), (0.0, 1.0), (-1.0, 0.0)], np.float32)


def of_words(*cells: list[Any], resamples: int = 0) -> Study:
    """Make a study of one layer and checkpoint, with a run for each list of words; a score of 1 is interpretable."""
    runs = {f"run {i}": [[[(w, 1.0) if w in WORDS else w for w in cell]]] for i, cell in enumerate(cells)}
    return replace(a_study(runs, WORDS, (7,), ["only"], resamples=resamples), concept_features=FEATURES)


def matched(study: Study, partner: list[int], near: float = 0.9, **changes: Any) -> View:
    match = paired(study, 0, 1, 0)
    size = len(partner)
    correlation, chance = np.linspace(0.1, 0.5, size), np.linspace(0.3, 0.2, size)
    parts = {"unit": np.arange(size), "partner": np.array(partner), "correlation": correlation, "chance": chance}
    return together(study, near=near, matches=(replace(match, **{**parts, **changes}),))


def test_the_words_of_matched_units_are_compared_by_hand():
    study = of_words(["dog", "dog", "sky", "red", ("dog", 0.5), None], ["cat", "dog", "sky", "dog", "dog", "dog"])
    table = compare_units.table(matched(study, [1, 0, 2, 3, 4, 5]))
    # Pairs that are interpretable in both: dog and dog, dog and cat, sky and sky, red and dog. Of their 16 pairs of
    # words 2 x 2 are both dog and one is both sky; 2 x 1 more, of dog and cat, are near. Of the three whose words both
    # have a category all agree; these are twice an object and once a scene in both runs.
    expected = {"same_word": (2 / 4, 5 / 16), "near_meaning": (3 / 4, 7 / 16), "same_category": (3 / 3, 5 / 9)}
    for sense, numbers in expected.items():
        row = chosen(table, kind=sense)
        assert (row["share"][0], row["chance"][0]) == pytest.approx(numbers)
        assert (row["pairs"][0], row["units"][0], row["near"][0]) == (6, 4, 0.9)
        assert np.isnan(row["low"][0])


def test_pairs_are_listed_from_the_most_alike():
    study = of_words(["dog", "dog", "red", ("sky", 0.5), None], ["cat", "dog", "sky", "sky", "dog"])
    correlation = np.array([0.2, 0.9, np.nan, 0.4, 0.3], np.float32)
    table = compare_units.table(matched(study, [1, 0, 4, 2, 3], correlation=correlation))
    pairs = chosen(table, kind="pair")
    names = ("unit", "partner", "concept", "other_concept", "interpretable", "other_interpretable", "same_word")
    assert list(zip(*(pairs[name].tolist() for name in names), strict=True)) == [
        (1, 0, "dog", "cat", True, True, False),
        (3, 2, "sky", "sky", False, True, True),
        (4, 3, "", "sky", False, True, False),
        (0, 1, "dog", "dog", True, True, True),
        (2, 4, "red", "dog", True, True, False),
    ]
    assert pairs["rank"].tolist() == [1, 2, 3, 4, 5]
    np.testing.assert_allclose(pairs["correlation"], [0.9, 0.4, 0.3, 0.2, np.nan], atol=1e-7)
    np.testing.assert_allclose(pairs["chance_correlation"], np.linspace(0.3, 0.2, 5), atol=1e-7)
    np.testing.assert_allclose(pairs["cosine"], [0.96, 1, np.nan, 1, -1], atol=1e-6)
    np.testing.assert_array_equal(pairs["score"], [1, 0.5, np.nan, 1, 1])
    assert pairs["category"].tolist() == ["object", "scene", "", "object", ""]
    assert set(pairs["matched"]) == {"by correlation"} and set(pairs["other_step"].tolist()) == {7}


def test_the_intervals_of_matched_words_are_those_of_single_resamples():
    study = of_words(["dog", "dog", "sky", "red", "cat", None] * 4, ["cat", "dog", "sky", "dog"] * 6, resamples=9)
    partner = np.random.default_rng(1).permutation(24).tolist()
    table = compare_units.table(matched(study, partner))
    singles = [compare_units.table(matched(in_resample(study, b), partner)) for b in range(9)]
    senses = table["kind"] != "pair"
    assert_ends(table, "share", ("low", "high"), singles, 0, 1, senses)
    assert_ends(table, "units", ("units_low", "units_high"), singles, 0, 24, senses)


def test_it_is_said_how_units_were_matched_and_chance_is_drawn_where_it_is_known():
    study = a_study({"plain": RUNS["plain"], "b": RUNS["robust"], "c": RUNS["robust"]})
    matches = (paired(study, 0, 1, 0), paired(study, 0, 2, 0, same_start=True), paired(study, 0, 2, 1, same_start=True))
    view = together(study, (0, 1, 2), matches=matches)
    said = words_of(drawn_from(compare_units, view))
    assert "b: units matched by correlation" in said and "c: unit by unit, same start" in said
    assert any("by chance 0.10" in text for text in said)
    of_same = words_of(drawn_from(compare_units, replace(view, matches=matches[1:])))
    assert not any("by chance" in text for text in of_same)
    figure = drawn_from(compare_units, view)
    ranks = next(axes for axes in figure.axes if axes.get_ylabel() == "correlation")
    drawn_lines = [np.asarray(line.get_ydata(), float) for line in ranks.get_lines()]
    pairs = chosen(compare_units.table(view), kind="pair", layer="early")
    for other in ("b", "c"):
        for column in ("correlation", "chance_correlation"):
            line = chosen(pairs, other=other)[column]
            assert any(len(one) == 3 and np.array_equal(one, line, equal_nan=True) for one in drawn_lines)


def test_matched_units_are_found_by_number_whatever_the_order_of_rows():
    study = of_words(["dog", "sky", "red", "cat"], ["cat", "red", "sky", "dog"])
    order = np.random.default_rng(3).permutation(8)
    mixed = replace(study.units, **{name: column[order] for name, column in vars(study.units).items()})
    expected = compare_units.table(matched(study, [3, 2, 1, 0]))
    assert chosen(expected, kind="same_word")["share"].tolist() == [1]
    for name, column in compare_units.table(matched(replace(study, units=mixed), [3, 2, 1, 0])).items():
        np.testing.assert_array_equal(column, expected[name])


# Examples


def test_the_commonest_words_come_first_of_equals_the_clearest():
    first = [("dog", 1.0), ("sky", 2.0), ("cat", 9.0), ("dog", 3.0), ("dog", 2.0), ("sky", 1.0), ("red", 0.5)]
    second = [("sky", 1.5), ("cat", 1.0), ("cat", 2.0), ("sky", 1.0), ("red", 5.0), None]
    view = together(of_words(first, second), top=2, images=3)
    table = examples.table(view)
    names = ("run", "word_rank", "concept", "units", "unit_rank", "unit", "reference_units")
    assert list(zip(*(table[name].tolist() for name in names), strict=True)) == [
        ("run 0", 1, "dog", 3, 1, 3, -1),
        ("run 0", 1, "dog", 3, 2, 4, -1),
        ("run 0", 2, "sky", 2, 1, 1, -1),
        ("run 0", 2, "sky", 2, 2, 5, -1),
        ("run 1", 1, "cat", 2, 1, 2, 1),
        ("run 1", 1, "cat", 2, 2, 1, 1),
        ("run 1", 2, "sky", 2, 1, 0, 2),
        ("run 1", 2, "sky", 2, 2, 3, 2),
    ]
    assert table["difference"][4:].tolist() == [1, 1, 0, 0]
    assert table["image_1"].tolist() == [f"{unit % 6}.png" for unit in table["unit"].tolist()]
    said = words_of(drawn_from(examples, view))
    assert {"3 of 7 units", "2 of 6 units", "in run 0: 1", "in run 0: 2", "unit 3: 3.00"} <= set(said)


def test_examples_list_all_layers_and_draw_each_runs_last():
    view = together(without(a_study(resamples=0), 1, 1), images=3)
    table = examples.table(view)
    assert set(zip(table["run"].tolist(), table["layer"].tolist(), strict=True)) == {
        ("plain", "early"),
        ("plain", "late"),
        ("robust", "early"),
    }
    said = words_of(drawn_from(examples, view))
    assert "late, step 20" in said and "early, step 20" in said
    assert "in plain: 0" in said  # no unit of its early layer is "sky"
    nothing = examples.table(together(without(a_study(resamples=0), 0, 1)))
    assert chosen(nothing, layer="late")["reference_units"].tolist() == [-1] * 3


def test_the_intervals_of_examples_are_those_of_counts_in_single_resamples():
    cells = [["dog", "dog", "sky", "red", "cat", "dog"] * 4, ["cat", "dog", "sky", "dog"] * 6]
    study = of_words(*cells, resamples=9)
    table = examples.table(together(study, top=5))
    units = study.units
    for i, concept in enumerate(table["concept"].tolist()):
        word = list(WORDS).index(concept)
        held = units.resampled_interpretable & (units.resampled_concept == word)
        own, other = held[units.run == 0].sum(axis=0), held[units.run == 1].sum(axis=0)
        counts = own if table["run"][i] == "run 0" else other
        error = Z * np.std(counts, ddof=1)
        ends = np.clip([table["units"][i] - error, table["units"][i] + error], 0, 24)
        np.testing.assert_allclose([table["low"][i], table["high"][i]], ends)
        if table["run"][i] == "run 1":
            error = Z * np.std(other - own, ddof=1)
            ends = np.clip([table["difference"][i] - error, table["difference"][i] + error], -24, 24)
            np.testing.assert_allclose([table["difference_low"][i], table["difference_high"][i]], ends)


# Metrics


def test_metrics_are_listed_where_they_are_known():
    metrics = {"loss": np.array([3, 2, 1, np.nan, np.nan, 7]), "accuracy": np.array([np.nan] * 3 + [0.1, 0.2, 0.3])}
    view = together(a_study(), (1, 0), metrics={name: np.float32(values) for name, values in metrics.items()})
    table = accuracy.table(view)
    assert list(zip(*(table[name].tolist() for name in ("metric", "run", "step", "value")), strict=True)) == [
        ("loss", "robust", 20, 7),
        ("loss", "plain", 0, 3),
        ("loss", "plain", 10, 2),
        ("loss", "plain", 20, 1),
        *(("accuracy", "robust", step, pytest.approx(n, abs=1e-6)) for step, n in ((0, 0.1), (10, 0.2), (20, 0.3))),
    ]
    assert accuracy.are_accuracies(table) == {"loss": False, "accuracy": True}
    assert set(accuracy.table(replace(view, runs=()))["run"]) == {"robust"}


def test_accuracies_share_a_panel_and_name_their_last_values():
    rising = np.array([0.1, 0.5, 0.9429, 0.2, 0.4, 0.8342], np.float32)
    known = np.array([np.nan, np.nan, np.nan, 0.1, 0.5, np.nan], np.float32)
    metrics = {"accuracy": rising, "robust_accuracy": known, "val_acc": 100 * rising, "loss": 1 - rising}
    metrics["sparsity"] = 0 * rising
    view = together(a_study(), metrics=metrics)
    assert list(accuracy.are_accuracies(accuracy.table(view)).values()) == [True, True, False, False, False]
    figure = drawn_from(accuracy, view)
    said = words_of(figure)
    assert {"94.3 % accuracy, plain", "83.4 % accuracy, robust", "50.0 % robust accuracy, robust"} <= set(said)
    assert sum("% " in text for text in said) == 3
    lines = figure.axes[1].get_lines()
    assert [line.get_ydata().tolist() for line in lines] == [rising[:3].tolist(), rising[3:].tolist(), [*known[3:5]]]
    assert [line.get_linestyle() for line in lines] == ["-", "-", "--"]
    assert len(figure.axes) == 1 + 3  # two panels more


def test_labels_are_kept_apart_in_their_order_and_within_the_panel():
    random = np.random.default_rng(0)
    for number in range(1, 17):
        wanted = random.choice([1.0, 1.05, 2.5, 3.0], number).tolist()
        found = accuracy.apart(wanted, 0.125, 1.0, 3.0)
        order = np.argsort(wanted, kind="stable")
        assert (np.diff(np.array(found)[order]) > 0.125 - 1e-9).all()
        assert min(found) > 1 - 1e-9 and max(found) < 3 + 1e-9
    assert accuracy.apart([1.5, 2.5], 0.125, 1.0, 3.0) == [1.5, 2.5]


# Pruning


def pruned(study: Study, *sparsity: float) -> Study:
    names = [replace(name, sparsity=share) for name, share in zip(study.checkpoints, sparsity, strict=True)]
    return replace(study, checkpoints=tuple(names))


def test_pruning_lists_units_by_the_share_of_weights_that_are_0():
    study = pruned(a_study(resamples=30), 0.0, 0.4, 0.64, *[float("nan")] * 2, 0.5)
    table = pruning.table(together(study))
    late = chosen(table, layer="late")
    names = ("run", "step", "sparsity", "units", "dead", "constant", "layer_units")
    assert list(zip(*(late[name].tolist() for name in names), strict=True)) == [
        ("plain", 0, 0.0, 1, 0, 0, 3),
        ("plain", 10, 0.4, 3, 0, 0, 3),
        ("plain", 20, 0.64, 2, 0, 0, 3),
        ("robust", 20, 0.5, 3, 0, 0, 3),
    ]
    assert chosen(table, layer="early", run="plain")["dead"].tolist() == [1, 1, 2]
    for i, (run, step, layer) in enumerate(zip(table["run"], table["step"], table["layer"], strict=True)):
        k = [(study.runs[name.run], name.step) for name in study.checkpoints].index((run, step))
        rows = (study.units.checkpoint == k) & (study.units.layer == study.layers.index(layer)) & study.units.alive
        error = Z * np.std(study.units.resampled_interpretable[rows].sum(axis=0), ddof=1)
        ends = np.clip([table["units"][i] - error, table["units"][i] + error], 0, rows.sum())
        np.testing.assert_allclose([table["low"][i], table["high"][i]], ends)


def test_sparsity_is_drawn_in_per_cent_or_by_the_logarithm_of_what_is_left():
    few = pruned(a_study(), 0.0, 0.4, 0.64, 0.64, 0.4, 0.0)
    figure = drawn_from(pruning, together(few))
    plain, dead, robust, dead_robust = figure.axes[1].get_lines()
    assert plain.get_xdata().tolist() == [0, 40, 64] and plain.get_ydata().tolist() == [1, 2, 1]
    assert dead.get_ydata().tolist() == [1, 1, 2] and dead_robust.get_ydata().tolist() == [1, 1, 1]
    assert robust.get_xdata().tolist() == [0, 40, 64]  # by sparsity, though its steps go the other way
    assert figure.axes[1].get_xlabel() == "weights pruned, %"
    many = pruned(a_study(), 0.0, 0.9, 0.99, 0.0, 0.9, 1.0)
    figure = drawn_from(pruning, together(many))
    np.testing.assert_allclose(figure.axes[1].get_lines()[0].get_xdata(), [0, 1, 2])
    assert figure.axes[1].get_lines()[2].get_xdata()[-1] == 4
    assert figure.axes[1].get_xlabel() == "weights pruned, % (log of the rest)"
    assert [text.get_text() for text in figure.axes[1].get_xticklabels()] == ["0", "90", "99", "100"]


def test_runs_that_count_in_epochs_and_in_batches_go_each_from_its_first_step_to_its_last():
    study = a_study({"epochs": RUNS["plain"], "batches": RUNS["plain"]}, steps=(0, 1, 3))
    steps = [replace(name, step=500 * name.step) if name.run else name for name in study.checkpoints]
    known = {"accuracy": np.linspace(0.1, 0.9, 6).astype(np.float32)}
    figure = drawn_from(accuracy, together(replace(study, checkpoints=tuple(steps)), metrics=known))
    lines = [line.get_xdata() for line in figure.axes[1].get_lines() if len(line.get_xdata()) == 3]
    np.testing.assert_allclose(lines, [[0, 1 / 3, 1]] * 2)
    assert figure.axes[1].get_xlabel() == "step, of each run's own"
    shared = drawn_from(accuracy, together(study, metrics=known)).axes[1]
    assert shared.get_xlabel() == "step" and shared.get_lines()[0].get_xdata().tolist() == [0, 1, 3]
