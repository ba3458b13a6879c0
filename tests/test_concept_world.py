"""The concept world, its planted network and its encoder are what they say."""

import csv
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.metrics import average_precision_score

ROOT = Path(__file__).resolve().parents[1]

import concept_world  # noqa: E402
import plant  # noqa: E402
import world_truth  # noqa: E402
from concept_world import CONCEPTS, World  # noqa: E402

from cmon.config import Preprocess  # noqa: E402
from cmon.detectors.network_dissection import NetworkDissection  # noqa: E402
from cmon.probes import open_labels  # noqa: E402
from cmon.recording import Counter, Recorder, Thresholds  # noqa: E402
from cmon.records import CheckpointCounts, PackedLabels  # noqa: E402
from cmon.statistics import draw  # noqa: E402

ENCODER = ROOT / "sample_configs" / "demo" / "encoder"


@pytest.fixture(scope="module")
def world() -> World:
    return concept_world.render(600, seed=11)


@pytest.fixture(scope="module")
def small_world() -> World:
    return concept_world.render(40, seed=12)


@pytest.fixture(scope="module")
def broden(small_world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("broden")
    concept_world.write_broden(small_world, folder)
    return folder


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_equal_seeds_give_equal_worlds(small_world: World) -> None:
    again = concept_world.render(40, seed=12)
    assert np.array_equal(again.images, small_world.images)
    assert np.array_equal(again.object_mask, small_world.object_mask)
    assert all(np.array_equal(again.labels[category], small_world.labels[category]) for category in CONCEPTS)
    assert not np.array_equal(concept_world.render(40, seed=13).images, small_world.images)


def test_words_are_unique_and_every_one_occurs(world: World) -> None:
    names = concept_world.words()
    assert len(set(names)) == len(names) == 33
    assert world.presence().any(axis=0).all()
    assert (world.presence().sum(axis=1) == len(CONCEPTS)).all()


def test_the_mask_is_where_the_objects_paint_is(world: World) -> None:
    paint = concept_world.PALETTE[world.labels["color"]][:, None, None, :]
    distances = [np.abs(world.images - color).sum(axis=-1) for color in (paint, concept_world.INK)]
    looks_like_object = np.minimum(*distances) < plant.FAR
    plain = world.labels["texture"] == CONCEPTS["texture"].index("plain")
    overlap = (looks_like_object & world.object_mask).sum((1, 2)) / (looks_like_object | world.object_mask).sum((1, 2))
    assert overlap[plain].min() > 0.85  # a small object is a third outline
    assert overlap.min() > 0.5  # and where ink meets paint, pixels are neither
    assert (looks_like_object & ~world.object_mask).mean() < 0.005


def test_only_plain_objects_have_no_ink(world: World) -> None:
    ink = (np.abs(world.images - concept_world.INK).sum(axis=-1) < plant.FAR) & world.object_mask
    share = ink.sum((1, 2)) / world.object_mask.sum((1, 2))
    plain = world.labels["texture"] == CONCEPTS["texture"].index("plain")
    assert share[plain].max() == 0
    assert share[~plain].min() > 0.05


def test_a_caption_names_only_what_is_there(small_world: World) -> None:
    sentences = concept_world.captions(small_world, seed=1)
    assert sentences == concept_world.captions(small_world, seed=1)
    for row, sentence in enumerate(sentences):
        rest = sentence
        for category in CONCEPTS:
            rest = rest.replace(CONCEPTS[category][small_world.labels[category][row]], "", 1)
        assert sentence
        assert not rest.replace(",", "").strip(), sentence


def test_broden_index_and_masks_say_what_the_world_is(small_world: World, broden: Path) -> None:
    numbers = {
        (row["name"], row["category"].split("(")[0]): int(row["number"]) for row in rows_of(broden / "label.csv")
    }
    index = rows_of(broden / "index.csv")
    assert [row["image"] for row in index[:2]] == ["world_000000.png", "world_000001.png"]
    assert len(index) == len(small_world)
    for place, row in enumerate(index):
        assert (row["ih"], row["iw"], row["sh"], row["sw"]) == ("64", "64", "32", "32")
        assert np.array_equal(np.array(Image.open(broden / "images" / row["image"])), small_world.images[place])
        word = {category: CONCEPTS[category][small_world.labels[category][place]] for category in CONCEPTS}
        assert int(row["scene"]) == numbers[word["scene"], "scene"]
        for category in ("color", "texture", "shape"):
            pixels = np.array(Image.open(broden / "images" / row[category])).astype(int)
            labels = pixels[..., 0] + 256 * pixels[..., 1]
            assert labels.shape == (32, 32)
            assert set(np.unique(labels)) == {0, numbers[word[category], category]}
            # Each label pixel stands for four of the image; it may differ from one of them by rounding only.
            assert np.mean((labels > 0) == small_world.object_mask[place, ::2, ::2]) > 0.93


def test_broden_tables_count_the_images(small_world: World, broden: Path) -> None:
    labels = rows_of(broden / "label.csv")
    assert [int(row["number"]) for row in labels] == list(range(1, 34))
    assert [row["name"] for row in labels] == concept_world.words()
    assert [int(row["frequency"]) for row in labels] == list(small_world.presence().sum(axis=0))
    categories = {row["name"]: row for row in rows_of(broden / "category.csv")}
    for category, names in CONCEPTS.items():
        own = [row for row in labels if row["category"].startswith(f"{category}(")]
        assert [row["name"] for row in own] == list(names)
        assert (categories[category]["first"], categories[category]["last"]) == (
            own[0]["number"],
            own[-1]["number"],
        )
        codes = rows_of(broden / f"c_{category}.csv")
        assert [int(row["code"]) for row in codes] == list(range(1, len(names) + 1))
        assert {row["name"]: row["number"] for row in codes} == {row["name"]: row["number"] for row in own}
    pairs = [(row["concept"], row["category"]) for row in rows_of(broden / "concepts.csv")]
    assert pairs == [(word, category) for category in CONCEPTS for word in CONCEPTS[category]]
    truth = rows_of(broden / "attributes.csv")
    for category, names in CONCEPTS.items():
        assert [row[category] for row in truth] == [names[label] for label in small_world.labels[category]]


def test_command_writes_a_world_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["concept_world.py", str(tmp_path / "world"), "--images", "3"])
    concept_world.main()
    assert [path.name for path in tmp_path.iterdir()] == ["world"]
    assert len(rows_of(tmp_path / "world" / "index.csv")) == 3
    capsys.readouterr()
    concept_world.main()
    assert "already there" in capsys.readouterr().out


@pytest.mark.parametrize("levels", [3, 1_000_000])
def test_average_precision_agrees_with_sklearn_with_ties_and_without(levels: int) -> None:
    random = np.random.default_rng(0)
    activations = random.integers(0, levels, (200, 5)).astype(np.float32)
    activations[:, 4] = 7.0
    presence = random.random((200, 3)) < 0.2
    result = world_truth.average_precision(activations, presence)
    for unit in range(5):
        for concept in range(3):
            expected = average_precision_score(presence[:, concept], activations[:, unit])
            assert result[unit, concept] == pytest.approx(expected, abs=1e-12)


def test_average_precision_of_an_absent_concept_is_zero() -> None:
    assert world_truth.average_precision(np.ones((4, 1)), np.zeros((4, 1), bool)).tolist() == [[0.0]]


def test_planted_units_detect_their_words(world: World) -> None:
    network = plant.planted_network()
    pooled: dict[str, list[torch.Tensor]] = {layer: [] for layer in plant.TRUTH}
    for layer in plant.TRUTH:
        network.get_submodule(layer).register_forward_hook(
            lambda _module, _inputs, maps, layer=layer: pooled[layer].append(
                torch.stack([maps.amax((2, 3)), maps.mean((2, 3))])
            )
        )
    with torch.inference_mode():
        for pixels in torch.from_numpy(world.images).permute(0, 3, 1, 2).split(100):
            network(pixels.float() / 255)
    names = concept_world.words()
    for layer, truth in plant.TRUTH.items():
        own = [names.index(word) for word in truth]
        for activations in torch.cat(pooled[layer], dim=1).numpy():
            precision = world_truth.average_precision(activations, world.presence())
            assert precision[np.arange(len(own)), own].min() > 0.95
            assert world_truth.truth_table(world, activations).tolist() == own


def test_nine_of_ten_planted_units_get_their_words_by_iou_with_the_worlds_masks(world: World, tmp_path: Path) -> None:
    concept_world.write_broden(world, tmp_path)
    labels, network = open_labels(tmp_path), plant.planted_network()
    batches = torch.from_numpy(world.images).permute(0, 3, 1, 2).float().div(255).split(100)
    shown = [labels.of(image, Preprocess()) for image in sorted(labels.rows)]
    recorder, thresholds = Recorder(tuple(plant.TRUTH)), Thresholds(len(world), 0.005)
    recorder.watch(network, batches, thresholds.add)
    groups = labels.concepts.groups(labels.categories)
    counter = Counter(thresholds.values(), groups, draw(len(world), 0, 0, 0))
    for i, batch in enumerate(batches):
        recorder.watch(network, [batch], counter.add)
        counter.count([PackedLabels.of(one)] for one in shown[100 * i : 100 * i + len(batch)])
    sums = (counter.concept_area, counter.concept_images, counter.counts())
    counts = CheckpointCounts(labels.concepts, labels.categories, (), *sums, 0.005, thresholds.rank_error)
    names, right = labels.concepts.names, []
    for layer, truth in plant.TRUTH.items():
        scores = NetworkDissection()(np.zeros((0, 0), np.float32), counts.of_layer(layer)).values
        right += [names[row.argmax()] == word and row.max() > 0.04 for row, word in zip(scores, truth, strict=True)]
    assert np.mean(right) >= 0.9


def test_the_shipped_encoder_knows_held_out_images() -> None:
    accuracy = world_truth.zero_shot_accuracy(ENCODER, 500, seed=13)
    assert set(accuracy) == set(CONCEPTS)
    assert min(accuracy.values()) > 0.9


def test_the_shipped_encoder_is_small() -> None:
    assert sum(path.stat().st_size for path in ENCODER.iterdir()) < 8 * 2**20
