"""The training scripts: the same end wherever they are killed, and errors of one line."""

import contextlib
import csv
import fcntl
import io
import json
import multiprocessing
import os
import pickle
import random
import re
import shutil
import signal
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import Result
from PIL import Image

from cmon.torchvision_import import torchvision

torchvision()  # the forkserver imports this module, and its processes then have torchvision at once
ROOT = Path(__file__).resolve().parents[1]
SCRIPTS = ("train_standard", "train_adversarial", "train_lottery", "finetune")
MODEL = """
from torch import nn


def build(num_classes=3, head="fc"):
    model = nn.Sequential()
    model.add_module("conv", nn.Conv2d(3, 6, 3))
    model.add_module("bn", nn.BatchNorm2d(6))
    model.add_module("rest", nn.Sequential(nn.ReLU(), nn.Dropout(0.2), nn.AdaptiveAvgPool2d(1), nn.Flatten()))
    model.add_module(head, nn.Linear(6, num_classes))
    return model
"""
ATTACK = ("--attack-steps", "2", "--robust-images", "5")
LOTTERY = ("--rewind", "0", "2", "--stages", "2")


@pytest.fixture(scope="module")
def forkserver():
    """Return a maker of processes that have torch and the scripts imported already."""
    before = {name: os.environ.get(name) for name in ("PYTHONPATH", "OMP_NUM_THREADS")}
    os.environ |= {"PYTHONPATH": f"{ROOT / 'scripts'}:{ROOT / 'tests'}", "OMP_NUM_THREADS": "1"}
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([*SCRIPTS, "test_training", "cmon.models.building", "cmon.checkpoints"])
    first = context.Process(target=print)
    first.start()
    first.join()
    for name, value in before.items():
        os.environ.pop(name)
        os.environ |= {name: value} if value is not None else {}
    return context


def child(script, words, said, kill_at):
    """Run a script, write down its exit code and what it said; be killed before the file event of that number."""
    if kill_at:
        die_at_event(kill_at)
    out, err = io.StringIO(), io.StringIO()
    sys.argv = [f"{script}.py", *words]
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = sys.modules[script].main(words)
        except SystemExit as left:  # --help
            code = left.code or 0
    said.write_text(json.dumps([code, out.getvalue(), err.getvalue()]))


def die_at_event(number):
    count = 0

    def counted(function):
        def wrapper(*words, **named):
            nonlocal count
            count += 1
            if count == number:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*words, **named)

        return wrapper

    for name in ("fsync", "replace", "unlink"):
        setattr(os, name, counted(getattr(os, name)))


class Bench:
    """Tiny data, a tiny model, and the scripts run on them in processes of their own."""

    def __init__(self, folder, context):
        self.folder, self.context = folder, context

    def words(self, out, *more):
        shared = {"--data": self.folder / "images", "--model": f"{self.folder / 'net.py'}:build"}
        shared |= {
            "--epochs": 3,
            "--batch-size": 8,
            "--held-out": 0.25,
            "--lr": 0.05,
            "--threads": 1,
            "--device": "cpu",
        }
        own = [str(word) for pair in shared.items() for word in pair]
        return [str(self.folder / out), *own, *map(str, more)]

    def start(self, script, out, *more, kill_at=0):
        said = self.folder / f"{out.replace('/', '_')}.said"
        said.unlink(missing_ok=True)
        process = self.context.Process(target=child, args=(script, self.words(out, *more), said, kill_at))
        process.start()
        return process, said

    def run(self, script, out, *more, kill_at=0):
        """Return a Result; None where the process was killed."""
        process, said = self.start(script, out, *more, kill_at=kill_at)
        process.join()
        if process.exitcode == -signal.SIGKILL:
            return None
        return Result(*json.loads(said.read_text()))

    def trains(self, script, out, *more):
        result = self.run(script, out, *more)
        assert result.code == 0, result.err
        return self.folder / out

    def holds(self, out):
        """Return all files of a training by name, as bytes; torch.save writes equal bytes for equal tensors."""
        folder = self.folder / out
        return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def write_images(folder, size, per_class=12, seed=3):
    """Write noise whose colour tells the class."""
    numbers = np.random.default_rng(seed)
    for place, name in enumerate(("blue", "green", "red")):
        (folder / name).mkdir(parents=True)
        for number in range(per_class):
            pixels = numbers.integers(0, 160, (*size, 3), dtype=np.uint8)
            pixels[..., 2 - place] += 60
            Image.fromarray(pixels).save(folder / name / f"{number:02}.png")


@pytest.fixture(scope="module")
def bench(tmp_path_factory, forkserver):
    folder = tmp_path_factory.mktemp("training")
    (folder / "net.py").write_text(MODEL)
    write_images(folder / "images", (12, 12))
    bench = Bench(folder, forkserver)
    # What others start from: a training without interruption of each script.
    bench.trains("train_standard", "standard")
    weights = folder / "standard" / "epoch_003.pt"
    bench.more = {
        "train_standard": (),
        "train_adversarial": ATTACK,
        "train_lottery": LOTTERY,
        "finetune": ("--weights", weights, "--freeze", "--save-epochs", "0,1,2,3"),
    }
    for script in SCRIPTS[1:]:
        bench.trains(script, script.removeprefix("train_"), *bench.more[script])
    return bench


def whole_training(bench, script):
    return bench.holds(script.removeprefix("train_"))


def weights_of(path):
    return torch.load(path, weights_only=True)["state_dict"]


def rows_of(folder):
    with (folder / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def equal(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("script", SCRIPTS)
def test_killed_at_file_events_it_ends_the_same(bench, script):
    out = f"events_{script}"
    killed = 0
    for event in range(1, 100):
        result = bench.run(script, out, *bench.more[script], kill_at=event)
        if result is not None:
            break
        killed += 1
    assert killed >= 5
    assert result.code == 0, result.err
    assert bench.holds(out) == whole_training(bench, script)


@pytest.mark.parametrize("script", SCRIPTS)
def test_killed_at_any_moment_it_ends_the_same(bench, script):
    out = f"moments_{script}"
    moments = random.Random(script)
    for _ in range(6):
        process, _ = bench.start(script, out, *bench.more[script])
        process.join(moments.uniform(0.02, 0.3))
        process.kill()
        process.join()
    bench.trains(script, out, *bench.more[script])
    assert bench.holds(out) == whole_training(bench, script)


def test_what_a_training_leaves(bench):
    holds = bench.holds("standard")
    epochs = [f"epoch_{epoch:03}" for epoch in range(4)]
    assert sorted(holds) == sorted([*(f"{name}.pt" for name in epochs), "metrics.csv", "arguments.json"])
    rows = rows_of(bench.folder / "standard")
    assert list(rows[0]) == ["checkpoint", "step", "loss", "accuracy", "robust_accuracy", "sparsity"]
    assert [row["checkpoint"] for row in rows] == epochs
    assert [row["step"] for row in rows] == ["0", "1", "2", "3"]
    assert {row["robust_accuracy"] for row in rows} == {""}
    content = torch.load(bench.folder / "standard" / "epoch_002.pt", weights_only=True)
    assert content["epoch"] == 2
    assert float(rows[2]["accuracy"]) == pytest.approx(content["accuracy"], abs=1e-6)
    robust = rows_of(bench.folder / "adversarial" / "robust")
    assert all(0 <= float(row["robust_accuracy"]) <= 1 for row in robust)


def test_accuracy_and_loss_are_those_of_the_saved_weights(bench):
    bench.trains("train_standard", "measured", "--test-data", bench.folder / "images", "--mean", 0.4, 0.5, 0.6)
    sys.path.insert(0, str(bench.folder))
    model = sys.modules.setdefault("net", __import__("net")).build().eval()
    model.load_state_dict(weights_of(bench.folder / "measured" / "epoch_003.pt"))
    paths = sorted((bench.folder / "images").rglob("*.png"))
    pixels = torch.stack([torch.from_numpy(np.array(Image.open(path))).permute(2, 0, 1) / 255 for path in paths])
    classes = torch.tensor([["blue", "green", "red"].index(path.parent.name) for path in paths])
    with torch.no_grad():
        scores = model((pixels - torch.tensor([0.4, 0.5, 0.6]).view(3, 1, 1)) / 0.5)
    row = rows_of(bench.folder / "measured")[-1]
    assert float(row["accuracy"]) == pytest.approx((scores.argmax(1) == classes).float().mean().item(), abs=1e-6)
    assert float(row["loss"]) == pytest.approx(torch.nn.functional.cross_entropy(scores, classes).item(), abs=1e-5)


def test_cmon_reads_the_checkpoints(bench):
    from cmon.checkpoints import load_into, read_checkpoint
    from cmon.models import build_model

    for path in (bench.folder / "standard" / "epoch_002.pt", bench.folder / "finetune" / "epoch_002.pt"):
        weights = read_checkpoint(path, None, "raw", False)
        assert weights.steps == {"epoch": 2}
        model = build_model(f"{bench.folder / 'net.py'}:build", {}, 5)
        load_into(model, weights, path)
        assert equal(model.state_dict(), weights_of(path))


def test_without_an_attack_both_twins_are_the_same_training(bench):
    bench.trains("train_adversarial", "eps0", *ATTACK, "--eps", 0)
    for epoch in range(4):
        name = f"epoch_{epoch:03}.pt"
        clean = weights_of(bench.folder / "eps0" / "standard" / name)
        assert equal(clean, weights_of(bench.folder / "eps0" / "robust" / name))
        assert equal(clean, weights_of(bench.folder / "standard" / name))
        robust = weights_of(bench.folder / "adversarial" / "robust" / name)
        assert equal(robust, weights_of(bench.folder / "adversarial" / "standard" / name)) == (epoch == 0)
    assert [row["robust_accuracy"] for row in rows_of(bench.folder / "eps0" / "robust")] != [""] * 4


def test_only_one_twin(bench):
    bench.trains("train_adversarial", "one", *ATTACK, "--only", "standard")
    assert not (bench.folder / "one" / "robust").exists()
    bench.trains("train_adversarial", "one", *ATTACK)
    assert bench.holds("one") == bench.holds("adversarial")


def test_the_backbone_is_the_given_one(bench):
    given, start, end = (
        weights_of(bench.folder / place)
        for place in ("standard/epoch_003.pt", "finetune/epoch_000.pt", "finetune/epoch_003.pt")
    )
    assert all(torch.equal(given[name], start[name]) for name in given if not name.startswith("fc."))
    assert not torch.equal(given["fc.weight"], start["fc.weight"])
    assert all(torch.equal(given[name], end[name]) for name in given if not name.startswith("fc."))  # frozen
    assert not torch.equal(start["fc.weight"], end["fc.weight"])


def test_another_head_on_wrapped_weights(bench):
    other = {f"module.{name}": value for name, value in weights_of(bench.folder / "standard" / "epoch_003.pt").items()}
    other["module.fc.weight"] = torch.zeros(9, 6)
    other["module.fc.bias"] = torch.zeros(9)
    torch.save({"model": other}, bench.folder / "wrapped.pth")
    more = ("--weights", bench.folder / "wrapped.pth", "--head", "fc")
    folder = bench.trains("finetune", "wrapped", *more)
    start, end = weights_of(folder / "epoch_000.pt"), weights_of(folder / "epoch_003.pt")
    assert start["fc.weight"].shape == (3, 6)
    assert torch.equal(start["conv.weight"], other["module.conv.weight"])
    assert not torch.equal(start["conv.weight"], end["conv.weight"])
    bench.run("finetune", "bad_head", *more[:2], "--head", "conv").fails(2, "no linear layer conv", "fc")
    more += ("--model-args", '{"num_classes": 4}')
    bench.run("finetune", "bad_count", *more).fails(2, "4 outputs", "3 classes", "num_classes")


def test_fewer_epochs_saved(bench):
    folder = bench.trains("train_standard", "fewer", "--save-epochs", "1")
    assert [row["checkpoint"] for row in rows_of(folder)] == ["epoch_001", "epoch_003"]
    assert equal(weights_of(folder / "epoch_003.pt"), weights_of(bench.folder / "standard" / "epoch_003.pt"))
    bench.run("train_standard", "too_late", "--save-epochs", "1,7").fails(2, "epoch 7 is beyond")


@pytest.mark.parametrize("script", SCRIPTS)
def test_finished_training_is_left_alone(bench, script):
    out = script.removeprefix("train_")
    before = bench.holds(out)
    result = bench.run(script, out, *bench.more[script])
    count = sum(name.endswith(".pt") for name in before)
    assert (result.code, result.err) == (0, "")
    assert f"all {count} checkpoints are there, nothing to do" in result.out
    assert bench.holds(out) == before


def test_lost_checkpoint_is_made_again(bench):
    shutil.copytree(bench.folder / "standard", bench.folder / "lost")
    (bench.folder / "lost" / "epoch_001.pt").unlink()
    result = bench.run("train_standard", "lost")
    assert "training starts again" in result.out
    assert bench.holds("lost") == bench.holds("standard")


def test_damaged_state_starts_again(bench):
    while bench.run("train_standard", "damaged", kill_at=15) and not (bench.folder / "damaged" / "resume.pt").exists():
        pass
    (bench.folder / "damaged" / "resume.pt").write_bytes(b"PK\x03\x04 and no more")
    assert "training starts again" in bench.run("train_standard", "damaged").out
    assert bench.holds("damaged") == bench.holds("standard")


def test_other_arguments_are_refused(bench):
    before = bench.holds("standard")
    bench.run("train_standard", "standard", "--lr", 0.2).fails(2, "lr 0.05, not 0.2")
    bench.run("train_standard", "standard", "--seed", 1, "--epochs", 4).fails(2, "epochs 3, not 4", "seed 0, not 1")
    bench.run("finetune", "standard", "--weights", "x").fails(2, "weights")
    assert bench.holds("standard") == before


def test_other_images_are_refused(bench):
    words = ("--data", bench.folder / "changing")
    shutil.copytree(bench.folder / "images", bench.folder / "changing")
    assert bench.run("train_standard", "changed", *words, kill_at=12) is None
    before = bench.holds("changed")
    Image.new("RGB", (12, 12)).save(bench.folder / "changing" / "red" / "03.png")
    bench.run("train_standard", "changed", *words).fails(2, "holds a training with")
    changed = [name for name in before if before[name] != bench.holds("changed").get(name)]
    assert all(name.endswith(".tmp") for name in changed)  # what the kill left half written


def test_second_process_is_refused(bench):
    (bench.folder / "busy").mkdir()
    handle = os.open(bench.folder / "busy", os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_EX)
    bench.run("train_standard", "busy").fails(1, "another training is at work")
    os.close(handle)
    bench.trains("train_standard", "busy")


def test_foreign_folder_is_refused(bench):
    (bench.folder / "foreign").mkdir()
    (bench.folder / "foreign" / "thesis.tex").write_text("")
    bench.run("train_standard", "foreign").fails(2, "is no training's folder", "thesis.tex")


def test_diverged_training_stops(bench):
    result = bench.run("train_standard", "diverged", "--lr", 1e30)
    result.fails(1, "epoch 1", "diverged", "--lr")
    assert sorted(name for name in bench.holds("diverged") if "epoch" in name) == ["epoch_000.pt"]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--lr", "0,1"), ("--lr", "'0,1'")),
        (("--lr", "-1"), ("--lr", "above 0")),
        (("--lrr", "1"), ("--lrr",)),
        (("--data", "absent"), ("absent", "no such")),
        (("--data", "cifar10:absent"), ("data_batch_1",)),
        (("--model", "torchvision:resnet19"), ("resnet19", "resnet18")),
        (("--model", "torchvision:resnet18"), ("(2, 1000)", "num_classes")),
        (("--model-args", '{"num_classes": "many"}'), ("cannot be built",)),
        (("--model-args", "[3"), ("JSON",)),
        (("--image-size", 2), ("--image-size",)),
        (("--device", "cuda:99"), ("cuda:99",)),
        (("--warm-up", 3), ("--warm-up",)),
        (("--save-epochs", "1,x"), ("--save-epochs",)),
    ],
    ids=str,
)
def test_bad_command_lines(bench, words, told):
    bench.run("train_standard", "bad", *words).fails(2, *told)
    assert not bench.holds("bad")


def test_a_model_with_several_outputs_in_training_is_refused(bench):
    two = (
        "net = build()\n    net.register_forward_hook(lambda net, _, scores: (scores,) * 2 if net.training else scores)"
    )
    (bench.folder / "two.py").write_text(f"{MODEL}\n\ndef two():\n    {two}\n    return net\n")
    words = ("--model", f"{bench.folder / 'two.py'}:two")
    bench.run("train_standard", "several", *words).fails(2, "gives a tuple in training", "aux_logits")


def test_bad_weights(bench):
    torch.save({"state_dict": torch.nn.Linear(3, 4).state_dict()}, bench.folder / "other.pt")
    (bench.folder / "text.pt").write_text("no weights")
    bench.run("finetune", "bad_weights", "--weights", bench.folder / "other.pt").fails(2, "does not fit")
    bench.run("finetune", "bad_weights", "--weights", bench.folder / "text.pt").fails(2, "damaged")
    bench.run("finetune", "bad_weights", "--weights", bench.folder / "none.pt").fails(2, "no such file")


def test_bad_images(bench):
    folder = bench.folder / "bad_images"
    shutil.copytree(bench.folder / "images", folder)
    (folder / "red" / "05.png").write_bytes(b"no image")
    bench.run("train_standard", "unread", "--data", folder).fails(2, "red/05.png", "not an image", "mend or remove")
    (folder / "red" / "05.png").unlink()
    (folder / "yellow").mkdir()
    bench.run("train_standard", "unread", "--data", folder).fails(2, "yellow", "no image")
    shutil.rmtree(folder / "yellow")
    Image.new("RGB", (12, 12)).save(folder / "loose.png")
    bench.run("train_standard", "unread", "--data", folder).fails(2, "loose.png", "no class")
    (folder / "loose.png").unlink()
    shutil.rmtree(folder / "red")
    shutil.rmtree(folder / "blue")
    Image.new("RGB", (12, 12)).save(folder / "green" / "12.webp")
    bench.run("train_standard", "unread", "--data", folder).fails(2, "one class", "green")
    (folder / "net.zip").write_text("no zip")
    bench.run("train_standard", "unread", "--data", folder / "net.zip").fails(2, "net.zip")


def test_full_disk(bench, small_disk):
    pixels = np.random.default_rng(0).integers(0, 255, 60_000, dtype=np.uint8)
    (small_disk / "filling").write_bytes(pixels[:54_000].tobytes())
    out = small_disk / "out"
    words, said = bench.words("x")[1:], bench.folder / "full.said"
    process = bench.context.Process(target=child, args=("train_standard", [str(out), *words], said, 0))
    process.start()
    process.join()
    Result(*json.loads(said.read_text())).fails(1, "No space left")
    assert not list(out.rglob(".*"))


def test_cifar_and_zip_are_read_as_folders_are(bench):
    numbers = np.random.default_rng(1)
    cifar = bench.folder / "cifar" / "cifar-10-batches-py"
    cifar.mkdir(parents=True)
    for name in [f"data_batch_{number}" for number in range(1, 6)] + ["test_batch"]:
        batch = {"data": numbers.integers(0, 255, (10, 3072), dtype=np.uint8), "labels": list(range(10))}
        (cifar / name).write_bytes(pickle.dumps(batch))
    more = ("--model-args", '{"num_classes": 10}', "--epochs", 1)
    place = f"cifar10:{cifar.parent}"
    folder = bench.trains("train_standard", "of_cifar", "--data", place, "--test-data", place, *more)
    assert (folder / "epoch_001.pt").is_file()
    with zipfile.ZipFile(bench.folder / "images.zip", "w") as archive:
        for path in (bench.folder / "images").rglob("*.png"):
            archive.write(path, f"deep/train/{path.relative_to(bench.folder / 'images')}")
    zipped = bench.trains("train_standard", "zipped", "--data", bench.folder / "images.zip")
    assert (zipped / "metrics.csv").read_bytes() == (bench.folder / "standard" / "metrics.csv").read_bytes()


def test_large_images_do_not_depend_on_workers(bench):
    write_images(bench.folder / "large", (90, 80), per_class=6)
    more = ("--data", bench.folder / "large", "--image-size", 32, "--epochs", 2)
    bench.trains("train_standard", "large1", *more, "--workers", 1)
    bench.trains("train_standard", "large3", *more, "--workers", 3)
    assert bench.holds("large1")["epoch_002.pt"] == bench.holds("large3")["epoch_002.pt"]
    said = bench.run("train_standard", "large4", *more, "--mean", 0.1, 0.2, 0.3).out
    assert "preprocess = {resize = 36, crop = 32, mean = [0.1, 0.2, 0.3], std = [0.5, 0.5, 0.5]}" in said
    (bench.folder / "large" / "red" / "02.png").write_bytes(b"no image")
    bench.run("train_standard", "large5", *more, "--test-data", bench.folder / "large").fails(
        2, "red/02.png", "mend or remove it"
    )


def test_long_epochs_say_how_far_they_are(bench):
    said = bench.run("train_standard", "said").out
    line = r"said epoch 2 of 3: training loss \d\.\d{3}, test loss \d\.\d{3}, accuracy [\d.]+%, \d+ s, \d+ s left"
    assert re.search(line, said), said


def test_help(bench):
    for script in SCRIPTS:
        assert bench.run(script, "help", "--help").code == 0
