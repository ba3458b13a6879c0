import numpy as np
import oracles
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from cmon.detectors.network_dissection import NetworkDissection
from cmon.recording import Counter, Recorder, Thresholds
from cmon.records import CheckpointCounts, Concepts, ImageLabels, PackedLabels
from cmon.statistics import Draws, draw

CATEGORIES = (0, 0, 1, 1, 2)  # of five concepts
# Thresholds by the compiled loops of a processor, and by torch on any other device, which the second name asks for.
WAYS = ("cpu", "cpu:0")


def centres(pixels):
    return tuple((2 * i + 1) / (2 * pixels) for i in range(pixels))


def labels_of(shown):
    """Turn {concept: rows of true and false} into what the counter is given."""
    concepts = sorted(shown)
    masks = np.array([shown[concept] for concept in concepts], dtype=bool).reshape(
        len(concepts), *np.shape(next(iter(shown.values()), [[True]]))
    )
    return PackedLabels.of(ImageLabels(np.array(concepts, dtype=np.int32), masks, *map(centres, masks.shape[1:])))


def random_labels(random, sizes, concepts=5):
    """Labels for images whose masks have these sizes, none of them empty; some images show nothing."""
    shown = []
    for size in sizes:
        masks = {c: random.random(size) < random.choice([0.2, 0.9]) for c in range(concepts) if random.random() < 0.5}
        shown.append({c: mask.tolist() for c, mask in masks.items() if mask.any()})
    return shown


def nothing_drawn(images):
    return draw(images, 0, 0, 0)


def arranged(shown, draws, image):
    """The labels of one image, then those that permutations give it."""
    return [labels_of(shown[number]) for number in (image, *draws.orders[:, image])]


def counter_of(thresholds, draws, categories=CATEGORIES):
    return Counter({"layer": torch.from_numpy(np.float32(thresholds))}, categories, draws)


def counted(maps, thresholds, shown, batch=2, categories=CATEGORIES, draws=None):
    draws = draws or nothing_drawn(len(maps))
    counter = counter_of(thresholds, draws, categories)
    for start in range(0, len(maps), batch):
        part = maps[start : start + batch]
        counter.add("layer", torch.from_numpy(part))
        counter.count(arranged(shown, draws, start + i) for i in range(len(part)))
    (layer,) = counter.counts()
    return layer, counter.concept_area


def checkpoint_counts(layer, concept_area, categories=CATEGORIES):
    names = tuple(f"category {g}" for g in range(max(categories) + 1))
    concepts = Concepts(tuple(f"word {c}" for c in range(len(categories))), tuple(names[g] for g in categories))
    return CheckpointCounts(concepts, names, (), concept_area, concept_area, (layer,), 0.005, 0.0)


def iou(layer, concept_area, union="category"):
    return NetworkDissection(union)(None, checkpoint_counts(layer, concept_area).of_layer("layer")).values


def check(maps, share, shown, batch=2, device="cpu"):
    """Hold thresholds, counts and scores against the oracle."""
    images, units = maps.shape[:2]
    thresholds = Thresholds(images, share, device)
    for start in range(0, images, batch):
        thresholds.add("layer", torch.from_numpy(maps[start : start + batch]))
    found = thresholds.values()["layer"].numpy()
    planes = maps.astype(float).transpose(1, 0, 2, 3).reshape(units, -1)
    np.testing.assert_allclose(found, [oracles.quantile(p, share) for p in planes.tolist()], rtol=1e-6, atol=1e-7)
    found += np.float32(1e-4)  # halfway between two values, where rounding decides what is above it
    layer, concept_area = counted(maps, found, shown, batch)
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


@pytest.mark.parametrize("device", WAYS)
@settings(max_examples=40)
@given(shape=shapes, size=st.tuples(st.integers(1, 6), st.integers(1, 6)), seed=seeds, share=st.floats(0.01, 0.6))
def test_thresholds_counts_and_scores_are_the_oracles(shape, size, seed, share, device):
    random = np.random.default_rng(seed)
    maps = np.float32(random.normal(size=shape))
    check(maps, share, random_labels(random, [size] * shape[0]), device=device)


@settings(max_examples=60)
@given(images=st.integers(1, 3), side=st.sampled_from([1, 2, 4]), times=st.sampled_from([1, 2, 4]), seed=seeds)
def test_values_equal_to_the_threshold_are_not_above_it(images, side, times, seed):
    # Small whole numbers, and masks of twice or four times the map's resolution: no rounding anywhere.
    random = np.random.default_rng(seed)
    maps = np.float32(random.integers(0, 4, size=(images, 3, side, side)))
    size = (side * times, side * times)
    shown = random_labels(random, [size] * images)
    layer, _ = counted(maps, [0, 1, 2], shown)
    both, _, area, *_ = oracles.network_dissection(maps.tolist(), [0, 1, 2], shown, CATEGORIES)
    assert (layer.intersection.tolist(), layer.unit_area.tolist()) == (both, area)


def test_a_map_at_its_threshold_everywhere_is_nowhere_above_it_whatever_rounding_does():
    maps = np.full((1, 1, 7, 7), 0.1, np.float32)
    layer, _ = counted(maps, np.float32([0.1]), [{0: np.ones((112, 112)).tolist()}])
    assert layer.unit_area.sum() == 0


def test_counts_by_hand():
    # One unit, above its threshold in the left half: 8 of 16 pixels, 2 of them in the mask of 4.
    maps = np.float32([[[[1.0, -1.0], [1.0, -1.0]]]])
    mask = np.zeros((4, 4), bool)
    mask[0] = True
    layer, areas = counted(maps, [0.0], [{1: mask.tolist()}])
    assert layer.intersection.tolist() == [[0, 2, 0, 0, 0]]
    assert layer.unit_area.tolist() == [[8, 0, 0]]
    assert areas.tolist() == [0, 4, 0, 0, 0]
    assert iou(layer, areas)[0].tolist() == pytest.approx([0, 2 / 10, 0, 0, 0])


def test_only_images_that_carry_a_label_of_the_category_count_for_its_union():
    maps = np.ones((2, 1, 2, 2), np.float32)
    everywhere = np.ones((2, 2), bool).tolist()
    layer, areas = counted(maps, [0.0], [{0: everywhere, 4: everywhere}, {4: everywhere}])
    assert layer.unit_area.tolist() == [[4, 0, 8]]
    assert iou(layer, areas)[0].tolist() == [1, 0, 0, 0, 1]
    assert iou(layer, areas, "all")[0].tolist() == [0.5, 0, 0, 0, 1]


def test_the_order_of_images_and_the_size_of_batches_make_no_difference():
    random = np.random.default_rng(0)
    maps = np.float32(random.normal(size=(9, 4, 3, 3)))
    shown = random_labels(random, [(6, 5)] * 9)
    first = counted(maps, [0.5] * 4, shown, batch=2)
    order = random.permutation(9)
    second = counted(maps[order], [0.5] * 4, [shown[i] for i in order], batch=9)
    assert first[0].intersection.tolist() == second[0].intersection.tolist()
    assert first[0].unit_area.tolist() == second[0].unit_area.tolist()
    assert first[1].tolist() == second[1].tolist()


def test_counts_are_exact_at_sizes_that_do_not_fit_into_one_block(monkeypatch):
    from cmon.records import arrays

    random = np.random.default_rng(1)
    maps = np.float32(random.normal(size=(3, 20, 4, 4)))
    shown = random_labels(random, [(8, 8)] * 3)
    whole, _ = counted(maps, [0.2] * 20, shown)
    monkeypatch.setattr(arrays, "BLOCK_BYTES", 12 * 3)  # three maps at a time
    parts, _ = counted(maps, [0.2] * 20, shown)
    assert whole.intersection.tolist() == parts.intersection.tolist()
    assert whole.unit_area.tolist() == parts.unit_area.tolist()


def test_interpolation_is_that_of_torch():
    maps = torch.randn(1, 1, 7, 5, generator=torch.Generator().manual_seed(0))
    expected = nn.functional.interpolate(maps, (112, 90), mode="bilinear", align_corners=False)[0, 0] > 0.25
    layer, _ = counted(maps.numpy(), [0.25], [{0: np.ones((112, 90)).tolist()}])
    assert layer.unit_area[0, 0] == int(expected.sum())
    left = np.zeros((112, 90), bool)
    left[:, :40] = True
    layer, _ = counted(maps.numpy(), [0.25], [{0: left.tolist()}])
    assert layer.intersection[0, 0] == int(expected[:, :40].sum())


def check_draws(maps, thresholds, shown, draws, **options):
    layer, _ = counted(maps, thresholds, shown, draws=draws, **options)
    categories = options.get("categories", CATEGORIES)
    expected = oracles.mask_draws(
        maps.tolist(),
        np.float32(thresholds).tolist(),
        shown,
        categories,
        *vars(draws).values(),
        min(10, len(categories)),
    )
    units, drawn = maps.shape[1], (len(draws.resamples), min(10, len(categories)))
    shapes = {
        "null": (units, len(draws.orders)),
        "concept": (units, *drawn),
        "score": (units, *drawn),
        "half_concept": (units, 2),
    }
    assert list(layer.draws) == ["category", "all"]
    for union, found in layer.draws.items():
        for name, values in vars(found).items():
            kind = np.float32 if name in ("null", "score") else np.int32
            assert (values.shape, values.dtype) == (shapes[name], kind), name
            assert np.array_equal(values, np.array(expected[union][name], dtype=kind).reshape(shapes[name])), name
    return layer


@settings(max_examples=30)
@given(
    shape=st.tuples(st.integers(1, 5), st.integers(1, 3), st.integers(1, 3), st.integers(1, 3)),
    often=st.tuples(st.integers(0, 3), st.integers(0, 4)),
    batch=st.integers(1, 5),
    seed=seeds,
)
def test_draws_are_the_oracles_for_masks_of_any_size(shape, often, batch, seed):
    random = np.random.default_rng(seed)
    maps = np.float32(random.normal(size=shape))
    shown = random_labels(random, random.integers(1, 5, (shape[0], 2)).tolist())
    check_draws(maps, [0.7, 0.0, 5.0][: shape[1]], shown, draw(shape[0], *often, seed), batch=batch)


def test_of_many_concepts_the_ten_best_are_kept():
    random = np.random.default_rng(3)
    maps, shown = np.float32(random.normal(size=(6, 3, 3, 3))), random_labels(random, [(4, 4)] * 6, concepts=50)
    categories = tuple(concept % 4 for concept in range(50))
    layer = check_draws(maps, [0.5] * 3, shown, draw(6, 2, 3, 1), categories=categories)
    assert layer.draws["all"].concept.shape == (3, 3, 10)


def test_draws_are_those_of_hand():
    """Two images of one pixel, the unit above its threshold in the first alone."""
    maps, pixel = np.float32([[[[1.0]]], [[[-1.0]]]]), [[True]]
    draws = Draws(
        orders=np.int32([[0, 1], [1, 0]]), resamples=np.int32([[1, 1], [2, 0], [0, 2]]), half=np.array([True, False])
    )
    layer = check_draws(maps, [0.0], [{0: pixel, 2: pixel}, {1: pixel}], draws)
    every, category = layer.draws["all"], layer.draws["category"]
    assert every.null.tolist() == category.null.tolist() == [[1.0, 1.0]]
    assert every.score[0, :, :2].tolist() == category.score[0, :, :2].tolist() == [[1, 1], [1, 1], [0, 0]]
    assert every.concept[0, :, :2].tolist() == [[0, 2], [0, 2], [0, 1]]
    assert every.half_concept.tolist() == [[0, -1]]


def test_an_unlabelled_image_may_get_labels_and_a_labelled_one_lose_them():
    maps, pixel = np.float32([[[[1.0]]], [[[-1.0]]]]), [[True]]
    draws = Draws(np.int32([[1, 0]]), np.zeros((0, 2), np.int32), np.array([True, False]))
    layer = check_draws(maps, [0.0], [{}, {1: pixel}], draws)
    assert layer.whole_area.tolist() == [0]
    assert layer.draws["all"].null.tolist() == [[1.0]]
    assert layer.draws["all"].half_concept.tolist() == [[-1, -1]]


def test_masks_of_one_shape_may_lie_at_other_places():
    """As after crops: the unit is above its threshold on the left, where the one mask is and the other is not."""
    maps, here = np.float32([[[[1.0, -1.0]]], [[[-1.0, -1.0]]]]), np.ones((1, 1, 1), bool)
    labels = [
        PackedLabels.of(ImageLabels(np.int32([concept]), here, (0.5,), (column,)))
        for concept, column in ((0, 0.25), (1, 0.75))
    ]
    draws = Draws(np.int32([[0, 1], [1, 0]]), np.zeros((0, 2), np.int32), np.array([True, False]))
    counter = counter_of([0.0], draws)
    counter.add("layer", torch.from_numpy(maps))
    counter.count([[labels[image], *(labels[order[image]] for order in draws.orders)] for image in (0, 1)])
    (layer,) = counter.counts()
    assert layer.whole_area.tolist() == [1]
    assert layer.draws["all"].null.tolist() == [[1.0, 0.0]]


def test_a_resample_of_all_images_once_scores_as_the_detector_does():
    random = np.random.default_rng(4)
    maps, shown = np.float32(random.normal(size=(7, 6, 5, 5))), random_labels(random, [(9, 8)] * 7)
    draws = Draws(np.arange(7, dtype=np.int32)[None], np.ones((1, 7), np.int32), np.zeros(7, bool))
    layer, areas = counted(maps, [1.0] * 6, shown, draws=draws)
    for union, drawn in layer.draws.items():
        scores = iou(layer, areas, union)
        assert np.array_equal(drawn.null[:, 0], scores.max(axis=1))
        assert np.array_equal(drawn.score[:, 0], -np.sort(-scores, axis=1))
        assert np.array_equal(drawn.half_concept[:, 1], scores.argmax(axis=1))
        assert (drawn.half_concept[:, 0] == -1).all()


def test_draws_do_not_depend_on_batches_blocks_or_integers(monkeypatch):
    from cmon.recording import counting, sums
    from cmon.records import arrays

    random = np.random.default_rng(5)
    maps = np.float32(random.normal(size=(9, 20, 3, 3)))
    shown = random_labels(random, [(8, 8), (6, 5), (8, 8)] * 3)
    draws = draw(9, 3, 4, 2)
    first, _ = counted(maps, [0.4] * 20, shown, draws=draws, batch=2)
    monkeypatch.setattr(counting, "AT_A_TIME", 4)
    monkeypatch.setattr(arrays, "BLOCK_BYTES", 36)  # three maps at a time, and a unit
    monkeypatch.setattr(sums, "HALF_OF_INT32", 10)
    second, _ = counted(maps, [0.4] * 20, shown, draws=draws, batch=9)
    assert np.array_equal(first.intersection, second.intersection)
    for union, drawn in first.draws.items():
        for name, values in vars(drawn).items():
            assert np.array_equal(values, getattr(second.draws[union], name)), name


def test_pixels_beyond_31_bits_are_counted(monkeypatch):
    """A thousand million times one pixel, in two draws and as they are."""
    maps, pixel = np.float32([[[[1.0]]], [[[1.0]]], [[[1.0]]]]), [[True]]
    draws = Draws(np.zeros((0, 3), np.int32), np.int32([[10**9] * 3]), np.array([True, False, False]))
    layer, _ = counted(maps, [0.0], [{0: pixel}] * 3, draws=draws, batch=1)
    assert layer.draws["all"].score[0, 0].tolist() == [1, 0, 0, 0, 0]


def test_half_precision_around_it_changes_nothing():
    random = np.random.default_rng(6)
    maps, shown = np.float32(random.normal(size=(4, 5, 3, 3))), random_labels(random, [(16, 16)] * 4)
    expected, _ = counted(maps, [0.2] * 5, shown)
    with torch.autocast("cpu", torch.bfloat16):
        found, _ = counted(maps, [0.2] * 5, shown)
    assert np.array_equal(found.intersection, expected.intersection)
    assert np.array_equal(found.unit_area, expected.unit_area)


def test_images_that_were_not_counted_are_a_mistake_of_ours():
    maps = np.ones((2, 1, 1, 1), np.float32)
    with pytest.raises(AssertionError, match="as many images as were drawn from"):
        counted(maps, [0.0], [{}, {}, {}], draws=nothing_drawn(3))
    counter = counter_of([0.0], nothing_drawn(2))
    counter.add("layer", torch.from_numpy(maps))
    with pytest.raises(AssertionError, match="labels for every image"):
        counter.count([[labels_of({})]])


def test_a_unit_that_is_nowhere_above_its_threshold_gets_no_verdict():
    maps = np.float32([[[[1.0, 1.0]], [[0.0, 1.0]]]])  # the first saturates
    layer, areas = counted(maps, [1.0, 0.5], [{0: [[True, True]]}])
    evidence = checkpoint_counts(layer, areas).of_layer("layer")
    assert evidence.judged(2).tolist() == [False, True]


@pytest.mark.parametrize("number", ["2", "3"])
def test_counts_are_the_same_on_any_number_of_threads_and_in_any_batches(number, monkeypatch):
    """Masks of several sizes, of more than one word, by permutations."""
    random = np.random.default_rng(7)
    maps = np.float32(random.normal(size=(20, 11, 6, 7)))
    shown = random_labels(random, [(30, 41), (12, 9)] * 10)
    shown[3] = {}
    draws = draw(20, 3, 4, 1)
    monkeypatch.setenv("OMP_NUM_THREADS", number)
    first, areas = counted(maps, [1.5] * 11, shown, batch=18, draws=draws)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    second, other = counted(maps, [1.5] * 11, shown, batch=7, draws=draws)
    assert first.unit_area.sum() > 0
    assert np.array_equal(areas, other)
    for name in ("intersection", "unit_area", "whole_area"):
        assert np.array_equal(getattr(first, name), getattr(second, name)), name
    for union, drawn in first.draws.items():
        for name, values in vars(drawn).items():
            assert np.array_equal(values, getattr(second.draws[union], name)), name


@pytest.mark.parametrize("size", [(1, 1), (8, 8), (5, 13), (9, 15)])
def test_packed_masks_hold_every_pixel(size):
    masks = np.random.default_rng(8).random((3, *size)) < 0.5
    packed = PackedLabels.of(ImageLabels(np.int32([0, 2, 4]), masks, centres(size[0]), centres(size[1])))
    assert packed.areas.tolist() == [sum(sum(row) for row in mask) for mask in masks.tolist()]
    for number, mask in enumerate(masks.tolist()):
        for place, pixel in enumerate(pixel for row in mask for pixel in row):
            assert int(packed.bits[place // 64, number]) >> (place % 64) & 1 == pixel
    assert packed.bits.shape == (-(-size[0] * size[1] // 64), 3)


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
    shown = random_labels(random, [(9, 9), (6, 7)] * 3)
    draws = draw(6, 2, 3, 0)
    recorder = Recorder(("first", "second", "fc"))
    thresholds = Thresholds(6, 0.1)
    recorder(net, images.split(4), 6, thresholds.add)
    counter = Counter(thresholds.values(), CATEGORIES, draws)

    def batches():
        for start in (0, 4):
            yield images[start : start + 4]
            counter.count([arranged(shown, draws, image) for image in range(start, min(start + 4, 6))])

    recorder.watch(net, batches(), counter.add)
    with torch.inference_mode():
        first = net.first(images)
        second = net.second(first.relu())
        maps = {"first": first, "second": second, "fc": net.fc(second.mean((2, 3)))[:, :, None, None]}
    for layer in counter.counts():
        values = maps[layer.name].numpy()
        planes = values.transpose(1, 0, 2, 3).reshape(values.shape[1], -1)
        np.testing.assert_allclose(layer.threshold, np.quantile(planes, 0.9, axis=1), rtol=1e-4)
        expected, _ = counted(np.ascontiguousarray(values), layer.threshold, shown, draws=draws)
        difference = np.abs(layer.intersection - expected.intersection)
        assert difference.max() <= 1  # a pixel at the threshold, where two orders of adding differ
        assert layer.unit_area.sum() > 0
