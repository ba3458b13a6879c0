"""Batch normalisation that is recalibrated: its statistics against numpy and torch's own, and whole studies."""

import json
import shutil

import h5py
import numpy as np
import pytest
import torch
from conftest import IMAGES, TinyStudy
from PIL import Image
from test_network_dissection import make_broden
from test_pipeline import EPOCHS, activations, same
from torch import nn

from cmon import pixels
from cmon.activations import calibration
from cmon.activations.calibration import Calibration, sample
from cmon.config import Preprocess
from cmon.errors import ConfigError, ModelError, StoreError
from cmon.pixels import BLOCK
from cmon.recording import check_batch_norm, recalibrate
from cmon.torchvision_import import torchvision


def seeded(build, seed=0):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build().eval()


def small(drop=0.0, **options):
    return nn.Sequential(
        nn.Conv2d(3, 6, 3),
        nn.BatchNorm2d(6, **options),
        nn.Dropout(drop),
        nn.ReLU(),
        nn.Conv2d(6, 5, 3),
        nn.BatchNorm2d(5, **options),
    )


def batches_of(*sizes, seed=1, side=9):
    return list(torch.randn(sum(sizes), 3, side, side, generator=torch.Generator().manual_seed(seed)).split(sizes))


def statistics(model):
    return {name: value.clone() for name, value in model.named_buffers()}


def close(found, expected):
    """Tell whether statistics are alike, but for the order in which a deep network's sums are taken."""
    return found.keys() == expected.keys() and all(
        torch.allclose(found[name].float(), expected[name].float(), rtol=1e-3, atol=1e-5) for name in expected
    )


# --- the statistics


def by_numpy(maps):
    """Average the means and the unbiased variances of batches of (n, U, h, w) maps."""
    rows = [np.moveaxis(values.astype(np.float64), 1, -1).reshape(-1, values.shape[1]) for values in maps]
    return np.mean([row.mean(0) for row in rows], 0), np.mean([row.var(0, ddof=1) for row in rows], 0)


@pytest.mark.parametrize("sizes", [(7,), (4, 4), (5, 4, 4), (1, 1)])
def test_the_first_layers_statistics_are_those_of_numpy(sizes):
    model, batches = seeded(small), batches_of(*sizes)
    with torch.no_grad():
        maps = [model[0](batch).numpy() for batch in batches]
    recalibrate(model, batches)
    mean, variance = by_numpy(maps)
    np.testing.assert_allclose(model[1].running_mean, mean, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(model[1].running_var, variance, rtol=1e-5)


def test_a_deeper_layer_sees_batches_that_were_normalised_by_themselves():
    model, batches = seeded(small), batches_of(5, 4)
    maps = []
    with torch.no_grad():
        for batch in batches:
            before = model[0](batch).numpy().astype(np.float64)
            mean, variance = before.mean((0, 2, 3), keepdims=True), before.var((0, 2, 3), keepdims=True)
            after = np.maximum((before - mean) / np.sqrt(variance + 1e-5), 0)
            maps.append(model[4](torch.from_numpy(after).float()).numpy())
    recalibrate(model, batches)
    mean, variance = by_numpy(maps)
    np.testing.assert_allclose(model[5].running_mean, mean, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(model[5].running_var, variance, rtol=1e-4)


@pytest.mark.parametrize("build", [small, lambda: torchvision().models.resnet18(num_classes=4)])
def test_all_statistics_are_those_of_torchs_own_update(build):
    model, other, batches = seeded(build), seeded(build), batches_of(4, 4, 3, side=33)
    torch.optim.swa_utils.update_bn(batches, other)
    recalibrate(model, batches)
    assert close(statistics(model), statistics(other))
    assert not close(statistics(model), statistics(seeded(build)))


def test_nothing_is_left_of_the_statistics_that_were_saved():
    model, other, batches = seeded(small), seeded(small), batches_of(4, 3)
    for name, value in other.named_buffers():
        value.fill_(7 if "tracked" in name else 1e6)
    recalibrate(model, batches)
    recalibrate(other, batches)
    assert all(torch.equal(value, statistics(other)[name]) for name, value in statistics(model).items())


def test_parameters_and_all_that_was_set_are_left_as_they_were():
    model = seeded(lambda: small(momentum=0.3))
    model[5].momentum = None
    with torch.no_grad():
        model[1].weight.copy_(torch.arange(6.0))
        model[1].bias.copy_(-torch.arange(6.0))
    before = {name: value.clone() for name, value in model.named_parameters()}
    recalibrate(model, batches_of(4, 3))
    assert all(torch.equal(value, before[name]) for name, value in model.named_parameters())
    assert (model[1].momentum, model[5].momentum) == (0.3, None)
    assert not any(module.training for module in model.modules())
    assert not any(value.requires_grad or value.is_inference() for value in model.buffers())


def test_dropout_stays_off():
    model, other, batches = seeded(lambda: small(drop=0.9)), seeded(small), batches_of(4, 3)
    recalibrate(model, batches)
    recalibrate(other, batches)
    assert all(torch.equal(value, statistics(other)[name]) for name, value in statistics(model).items())


def test_dropout_within_a_normalising_layer_of_timm_stays_off():
    torchvision()
    from timm.layers import BatchNormAct2d

    def build(drop):
        return seeded(lambda: nn.Sequential(nn.Conv2d(3, 6, 3), BatchNormAct2d(6, drop_layer=drop), nn.BatchNorm2d(6)))

    model, other, batches = build(lambda: nn.Dropout(0.9)), build(None), batches_of(4, 3)
    recalibrate(model, batches)
    recalibrate(other, batches)
    assert all(torch.equal(value, statistics(other)[name]) for name, value in statistics(model).items())
    assert not torch.equal(model[2].running_var, torch.ones(6))


def test_layers_of_one_dimension_are_recalibrated_and_those_without_statistics_left_alone():
    model = seeded(
        lambda: nn.Sequential(
            nn.Conv2d(3, 6, 3),
            nn.BatchNorm2d(6, track_running_stats=False),
            nn.InstanceNorm2d(6, track_running_stats=True),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.BatchNorm1d(6, affine=False),
        )
    )
    batches = batches_of(5, 4)
    with torch.no_grad():
        seen = [model[:5](batch).numpy()[:, :, None, None] for batch in batches]
    recalibrate(model, batches)
    mean, variance = by_numpy(seen)
    np.testing.assert_allclose(model[5].running_mean, mean, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(model[5].running_var, variance, rtol=1e-4)
    assert model[2].running_mean.tolist() == [0] * 6 and not model[2].training


@pytest.mark.parametrize(
    "build",
    [
        lambda: nn.Conv2d(3, 4, 3),
        lambda: nn.Sequential(nn.GroupNorm(1, 4), nn.LayerNorm(4), nn.InstanceNorm2d(4, track_running_stats=True)),
        lambda: nn.BatchNorm2d(4, track_running_stats=False),
        lambda: torchvision().ops.FrozenBatchNorm2d(4),
    ],
)
def test_a_model_without_batch_normalisation_is_refused(build):
    with pytest.raises(ConfigError, match="batchnorm: the model has no batch normalisation") as caught:
        check_batch_norm(build())
    assert caught.value.hint == "leave batchnorm out"
    check_batch_norm(nn.Sequential(build(), nn.BatchNorm1d(3)))


def test_a_model_that_fails_is_one_line_and_stays_in_evaluation():
    model = seeded(lambda: nn.Sequential(nn.Conv2d(3, 4, 9), nn.BatchNorm2d(4)))
    with pytest.raises(
        ModelError, match=r"batchnorm: fails on 1 images of shape \(3, 9, 9\): Expected more than 1"
    ) as e:
        recalibrate(model, batches_of(1))
    assert "more images" in e.value.hint and str(e.value).isprintable()
    assert not model[1].training and model[1].momentum == 0.1


# --- the images


def cached(folder, images):
    ids = tuple(f"{number:05}.png" for number in range(len(images)))
    return pixels.build(folder, {"algorithm": 1}, ids, lambda index: images[index], lambda _: None)


def numbered(count):
    """Make images of which each says its number."""
    images = np.zeros((count, 2, 3, 3), dtype=np.uint8)
    images[:, 0, 0, 0], images[:, 0, 0, 1] = np.arange(count) % 256, np.arange(count) // 256
    return images


def numbers_of(images):
    return images[:, 0, 0, 0].astype(int) + 256 * images[:, 0, 0, 1].astype(int)


def test_images_are_taken_by_their_numbers_in_any_order(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (2 * BLOCK + 3, 2, 3, 3), dtype=np.uint8)
    cache = cached(tmp_path, images)
    for order in ([0], [BLOCK], [5, 2, 2 * BLOCK + 2, 2, BLOCK], np.random.default_rng(1).permutation(len(images)), []):
        asked = np.array(order, dtype=np.int32)
        assert np.array_equal(cache.take(asked), images[asked])


def test_a_flipped_bit_in_a_block_that_is_asked_for_is_an_error(tmp_path):
    cache = cached(tmp_path, numbered(BLOCK + 3))
    data = bytearray(cache.path.read_bytes())
    data[-1] ^= 1
    cache.path.write_bytes(data)
    assert numbers_of(cache.take(np.array([7, 3], dtype=np.int32))).tolist() == [7, 3]
    with pytest.raises(StoreError, match="checksum does not match"):
        cache.take(np.array([7, BLOCK], dtype=np.int32))


@pytest.mark.parametrize(("count", "most"), [(10, 5000), (700, 300), (300, 300), (1, 5000)])
def test_a_sample_is_some_of_the_images_each_once_shuffled_and_always_the_same(tmp_path, monkeypatch, count, most):
    monkeypatch.setattr(calibration, "MOST_IMAGES", most)
    taken = numbers_of(sample(cached(tmp_path, numbered(count))))
    assert len(taken) == len(set(taken)) == min(count, most)
    assert set(taken) <= set(range(count))
    assert count == 1 or (np.diff(taken) < 0).any()
    assert taken.tolist() == np.random.default_rng(0).permutation(count)[:most].tolist()
    assert np.array_equal(taken, numbers_of(sample(cached(tmp_path / "again", numbered(count)))))


@pytest.mark.parametrize(
    ("count", "sizes"), [(1, [1]), (128, [128]), (129, [65, 64]), (300, [100, 100, 100]), (5000, [125] * 40)]
)
def test_batches_are_of_nearly_equal_sizes(count, sizes):
    batches = list(Calibration(numbered(count), Preprocess(), "cpu"))
    assert [len(batch) for batch in batches] == sizes
    assert torch.equal(torch.cat(batches)[:, 0, 0, 0] * 255, torch.arange(count) % 256)


def test_images_are_normalised_as_the_run_says():
    images = np.random.default_rng(0).integers(0, 256, (5, 2, 3, 3), dtype=np.uint8)
    preprocess = Preprocess(mean=[0.1, 0.2, 0.3], std=[0.5, 0.6, 0.7])
    (found,) = Calibration(images, preprocess, "cpu")
    expected = (images / 255 - [0.1, 0.2, 0.3]) / [0.5, 0.6, 0.7]
    np.testing.assert_allclose(found.permute(0, 2, 3, 1), expected, rtol=1e-5, atol=1e-6)


def test_images_that_are_sorted_by_class_give_the_statistics_of_all(tmp_path):
    generator = np.random.default_rng(0)
    images = generator.integers(0, 60, (512, 4, 4, 3), dtype=np.uint8)
    images[256:] += 190  # a dark class, then a bright one
    model = seeded(lambda: nn.Sequential(nn.Conv2d(3, 2, 1), nn.BatchNorm2d(2)))
    whole = torch.from_numpy(images).permute(0, 3, 1, 2) / 255
    with torch.no_grad():
        maps = model[0](whole).numpy()
    recalibrate(model, Calibration(sample(cached(tmp_path, images)), Preprocess(), "cpu"))
    mean, variance = by_numpy([maps])
    np.testing.assert_allclose(model[1].running_mean, mean, rtol=1e-4)
    np.testing.assert_allclose(model[1].running_var, variance, rtol=0.02)
    recalibrate(model, whole.split(128))  # in the order of their names
    assert (model[1].running_var.numpy() < 0.3 * variance).all()


# --- studies

MODEL = """
from torch import nn


def build():
    net = nn.Sequential()
    net.first = nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.Dropout(0.9))
    net.second = nn.Conv2d(6, 8, 3)
    return net
"""
FIRST = "layers/first/mean"


def images_of(folder, count=IMAGES):
    paths = sorted(folder.iterdir())[:count]
    return torch.stack([torch.from_numpy(np.array(Image.open(path).convert("RGB"))) for path in paths])


def by_hand(study, state, calibrating="images", saved=False):
    """Compute the first layer's means, (I, 6), from weights and images alone."""
    images = {name: images_of(study.folder / name).permute(0, 3, 1, 2) / 255 for name in ("images", calibrating)}
    with torch.no_grad():
        maps = {
            name: nn.functional.conv2d(held, state["first.0.weight"], state["first.0.bias"]).double().numpy()
            for name, held in images.items()
        }
    if saved:
        mean, variance = state["first.1.running_mean"].numpy(), state["first.1.running_var"].numpy()
    else:
        mean, variance = by_numpy([maps[calibrating]])  # so few images are one batch, in any order
    scaled = (maps["images"] - mean[:, None, None]) / np.sqrt(variance[:, None, None] + 1e-5)
    return scaled * state["first.1.weight"].numpy()[:, None, None] + state["first.1.bias"].numpy()[:, None, None]


def stored(study, name="epoch_1", run="plain"):
    return study.datasets(f"activations/{run}/{name}.h5")


def recipe(study, name="epoch_1", run="plain", kind="activations"):
    with h5py.File(study.workspace / f"{kind}/{run}/{name}.h5") as file:
        return json.loads(file["recipe"][0])


def state_of(study, name="epoch_1"):
    return torch.load(study.checkpoint(name))["state_dict"]


def record(study):
    result = study.cmon("activations")
    assert result.code == 0, result.err
    return result.err


@pytest.fixture
def normal(study):
    """Return the tiny study with a network that has batch normalisation, of statistics that do not fit."""
    space = {}
    exec(MODEL, space)
    (study.folder / "net.py").write_text(MODEL)
    for seed, name in enumerate(EPOCHS):
        model = seeded(space["build"], seed)
        generator = torch.Generator().manual_seed(seed)
        layer = model.first[1]
        for tensor in (layer.weight.data, layer.bias.data, layer.running_mean, layer.running_var):
            tensor.copy_(torch.rand(6, generator=generator) + 0.5)
        torch.save({"state_dict": model.state_dict(), "epoch": seed + 1}, study.checkpoint(name))
    return study


@pytest.fixture
def anew(normal):
    """Return it asking for recalibration."""
    normal.edit("run", batchnorm="recalibrate")
    return normal


def other_images(study, name="others", side=16, seed=3, count=IMAGES):
    (study.folder / name).mkdir()
    for number in range(count):
        values = np.random.default_rng([seed, number]).integers(0, 200, (side, side, 3), dtype=np.uint8)
        Image.fromarray(values).save(study.folder / name / f"{number:02}.png")
    return study.folder / name


def test_a_recalibrated_network_is_recorded_as_by_hand_and_another_than_as_saved(normal):
    record(normal)
    saved = {name: stored(normal, name)[FIRST] for name in EPOCHS}
    before = normal.files()
    normal.edit("run", batchnorm="recalibrate")
    told = record(normal)
    assert "activations plain/epoch_1: changed: batchnorm\n" in told
    assert normal.changed(before) == activations(*EPOCHS)
    for name in EPOCHS:
        state, found = state_of(normal, name), stored(normal, name)[FIRST]
        np.testing.assert_allclose(found, by_hand(normal, state).mean((2, 3)), rtol=1e-3, atol=1e-5)
        np.testing.assert_allclose(saved[name], by_hand(normal, state, saved=True).mean((2, 3)), rtol=1e-3, atol=1e-5)
        assert np.abs(found - saved[name]).max() > 0.1


def test_recalibration_is_told_once_a_run(anew):
    line = f"run plain: batch normalisation recalibrated on {IMAGES} images of the probe\n"
    assert record(anew).count(line) == 1
    assert "recalibrated" not in record(anew)


def test_the_recipe_says_on_what(anew):
    record(anew)
    held = recipe(anew)
    assert held["batchnorm"] == {"recalibrate": held["probe"], "algorithm": 1}
    anew.edit("run", batchnorm="as-saved")
    record(anew)
    assert "batchnorm" not in recipe(anew)


@pytest.mark.parametrize("size", [1, 5, 24, 1000])
def test_results_do_not_depend_on_the_batch_size(anew, size):
    record(anew)
    whole = {name: stored(anew, name) for name in EPOCHS}
    anew.edit("activations", batch_size=size)
    assert anew.cmon("activations", "--force").code == 0
    for name in EPOCHS:
        for layer in ("first", "second"):
            expected, found = (held[f"layers/{layer}/mean"] for held in (whole[name], stored(anew, name)))
            np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_an_equal_study_in_another_process_has_equal_files(anew, tmp_path):
    other = TinyStudy(shutil.copytree(anew.folder, tmp_path / "other"))
    record(anew)
    # As many threads as here, since sums in another order have other last digits.
    process = other.spawn("activations", OMP_NUM_THREADS=str(torch.get_num_threads()))
    process.communicate(timeout=120)
    assert process.returncode == 0
    assert all(same(stored(anew, name), stored(other, name)) for name in EPOCHS)


def test_each_checkpoint_is_recalibrated_by_itself(anew):
    """No statistics of the checkpoint before are left, whichever is made first."""
    record(anew)
    together = stored(anew, "epoch_3")
    (anew.workspace / "activations/plain/epoch_3.h5").unlink()
    record(anew)
    assert same(stored(anew, "epoch_3"), together)


def test_masks_come_before_recalibration(anew):
    mask = torch.ones(6, 3, 3, 3)
    mask[:, 0] = 0
    torch.save({"first.0.weight": mask}, anew.folder / "masks.pt")
    anew.edit("run", masks="masks.pt")
    record(anew)
    state = state_of(anew)
    state["first.0.weight"] *= mask
    np.testing.assert_allclose(stored(anew)[FIRST], by_hand(anew, state).mean((2, 3)), rtol=1e-3, atol=1e-5)


def test_untrained_networks_are_recalibrated_too(anew):
    anew.edit("run", baseline="random-init", baseline_seeds=2)
    record(anew)
    space = {}
    exec(MODEL, space)
    for seed in (0, 1):
        state = seeded(space["build"], seed).state_dict()
        found = stored(anew, f"random-init-{seed}", "plain~baseline")[FIRST]
        np.testing.assert_allclose(found, by_hand(anew, state).mean((2, 3)), rtol=1e-3, atol=1e-5)
        assert np.abs(found.mean(0)).max() < 0.01  # normalised by the very images, without scales and shifts
    assert "batchnorm" in recipe(anew, "random-init-0", "plain~baseline")


def test_pixels_are_counted_as_those_of_a_checkpoint_that_was_saved_with_such_statistics(anew):
    make_broden(anew)
    anew.edit("activations", quantile=0.1)
    record(anew)
    found, name = anew.datasets("counts/plain/epoch_1.h5"), "counts/plain/epoch_1.h5"
    assert recipe(anew)["batchnorm"] == recipe(anew, kind="counts")["batchnorm"]
    state = state_of(anew)
    anew.edit("run", batchnorm="as-saved")
    record(anew)
    saved = anew.datasets(name)
    with torch.no_grad():
        images = images_of(anew.folder / "images").permute(0, 3, 1, 2) / 255
        maps = nn.functional.conv2d(images, state["first.0.weight"], state["first.0.bias"]).numpy()
    mean, variance = map(torch.from_numpy, by_numpy([maps]))
    state |= {"first.1.running_mean": mean.float(), "first.1.running_var": variance.float()}
    torch.save({"state_dict": state}, anew.checkpoint("epoch_1"))
    record(anew)
    expected = anew.datasets(name)
    for layer in ("first", "second"):
        threshold, areas = (
            f"layers/{layer}/threshold",
            [f"layers/{layer}/{kind}" for kind in ("whole_area", "unit_area")],
        )
        np.testing.assert_allclose(found[threshold], expected[threshold], rtol=1e-4)
        assert np.abs(found[threshold] - saved[threshold]).max() > 0.1
        for area in areas:
            assert found[area].sum() > 100
            np.testing.assert_allclose(found[area], expected[area], atol=1)  # a value may lie at its threshold


def test_other_images_may_be_named(anew):
    others = other_images(anew)
    anew.edit("run", batchnorm_images="others")
    told = record(anew)
    assert f"run plain: batch normalisation recalibrated on {IMAGES} images of {others}\n" in told
    expected = by_hand(anew, state_of(anew), "others").mean((2, 3))
    np.testing.assert_allclose(stored(anew)[FIRST], expected, rtol=1e-3, atol=1e-5)
    assert recipe(anew)["batchnorm"]["recalibrate"] != recipe(anew)["probe"]


def test_a_zip_of_images_does_as_well_as_its_folder(anew, tmp_path):
    others = other_images(anew)
    anew.edit("run", batchnorm_images="others")
    record(anew)
    before, held = stored(anew), recipe(anew)
    shutil.make_archive(str(anew.folder / "packed"), "zip", others)
    anew.edit("run", batchnorm_images="packed.zip")
    assert "0 made" in record(anew)
    assert anew.cmon("activations", "--force").code == 0
    assert same(stored(anew), before) and recipe(anew) == held


def test_a_byte_of_the_named_images_makes_the_files_again(anew):
    others = other_images(anew)
    anew.edit("run", batchnorm_images="others")
    record(anew)
    before, old = anew.files(), stored(anew)[FIRST]
    assert "0 made" in record(anew) and anew.changed(before) == set()
    with Image.open(others / "07.png") as image:
        values = np.array(image)
    values[3, 3, 1] ^= 128
    Image.fromarray(values).save(others / "07.png")
    told = record(anew)
    assert "activations plain/epoch_1: changed: batchnorm.recalibrate\n" in told
    changed = {name for name in anew.changed(before) if not name.startswith("cache/")}
    assert changed == activations(*EPOCHS)
    assert not np.array_equal(stored(anew)[FIRST], old)


def test_both_sets_of_images_are_decoded_once(anew):
    other_images(anew)
    anew.edit("run", batchnorm_images="others")
    record(anew)
    caches = {name: place for name, place in anew.files().items() if name.startswith("cache/pixels/")}
    assert len([name for name in caches if name.endswith(".bin")]) == 2
    assert anew.cmon("activations", "--force").code == 0
    assert {name: place for name, place in anew.files().items() if name.startswith("cache/pixels/")} == caches
    anew.edit("run", batchnorm_images="images")  # the probe's own
    assert "images of " in record(anew)
    assert recipe(anew)["batchnorm"]["recalibrate"] == recipe(anew)["probe"]


def test_a_network_without_batch_normalisation_is_refused_and_other_runs_are_made(study):
    study.tables["run"].append({**study.tables["run"][0], "name": "other"})
    study.edit("run", batchnorm="recalibrate")
    study.cmon("activations").fails(2, "run plain: batchnorm", "no batch normalisation", "leave batchnorm out")
    assert activations(*EPOCHS, run="other") <= study.files().keys()
    assert not activations(*EPOCHS) & study.files().keys()


@pytest.mark.parametrize("command", ["activations", "run"])
def test_named_images_that_are_not_there_are_one_line(anew, command):
    anew.edit("run", batchnorm_images="absent")
    anew.cmon(command).fails(1, "run plain: batchnorm_images", f"{anew.folder}/absent", "does not exist")
    assert "batchnorm_images" in anew.cmon("status").out


def test_named_images_that_miss_stop_no_other_run(anew):
    anew.tables["run"].append({**anew.tables["run"][0], "name": "other"})
    anew.edit("run", batchnorm_images="absent")
    anew.cmon("activations").fails(1, "run plain: batchnorm_images")
    assert activations(*EPOCHS, run="other") <= anew.files().keys()


def test_named_images_of_another_size_are_one_line(anew):
    others = other_images(anew, side=20)
    anew.edit("run", batchnorm_images="others")
    anew.cmon("activations").fails(1, f"batchnorm_images: {others}", "20x20", "16x16", "preprocess.resize")
    anew.edit("run", preprocess={"resize": 16})
    assert anew.cmon("activations").code == 0


def test_named_images_of_several_sizes_are_one_line(anew):
    others = other_images(anew)
    Image.new("RGB", (9, 7)).save(others / "03.png")
    anew.edit("run", batchnorm_images="others")
    anew.cmon("activations").fails(1, f"batchnorm_images: {others}", "03.png is 9x7")


def test_a_named_image_that_cannot_be_read_stops_or_is_left_out_as_the_probes_are(anew):
    others = other_images(anew)
    (others / "03.png").write_text("no image")
    anew.edit("run", batchnorm_images="others")
    anew.cmon("activations").fails(1, "batchnorm_images", "03.png", "not an image")
    anew.edit("probe", on_error="skip")
    told = record(anew)
    assert f"recalibrated on {IMAGES - 1} images of {others}\n" in told
    assert f"warning: {others}: 1 unreadable images left out: 03.png\n" in told


def test_named_images_around_the_workspace_are_refused(anew):
    anew.edit("run", batchnorm_images=".")
    anew.cmon("activations").fails(2, "run plain: batchnorm_images", "the workspace lies in")


def test_too_few_images_are_one_line(anew):
    (anew.folder / "net.py").write_text(
        MODEL.replace("nn.Conv2d(3, 6, 3)", "nn.Conv2d(3, 6, 16)").replace("8, 3", "8, 1")
    )
    for name in EPOCHS:
        state = state_of(anew, name)
        torch.save(
            {
                "state_dict": {
                    **state,
                    "first.0.weight": torch.ones(6, 3, 16, 16),
                    "second.weight": torch.ones(8, 6, 1, 1),
                }
            },
            anew.checkpoint(name),
        )
    other_images(anew, count=1)
    anew.edit("run", batchnorm_images="others")
    anew.cmon("activations").fails(2, "run plain: batchnorm", "1 images", "more than 1 value")
