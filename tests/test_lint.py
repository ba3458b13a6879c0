from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cmon.lint import concept_table, lint_lines
from cmon.records import Concepts, Evidence

COLUMNS = {
    "concept": "U",
    "category": "U",
    "nearest": "U",
    "nearest_cosine": "f",
    "image_correlation": "f",
    "images_near": "i",
    "images_shown": "i",
    "note": "U",
}


def unit(rows):
    rows = np.asarray(rows, dtype=np.float64)
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def words(*names):
    """Make concepts of "word" or "word / category"."""
    split = [name.partition(" / ") for name in names]
    return Concepts(tuple(word for word, _, _ in split), tuple(category for _, _, category in split))


def evidence(concepts, images, features):
    return Evidence(tuple(f"{number}.png" for number in range(len(images))), concepts, images, features)


def random_features(count, dimensions=24, seed=0):
    return unit(np.random.default_rng(seed).normal(size=(count, dimensions)))


def apart(*names):
    """Return concepts with features of their own, at right angles but for copies; names may repeat with a mark ~."""
    concepts = words(*(name.removesuffix("~") for name in names))
    return concepts, np.eye(len(names), dtype=np.float32)


def notes(concepts, features, images=None, shown=None):
    found = concept_table(images, concepts, features, None if shown is None else np.asarray(shown, dtype=np.int64))
    return found["note"].tolist()


# --- the columns


def dense(images, features):
    """Compute all columns of numbers the long way, for words of which none is like another."""
    count = len(features)
    text = features.astype(np.float64) @ features.T.astype(np.float64)
    np.fill_diagonal(text, -2)
    nearest = text.argmax(axis=1)
    cosines = images.astype(np.float64) @ features.T.astype(np.float64)
    correlation = [np.corrcoef(cosines[:, c], cosines[:, nearest[c]])[0, 1] for c in range(count)]
    near = Counter()
    for row in cosines:
        near.update(np.argsort(-row)[: 5 if count >= 10 else 1].tolist())
    return nearest, text.max(axis=1), np.array(correlation), [near[c] for c in range(count)]


@pytest.mark.parametrize(("images", "count"), [(40, 30), (7, 9), (200, 10), (2, 12), (50, 2), (60, 4)])
@pytest.mark.parametrize("block_bytes", [None, 500])
def test_numbers_are_what_they_are_the_long_way(images, count, block_bytes, monkeypatch):
    if block_bytes:
        monkeypatch.setattr("cmon.records.arrays.BLOCK_BYTES", block_bytes)
    features = random_features(count)
    pictures = unit(random_features(images, seed=1) + 0.3)
    concepts = words(*(f"word {number}" for number in range(count)))
    found = concept_table(evidence(concepts, pictures, features), concepts, features, None)
    nearest, cosine, correlation, near = dense(pictures, features)
    assert {name: column.dtype.kind for name, column in found.items()} == COLUMNS
    assert found["concept"].tolist() == list(concepts.names)
    assert found["nearest"].tolist() == [concepts.names[c] for c in nearest]
    assert found["nearest_cosine"] == pytest.approx(cosine, abs=1e-6)
    assert found["image_correlation"] == pytest.approx(correlation, abs=1e-5, nan_ok=True)
    assert found["images_near"].tolist() == near
    assert found["images_shown"].tolist() == [-1] * count


def test_without_images_nothing_is_said_of_them():
    concepts, features = words("a", "b", "c"), random_features(3)
    empty = evidence(concepts, np.empty((0, 24), np.float32), features)
    for images in (None, empty):
        found = concept_table(images, concepts, features, None)
        assert np.isnan(found["image_correlation"]).all()
        assert found["images_near"].tolist() == [-1] * 3
        assert found["note"].tolist() == [""] * 3
        assert np.isfinite(found["nearest_cosine"]).all()


def test_a_single_concept_has_no_nearest():
    concepts, features = words("a"), random_features(1)
    found = concept_table(evidence(concepts, random_features(5, seed=1), features), concepts, features, None)
    assert found["nearest"].tolist() == [""]
    assert np.isnan(found["nearest_cosine"]).all()
    assert np.isnan(found["image_correlation"]).all()
    assert found["images_near"].tolist() == [5]
    assert found["note"].tolist() == [""]
    assert lint_lines(found) == []


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_images_that_are_all_alike_correlate_with_nothing(count):
    concepts, features = words(*"abcdefghij"), random_features(10)
    same = np.repeat(random_features(1, seed=1), count, axis=0)
    found = concept_table(evidence(concepts, same, features), concepts, features, None)
    assert np.isnan(found["image_correlation"]).all()


# --- copies


def test_one_word_written_twice_is_a_copy_whatever_its_features():
    concepts, features = apart("dog", "Golf_Club", "golf club", "cat", "golf-club")
    assert notes(concepts, features) == [
        "",
        "duplicate of golf club",
        "duplicate of Golf_Club",
        "",
        "duplicate of Golf_Club",
    ]


def test_a_copy_is_its_words_nearest():
    concepts, features = words("Dog", "cat", "dog"), unit([[1, 0.1, 0], [1, 0, 0], [0, 0, 1]])
    found = concept_table(None, concepts, features, None)
    assert found["nearest"].tolist() == ["dog", "Dog", "Dog"]
    assert found["nearest_cosine"][0] == pytest.approx(0)


def test_other_words_with_the_same_features_are_told_of_the_first():
    features = random_features(6)
    features[[3, 5]] = features[1]
    concepts = words("a", "crib", "b", "cot", "c", "bassinet")
    assert notes(concepts, features) == [
        "",
        "same text features as cot",
        "",
        "same text features as crib",
        "",
        "same text features as crib",
    ]


def test_like_words_are_told_of_the_first_even_where_another_is_nearer_by_rounding():
    start, aside = random_features(2)
    features = unit([aside, start, start + 1e-3 * aside, start + 1.1e-3 * aside])
    assert notes(words("a", "crib", "cot", "bassinet"), features)[3] == "same text features as crib"


def test_copies_and_like_words_count_as_one_where_images_are_counted():
    features = random_features(12)
    features[[3, 5, 7]] = features[1]
    pictures = random_features(50, seed=1)
    concepts = words(*(f"w{number}" for number in range(12)))
    found = concept_table(evidence(concepts, pictures, features), concepts, features, None)["images_near"]
    kept = [c for c in range(12) if c not in (3, 5, 7)]
    ranks = np.argsort(-(pictures @ features[kept].T), axis=1)[:, :5]
    assert found[kept].tolist() == np.bincount(ranks.ravel(), minlength=9).tolist()
    assert set(found[[1, 3, 5, 7]].tolist()) == {found[1]}


def test_one_word_in_two_categories_is_no_mistake_and_neither_is_the_others_nearest():
    concepts = words("orange / color", "cat / object", "Orange / object", "red / color", "orange / part")
    features = unit([[1, 0, 0], [0, 1, 0], [1, 0, 0], [0.9, 0.1, 0.5], [1, 0, 0]])
    found = concept_table(None, concepts, features, None)
    assert found["note"].tolist() == [
        "also under category object, part",
        "",
        "also under category color, part",
        "",
        "also under category color, object",
    ]
    assert found["nearest"].tolist() == ["red", "red", "red", "orange", "red"]


@pytest.mark.parametrize("other", ["cat / object", "Cat / object", "cat", "CAT"])
def test_one_word_twice_in_a_category_or_once_without_is_a_copy(other):
    concepts, features = apart("cat / object", other)
    first, second = notes(concepts, features)
    assert first == f"duplicate of {concepts.names[1]}"
    assert second == "duplicate of cat"


def test_a_word_may_be_a_copy_and_elsewhere_too():
    concepts, features = apart("cat / object", "Cat / object", "cat / part")
    assert notes(concepts, features) == [
        "duplicate of Cat; also under category part",
        "duplicate of cat; also under category part",
        "also under category object",
    ]


# --- images


def pictures_of(cosines, features):
    """Make image features that have such cosines with orthogonal words, (I, C), the rest being a direction apart."""
    rest = np.sqrt(1 - np.square(cosines).sum(axis=1, keepdims=True))
    return np.hstack([cosines, rest]).astype(np.float32), np.hstack([features, np.zeros((len(features), 1))]).astype(
        np.float32
    )


def test_words_whose_cosines_go_together_are_hardly_told_apart():
    numbers = np.random.default_rng(0)
    first = numbers.normal(size=400) * 0.1
    cosines = np.stack([first, first + numbers.normal(size=400) * 0.01, numbers.normal(size=400) * 0.1], axis=1)
    pictures, features = pictures_of(cosines, np.eye(3))
    features[1, 0] = 0.1  # so that these two are each other's nearest
    concepts = words("dove", "pigeon", "car")
    found = concept_table(evidence(concepts, pictures, features), concepts, features, None)
    assert found["note"].tolist()[:2] == ["hardly told apart from pigeon", "hardly told apart from dove"]
    assert "hardly" not in found["note"][2]
    without = concept_table(None, concepts, features, None)
    assert without["note"].tolist() == [""] * 3  # of text alone nothing follows: every word is near every other


def test_a_word_that_no_image_is_near_is_noted_where_there_are_enough_images():
    features = random_features(20)
    pictures = unit(features[:8].repeat(3, axis=0) + 0.05 * random_features(24, seed=1))
    concepts = words(*(f"w{number}" for number in range(20)))
    found = concept_table(evidence(concepts, pictures, features), concepts, features, None)
    assert 0 in found["images_near"]
    assert [note == "near no image" for note in found["note"]] == (found["images_near"] == 0).tolist()
    few = concept_table(evidence(concepts, pictures[:19], features), concepts, features, None)
    assert 0 in few["images_near"]
    assert set(few["note"]) == {""}


def test_a_word_that_no_image_shows_is_noted_by_the_labels():
    concepts, features = apart("a", "b", "c", "d")
    assert notes(concepts, features, shown=[0, -1, 3, 0]) == ["no image shows it", "", "", "no image shows it"]


# --- sentences


def test_sentences_give_counts_and_first_names():
    names = [f"w{number} / thing" for number in range(10)]
    concepts = words(*names, "Golf_Club / thing", "golf club / thing", "crib / thing", "cot / thing", "bed / thing")
    concepts = Concepts((*concepts.names, "w0", "sofa"), (*concepts.categories, "place", "place"))
    features = np.eye(17, dtype=np.float32)
    features[[12, 13]] = features[14]
    shown = np.full(17, -1)
    shown[[1, 2]], shown[[3, 4, 5]] = 0, (9, 10, 2)
    found = concept_table(None, concepts, features, shown)
    assert lint_lines(found) == [
        "On no image, by the probe's own labels: 2 of 17 concepts (w1, w2).",
        "On fewer than 10 images, by the probe's own labels: 2 of 17 concepts (w5, w3).",
        "One word written twice, which splits its probability: 1 pair (Golf_Club and golf club).",
        "The same text features, so that nothing tells them apart: 3 of 17 concepts, in 1 group "
        "(crib and cot, bed and crib).",
        "Under more than one category: 1 word (w0).",
        "Category balance: thing 15 (88 %), place 2 (12 %); the largest is 7.5 times the smallest.",
    ]


def test_sentences_on_images():
    features, count = random_features(1200, 16), 1200
    pictures = unit(features[:3].repeat(500, axis=0) + 0.01 * random_features(1500, 16, seed=1))
    concepts = words(*(f"w{number}" for number in range(count)))
    found = concept_table(evidence(concepts, pictures, features), concepts, features, None)
    lines = lint_lines(found)
    none = int((found["images_near"] == 0).sum())
    assert none > 1000
    assert lines[0].startswith(
        f"Not among the 5 words nearest to any image, by the encoder: {none:,} of 1,200 concepts ("
    )
    assert f" and {none - 6} more)." in lines[0]
    pairs = {frozenset(p) for p in zip(found["concept"], found["nearest"], strict=True)}
    told = {
        frozenset((a, b))
        for a, b, note in zip(found["concept"], found["nearest"], found["note"], strict=True)
        if "hardly" in note
    }
    assert told <= pairs
    assert lines[1].startswith(f"Hardly told apart by these images: {len(told)} pairs (")
    assert len(lines) == 2


def test_of_a_short_list_only_the_nearest_word_counts():
    concepts, features = words("a", "b", "c"), np.eye(3, dtype=np.float32)
    pictures = unit([[1, 0.5, 0], [1, 0.4, 0.1], [0.3, 1, 0]])
    found = concept_table(evidence(concepts, pictures, features), concepts, features, None)
    assert found["images_near"].tolist() == [2, 1, 0]
    assert lint_lines(found) == ["Not the word nearest to any image, by the encoder: 1 of 3 concepts (c)."]


def test_a_good_list_gives_no_sentences():
    concepts, features = words("a", "b", "c"), np.eye(3, dtype=np.float32)
    assert lint_lines(concept_table(None, concepts, features, np.array([10, 50, 12]))) == []


def test_concepts_without_a_category_are_counted_as_such():
    concepts, features = apart("a / x", "b", "c", "d")
    assert lint_lines(concept_table(None, concepts, features, None)) == [
        "Category balance: none 3 (75 %), x 1 (25 %); the largest is 3 times the smallest."
    ]


@given(st.lists(st.sampled_from(["dog", "Dog", "d-og", "d og", "cat", "; near no image", "é"]), min_size=1, max_size=9))
def test_any_list_gets_a_row_a_concept_and_sentences_of_one_line(names):
    concepts = Concepts(tuple(names), tuple("xy"[number % 2] for number in range(len(names))))
    features = random_features(len(names), 3)
    found = concept_table(evidence(concepts, random_features(4, 3, 1), features), concepts, features, None)
    assert {len(column) for column in found.values()} == {len(names)}
    assert all("\n" not in line and line.endswith(".") for line in lint_lines(found))
    for name, note, nearest in zip(names, found["note"], found["nearest"], strict=True):
        assert note.startswith("duplicate") <= (nearest.lower().replace("-", " ") == name.lower().replace("-", " "))
