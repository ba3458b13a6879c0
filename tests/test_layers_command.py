"""`cmon layers`: what the layers of a run's model put out, which can be recorded, and which the config chooses."""

import json

import pytest
from PIL import Image

# Put out by the second: 16 tokens of 12 features from the 4 x 4 patches, then one column of 5 an image.
NETWORK = """
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        print("building")
        self.body = nn.Sequential(nn.Conv2d(3, 12, 4, stride=4), nn.Flatten(2))
        self.mix = nn.Linear(12, 12)
        self.act = nn.ReLU()
        self.idle = nn.Linear(2, 2)
        self.head = nn.Linear(12, 5)

    def forward(self, x):
        tokens = self.mix(self.body(x).mT)
        return self.head(self.act(self.act(tokens)).mean(1))


def build():
    return Net()
"""


@pytest.fixture
def tokens(study):
    """Return a study of a small network of tokens, whose images are 16 x 16."""
    (study.folder / "tokens.py").write_text(NETWORK)
    study.edit("run", model="tokens.py:build", layers=["body.0", "mix", "act"], tokens="mean", prefix_tokens=3)
    return study


def layers_of(study, *words):
    result = study.cmon("layers", "--json", *words)
    assert result.code == 0, result.err
    return {run["run"]: {layer.pop("name"): layer for layer in run["layers"]} for run in json.loads(result.out)}


def test_every_layer_is_told_with_its_kind_shape_units_and_whether_it_is_chosen(tokens):
    found = layers_of(tokens)["plain"]
    assert list(found) == ["body", "body.0", "body.1", "mix", "act", "idle", "head"]
    assert found["body.0"] == {
        "module": "Conv2d",
        "kind": "map",
        "units": 12,
        "shape": [12, 4, 4],
        "prefix_tokens": None,
        "problem": "",
        "chosen": True,
    }
    assert found["mix"] == {
        "module": "Linear",
        "kind": "tokens",
        "units": 12,
        "shape": [16, 12],
        "prefix_tokens": 3,
        "problem": "",
        "chosen": True,
    }
    assert found["head"] == {
        "module": "Linear",
        "kind": "columns",
        "units": 5,
        "shape": [5],
        "prefix_tokens": None,
        "problem": "",
        "chosen": False,
    }
    assert "more than once" in found["act"]["problem"]
    assert "does not run" in found["idle"]["problem"]


def test_whether_tokens_can_be_recorded_is_as_the_run_asks_for_them(tokens):
    tokens.edit("run", tokens="class", prefix_tokens=0)
    assert "class token" in layers_of(tokens)["plain"]["mix"]["problem"]
    tokens.edit("run", tokens="patches")
    assert layers_of(tokens)["plain"]["mix"]["problem"] == ""


def test_in_lines_a_layer_is_a_line_and_the_chosen_ones_that_fail_are_marked(tokens):
    result = tokens.cmon("layers")
    assert result.code == 0
    assert result.err == "building\n"  # what the model prints is no part of the table
    lines = [[cell.strip() for cell in line.split("  ") if cell.strip()] for line in result.out.splitlines()]
    assert lines[0] == ["layer", "module", "kind", "units", "shape", "prefix", "chosen", "notes"]
    assert lines[2] == ["body.0", "Conv2d", "map", "12", "12x4x4", "-", "yes", "-"]
    assert lines[4] == ["mix", "Linear", "tokens", "12", "16x12", "3", "yes", "-"]
    assert {line[0]: line[6] for line in lines[1:]} == {
        "body": "-",
        "body.0": "yes",
        "body.1": "-",
        "mix": "yes",
        "act": "fails",
        "idle": "cannot",
        "head": "-",
    }


def test_images_are_as_the_run_sees_them(study):
    study.edit("run", preprocess={"resize": 12, "crop": 10})
    run = json.loads(study.cmon("layers", "--json").out)[0]
    assert run["image"] == [3, 10, 10]
    assert {layer["name"]: layer["shape"] for layer in run["layers"]} == {"first": [6, 8, 8], "second": [8, 6, 6]}


def test_no_checkpoint_needs_to_be_there_and_only_the_first_images_are_read(study):
    study.edit("run", checkpoints="nowhere/*.pt")
    for image in sorted((study.folder / "images").iterdir())[2:]:
        image.write_bytes(b"")
    assert list(layers_of(study)["plain"]) == ["first", "second"]
    assert not study.workspace.exists()


def test_images_that_cannot_be_read_are_passed_over_where_the_probe_says_so(study):
    first, second, *others = sorted((study.folder / "images").iterdir())
    for image in (first, *others):
        image.write_bytes(b"")
    study.cmon("layers").fails(1, first.name, "unreadable")
    study.edit("probe", on_error="skip")
    assert layers_of(study)["plain"]["first"]["shape"] == [6, 14, 14]
    second.write_bytes(b"")
    study.cmon("layers").fails(1, "none of its 24 images can be read")


def test_images_of_several_sizes_are_shown_one_size_at_a_time(study):
    Image.new("RGB", (20, 18)).save(sorted((study.folder / "images").iterdir())[0])
    assert json.loads(study.cmon("layers", "--json").out)[0]["image"] == [3, 18, 20]


def test_a_pattern_that_names_no_layer_fails_after_the_table(study):
    study.edit("run", layers=["secnd", "first"])
    result = study.cmon("layers")
    result.fails(2, "run plain: layers: secnd", "second")
    assert [line.split()[0] for line in result.out.splitlines()] == ["layer", "first", "second"]
    assert [line.split()[6] for line in result.out.splitlines()[1:]] == ["yes", "-"]


def test_a_run_that_fails_does_not_hide_the_others(study):
    broken = {**study.tables["run"][0], "name": "broken", "model": "net.py:bild"}
    study.tables["run"].insert(0, broken)
    study.edit("probe")
    result = study.cmon("layers", "--json")
    result.fails(2, "run broken", "bild", "build")
    assert [run["run"] for run in json.loads(result.out)] == ["plain"]
    assert list(layers_of(study, "--run", "plain")) == ["plain"]
    study.cmon("layers", "--run", "plane").fails(2, "--run", "plane", "plain")


def test_a_crop_larger_than_the_images_says_what_to_set(study):
    study.edit("run", preprocess={"crop": 40})
    study.cmon("layers").fails(1, "run plain", "preprocess.resize")
