"""Network Dissection through the command line: a tiny Broden, both detectors in one study."""

import copy
import shutil

import h5py
import numpy as np
import oracles
import pytest
import torch
from conftest import IMAGES, TinyStudy, cmon, save_checkpoint
from PIL import Image

from cmon.records import ALIVE, CONSTANT
from cmon.statistics import draw

CONCEPTS = (
    ("red", "color"),
    ("green", "color"),
    ("dog", "object"),
    ("cat", "object"),
    ("cat", "part"),
    ("sky", "scene"),
)
LABELS = """number,name,category,frequency,coverage,syns
1,red-c,color(12),12,1,
2,green-c,color(12),12,1,
3,dog,object(12),12,1,
300,cat,object(8);part(8),8,1,
5,sky-s,scene(6),6,6,
"""
# label number and category of each of the CONCEPTS
NUMBERS = ((1, "color"), (2, "color"), (3, "object"), (300, "object"), (300, "part"), (5, "scene"))
COUNTED = {"counts/plain/epoch_1.h5", "counts/plain/epoch_2.h5", "counts/plain/epoch_3.h5"}
LABELLED = {name.replace("counts/", "similarity/network_dissection/") for name in COUNTED}


def write_mask(path, numbers):
    numbers = np.array(numbers)
    channels = [numbers % 256, numbers // 256, np.zeros_like(numbers)]
    Image.fromarray(np.stack(channels, axis=-1).astype(np.uint8)).save(path)


def make_broden(study):
    """Turn the tiny study's images into a Broden with masks of half their size; return what each image shows."""
    images, folder = study.folder / "images", study.folder / "broden"
    shutil.copytree(images, folder / "images")
    random = np.random.default_rng(11)
    rows, shown = [], []
    for number, path in enumerate(sorted(images.iterdir())):
        mine, cells = {}, {"color": "", "object": "", "part": "", "scene": ""}
        for category, labels in {"color": (0, 1, 2), "object": (0, 3, 300), "part": (0, 300)}.items():
            if number % 5 == 4 or (category == "part" and number % 3):
                continue
            name = f"{path.stem}_{category}.png"
            mask = random.choice(labels, (8, 8))
            write_mask(folder / "images" / name, mask)
            cells[category] = name
            for place, (label, of) in enumerate(NUMBERS):
                if of == category and (mask == label).any():
                    mine[place] = (mask == label).tolist()
        if number % 4 == 0:
            cells["scene"] = "5"
            mine[5] = np.ones((8, 8), bool).tolist()
        shown.append(dict(sorted(mine.items())))
        rows.append(",".join([path.name, "train", "16", "16", "8", "8", *cells.values()]))
    (folder / "index.csv").write_text("image,split,ih,iw,sh,sw,color,object,part,scene\n" + "\n".join(rows))
    (folder / "label.csv").write_text(LABELS)
    study.tables["detector"].append({"kind": "network_dissection", "tau": 0.05})
    study.tables["report"]["figures"] = ["categories", "agreement"]
    (study.folder / "images.txt").write_text("\n".join(path.name for path in sorted(images.iterdir())))
    study.edit("probe", kind="broden", path="broden")
    study.edit("activations", quantile=0.05)
    return shown


@pytest.fixture
def broden(study):
    study.shown = make_broden(study)
    return study


@pytest.fixture(scope="module")
def dissected(prepared, tmp_path_factory):
    """Run the study once."""
    study = TinyStudy(shutil.copytree(prepared, tmp_path_factory.mktemp("dissected") / "study"))
    study.shown = make_broden(study)
    result = study.cmon("run")
    assert result.code == 0, result.err
    return study


@pytest.fixture
def again(dissected, tmp_path):
    """A copy of the finished study that may be changed."""
    study = TinyStudy(shutil.copytree(dissected.folder, tmp_path / "study"))
    study.tables = copy.deepcopy(dissected.tables)
    return study


def test_a_run_makes_counts_labels_and_the_comparison(dissected):
    files = set(dissected.files())
    assert COUNTED | LABELLED | {"embedding/network_dissection.h5", "embedding/clip_dissect.h5"} <= files
    pair = "report/clip_dissect~network_dissection/plain/agreement"
    assert {f"{pair}.png", f"{pair}.csv", "report/network_dissection/plain/categories.png"} <= files
    assert not dissected.leftovers()
    page = (dissected.workspace / "report/index.html").read_text()
    assert "clip_dissect and network_dissection" in page
    assert "T exceeded at 0.05 of positions" in page


def maps_of(study, checkpoint):
    """Run a plain pass from the checkpoint and the image files alone."""
    ids = [f"{number:02}.png" for number in range(IMAGES)]
    pixels = np.stack([np.asarray(Image.open(study.folder / "images" / name)) for name in ids])
    batch = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255
    weights = torch.load(study.checkpoint(checkpoint), weights_only=True)["state_dict"]
    first = torch.conv2d(batch, weights["first.weight"], weights["first.bias"])
    second = torch.conv2d(first.relu(), weights["second.weight"], weights["second.bias"])
    return {"first": first.numpy().astype(float), "second": second.numpy().astype(float)}


def category_of():
    categories = [category for _, category in CONCEPTS]
    return [sorted(set(categories), key=categories.index).index(category) for category in categories]


def test_stored_numbers_are_those_of_the_oracle(dissected):
    """From the checkpoint and the image files alone: a plain pass, an exact quantile, loops over pixels."""
    groups = category_of()
    for layer, values in maps_of(dissected, "epoch_2").items():
        found = dissected.datasets("counts/plain/epoch_2.h5")
        planes = values.transpose(1, 0, 2, 3).reshape(values.shape[1], -1).tolist()
        thresholds = [oracles.quantile(plane, 0.05) for plane in planes]
        np.testing.assert_allclose(found[f"layers/{layer}/threshold"], thresholds, rtol=1e-5, atol=1e-6)
        both, iou, area, areas, *_ = oracles.network_dissection(values.tolist(), thresholds, dissected.shown, groups)
        assert found["concept_area"].tolist() == areas
        # A map's value may fall on the other side of the threshold where two orders of adding differ.
        assert np.abs(found[f"layers/{layer}/intersection"] - both).max() <= 1
        assert np.abs(found[f"layers/{layer}/unit_area"] - area).max() <= 1
        labels = dissected.datasets("similarity/network_dissection/plain/epoch_2.h5")
        np.testing.assert_allclose(labels[f"layers/{layer}/scores"], iou, atol=0.01)
        assert labels[f"layers/{layer}/interpretable"].tolist() == [max(row) >= 0.05 for row in iou]
        assert 0.05 < np.max(iou) < 1
    assert list(zip(text(found["concepts/name"]), text(found["concepts/category"]), strict=True)) == list(CONCEPTS)


def text(values):
    return [value.decode() for value in values]


def test_stored_draws_are_those_of_the_oracle(broden):
    """Of exchanged labels and repeated images, by loops over pixels; in batches that do not divide the images."""
    broden.tables["detector"][1]["tau"] = "fdr:0.05"
    broden.tables["statistics"] = {"permutations": 2, "resamples": 3, "seed": 5}
    broden.edit("activations", batch_size=5)
    assert broden.cmon("activations", "--checkpoint", "epoch_2").code == 0
    found = broden.datasets("counts/plain/epoch_2.h5")
    drawn = vars(draw(IMAGES, 2, 3, 5)).values()
    thresholds = found["layers/second/threshold"].tolist()
    maps = maps_of(broden, "epoch_2")["second"].tolist()
    for union, expected in oracles.mask_draws(maps, thresholds, broden.shown, category_of(), *drawn, 6).items():
        values = {name: found[f"layers/second/draws/{union}/{name}"] for name in expected}
        assert values["null"].shape == (8, 2)
        # A map's value may fall on the other side of the threshold where two orders of adding differ.
        np.testing.assert_allclose(values["null"], expected["null"], atol=0.005)
        np.testing.assert_allclose(values["score"], expected["score"], atol=0.005)
        assert np.mean(values["concept"][..., 0] == np.array(expected["concept"])[..., 0]) > 0.95
        assert np.mean(values["half_concept"] == expected["half_concept"]) > 0.9
        assert values["null"].max() > 0.05
        assert (values["half_concept"] >= 0).all()


def test_how_much_is_drawn_is_as_configured(dissected, again):
    """Images are resampled without being asked, and masks permuted only for a false discovery rate."""

    def shapes(study):
        found = study.datasets("counts/plain/epoch_1.h5")
        return {
            found[f"layers/{layer}/draws/{union}/{name}"].shape[1]
            for layer, union in (("first", "all"), ("second", "category"))
            for name in ("null", "score")
        }

    assert shapes(dissected) == {0, 100}
    before = again.files()
    again.tables["detector"][1]["tau"] = "fdr:0.1"
    again.edit("statistics", resamples=3)
    assert "counts plain/epoch_1: changed: permutations, resamples" in again.cmon("activations").err
    assert again.changed(before) == COUNTED
    assert shapes(again) == {20, 3}
    again.edit("statistics", permutations=4, resamples=0, seed=8)
    assert "changed: permutations, resamples, seed" in again.cmon("activations").err
    assert shapes(again) == {4, 0}


@pytest.mark.parametrize("tau", [0.05, "fdr:0.05"])
def test_masks_are_read_once_a_study(broden, monkeypatch, tau):
    from cmon.probes import Labels

    read, of = [], Labels.of
    monkeypatch.setattr(Labels, "of", lambda labels, *words: read.append(words[0]) or of(labels, *words))
    broden.tables["detector"][1]["tau"] = tau
    broden.edit("statistics", permutations=2)
    for checkpoint in ("epoch_1", "epoch_2"):
        assert broden.cmon("activations", "--checkpoint", checkpoint).code == 0
        assert sorted(read) == [f"{number:02}.png" for number in range(IMAGES)]
    folder = broden.workspace / "cache/masks"
    assert len(list(folder.iterdir())) == 2
    before = broden.datasets("counts/plain/epoch_2.h5")
    shutil.rmtree(folder)
    (broden.workspace / "counts/plain/epoch_2.h5").unlink()
    assert broden.cmon("activations").code == 0
    assert len(read) == 2 * IMAGES
    after = broden.datasets("counts/plain/epoch_2.h5")
    assert all(np.array_equal(values, after[name]) for name, values in before.items())


def test_another_mask_or_geometry_has_its_masks_read_anew_and_the_old_ones_deleted(again):
    before = set((again.workspace / "cache/masks").iterdir())
    write_mask(again.folder / "broden/images/00_color.png", np.full((8, 8), 2))
    assert again.cmon("activations").code == 0
    other = set((again.workspace / "cache/masks").iterdir())
    assert len(other) == 2
    assert not other & before
    again.tables["run"][0]["preprocess"] = {"crop": 8}
    again.edit("activations")
    assert again.cmon("activations").code == 0
    cropped = set((again.workspace / "cache/masks").iterdir())
    assert len(cropped) == 2
    assert not cropped & (other | before)


def test_a_damaged_byte_of_the_kept_masks_is_an_error_that_names_the_file(again):
    path = next((again.workspace / "cache/masks").glob("*.bin"))
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    again.cmon("activations", "--force").fails(1, path.name, "a checksum does not match", "delete it")
    path.unlink()
    assert again.cmon("activations", "--force").code == 0


def test_a_word_in_two_categories_is_one_word_for_the_encoder(dissected):
    evidence = text(dissected.datasets("evidence.h5")["concepts/name"])
    assert sorted(evidence) == ["cat", "dog", "green", "red", "sky"]
    embedding = dissected.datasets("embedding/network_dissection.h5")
    names, features = text(embedding["concepts/name"]), embedding["concepts/features"]
    assert names == [word for word, _ in CONCEPTS]
    assert np.array_equal(features[3], features[4])
    assert not np.array_equal(features[2], features[3])


def test_a_second_run_makes_nothing(dissected):
    before = dissected.files()
    assert dissected.cmon("run").code == 0
    assert dissected.changed(before) == set()


def test_counts_depend_on_neither_tau_nor_pooling_nor_the_other_detector(again):
    before = again.files()
    again.tables["detector"][1]["tau"] = 0.2
    again.edit("detector", top_k=4)
    again.edit("activations", pooling="max")
    assert again.cmon("run").code == 0
    changed = again.changed(before)
    assert not any(name.startswith("counts/") for name in changed)
    assert changed >= LABELLED


def test_another_quantile_leaves_activations_as_they_are(again):
    before = again.files()
    again.edit("activations", quantile=0.1)
    result = again.cmon("run")
    assert "counts plain/epoch_1: changed: quantile" in result.err
    changed = again.changed(before)
    assert changed >= COUNTED | LABELLED
    assert not any(name.startswith(("activations/", "similarity/clip_dissect")) for name in changed)


def test_another_mask_makes_counts_again_and_judges_all_words_anew(again):
    before = again.files()
    write_mask(again.folder / "broden/images/00_color.png", np.full((8, 8), 2))
    assert again.cmon("run").code == 0
    changed = again.changed(before)
    assert changed >= COUNTED | LABELLED | {"similarity/clip_dissect/plain/epoch_1.h5"}
    assert not any(name.startswith(("activations/", "evidence")) for name in changed)


def test_another_checkpoint_costs_that_checkpoint_only(again):
    before = again.files()
    save_checkpoint(again.checkpoint("epoch_3"), seed=33, epoch=3)
    assert again.cmon("run").code == 0
    assert {name for name in again.changed(before) if name.startswith("counts/")} == {"counts/plain/epoch_3.h5"}


def test_a_study_without_it_makes_no_counts_and_adding_it_leaves_activations(broden):
    added = broden.tables["detector"].pop()
    broden.edit("report", dpi=50)
    assert broden.cmon("run").code == 0
    assert not (broden.workspace / "counts").exists()
    before = broden.files()
    broden.tables["detector"].append(added)
    broden.edit("report", dpi=50)
    assert "counts/plain/epoch_1.h5" in broden.cmon("status").out
    assert broden.cmon("run").code == 0
    assert not any(name.startswith(("activations/", "evidence")) for name in broden.changed(before))


def test_it_may_stand_alone(broden):
    del broden.tables["detector"][0]
    broden.edit("report", dpi=50)
    assert broden.cmon("run").code == 0
    assert not (broden.workspace / "similarity/clip_dissect").exists()
    assert "Agreement" not in (broden.workspace / "report/index.html").read_text()


def test_a_dry_run_names_both_files_of_a_checkpoint(broden):
    told = broden.cmon("activations", "--dry-run").out.split("\n")
    assert {"activations plain/epoch_1", "counts plain/epoch_1"} <= set(told)


def test_a_missing_count_is_an_error_that_names_the_stage(again):
    (again.workspace / "counts/plain/epoch_2.h5").unlink()
    (again.workspace / "similarity/network_dissection/plain/epoch_2.h5").unlink()
    again.cmon("dissect").fails(3, "counts/plain/epoch_2.h5: missing", "run cmon activations")


def test_a_unit_that_is_constant_or_saturates_has_no_word(broden):
    save_checkpoint(broden.checkpoint("epoch_1"), seed=1)
    weights = torch.load(broden.checkpoint("epoch_1"), weights_only=True)
    weights["state_dict"]["second.weight"][0] = 0
    torch.save(weights, broden.checkpoint("epoch_1"))
    assert broden.cmon("run").code == 0
    labels = broden.datasets("similarity/network_dissection/plain/epoch_1.h5")
    assert labels["layers/second/state"].tolist() == [CONSTANT] + [ALIVE] * 7
    assert labels["layers/second/top_concept"][0].tolist() == [-1] * 6


def test_a_layer_of_which_every_unit_is_dead_leaves_the_others_their_numbers(broden):
    weights = torch.load(broden.checkpoint("epoch_1"), weights_only=True)
    weights["state_dict"]["first.weight"][:] = 0
    torch.save(weights, broden.checkpoint("epoch_1"))
    result = broden.cmon("run")
    assert result.code == 0, result.err
    states = broden.datasets("similarity/network_dissection/plain/epoch_1.h5")["layers/first/state"]
    assert (states == CONSTANT).all()
    page = (broden.workspace / "report/index.html").read_text()
    assert "T exceeded at 0.05 of positions" in page


def test_pixels_that_a_crop_cuts_off_are_not_counted(broden):
    broden.tables["run"][0]["preprocess"] = {"crop": 8}
    broden.edit("report", dpi=50)
    assert broden.cmon("run").code == 0
    masks = [np.asarray(Image.open(path))[2:6, 2:6, 0] for path in broden.folder.glob("broden/images/*_color.png")]
    with h5py.File(broden.workspace / "counts/plain/epoch_1.h5") as file:
        assert file["concept_area"][0] == sum((mask == 1).sum() for mask in masks)
        assert file["concept_area"][5] == 6 * 16


# What is wrong


def test_a_probe_without_masks_is_an_error_before_all_work(study):
    study.tables["detector"].append({"kind": "network_dissection"})
    study.edit("report", dpi=50)
    study.cmon("run").fails(2, "detector network_dissection: compares units with masks", 'kind = "broden"')
    assert not study.workspace.exists()


@pytest.mark.parametrize("command", ["run", "activations", "status"])
def test_a_missing_mask_is_an_error_before_all_work(broden, command):
    (broden.folder / "broden/images/03_color.png").unlink()
    result = broden.cmon(command)
    assert "index.csv: row 5: images/03_color.png is not there" in result.err + result.out
    assert "Traceback" not in result.err
    assert result.code != 0
    assert not (broden.workspace / "counts").exists()


WRONG_MASKS = {
    "an unknown label": (np.full((8, 8), 77), "holds label 77, which label.csv does not name under color"),
    "another category's label": (np.full((8, 8), 300), "holds label 300, which label.csv does not name under color"),
    "another size": (np.ones((9, 8), int), "is 8x9, but sw and sh say 8x8"),
}


@pytest.mark.parametrize(("numbers", "told"), WRONG_MASKS.values(), ids=WRONG_MASKS)
def test_a_wrong_mask_is_one_line_that_names_file_and_row(broden, numbers, told):
    write_mask(broden.folder / "broden/images/03_color.png", numbers)
    broden.cmon("activations").fails(1, "images/03_color.png (index.csv row 5)", told)
    assert not (broden.workspace / "activations").exists()  # before hours of forward passes
    assert not broden.leftovers()


def test_images_without_a_label_are_counted_and_said(broden):
    index = broden.folder / "broden/index.csv"
    lines = index.read_text().splitlines()
    lines[5] = "04.png,train,16,16,8,8,,,,"
    index.write_text("\n".join(lines))
    result = broden.cmon("activations")
    assert result.code == 0
    assert f"4 of {IMAGES} images carry no label" in result.err


def test_words_that_hardly_an_image_shows_are_warned_of(dissected, again):
    images = dissected.datasets("counts/plain/epoch_1.h5")["concept_images"].tolist()
    assert images == [sum(concept in shown for shown in dissected.shown) for concept in range(len(CONCEPTS))]
    rare = 0
    clear = 0
    for epoch in (1, 2, 3):
        labels = dissected.datasets(f"similarity/network_dissection/plain/epoch_{epoch}.h5")
        for layer in ("first", "second"):
            words = labels[f"layers/{layer}/top_concept"][labels[f"layers/{layer}/interpretable"], 0]
            rare, clear = rare + sum(images[word] < 10 for word in words), clear + len(words)
    assert rare > 0
    assert (
        f"{rare} of {clear} interpretable units x checkpoints have a word that fewer than 10"
        in again.cmon("dissect", "--force").err
    )


def test_an_unknown_key_names_the_nearest(broden):
    broden.tables["detector"][1]["quantil"] = 0.01
    broden.edit("report", dpi=50)
    broden.cmon("run").fails(2, "detector[2].quantil", "unknown key")
    del broden.tables["detector"][1]["quantil"]
    broden.tables["detector"][1]["tau"] = 4
    broden.edit("report", dpi=50)
    broden.cmon("run").fails(2, "detector[2].tau", "at most 1")


def test_a_layer_without_places_is_an_error_that_names_it(broden):
    (broden.folder / "net.py").write_text(
        "from torch import nn\n\nclass Net(nn.Module):\n"
        "    def __init__(self):\n        super().__init__()\n        self.first = nn.Conv2d(3, 6, 3)\n"
        "        self.second = nn.Conv2d(6, 8, 3)\n        self.series = nn.Identity()\n"
        "    def forward(self, x):\n        return self.series(self.second(self.first(x)).flatten(2)[:, :, :-1])\n\n"
        "def build():\n    return Net()\n"
    )
    broden.tables["run"][0]["layers"] = ["first", "series"]
    broden.edit("report", dpi=50)
    broden.cmon("activations").fails(2, "layer series", "no place in the image")


def test_the_schema_knows_it():
    assert "network_dissection" in cmon("schema").out


def test_alone_it_encodes_words_and_no_image(broden, monkeypatch):
    from cmon.encoders.features import PrecomputedFeatures

    both = copy.deepcopy(broden.tables["detector"])
    del broden.tables["detector"][0]
    broden.edit("report", dpi=50)
    with monkeypatch.context() as patched:
        patched.setattr(PrecomputedFeatures, "image_features", lambda *_: pytest.fail("images are encoded"))
        assert broden.cmon("run").code == 0
    assert broden.datasets("evidence.h5")["image_features"].shape == (0, 16)
    alone = broden.datasets("similarity/network_dissection/plain/epoch_1.h5")
    broden.tables["detector"] = both
    broden.edit("report", dpi=50)
    assert broden.cmon("run").code == 0
    assert broden.datasets("evidence.h5")["image_features"].shape == (IMAGES, 16)
    together = broden.datasets("similarity/network_dissection/plain/epoch_1.h5")
    assert np.array_equal(alone["layers/first/scores"], together["layers/first/scores"], equal_nan=True)
