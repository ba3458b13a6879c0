"""Studies of pruned networks: weights as torch's pruning saves them, masks in files of their own, sparsity."""

import json
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from conftest import MODEL, save_checkpoint
from test_pipeline import EPOCHS, activations, labels, same
from torch.nn.utils import prune

from cmon.checkpoints import CheckpointFile, Unit, Untrained
from cmon.config import Run
from cmon.stores import read_activations, read_labels

WEIGHTS = 6 * 3 * 9 + 8 * 6 * 9  # of the two convolutions


def network(study, name):
    """Build the tiny network, with a checkpoint's weights."""
    space = {}
    exec(MODEL, space)
    model = space["build"]()
    model.load_state_dict(torch.load(study.checkpoint(name))["state_dict"])
    return model


def masks_of(name, share):
    generator = torch.Generator().manual_seed(EPOCHS.index(name))
    shapes = {"first.weight": (6, 3, 3, 3), "second.weight": (8, 6, 3, 3)}
    return {key: (torch.rand(shape, generator=generator) < share).float() for key, shape in shapes.items()}


def write_products(study, share=0.5):
    """Put weights that were multiplied by their masks by hand in the place of the checkpoints; return the masks."""
    held = {name: masks_of(name, share) for name in EPOCHS}
    for name, masks in held.items():
        content = torch.load(study.checkpoint(name))
        for key, mask in masks.items():
            content["state_dict"][key] = torch.where(mask == 1, content["state_dict"][key], 0.0)
        torch.save(content, study.checkpoint(name))
    return held


def zeros(masks):
    return sum(int((mask == 0).sum()) for mask in masks.values()) / WEIGHTS


def stored(study, name, run="plain"):
    return study.datasets(f"activations/{run}/{name}.h5")


def recorded(study):
    """Return what each checkpoint's file holds, but for its recipe."""
    found = {name: stored(study, name) for name in EPOCHS}
    return {name: {key: value for key, value in held.items() if key != "recipe"} for name, held in found.items()}


def recipe(study, name, run="plain"):
    with h5py.File(study.workspace / f"activations/{run}/{name}.h5") as file:
        return json.loads(file["recipe"][0])


def sparsities(study, run="plain", names=EPOCHS):
    paths = [study.workspace / f"activations/{run}/{name}.h5" for name in names]
    return [read_activations(path, "mean").sparsity for path in paths]


def run(study, *stages):
    told = ""
    for stage in stages or ("activations",):
        result = study.cmon(stage)
        assert result.code == 0, result.err
        told += result.err
    return told


@pytest.fixture
def by_hand(prepared, tmp_path):
    """Record the study whose weights were multiplied by hand."""
    import shutil

    from conftest import TinyStudy

    study = TinyStudy(shutil.copytree(prepared, tmp_path / "by_hand"))
    held = write_products(study)
    run(study)
    return study, held


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod."])
def test_checkpoints_that_torch_pruned_are_recorded_as_their_products(study, by_hand, prefix):
    expected, held = by_hand
    for name in EPOCHS:
        model = network(study, name)
        for key, mask in held[name].items():
            prune.custom_from_mask(model.get_submodule(key.removesuffix(".weight")), "weight", mask)
        state = {prefix + key: value for key, value in model.state_dict().items()}
        assert f"{prefix}first.weight_orig" in state
        torch.save({"state_dict": state, "epoch": int(name[-1])}, study.checkpoint(name))
    run(study, "activations", "dissect")
    found, wanted = recorded(study), recorded(expected)
    assert all(same(found[name], wanted[name]) for name in EPOCHS)
    assert sparsities(study) == sparsities(expected) == [zeros(held[name]) for name in EPOCHS]
    for name in EPOCHS:
        assert read_labels(study.workspace / f"similarity/clip_dissect/plain/{name}.h5").sparsity == zeros(held[name])


@pytest.mark.parametrize("ending", [".pt", ".safetensors"])
def test_each_checkpoint_has_its_own_file_of_masks(study, by_hand, ending):
    from safetensors.torch import save_file

    expected, held = by_hand
    (study.folder / "masks").mkdir()
    for name, masks in held.items():
        path = study.folder / f"masks/{name}-kept{ending}"
        save = torch.save if ending == ".pt" else save_file
        save({f"module.{key}_mask": mask.to(torch.uint8) for key, mask in masks.items()}, path)
    study.edit("run", masks=f"masks/{{checkpoint}}-kept{ending}")
    run(study, "activations", "dissect")
    found, wanted = recorded(study), recorded(expected)
    assert all(same(found[name], wanted[name]) for name in EPOCHS)
    assert sparsities(study) == [zeros(held[name]) for name in EPOCHS]
    assert len({recipe(study, name)["masks"] for name in EPOCHS}) == 3


def test_one_file_of_masks_does_for_all_checkpoints_and_not_for_untrained_networks(study):
    masks = masks_of("epoch_2", 0.25)
    torch.save(masks, study.folder / "masks.pt")
    study.edit("run", baseline="random-init", baseline_seeds=1)
    run(study)
    before, dense = study.files(), stored(study, "random-init-0", "plain~baseline")
    assert sparsities(study) == [0, 0, 0]
    study.edit("run", masks="masks.pt")
    told = run(study)
    assert study.changed(before) == activations(*EPOCHS)
    assert "activations plain/epoch_2: changed: masks\n" in told
    assert sparsities(study) == [zeros(masks)] * 3
    assert sparsities(study, "plain~baseline", ["random-init-0"]) == [0]
    assert same(stored(study, "random-init-0", "plain~baseline"), dense)
    assert "masks" not in recipe(study, "random-init-0", "plain~baseline")


def test_the_name_of_a_checkpoint_stands_in_the_path_of_its_masks():
    run = Run(name="r", checkpoints="c", model="m", layers=["x"], masks=Path("/m/{checkpoint}/{checkpoint}.pt"))
    checkpoint = CheckpointFile("epoch_{1}", Path("/c/epoch_{1}.pt"))
    assert Unit(run, checkpoint).masks == Path("/m/epoch_{1}/epoch_{1}.pt")
    assert Unit(run, Untrained(0)).masks is None
    assert Unit(run.model_copy(update={"masks": None}), checkpoint).masks is None


def test_other_masks_make_the_files_that_rest_on_them_again(study):
    for name in EPOCHS:
        torch.save(masks_of(name, 0.5), study.folder / f"{name}.mask")
    study.edit("run", masks="{checkpoint}.mask")
    run(study, "activations", "dissect")
    before = study.files()
    run(study, "activations", "dissect")
    assert study.changed(before) == set()
    other = masks_of("epoch_2", 0.5)
    other["first.weight"][0, 0, 0, 0] = 1 - other["first.weight"][0, 0, 0, 0]
    torch.save(other, study.folder / "epoch_2.mask")
    assert "activations plain/epoch_2: changed: masks\n" in run(study, "activations", "dissect")
    assert study.changed(before) == activations("epoch_2") | labels("epoch_2")


def test_a_study_without_masks_has_no_such_key_in_its_recipes(study):
    run(study)
    assert not {"masks", "batchnorm"} & recipe(study, "epoch_1").keys()


def test_a_missing_file_of_masks_is_one_line_and_the_others_are_made(study):
    for name in EPOCHS[:2]:
        torch.save(masks_of(name, 0.5), study.folder / f"{name}.mask")
    study.edit("run", masks="{checkpoint}.mask")
    study.cmon("activations").fails(1, f"{study.folder}/epoch_3.mask", "No such file", "masks")
    assert (study.workspace / "activations/plain/epoch_2.h5").exists()
    study.edit("run", masks="absent.pt")
    study.cmon("activations").fails(1, "absent.pt", "No such file", "masks")
    assert "absent.pt: No such file" in study.cmon("status").out
    study.edit("run", masks="images")
    study.cmon("activations").fails(1, "images", "directory", "masks")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"fist.weight": torch.ones(6, 3, 3, 3)}, ["fist.weight", "first.weight"]),
        ({"first.weight": torch.ones(6, 3, 3)}, ["first.weight is 6x3x3, the model has 6x3x3x3"]),
        ({"first.weight": torch.full((6, 3, 3, 3), 0.1)}, ["first.weight", "zeros and ones"]),
        ({}, ["holds no masks"]),
    ],
)
def test_masks_that_do_not_fit_are_one_line_that_names_their_file(study, content, words):
    torch.save(content, study.folder / "masks.pt")
    study.edit("run", masks="masks.pt")
    study.cmon("activations").fails(1, f"error: {study.folder}/masks.pt: ", *words)


def test_half_of_a_pruned_weight_is_one_line_that_names_the_checkpoint(study):
    content = torch.load(study.checkpoint("epoch_2"))
    content["state_dict"]["first.weight_orig"] = content["state_dict"].pop("first.weight")
    torch.save(content, study.checkpoint("epoch_2"))
    study.cmon("activations").fails(1, "epoch_2.pt", "first.weight_orig without first.weight_mask")


def test_masks_that_change_while_they_are_read_are_not_believed(study, monkeypatch):
    from cmon.activations import forward as stage

    def read(path, trust_pickle):
        masks = original(path, trust_pickle)
        torch.save(masks_of("epoch_1", 0.9), path)
        return masks

    torch.save(masks_of("epoch_1", 0.5), study.folder / "masks.pt")
    study.edit("run", masks="masks.pt")
    original = stage.read_masks
    monkeypatch.setattr(stage, "read_masks", read)
    study.cmon("activations", "--checkpoint", "epoch_1").fails(1, "epoch_1.pt", "changed while it was read: masks")


def test_weights_that_are_simply_zero_need_nothing(study):
    save_checkpoint(study.checkpoint("epoch_1"), seed=1, epoch=1)
    content = torch.load(study.checkpoint("epoch_1"))
    content["state_dict"]["second.weight"].zero_()
    torch.save(content, study.checkpoint("epoch_1"))
    run(study)
    assert sparsities(study, names=["epoch_1"]) == [8 * 6 * 9 / WEIGHTS]
    assert np.ptp(stored(study, "epoch_1")["layers/second/mean"], axis=0).max() < 1e-6
