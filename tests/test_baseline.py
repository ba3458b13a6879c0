"""Untrained networks beside a run's checkpoints: drawn by their seeds, under the same test, never among them."""

import importlib.util
import json
import random
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from conftest import IMAGES, MODEL, TinyStudy, save_checkpoint
from PIL import Image
from test_network_dissection import make_broden
from test_pipeline import EPOCHS, activations, labels, results, same

from cmon.models import build_model
from cmon.stores import read_study

# Rows of the model as it is drawn by the seeds 0, 1, 2.
SEEDS = ("random-init-0", "random-init-1", "random-init-2")
BASELINE = "plain~baseline"
PRETRAINED = MODEL.replace(
    "def build(width=8):\n",
    "def build(width=8, pretrained=False):\n"
    "    if pretrained:\n"
    "        net = Net(width)\n"
    "        net.first.weight.data = torch.arange(162.).view(6, 3, 3, 3) / 162\n"
    "        return net\n",
)
NORMALISED = """
from torch import nn


def build():
    first = nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.Dropout(0.9))
    net = nn.Sequential()
    net.first, net.second = first, nn.Conv2d(6, 8, 3)
    return net
"""


def untrained(*names, kind="activations"):
    return {f"{kind}/{BASELINE}/{name}.h5" for name in names}


def recipe(path):
    with h5py.File(path) as file:
        return json.loads(file["recipe"][0])


def values(study, name, layer="second", run=BASELINE):
    return study.datasets(f"activations/{run}/{name}.h5")[f"layers/{layer}/mean"]


def shown_images(study):
    paths = sorted((study.folder / "images").iterdir())
    return torch.stack([torch.from_numpy(np.array(Image.open(path))).permute(2, 0, 1) / 255 for path in paths])


def write_model(study, text, **arguments):
    (study.folder / "net.py").write_text(text)
    study.edit("run", model_args=arguments)


def join(study):
    """Run all stages but the report; return what they say."""
    told = ""
    for stage in ("activations", "dissect", "embed"):
        result = study.cmon(stage)
        assert result.code == 0, result.err
        told += result.err
    return told


@pytest.fixture
def asking(study):
    """Return a study of which nothing is made yet, and which asks for two untrained networks."""
    study.edit("run", baseline="random-init", baseline_seeds=2)
    return study


@pytest.fixture(scope="module")
def made(prepared, tmp_path_factory):
    """Record the asking study once."""
    study = TinyStudy(Path(shutil.copytree(prepared, tmp_path_factory.mktemp("baseline") / "study")))
    study.edit("run", baseline="random-init", baseline_seeds=2)
    result = study.cmon("activations")
    assert result.code == 0, result.err
    return study.folder


@pytest.fixture
def recorded(made, tmp_path):
    """Return an asking study after its first stage."""
    study = TinyStudy(Path(shutil.copytree(made, tmp_path / "recorded")))
    study.edit("run", baseline="random-init", baseline_seeds=2)
    return study


@pytest.fixture(scope="module")
def whole(made, tmp_path_factory):
    """Label and join the asking study once."""
    study = TinyStudy(Path(shutil.copytree(made, tmp_path_factory.mktemp("baseline") / "whole")))
    study.edit("run", baseline="random-init", baseline_seeds=2)
    join(study)
    return study.folder


@pytest.fixture
def joined(whole, tmp_path):
    """Return an asking study of which all is made but the report."""
    study = TinyStudy(Path(shutil.copytree(whole, tmp_path / "joined")))
    study.edit("run", baseline="random-init", baseline_seeds=2)
    return study


def test_a_file_is_made_for_each_seed_beside_the_runs_own(recorded):
    assert results(recorded) == {"evidence.h5"} | activations(*EPOCHS) | untrained(*SEEDS[:2])
    assert not recorded.leftovers()


def test_nothing_is_drawn_where_it_is_not_asked_for(study):
    study.edit("run", baseline="none", baseline_seeds=2)
    assert study.cmon("activations").code == 0
    assert results(study) == {"evidence.h5"} | activations(*EPOCHS)


def test_the_recipe_is_the_checkpoints_but_for_where_the_weights_are_from(recorded):
    trained = recipe(recorded.workspace / "activations/plain/epoch_1.h5")
    for seed, name in enumerate(SEEDS[:2]):
        drawn = recipe(recorded.workspace / f"activations/{BASELINE}/{name}.h5")
        expected = {**trained, "checkpoint": f"random-init {seed}"}
        del expected["state_dict_key"]
        assert drawn == expected


def test_untrained_networks_have_no_step(recorded):
    with h5py.File(recorded.workspace / f"activations/{BASELINE}/random-init-0.h5") as file:
        assert "step" not in file.attrs
    making = json.loads((recorded.workspace / f"provenance/activations/{BASELINE}/random-init-0.json").read_text())
    assert making["elapsed_s"] > 0


def test_every_seed_is_another_network(recorded):
    for layer in ("first", "second"):
        first, second = (values(recorded, name, layer) for name in SEEDS[:2])
        assert first.shape == second.shape == (IMAGES, 6 if layer == "first" else 8)
        assert not np.isclose(first, second).all(axis=0).any()


def test_equal_seeds_are_equal_networks_in_another_process(recorded, asking):
    process = asking.spawn("activations", "--checkpoint", "random-init-1")
    _, told = process.communicate(timeout=120)
    assert process.returncode == 0, told
    assert results(asking) == {"evidence.h5"} | untrained("random-init-1")
    name = f"activations/{BASELINE}/random-init-1.h5"
    assert same(recorded.datasets(name), asking.datasets(name))


def test_it_is_the_network_that_its_own_function_draws(recorded):
    space = {}
    exec(MODEL, space)
    with torch.random.fork_rng(), torch.inference_mode():
        torch.manual_seed(1)
        net = space["build"]()
        expected = net(shown_images(recorded)).mean((2, 3)).numpy()
    np.testing.assert_allclose(values(recorded, "random-init-1"), expected, rtol=1e-4, atol=1e-5)


def test_it_is_in_evaluation_mode_with_batch_statistics_of_0_and_1(asking):
    write_model(asking, NORMALISED)
    assert asking.cmon("activations", "--checkpoint", "random-init-0").code == 0
    plain = NORMALISED.replace(", nn.BatchNorm2d(6), nn.Dropout(0.9)", "")
    before = values(asking, "random-init-0", "first")
    write_model(asking, plain)
    assert asking.cmon("activations", "--checkpoint", "random-init-0").code == 0
    after = values(asking, "random-init-0", "first")
    np.testing.assert_allclose(before, after / np.sqrt(1 + 1e-5), rtol=1e-4, atol=1e-6)
    assert not np.array_equal(before, after)


def test_a_second_run_draws_nothing(recorded, monkeypatch):
    before = recorded.files()
    monkeypatch.setattr("cmon.activations.check_random", lambda *_: pytest.fail("a network is drawn again"))
    result = recorded.cmon("activations")
    assert result.code == 0
    assert recorded.changed(before) == set()
    assert "activations: 0 made, 6 current" in result.err


def test_one_more_seed_is_one_more_file(recorded):
    before = recorded.files()
    recorded.edit("run", baseline_seeds=3)
    assert recorded.cmon("activations").code == 0
    assert recorded.changed(before) == untrained("random-init-2")
    recorded.edit("run", baseline_seeds=1)
    assert recorded.cmon("activations").code == 0
    assert recorded.changed(before) == untrained("random-init-2")


def test_another_checkpoint_or_place_of_its_weights_leaves_untrained_networks_alone(recorded):
    before = recorded.files()
    save_checkpoint(recorded.checkpoint("epoch_2"), seed=20, epoch=2)
    assert recorded.cmon("activations").code == 0
    assert recorded.changed(before) == activations("epoch_2")
    recorded.edit("run", state_dict_key="state_dict")
    assert recorded.cmon("activations").code == 0
    assert recorded.changed(before) == activations(*EPOCHS)


@pytest.mark.parametrize(
    ("table", "change", "reason"),
    [
        ("run", {"model_args": {"width": 8}}, "model.arguments.width"),
        ("run", {"layers": ["second"]}, "layers"),
        ("activations", {"pooling": "max"}, "pooling"),
    ],
)
def test_what_changes_a_checkpoints_activations_changes_theirs(recorded, table, change, reason):
    before = recorded.files()
    recorded.edit(table, **change)
    result = recorded.cmon("activations")
    assert f"activations {BASELINE}/random-init-0: changed: {reason}\n" in result.err
    assert recorded.changed(before) == activations(*EPOCHS) | untrained(*SEEDS[:2])


def test_another_text_of_the_models_file_is_noticed(recorded):
    before = recorded.files()
    (recorded.folder / "net.py").write_text(MODEL.replace("torch.relu_", "torch.tanh"))
    assert recorded.cmon("activations", "--checkpoint", "random-init-0").code == 0
    assert recorded.changed(before) == untrained("random-init-0")


@pytest.mark.skipif(importlib.util.find_spec("transformers") is None, reason="an optional package")
def test_a_folder_of_transformers_has_its_baseline_beside_its_checkpoints(asking):
    """Its own files are the oracle: what its classes compute by themselves, for each patch."""
    shape = {"image_size": 16, "patch_size": 4, "hidden_size": 12, "num_hidden_layers": 1}
    config = {"model_type": "vit", **shape, "num_attention_heads": 2, "intermediate_size": 20}
    (asking.folder / "vit").mkdir()
    (asking.folder / "vit/config.json").write_text(json.dumps(config))
    source = f"transformers:{asking.folder / 'vit'}"
    shutil.rmtree(asking.folder / "runs")
    (asking.folder / "runs").mkdir()
    nets = {"epoch_1": build_model(source, {}, 8), "random-init-0": build_model(source, {}, 0)}
    torch.save(nets["epoch_1"].state_dict(), asking.checkpoint("epoch_1"))
    layer = "vit.layers.0.mlp.activation_fn"
    asking.edit("run", model="transformers:vit", layers=[layer], tokens="patches", baseline_seeds=1)
    result = asking.cmon("activations")
    assert result.code == 0, result.err
    assert results(asking) == {"evidence.h5"} | activations("epoch_1") | untrained("random-init-0")
    for name, net in nets.items():
        kept = []
        net.get_submodule(layer).register_forward_hook(lambda module, inputs, output, kept=kept: kept.append(output))
        with torch.inference_mode():
            net(shown_images(asking))
        recorded = values(asking, name, layer, "plain" if name == "epoch_1" else BASELINE)
        np.testing.assert_allclose(recorded, kept[0][:, 1:].mean(1), atol=1e-6)


def test_the_random_numbers_of_the_process_are_left_as_they_were(asking):
    states = lambda: [torch.random.get_rng_state().tolist(), repr(np.random.get_state()), random.getstate()]  # noqa: E731
    before = states()
    assert asking.cmon("activations").code == 0
    assert states() == before


def test_pretrained_weights_are_no_baseline_and_the_checkpoints_are_made(asking):
    write_model(asking, PRETRAINED, pretrained=True)
    result = asking.cmon("activations")
    result.fails(2, "run plain: baseline", "net.py:build", "1 of 2 weights are equal", "first.weight", "model_args")
    assert "second.weight" not in result.err
    assert results(asking) == {"evidence.h5"} | activations(*EPOCHS)
    write_model(asking, PRETRAINED, pretrained=False)
    assert asking.cmon("activations").code == 0
    assert untrained(*SEEDS[:2]) <= results(asking)


def test_a_model_without_random_weights_is_no_baseline(asking):
    fixed = MODEL.replace("return Net(width)", "net = Net(width)\n    [p.data.fill_(0.1) for p in net.parameters()]")
    write_model(asking, fixed + "    return net\n")
    asking.cmon("activations").fails(2, "run plain: baseline", "no weight is random")
    assert results(asking) == {"evidence.h5"} | activations(*EPOCHS)


def test_the_images_are_not_decoded_where_nothing_is_left_to_do(recorded):
    write_model(recorded, PRETRAINED, pretrained=True)
    shutil.rmtree(recorded.workspace / "cache/pixels")
    recorded.cmon("activations", "--checkpoint", "random-init-0").fails(2, "first.weight")
    assert not (recorded.workspace / "cache/pixels").exists()


def test_the_run_of_a_sound_model_is_made_beside_one_that_is_not(asking):
    (asking.folder / "other.py").write_text(PRETRAINED)
    other = {"name": "other", "model": "other.py:build", "model_args": {"pretrained": True}}
    asking.tables["run"].insert(0, {**asking.tables["run"][0], **other})
    asking.config.write_text(asking.config.read_text())
    asking.edit("report", dpi=50)
    asking.cmon("activations").fails(2, "run other: baseline", "first.weight")
    made = activations(*EPOCHS) | activations(*EPOCHS, run="other") | untrained(*SEEDS[:2])
    assert results(asking) == {"evidence.h5"} | made


def test_infinite_activations_name_the_untrained_network(asking):
    write_model(asking, MODEL.replace("self.second(torch", "float('inf') * self.second(torch"))
    result = asking.cmon("activations", "--checkpoint", "random-init-1", "--checkpoint", "random-init-0")
    assert result.code == 0  # of the layer second itself, nothing is infinite
    write_model(asking, MODEL.replace("torch.relu_(", "torch.log(-torch.relu_(").replace("(x)))", "(x))))"))
    result = asking.cmon("activations", "--checkpoint", "random-init-1")
    result.fails(1, f"{BASELINE}/random-init-1", "NaN or infinite")


def test_status_lists_their_files(recorded, asking):
    told = recorded.cmon("status").out
    for name in untrained(*SEEDS[:2]):
        assert f"current  {name}\n" in told
    for name in untrained(*SEEDS[:2], kind="similarity/clip_dissect"):
        assert f"missing  {name}\n" in told
    told = asking.cmon("status").out
    assert told.count("missing ") == len(told.splitlines()) == 13
    assert "random-init-2" not in told


def test_a_dry_run_names_them_and_makes_nothing(asking):
    result = asking.cmon("activations", "--dry-run")
    assert result.code == 0
    assert [line for line in result.out.splitlines() if BASELINE in line] == [
        f"activations {BASELINE}/{name}" for name in SEEDS[:2]
    ]
    assert not asking.workspace.exists()


def test_a_runs_untrained_networks_are_chosen_with_it_or_by_name(asking):
    asking.tables["run"].append({**asking.tables["run"][0], "name": "other", "baseline": "none"})
    asking.edit("report", dpi=50)
    assert asking.cmon("activations", "--run", "other").code == 0
    assert results(asking) == {"evidence.h5"} | activations(*EPOCHS, run="other")
    assert asking.cmon("activations", "--checkpoint", "random-init-1").code == 0
    assert untrained("random-init-1") == {name for name in results(asking) if "plain" in name}
    assert asking.cmon("activations", "--run", "plain").code == 0
    assert activations(*EPOCHS) | untrained(*SEEDS[:2]) <= results(asking)
    asking.cmon("activations", "--run", "other", "--checkpoint", "random-init-1").fails(2, "no random-init-1")
    asking.cmon("activations", "--run", BASELINE).fails(2, f"no {BASELINE}")


def test_a_checkpoint_of_the_same_name_is_another_file(asking):
    save_checkpoint(asking.checkpoint("random-init-0"), seed=5, epoch=0)
    assert asking.cmon("activations").code == 0
    assert untrained("random-init-0") | activations("random-init-0") <= results(asking)
    assert not np.array_equal(values(asking, "random-init-0"), values(asking, "random-init-0", run="plain"))


def test_pixels_are_counted_for_them_too(asking):
    make_broden(asking)
    assert asking.cmon("activations").code == 0
    assert untrained(*SEEDS[:2], kind="counts") <= results(asking)
    first, second = (asking.datasets(f"counts/{BASELINE}/{name}.h5") for name in SEEDS[:2])
    assert np.array_equal(first["concept_area"], second["concept_area"])
    assert not np.array_equal(first["layers/second/intersection"], second["layers/second/intersection"])


def test_a_run_labels_and_joins_them_without_showing_them_as_checkpoints(joined, finished):
    made = {"evidence.h5"} | activations(*EPOCHS) | untrained(*SEEDS[:2])
    named = labels(*EPOCHS) | untrained(*SEEDS[:2], kind="similarity/clip_dissect")
    assert made | named <= results(joined)
    assert joined.cmon("status").out.count("current ") == len(results(joined)) == 12
    study, without = (read_study(one.workspace / "embedding/clip_dissect.h5") for one in (joined, finished))
    assert study.runs == ("plain",)
    assert [one.name for one in study.checkpoints] == list(EPOCHS)
    assert np.array_equal(study.units.xy, without.units.xy, equal_nan=True)
    assert np.array_equal(study.units.concept, without.units.concept)
    assert len(without.baseline.seed) == 0


def test_the_joint_file_counts_the_units_of_each_layer_of_each_seed(joined):
    study = read_study(joined.workspace / "embedding/clip_dissect.h5")
    rows = study.baseline
    found = zip(rows.run, rows.seed, [study.layers[layer] for layer in rows.layer], rows.units, strict=True)
    assert sorted(found) == [(0, 0, "first", 6), (0, 0, "second", 8), (0, 1, "first", 6), (0, 1, "second", 8)]
    for row in range(4):
        stored = joined.datasets(f"similarity/clip_dissect/{BASELINE}/random-init-{rows.seed[row]}.h5")
        layer = f"layers/{study.layers[rows.layer[row]]}"
        assert rows.alive[row] == (stored[f"{layer}/state"] == 0).sum()
        assert rows.interpretable[row] == stored[f"{layer}/interpretable"].sum()
    assert 0 < rows.alive.sum() <= 28


def test_untrained_networks_are_labelled_from_their_own_activations(joined):
    joined.edit("run", baseline="none")
    save_checkpoint(joined.checkpoint("random-init-0"), seed=5, epoch=0)
    join(joined)
    joined.edit("run", baseline="random-init")
    shutil.rmtree(joined.workspace / f"similarity/clip_dissect/{BASELINE}")
    join(joined)
    names = [f"similarity/clip_dissect/{run}/random-init-0.h5" for run in ("plain", BASELINE)]
    first, second = (joined.datasets(name)["layers/second/scores"] for name in names)
    assert not np.array_equal(first, second)


def test_one_more_seed_makes_the_joint_file_anew_and_no_other_label(joined):
    before = joined.files()
    joined.edit("run", baseline_seeds=3)
    told = join(joined)
    changed = joined.changed(before)
    assert untrained("random-init-2") | untrained("random-init-2", kind="similarity/clip_dissect") <= changed
    assert not changed & (labels(*EPOCHS) | activations(*EPOCHS) | untrained(*SEEDS[:2]))
    assert f"embedding clip_dissect: changed: baselines.{BASELINE}/random-init-2\n" in told
    joined.edit("run", baseline="none")
    assert joined.cmon("embed").code == 0
    assert len(read_study(joined.workspace / "embedding/clip_dissect.h5").baseline.seed) == 0


def test_embedding_waits_for_their_labels(joined):
    (joined.workspace / f"similarity/clip_dissect/{BASELINE}/random-init-1.h5").unlink()
    joined.cmon("embed", "--force").fails(3, "similarity/clip_dissect", f"{BASELINE}/random-init-1", "run cmon dissect")


def test_under_the_studys_prior_they_do_not_move_it(study):
    study.tables["detector"] = [{"kind": "clip_dissect", "similarity": "soft_wpmi", "top_k": 5, "prior": "study"}]
    study.edit("report", dpi=50)
    join(study)
    before = read_study(study.workspace / "embedding/clip_dissect.h5")
    study.edit("run", baseline="random-init", baseline_seeds=2)
    join(study)
    after = read_study(study.workspace / "embedding/clip_dissect.h5")
    assert np.array_equal(before.units.score, after.units.score, equal_nan=True)
    assert np.array_equal(before.units.interpretable, after.units.interpretable)
    assert after.baseline.units.tolist() == [6, 8, 6, 8]
