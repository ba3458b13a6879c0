"""Folders as trainings leave them: what in them is a checkpoint, what is not, and what each is called."""

import json

import pytest
import safetensors.torch
import torch

from cmon.checkpoints import discover, read_checkpoint
from cmon.checkpoints.folders import members
from cmon.config import Run
from cmon.errors import CheckpointError, ConfigError

BESIDE = ("optimizer.pt", "scheduler.pt", "rng_state.pth", "rng_state_1.pth", "training_args.bin", "config.json")


def names_of(checkpoints):
    run = Run(name="standard", checkpoints=checkpoints, model="timm:x", layers=["*"])
    return [file.name for file in discover(run)]


def touch(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")


def weights(value=1.0):
    return {"fc.weight": torch.full((2, 3), value), "fc.bias": torch.zeros(2)}


def sharded(folder, **shards):
    """Write tensors as shards with their index."""
    folder.mkdir(parents=True, exist_ok=True)
    index = {"metadata": {"total_size": 1}, "weight_map": {}}
    for number, (name, tensor) in enumerate(shards.items(), 1):
        file = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        safetensors.torch.save_file({name: tensor}, folder / file)
        index["weight_map"][name] = file
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


@pytest.mark.parametrize("main", ["model.safetensors", "pytorch_model.bin"])
def test_folders_of_the_trainer_are_checkpoints_whatever_lies_beside_the_weights(tmp_path, main):
    for step in (1000, 500):
        touch(tmp_path, *(f"out/checkpoint-{step}/{name}" for name in (main, "trainer_state.json", *BESIDE)))
    touch(tmp_path, "out/runs/events.out.tfevents", "out/training_args.bin", "out/config.json")
    assert names_of(tmp_path / "out") == ["checkpoint-500", "checkpoint-1000"]
    assert names_of(tmp_path / "out" / "checkpoint-*") == ["checkpoint-500", "checkpoint-1000"]
    assert names_of(tmp_path / "out" / "*" / main) == ["checkpoint-500", "checkpoint-1000"]
    assert names_of(tmp_path / "out" / "checkpoint-500") == ["checkpoint-500"]
    assert names_of(tmp_path / "out" / "checkpoint-500" / main) == [main.partition(".")[0]]


def test_the_last_weights_beside_the_trainers_folders_are_one_more(tmp_path):
    touch(tmp_path, "checkpoint-500/model.safetensors", "model.safetensors", "training_args.bin")
    assert names_of(tmp_path) == ["checkpoint-500", "model"]


def test_an_index_of_shards_is_one_checkpoint(tmp_path):
    touch(tmp_path, "checkpoint-5/model.safetensors")
    sharded(tmp_path, a=torch.ones(2), b=torch.ones(3))
    assert names_of(tmp_path) == ["checkpoint-5", "model"]
    sharded(tmp_path / "alone", a=torch.ones(2), b=torch.ones(3))
    assert names_of(tmp_path / "alone") == ["alone"]
    assert names_of(tmp_path / "alone" / "*") == ["alone"]


def test_lightnings_checkpoints_are_found_from_the_folder_of_its_version(tmp_path):
    touch(tmp_path, *(f"version_0/checkpoints/epoch={epoch}-step={2 * epoch}.ckpt" for epoch in (10, 9)))
    touch(tmp_path, "version_0/hparams.yaml", "version_0/metrics.csv")
    for folder in (tmp_path / "version_0", tmp_path):
        assert names_of(folder) == ["epoch=9-step=18", "epoch=10-step=20"]


def test_a_folder_of_folders_says_where_there_are_some(tmp_path):
    touch(tmp_path, "logs/version_0/checkpoints/epoch=1.ckpt", "logs/version_1/checkpoints/epoch=1.ckpt")
    with pytest.raises(ConfigError, match="logs holds no") as caught:
        names_of(tmp_path / "logs")
    assert "version_0" in caught.value.hint and "version_1" in caught.value.hint


def test_folders_of_distributed_checkpoints_are_checkpoints(tmp_path):
    touch(tmp_path, "step_2/.metadata", "step_2/__0_0.distcp", "step_10/.metadata", "step_10/__0_0.distcp")
    touch(tmp_path, "epoch=1-step=3.ckpt/.metadata", "epoch=1-step=3.ckpt/__0_0.distcp", "epoch=1-step=3.ckpt/meta.pt")
    assert names_of(tmp_path) == ["epoch=1-step=3", "step_2", "step_10"]
    made = members(tmp_path / "epoch=1-step=3.ckpt")
    assert sorted(path.name for path in made) == [".metadata", "__0_0.distcp", "meta.pt"]


def test_accelerates_folders_are_checkpoints(tmp_path):
    beside = ("optimizer.bin", "scheduler.bin", "random_states_0.pkl", "sampler.bin", "scaler.pt")
    touch(tmp_path, *(f"checkpoints/checkpoint_{n}/{name}" for n in (0, 1) for name in ("model.safetensors", *beside)))
    assert names_of(tmp_path) == ["checkpoint_0", "checkpoint_1"]


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("checkpoint-12.pth.tar", "checkpoint-12"),
        ("model_12.pth", "model_12"),
        ("epoch=3-val_loss=0.52.ckpt", "epoch=3-val_loss=0.52"),
        ("net.7.PT", "net.7"),
        ("x.pt2", "x"),
        ("x.bin.index", "x.bin"),
    ],
)
def test_a_name_loses_the_endings_of_checkpoints_alone(tmp_path, file, name):
    touch(tmp_path, file)
    assert names_of(tmp_path / file) == [name]


def test_a_folder_with_other_checkpoints_beside_the_usual_name_is_a_folder_of_many(tmp_path):
    touch(tmp_path, "model.safetensors", "epoch_1.safetensors")
    assert names_of(tmp_path) == ["epoch_1", "model"]


def test_links_of_a_folder_to_itself_are_not_followed(tmp_path):
    touch(tmp_path, "checkpoint-1/model.safetensors")
    for name in ("a", "b"):
        (tmp_path / "checkpoint-1" / name).symlink_to(".")
    assert names_of(tmp_path / "checkpoint-1") == ["checkpoint-1"]


def test_shards_are_put_together(tmp_path):
    folder = sharded(tmp_path / "checkpoint-7", **weights())
    (folder / "trainer_state.json").write_text('{"epoch": 0.5, "global_step": 7}')
    read = read_checkpoint(folder, None, "raw", False)
    assert all(torch.equal(read.tensors[name], value) for name, value in weights().items())
    assert read.steps == {"step": 7} and read.kind == "Hugging Face Trainer"
    assert [path.name for path in members(folder)] == [
        "model.safetensors.index.json",
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
        "trainer_state.json",
    ]


@pytest.mark.parametrize(
    ("index", "what"),
    [
        ('{"weight_map": {"a": "../x.safetensors"}}', "no shard beside it"),
        ('{"weight_map": {"a": "/etc/passwd"}}', "no shard beside it"),
        ('{"weight_map": {"a": "model.safetensors.index.json"}}', "no shard beside it"),
        ('{"weight_map": {"a": 3}}', "no shard"),
        ('{"weight_map": {}}', "names no shards"),
        ('{"weight_map": ["a"]}', "no index"),
        ("[]", "no index"),
        ("{", "no index"),
        ("[" * 100_000, "no index"),
        ('{"weight_map": {"a": "absent.safetensors"}}', "No such file"),
    ],
)
def test_an_index_that_cannot_be_followed_is_one_line(tmp_path, index, what):
    (tmp_path / "model.safetensors.index.json").write_text(index)
    with pytest.raises(CheckpointError, match=what) as caught:
        read_checkpoint(tmp_path, None, "raw", False)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("state", ["[]", "{}", '{"global_step": "many"}'])
def test_a_state_that_tells_no_step_is_no_step(tmp_path, state):
    safetensors.torch.save_file(weights(), tmp_path / "model.safetensors")
    (tmp_path / "trainer_state.json").write_text(state)
    assert read_checkpoint(tmp_path, None, "raw", False).steps == {}


def test_a_damaged_state_is_one_line(tmp_path):
    safetensors.torch.save_file(weights(), tmp_path / "model.safetensors")
    (tmp_path / "trainer_state.json").write_text("{")
    with pytest.raises(CheckpointError, match="damaged"):
        read_checkpoint(tmp_path, None, "raw", False)
