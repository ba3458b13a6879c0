from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from test_figures import HARD, a_study, a_view, another, assert_intervals, drawn, in_resample

from cmon.figures import agreement
from cmon.figures.meaning import near_cosine
from cmon.records import Concepts, Study, View

pytestmark = pytest.mark.filterwarnings("error")

# Only dog and hound are near in meaning, cosine 0.96; in float32 red's cosine with itself is below 1.
FEATURES = {"dog": (1.0, 0.0), "hound": (0.96, 0.28), "cat": (0.0, 1.0), "sky": (0.6, 0.8), "red": (-0.96, 0.28)}
FIRST = {"dog": "object", "cat": "object", "sky": "scene", "red": ""}
SECOND = {"red": "color", "hound": "object", "cat": "object", "dog": "object", "sky": ""}


def labelled(words: dict[str, str], cells: list[list[Any]], detector: str = "first", tau: float = 1.0) -> Study:
    """Make a study of one run with one layer; of each unit a cell holds a word, word and score, or a state."""
    pairs = [[(unit, 1.0) if unit in words else unit for unit in cell] for cell in cells]
    steps = range(0, 10 * len(cells), 10)
    study = a_study({"plain": [[cell] for cell in pairs]}, words, steps, ["only"], tau=tau, resamples=0)
    known = {**dict.fromkeys(words, (1.0, 0.0)), **FEATURES}
    features = np.array([known[word] for word in words], np.float32)
    return replace(study, detector=detector, concept_features=features)


def compared(first: list[list[Any]], second: list[list[Any]], near: float = 0.9) -> View:
    study, other = labelled(FIRST, first), labelled(SECOND, second, "second", 0.5)
    return a_view(study, other=other, near=near, track=())


def row(table: dict[str, np.ndarray], index: int = 0) -> dict[str, Any]:
    return {name: column[index].item() for name, column in table.items()}


def test_the_table_holds_what_is_counted_by_hand():
    first = ["dog", "dog", "cat", "red", ("dog", 0.9), None, "dog", "sky"]
    second = ["dog", "hound", "dog", "red", "dog", ("dog", 0.3), ("dog", 0.4), None]
    found = row(agreement.table(compared([first], [second])))
    # Units 0 to 3 have words from both: dog, dog, cat, red and dog, hound, dog, red. Of their 16 pairs 2 x 2 are both
    # dog, 1 is both red; 2 x 1 more, of dog and hound, are near. The 3 units whose words both have a category have 9
    # pairs, all of objects.
    assert found.pop("mean_cosine") == pytest.approx((1 + 0.96 + 0 + 1) / 4, abs=1e-6)
    ends = [found.pop(name) for name in list(found) if name.endswith(("_low", "_high"))]
    assert len(ends) == 8 and np.isnan(ends).all()
    assert found == {
        "run": "plain",
        "checkpoint": "epoch_0",
        "step": 0,
        "layer": "only",
        "first": "first",
        "second": "second",
        "units": 8,
        "dead": 2,
        "constant": 0,
        "saturated": 0,
        "first_interpretable": 6,
        "second_interpretable": 5,
        "both": 4,
        "same_word": 2 / 4,
        "near_meaning": 3 / 4,
        "same_category": 3 / 3,
        "chance_word": 5 / 16,
        "chance_near": 7 / 16,
        "chance_category": 9 / 9,
        "near": 0.9,
    }


def test_categories_are_compared_of_the_units_whose_words_both_have_one():
    # sky has a category in the first list only, red in the second only.
    table = agreement.table(compared([["sky", "red", "dog", "sky"]], [["sky", "red", "cat", "cat"]]))
    assert (table["same_word"][0], table["same_category"][0], table["chance_category"][0]) == (2 / 4, 1 / 2, 2 / 4)


def test_a_share_of_no_unit_is_unknown():
    table = agreement.table(compared([["red"], [None], [("dog", 0.5)]], [["red"], ["dog"], ["dog"]]))
    assert table["both"].tolist() == [1, 0, 0]
    assert table["same_word"][0] == table["chance_word"][0] == 1
    unknown = ("same_word", "near_meaning", "same_category", "chance_word", "chance_near", "chance_category")
    for name in (*unknown, "mean_cosine"):
        assert np.isnan(table[name][1:]).all(), name
    assert np.isnan([table["same_category"][0], table["chance_category"][0]]).all()


def test_a_dead_unit_has_no_word_whatever_a_detector_says_of_it():
    view = compared([["dog", None]], [["dog", "dog"]])
    units = replace(view.study.units, interpretable=np.ones(2, np.bool_))
    found = row(agreement.table(replace(view, study=replace(view.study, units=units))))
    assert (found["first_interpretable"], found["both"], found["dead"]) == (1, 1, 1)


def test_a_word_is_near_itself_and_others_from_the_cosine_on():
    def shares(near: float) -> list[float]:
        table = agreement.table(compared([["red", "dog", "dog"]], [["red", "hound", "sky"]], near))
        return [table["same_word"][0], table["near_meaning"][0]]

    assert shares(1.0) == [1 / 3, 1 / 3]
    assert shares(0.9) == [1 / 3, 2 / 3]
    assert shares(0.5) == [1 / 3, 3 / 3]


def test_a_word_that_stands_in_a_list_twice_is_one_word():
    view = compared([["dog", "cat"]], [["dog", "cat"]])
    twice = Concepts(("dog", "dog", "cat"), ("object", "part", "object"))
    second = replace(view.other, concepts=twice, concept_features=np.array([(1, 0), (1, 0), (0, 1)], np.float32))
    second = replace(second, units=replace(second.units, concept=np.array([1, 2], np.int32)))
    table = agreement.table(replace(view, other=second))
    assert (table["same_word"][0], table["same_category"][0]) == (1, 1 / 2)


UNIT = st.tuples(st.sampled_from([*FIRST, None]), st.sampled_from([*SECOND, None]))


@given(units=st.lists(UNIT, min_size=1, max_size=12), near=st.sampled_from([0.0, 0.7, 0.9]))
def test_shares_and_chances_are_those_of_a_loop_over_units_and_over_pairs(units: list, near: float):
    first, second = ([pair[side] for pair in units] for side in (0, 1))
    found = row(agreement.table(compared([first], [second], near)))
    both = [pair for pair in units if None not in pair]
    pairs = [(one, two) for (one, _), (_, two) in product(both, both)]
    known = [pair for pair in both if FIRST[pair[0]] and SECOND[pair[1]]]
    known_pairs = [(one, two) for (one, _), (_, two) in product(known, known)]

    def share(agree: Any, of: list) -> float:
        return np.mean([agree(*pair) for pair in of]) if of else np.nan

    def is_near(one: str, two: str) -> bool:
        return one == two or float(np.dot(FEATURES[one], FEATURES[two])) >= near - 1e-9

    def is_alike(one: str, two: str) -> bool:
        return FIRST[one] == SECOND[two]

    expected = {
        "same_word": share(str.__eq__, both),
        "chance_word": share(str.__eq__, pairs),
        "near_meaning": share(is_near, both),
        "chance_near": share(is_near, pairs),
        "same_category": share(is_alike, known),
        "chance_category": share(is_alike, known_pairs),
    }
    assert {name: found[name] for name in expected} == pytest.approx(expected, nan_ok=True, abs=1e-12)


def test_what_is_not_alive_is_counted_as_the_first_or_else_the_second_says():
    first = ["dog", None, "constant", "dog", "dog", "saturated"]
    second = ["dog", "constant", None, "saturated", None, "saturated"]
    found = row(agreement.table(compared([first], [second])))
    assert (found["units"], found["both"]) == (6, 1)
    assert (found["dead"], found["constant"], found["saturated"]) == (2, 1, 2)


@pytest.mark.parametrize("near", [0.3, 0.9])
def test_intervals_are_those_of_the_shares_in_single_resamples(near: float):
    cell = [("stripe", 2.0), ("dog", 1.5), ("sky", 1.2), ("wood", 0.8), None] * 4
    words = {"stripe": "texture", "wood": "", "dog": "object", "sky": "texture"}
    study = a_study({"plain": [[cell, cell[:7]]] * 3}, words, resamples=6)
    # The second detector has more resamples, of which the first are the same; half of its words are others.
    second = another(a_study({"plain": [[cell, cell[:7]]] * 3}, words, resamples=9))
    turned = np.roll(second.units.resampled_concept, 1, axis=1)
    second = replace(second, units=replace(second.units, resampled_concept=turned))
    view = a_view(study, other=second, near=near)
    table = agreement.table(view)
    singles = [
        agreement.table(replace(view, study=in_resample(study, b), other=in_resample(second, b))) for b in range(6)
    ]
    for name in agreement.WITH_INTERVAL:
        known = np.all([np.isfinite(one[name]) for one in (table, *singles)], axis=0)
        assert known.any(), name
        some = {column: values[known] for column, values in table.items()}
        most = some["units"] if name == "both" else 1
        ends = f"{name}_low", f"{name}_high"
        assert_intervals(some, [one[name][known] for one in singles], some[name], *ends, most)
        assert (some[ends[0]] < some[ends[1]]).any()


def test_dealing_the_words_at_random_gives_the_chances_on_average():
    random = np.random.default_rng(0)
    first, second = (list(random.choice([*words], 40)) for words in (FIRST, SECOND))
    chance = row(agreement.table(compared([first], [second])))
    dealt = [list(random.permutation(second)) for _ in range(300)]
    table = agreement.table(compared([first] * 300, dealt))
    for share, name in (("same_word", "chance_word"), ("near_meaning", "chance_near")):
        assert 0 < chance[name] < 1
        assert table[share].mean() == pytest.approx(chance[name], abs=0.015)


def test_a_run_has_a_row_for_every_checkpoint_and_layer_by_step():
    study = a_study()
    table = agreement.table(a_view(study, other=another(study), run=1))
    assert list(table) == list(agreement.COLUMNS)
    assert set(table["run"]) == {"robust"}
    assert table["step"].tolist() == [0, 0, 10, 10, 20, 20]
    assert table["layer"].tolist() == ["early", "late"] * 3
    assert table["units"].tolist() == [3] * 6


def test_studies_of_other_units_are_never_compared():
    study = a_study()
    other = another(study)
    moved = replace(other, units=replace(other.units, unit=other.units.unit[::-1]))
    with pytest.raises(AssertionError, match="unit"):
        agreement.table(a_view(study, other=moved))


def lines(figure: Figure, panel: int = 0) -> dict[str, np.ndarray]:
    """Collect a panel's lines with markers by their colours, as their heights."""
    drawn_lines = figure.axes[1 + panel].get_lines()
    return {str(line.get_color()): line.get_ydata() for line in drawn_lines if line.get_marker() != "None"}


def said(figure: Figure) -> list[str]:
    return [text.get_text() for axes in figure.axes for text in axes.texts]


def test_the_lines_are_the_tables_shares_over_a_gap_where_no_unit_has_both():
    cells = [["dog", "cat"], ["dog", None], [None, None], ["cat", "dog"]]
    view = compared(cells, [["dog", "dog"], ["hound", "dog"], ["dog", "dog"], ["cat", "dog"]])
    table = agreement.table(view)
    found = lines(agreement.draw(view, table))
    shares = {sense.look["color"]: table[sense.share] for sense in agreement.SENSES}
    assert table["same_word"].tolist()[:2] == [0.5, 0.0]
    for colour, heights in shares.items():
        np.testing.assert_array_equal(found[colour], heights)
        assert np.isnan(heights).tolist() == [False, False, True, False]


def test_a_chance_without_neighbours_is_still_drawn():
    for cells in ([["dog", "cat"]], [["dog", "cat"], [None, None], ["dog", "dog"], ["dog", "cat"]]):
        view = compared(cells, [["dog", "dog"]] * len(cells))
        dotted = [line for line in agreement.draw(view, agreement.table(view)).axes[1].get_lines() if line.is_dashed()]
        lengths = [np.isfinite(line.get_ydata()).sum() for line in dotted]
        # One short line for each sense stands for the lone value, which has only itself in the sense's long line.
        assert lengths.count(2) == 3


def test_the_senses_differ_in_colour_and_in_marker_for_every_reader():
    colours = [to_rgb(sense.look["color"]) for sense in agreement.SENSES]
    assert len({sense.look["marker"] for sense in agreement.SENSES}) == 3
    # Red and green are one colour to many: what is left are their mixture and blue.
    seen = [np.array([0.3 * r + 0.6 * g, b]) for r, g, b in colours]
    for one, two in ((0, 1), (0, 2), (1, 2)):
        assert np.abs(seen[one] - seen[two]).max() > 0.2


def test_lists_without_categories_have_no_line_for_them():
    study = labelled({"dog": "", "cat": ""}, [["dog", "cat"]] * 2)
    view = a_view(study, other=labelled(SECOND, [["dog", "cat"]] * 2, "second"), track=())
    figure = agreement.draw(view, agreement.table(view))
    assert len(lines(figure)) == 2
    assert "same category" not in said(figure)
    assert "same category" in said(drawn("agreement", a_view(a_study())))


def test_a_panel_says_so_where_no_unit_has_words_from_both():
    nothing = "no unit has a word from both"
    assert said(drawn("agreement", HARD["nothing interpretable"]())).count(nothing) == 2
    assert said(drawn("agreement", HARD["a dead layer"]())).count(nothing) == 1
    assert nothing not in said(drawn("agreement", HARD["as it is"]()))


def test_a_heading_says_of_how_many_units_the_shares_are():
    cells = [["dog", "cat", None], ["dog", None, None]]
    table = agreement.table(compared(cells, [["dog"] * 3] * 2))
    assert agreement.counted_both(table) == "both: 1 to 2 of 3 units"
    assert agreement.counted_both({name: column[:1] for name, column in table.items()}) == "both: 2 of 3 units"
    sure = table | {"both_low": np.array([0.5, 0.0]), "both_high": np.array([3.5, 2.4])}
    # At the first checkpoint the interval is 1.5 wide above, at the second it is cut off below.
    assert agreement.counted_both(sure) == "both: 1 ± 1 to 2 ± 2 of 3 units"


def test_unless_it_is_stated_near_is_what_one_pair_of_concepts_in_a_hundred_exceeds():
    random = np.random.default_rng(0)
    features = random.normal(size=(40, 6))
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    names = [f"word {i}" for i in range(40)]
    study = labelled(dict.fromkeys(names, ""), [["word 0"]])
    # A word that stands in two categories is no pair with itself.
    twice = Concepts((*study.concepts.names, "word 3"), (*study.concepts.categories, "other"))
    study = replace(study, concepts=twice, concept_features=np.float32(np.vstack([features, features[3]])))
    cosines = sorted(float(features[i] @ features[j]) for i in range(40) for j in range(i))
    found = near_cosine(a_view(study, near=None))
    assert found == pytest.approx(np.quantile(cosines, 0.99), abs=1e-6)


def test_one_concept_alone_is_near_itself_only():
    study = labelled({"dog": ""}, [["dog"]])
    assert near_cosine(a_view(study, near=None)) == 1


def test_the_figure_names_both_detectors_and_says_what_near_is():
    view = compared([["dog"]], [["dog"]], near=0.85)
    words = " ".join(said(agreement.draw(view, agreement.table(view))))
    assert "how often first and second agree" in words
    assert "at least 0.85" in words
    assert "dotted: if words were dealt at random" in words
