import numpy as np
import oracles
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from cmon.detectors.network_dissection import NetworkDissection
from cmon.recording import Counter, Recorder, Thresholds
from cmon.records import CheckpointCounts, Concepts, ImageLabels

CATEGORIES = (0, 0, 1, 1, 2)  # of five concepts


def centres(pixels):
    return tuple((2 * i + 1) / (2 * pixels) for i in range(pixels))


def labels_of(shown, size):
    """Turn {concept: rows of true and false} into what the counter is given."""
    concepts = sorted(shown)
    masks = np.array([shown[concept] for concept in concepts], dtype=bool).reshape(len(concepts), *size)
    return ImageLabels(np.array(concepts, dtype=np.int32), masks, centres(size[0]), centres(size[1]))


def random_labels(random, images, size, concepts=5):
    """Labels of which none is empty; some images show nothing."""
    shown = []
    for _ in range(images):
        masks = {c: random.random(size) < random.choice([0.2, 0.9]) for c in range(concepts) if random.random() < 0.5}
        shown.append({c: mask.tolist() for c, mask in masks.items() if mask.any()})
    return shown


def counted(maps, thresholds, shown, size, batch=2, categories=CATEGORIES):
    counter = Counter({"layer": torch.from_numpy(np.float32(thresholds))}, categories)
    labels = [labels_of(one, size) for one in shown]
    for start in range(0, len(maps), batch):
        counter.begin(labels[start : start + batch])
        counter.add("layer", torch.from_numpy(maps[start : start + batch]))
    (layer,) = counter.counts()
    return layer, counter.concept_area


def checkpoint_counts(layer, concept_area, categories=CATEGORIES):
    names = tuple(f"category {g}" for g in range(max(categories) + 1))
    concepts = Concepts(tuple(f"word {c}" for c in range(len(categories))), tuple(names[g] for g in categories))
    return CheckpointCounts(concepts, names, (), concept_area, concept_area, (layer,), 0.005, 0.0)


def iou(layer, concept_area, union="category"):
    return NetworkDissection(union)(None, checkpoint_counts(layer, concept_area).of_layer("layer")).values


def check(maps, share, shown, size, batch=2):
    """Hold thresholds, counts and scores against the oracle."""
    images, units = maps.shape[:2]
    thresholds = Thresholds(images, share)
    for start in range(0, images, batch):
        thresholds.add("layer", torch.from_numpy(maps[start : start + batch]))
    found = thresholds.values()["layer"].numpy()
    planes = maps.astype(float).transpose(1, 0, 2, 3).reshape(units, -1)
    np.testing.assert_allclose(found, [oracles.quantile(p, share) for p in planes.tolist()], rtol=1e-6, atol=1e-7)
    layer, concept_area = counted(maps, found, shown, size, batch)
    both, scores, area, areas, whole, over_all = oracles.network_dissection(
        maps.tolist(), found.tolist(), shown, CATEGORIES
    )
    assert layer.intersection.tolist() == both
    assert layer.unit_area.tolist() == area
    assert concept_area.tolist() == areas
    assert layer.whole_area.tolist() == whole
    np.testing.assert_allclose(iou(layer, concept_area), scores, rtol=1e-6)
    np.testing.assert_allclose(iou(layer, concept_area, "all"), over_all, rtol=1e-6)


shapes = st.tuples(st.integers(1, 4), st.integers(1, 3), st.integers(1, 4), st.integers(1, 4))
seeds = st.integers(0, 10**6)


@settings(max_examples=60)
@given(shape=shapes, size=st.tuples(st.integers(1, 6), st.integers(1, 6)), seed=seeds, share=st.floats(0.01, 0.6))
def test_thresholds_counts_and_scores_are_the_oracles(shape, size, seed, share):
    random = np.random.default_rng(seed)
    maps = np.float32(random.normal(size=shape))
    check(maps, share, random_labels(random, shape[0], size), size)


@settings(max_examples=60)
@given(images=st.integers(1, 3), side=st.sampled_from([1, 2, 4]), times=st.sampled_from([1, 2, 4]), seed=seeds)
def test_values_equal_to_the_threshold_are_not_above_it(images, side, times, seed):
    # Small whole numbers, and masks of twice or four times the map's resolution: no rounding anywhere.
    random = np.random.default_rng(seed)
    maps = np.float32(random.integers(0, 4, size=(images, 3, side, side)))
    size = (side * times, side * times)
    shown = random_labels(random, images, size)
    layer, _ = counted(maps, [0, 1, 2], shown, size)
    both, _, area, *_ = oracles.network_dissection(maps.tolist(), [0, 1, 2], shown, CATEGORIES)
    assert (layer.intersection.tolist(), layer.unit_area.tolist()) == (both, area)


def test_a_map_at_its_threshold_everywhere_is_nowhere_above_it_whatever_rounding_does():
    maps = np.full((1, 1, 7, 7), 0.1, np.float32)
    layer, _ = counted(maps, np.float32([0.1]), [{0: np.ones((112, 112)).tolist()}], (112, 112))
    assert layer.unit_area.sum() == 0


def test_counts_by_hand():
    # One unit, above its threshold in the left half: 8 of 16 pixels, 2 of them in the mask of 4.
    maps = np.float32([[[[1.0, -1.0], [1.0, -1.0]]]])
    mask = np.zeros((4, 4), bool)
    mask[0] = True
    layer, areas = counted(maps, [0.0], [{1: mask.tolist()}], (4, 4))
    assert layer.intersection.tolist() == [[0, 2, 0, 0, 0]]
    assert layer.unit_area.tolist() == [[8, 0, 0]]
    assert areas.tolist() == [0, 4, 0, 0, 0]
    assert iou(layer, areas)[0].tolist() == pytest.approx([0, 2 / 10, 0, 0, 0])


def test_only_images_that_carry_a_label_of_the_category_count_for_its_union():
    maps = np.ones((2, 1, 2, 2), np.float32)
    everywhere = np.ones((2, 2), bool).tolist()
    layer, areas = counted(maps, [0.0], [{0: everywhere, 4: everywhere}, {4: everywhere}], (2, 2))
    assert layer.unit_area.tolist() == [[4, 0, 8]]
    assert iou(layer, areas)[0].tolist() == [1, 0, 0, 0, 1]
    assert iou(layer, areas, "all")[0].tolist() == [0.5, 0, 0, 0, 1]


def test_the_order_of_images_and_the_size_of_batches_make_no_difference():
    random = np.random.default_rng(0)
    maps = np.float32(random.normal(size=(9, 4, 3, 3)))
    shown = random_labels(random, 9, (6, 5))
    first = counted(maps, [0.5] * 4, shown, (6, 5), batch=2)
    order = random.permutation(9)
    second = counted(maps[order], [0.5] * 4, [shown[i] for i in order], (6, 5), batch=9)
    assert first[0].intersection.tolist() == second[0].intersection.tolist()
    assert first[0].unit_area.tolist() == second[0].unit_area.tolist()
    assert first[1].tolist() == second[1].tolist()


def test_counts_are_exact_at_sizes_that_do_not_fit_into_one_block(monkeypatch):
    from cmon.recording import counting

    random = np.random.default_rng(1)
    maps = np.float32(random.normal(size=(3, 20, 4, 4)))
    shown = random_labels(random, 3, (8, 8))
    whole, _ = counted(maps, [0.2] * 20, shown, (8, 8))
    monkeypatch.setattr(counting, "BLOCK_BYTES", 8 * 64 * 3)  # three units at a time
    parts, _ = counted(maps, [0.2] * 20, shown, (8, 8))
    assert whole.intersection.tolist() == parts.intersection.tolist()
    assert whole.unit_area.tolist() == parts.unit_area.tolist()


def test_interpolation_is_that_of_torch():
    maps = torch.randn(1, 1, 7, 5, generator=torch.Generator().manual_seed(0))
    expected = nn.functional.interpolate(maps, (112, 90), mode="bilinear", align_corners=False)[0, 0] > 0.25
    layer, _ = counted(maps.numpy(), [0.25], [{0: np.ones((112, 90)).tolist()}], (112, 90))
    assert layer.unit_area[0, 0] == int(expected.sum())
    left = np.zeros((112, 90), bool)
    left[:, :40] = True
    layer, _ = counted(maps.numpy(), [0.25], [{0: left.tolist()}], (112, 90))
    assert layer.intersection[0, 0] == int(expected[:, :40].sum())


def test_a_unit_that_is_nowhere_above_its_threshold_gets_no_verdict():
    maps = np.float32([[[[1.0, 1.0]], [[0.0, 1.0]]]])  # the first saturates
    layer, areas = counted(maps, [1.0, 0.5], [{0: [[True, True]]}], (1, 2))
    evidence = checkpoint_counts(layer, areas).of_layer("layer")
    assert evidence.judged(2).tolist() == [False, True]


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3, padding=1)
        self.relu = nn.ReLU(inplace=True)
        self.second = nn.Conv2d(4, 5, 3, stride=2)
        self.fc = nn.Linear(5, 2)

    def forward(self, x):
        return self.fc(self.second(self.relu(self.first(x))).mean((2, 3)))


@pytest.fixture
def net():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Net().eval()


def test_a_recorded_network_is_counted_as_its_own_maps_are(net):
    random = np.random.default_rng(2)
    images = torch.from_numpy(np.float32(random.normal(size=(6, 3, 9, 9))))
    shown = random_labels(random, 6, (9, 9))
    recorder = Recorder(("first", "second", "fc"))
    thresholds = Thresholds(6, 0.1)
    recorder(net, images.split(4), 6, thresholds.add)
    counter = Counter(thresholds.values(), CATEGORIES)

    def batches():
        for start in (0, 4):
            counter.begin([labels_of(one, (9, 9)) for one in shown[start : start + 4]])
            yield images[start : start + 4]

    recorder.watch(net, batches(), counter.add)
    with torch.inference_mode():
        first = net.first(images)
        second = net.second(first.relu())
        maps = {"first": first, "second": second, "fc": net.fc(second.mean((2, 3)))[:, :, None, None]}
    for layer in counter.counts():
        values = maps[layer.name].numpy()
        planes = values.transpose(1, 0, 2, 3).reshape(values.shape[1], -1)
        np.testing.assert_allclose(layer.threshold, np.quantile(planes, 0.9, axis=1), rtol=1e-4)
        expected, _ = counted(np.ascontiguousarray(values), layer.threshold, shown, (9, 9))
        difference = np.abs(layer.intersection - expected.intersection)
        assert difference.max() <= 1  # a pixel at the threshold, where two orders of adding differ
        assert layer.unit_area.sum() > 0
