"""The parts of the training scripts: attack, pruning, schedule, random numbers, data."""

import itertools
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared" / "data"

import concept_world  # noqa: E402
import train_lottery  # noqa: E402
import train_standard  # noqa: E402
from training import data as training_data  # noqa: E402
from training.attack import Attack  # noqa: E402
from training.batches import Images, crop_padded, crop_resized  # noqa: E402
from training.command import shared_parser  # noqa: E402
from training.data import Data  # noqa: E402
from training.loop import Trainer  # noqa: E402
from training.networks import Normalised  # noqa: E402
from training.pruning import mask_model, masked_state, masks_in, next_masks, prunable, pruned_count  # noqa: E402
from training.randomness import derived_seed, generator  # noqa: E402

from cmon.checkpoints import sparsity  # noqa: E402
from cmon.config import Preprocess  # noqa: E402
from cmon.errors import ConfigError  # noqa: E402
from cmon.models import build_model  # noqa: E402

EPS = 8 / 255
NETWORKS = ROOT / "sample_configs" / "networks.py"


@pytest.fixture(autouse=True)
def same_torch():
    """Put torch's random numbers and threads back."""
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    yield
    torch.set_rng_state(state)
    torch.set_num_threads(threads)


def arguments_of(*words):
    return shared_parser("", 4, 0.1).parse_args(["out", "--data", "d", "--model", "m", "--device", "cpu", *words])


def losses(network, pixels, labels):
    with torch.no_grad():
        return nn.functional.cross_entropy(network(pixels), labels, reduction="none")


@pytest.fixture
def network():
    with torch.random.fork_rng():
        torch.manual_seed(4)
        model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 5))
    return Normalised(model, [0.5] * 3, [0.25] * 3)


@pytest.fixture
def images():
    random = torch.Generator().manual_seed(9)
    pixels = torch.rand((20, 3, 8, 8), generator=random).mul(1.2).sub(0.1).clamp(0, 1)  # some at the very ends
    return pixels, torch.randint(5, (20,), generator=random)


def test_attack_stays_in_its_bounds_and_raises_the_loss(network, images):
    pixels, labels = images
    network.train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    changed = Attack(EPS, 10, 2 / 255).perturb(network, pixels, labels, generator(0, "attack"))
    assert network.training
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())
    assert not changed.requires_grad
    assert all(parameter.grad is None for parameter in network.parameters())
    assert (changed - pixels).abs().max() <= EPS + 1e-6
    assert changed.min() >= 0 and changed.max() <= 1
    network.eval()
    noise = torch.rand(pixels.shape, generator=torch.Generator().manual_seed(1)) * 2 - 1
    random = (pixels + EPS * noise.sign()).clamp(0, 1)
    assert (losses(network, changed, labels) > losses(network, pixels, labels)).all()
    assert (losses(network, changed, labels) > losses(network, random, labels)).all()


def test_attack_of_eps_0_is_the_identity(network, images):
    assert torch.equal(Attack(0.0, 5, 2 / 255).perturb(network, *images, generator(0)), images[0])


def test_attack_finds_the_worst_corner_of_a_linear_model():
    """Of 2^6 corners within eps and [0, 1], the worst one, found by trying all; a linear loss has it at a corner."""
    random = torch.Generator().manual_seed(2)
    model = nn.Sequential(nn.Flatten(), nn.Linear(6, 2))
    with torch.no_grad():
        model[1].weight.copy_(torch.randn((2, 6), generator=random))
    pixels = torch.rand((8, 3, 1, 2), generator=random)
    pixels[0], pixels[1] = 0.0, 1.0
    labels = torch.randint(2, (8,), generator=random)
    network = Normalised(model, [0.5] * 3, [0.5] * 3)
    corners = EPS * torch.tensor(list(itertools.product((-1.0, 1.0), repeat=6))).view(-1, 3, 1, 2)
    tried = torch.stack([losses(network, (pixels + corner).clamp(0, 1), labels) for corner in corners])
    changed = Attack(EPS, 10, 2 / 255).perturb(network, pixels, labels, generator(3))
    torch.testing.assert_close(losses(network, changed, labels), tried.max(0).values, atol=1e-6, rtol=0)


def test_schedule_is_a_warm_up_and_a_cosine():
    arguments = arguments_of("--epochs", "4", "--batch-size", "10", "--warm-up", "1", "--lr", "0.4")
    trainer = Trainer(arguments, nn.Linear(3, 2), made_up_data(arguments, 100))
    rates = [trainer.learning_rate(step) for step in range(40)]
    np.testing.assert_allclose(rates[:10], np.arange(1, 11) * 0.04)
    optimizer = torch.optim.SGD(nn.Linear(1, 1).parameters(), lr=0.4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 30)
    for rate in rates[10:]:
        assert rate == pytest.approx(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()


def made_up_data(arguments, count, size=8):
    random = torch.Generator().manual_seed(6)
    pixels = torch.randint(256, (count, size, size, 3), generator=random, dtype=torch.uint8)
    images = Images(arguments, torch.arange(count) % 2, Preprocess(), pixels=pixels)
    return Data(images, images, ("a", "b"), "", {})


def test_epochs_depend_on_seed_and_number_alone():
    train = made_up_data(arguments_of("--batch-size", "8"), 21).train
    first, again = list(train.training_batches(3)), list(train.training_batches(3))
    assert [len(labels) for _, labels in first] == [8, 8]
    assert all(
        torch.equal(a, b) for one, other in zip(first, again, strict=True) for a, b in zip(one, other, strict=True)
    )
    assert not torch.equal(first[0][0], next(train.training_batches(4))[0])
    other = made_up_data(arguments_of("--batch-size", "8", "--seed", "1"), 21).train
    assert not torch.equal(first[0][0], next(other.training_batches(3))[0])
    seeds = {derived_seed(*words) for words in ((0, "a"), (1, "a"), (0, "b"), (0, "a", 1), (0, "a1"))}
    assert len(seeds) == 5


def test_batches_hold_every_image_once_with_its_label():
    data = made_up_data(arguments_of("--batch-size", "7"), 21)
    data.train.pixels[:] = torch.arange(21, dtype=torch.uint8)[:, None, None, None] * 10 + 5
    seen = [
        (round(image.max().item() * 255), label.item())
        for pixels, labels in data.train.training_batches(1)
        for image, label in zip(pixels, labels, strict=True)
    ]
    assert sorted(seen) == [(row * 10 + 5, row % 2) for row in range(21)]
    tested = torch.cat([pixels for pixels, _ in data.test.testing_batches()])
    assert torch.equal(tested, data.test.pixels.permute(0, 3, 1, 2) / 255)


def test_small_images_are_cropped_and_flipped_as_by_hand():
    pixels = np.random.default_rng(0).integers(1, 256, (40, 6, 5, 3), dtype=np.uint8)
    draws = torch.rand((40, 5), generator=torch.Generator().manual_seed(0))
    got = crop_padded(torch.from_numpy(pixels), draws).numpy()
    for row, image in enumerate(pixels):
        padded = np.pad(image, ((4, 4), (4, 4), (0, 0)))
        top, left = int(draws[row, 0] * 9), int(draws[row, 1] * 9)
        expected = padded[top : top + 6, left : left + 5]
        assert np.array_equal(got[row], expected[:, ::-1] if draws[row, 2] < 0.5 else expected)
    assert {int(draw * 9) for draw in draws[:, 0]} == set(range(9))


def test_large_images_are_cut_within_and_to_size():
    gradient = np.linspace(0, 255, 100).astype(np.uint8)
    image = Image.fromarray(np.stack([np.tile(gradient, (80, 1))] * 3, axis=-1))
    for drawn in itertools.product((0.0, 0.5, 1.0), (0.0, 1.0), (0.2, 0.8), (0.0, 1.0), (0.0, 0.5, 1.0)):
        cut = crop_resized(image, list(drawn), 32, 0.25)
        assert cut.shape == (32, 32, 3)
        steps = np.diff(cut[16, :, 0].astype(int))
        assert (steps <= 0).all() if drawn[2] < 0.5 else (steps >= 0).all()
    whole = crop_resized(Image.new("RGB", (64, 64), (9, 9, 9)), [0.5, 0.5, 0.7, 1.0, 0.5], 32, 0.25)
    assert (whole == 9).all()


def test_pruned_are_the_smallest_magnitudes():
    random = torch.Generator().manual_seed(8)
    weights = {"a": torch.randn((7, 3, 3, 3), generator=random), "b": torch.randn((11, 7), generator=random)}
    weights["b"][0, :3] = 0.0  # survivors that are zero rank after what is pruned already
    masks = {name: torch.ones_like(value) for name, value in weights.items()}
    total = 7 * 27 + 77
    for stage in (1, 2, 3, 4):
        pruned = pruned_count(total, 0.4, stage)
        assert pruned == round(total * (1 - 0.6**stage))
        after = next_masks(weights, masks, pruned)
        flat = torch.cat([after[name].flatten() for name in weights])
        assert flat.unique().tolist() == [0.0, 1.0]
        assert int((flat == 0).sum()) == pruned
        assert all((after[name] <= masks[name]).all() for name in masks)
        alive = [
            (abs(w), m) for name in weights for w, m, was in _triples(weights[name], after[name], masks[name]) if was
        ]
        ordered = [kept for _, kept in sorted(alive)]
        assert ordered == sorted(ordered)
        masks = after
        # Training moves the survivors, and must not bring back what is gone, whatever its weight.
        weights = {name: value + torch.randn(value.shape, generator=random) for name, value in weights.items()}


def _triples(*tensors):
    return zip(*(tensor.flatten().tolist() for tensor in tensors), strict=True)


def test_masked_model_computes_with_masked_weights_and_tells_its_sparsity():
    model = build_model(f"{NETWORKS}:small_resnet", {"width": 4}, 1)
    names = list(prunable(model, keep_head=False))
    assert "fc" in names and "fc" not in prunable(model, keep_head=True)
    dense = {name: value.clone() for name, value in model.state_dict().items()}
    random = torch.Generator().manual_seed(0)
    masks = {name: (torch.rand(dense[f"{name}.weight"].shape, generator=random) < 0.5).float() for name in names}
    masked = mask_model(build_model(f"{NETWORKS}:small_resnet", {"width": 4}, 1), masks)
    state = masked_state(dense, masks)
    masked.load_state_dict(state)
    assert masks_in(masked.state_dict()).keys() == masks.keys()
    with torch.no_grad():
        for name, mask in masks.items():
            model.get_submodule(name).weight.mul_(mask)
        pixels = torch.rand((2, 3, 32, 32), generator=random)
        torch.testing.assert_close(masked(pixels), model(pixels))
    zeros = sum(int((mask == 0).sum()) for mask in masks.values())
    assert sparsity(masked) == zeros / sum(mask.numel() for mask in masks.values())
    assert sparsity(model) == sparsity(masked)
    model.load_state_dict(dense)
    assert sparsity(model) == 0


@pytest.fixture(scope="module")
def lottery(tmp_path_factory):
    """Run a small lottery: 4 epochs, rewinds 0 and 2, 3 stages."""
    folder = tmp_path_factory.mktemp("lottery")
    numbers = np.random.default_rng(5)
    for name in ("dark", "light"):
        (folder / "images" / name).mkdir(parents=True)
        for number in range(20):
            pixels = numbers.integers(0, 160, (10, 10, 3), dtype=np.uint8) + 80 * (name == "light")
            Image.fromarray(pixels.astype(np.uint8)).save(folder / "images" / name / f"{number}.png")
    words = [folder / "out", "--data", folder / "images", "--model", f"{NETWORKS}:small_resnet", "--epochs", 4]
    words += ["--model-args", '{"num_classes": 2, "width": 4}', "--rewind", 0, 2, "--stages", 3, "--batch-size", 8]
    # In a process of its own, since it sets torch's threads.
    command = [
        sys.executable,
        ROOT / "scripts" / "train_lottery.py",
        *map(str, words),
        "--threads",
        "1",
        "--lr",
        "0.02",
    ]
    done = subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder / "out"


def state_of(path):
    return torch.load(path, weights_only=True)["state_dict"]


@pytest.mark.parametrize("rewind", [0, 2])
def test_tickets_are_nested_sparse_and_rewound(lottery, rewind):
    dense = state_of(lottery / "dense" / f"epoch_{rewind:03}.pt")
    masks, folder = {}, lottery / f"rewind_{rewind:02}"
    total = sum(value.numel() for name, value in dense.items() if value.dim() >= 2)
    for stage in range(4):
        rewound, trained = (state_of(folder / f"stage_{stage:02}_{kind}.pt") for kind in ("rewound", "trained"))
        content = torch.load(folder / f"stage_{stage:02}_trained.pt", weights_only=True)
        zeros = sum(int((mask == 0).sum()) for mask in masks_in(trained).values())
        assert zeros == round(total * (1 - 0.6**stage))
        assert content["step"] == stage and "epoch" not in content
        assert content["sparsity"] == zeros / total
        for name, value in dense.items():
            if name in rewound:  # biases, and all of batch normalisation
                assert torch.equal(rewound[name], value)
                continue
            mask = rewound[f"{name}_mask"]
            assert torch.equal(mask, trained[f"{name}_mask"])
            assert torch.equal(rewound[f"{name}_orig"] * mask, value * mask)
            assert (mask <= masks.get(name, mask)).all()
            masks[name] = mask
    assert len(rewound) == len(trained)


def test_dense_stage_ends_as_the_dense_training(lottery):
    end = state_of(lottery / "dense" / "epoch_004.pt")
    for rewind in (0, 2):
        trained = state_of(lottery / f"rewind_{rewind:02}" / "stage_00_trained.pt")
        assert all(torch.equal(trained.get(name, trained.get(f"{name}_orig")), value) for name, value in end.items())


def test_an_unpruned_ticket_trains_to_the_dense_end(lottery):
    """All that training depends on is rewound: weights, statistics, momentum, schedule, order."""
    words = [
        "--data",
        str(lottery.parent / "images"),
        "--epochs",
        "4",
        "--batch-size",
        "8",
        "--lr",
        "0.02",
        "--threads",
    ]
    arguments = shared_parser("", 4, 0.1).parse_args(["out", "--model", "m", "--device", "cpu", *words, "1"])
    torch.set_num_threads(1)
    start = torch.load(lottery / "dense" / "epoch_002.pt", weights_only=True)
    model = build_model(f"{NETWORKS}:small_resnet", {"num_classes": 2, "width": 4}, 0).requires_grad_(True)
    masks = {name: torch.ones_like(layer.weight) for name, layer in prunable(model, False).items()}
    trainer = Trainer(arguments, mask_model(model, masks), training_data.load_data(arguments))
    trainer.restore(masked_state(start["state_dict"], masks), start["momentum"])
    for epoch in (3, 4):
        trainer.train_epoch(epoch, "")
    end = masked_state(state_of(lottery / "dense" / "epoch_004.pt"), masks)
    assert all(torch.equal(value, end[name]) for name, value in model.state_dict().items())


def test_rewinding_to_the_last_epoch_is_refused(tmp_path, capsys):
    words = [str(tmp_path / "out"), "--data", "d", "--model", "m", "--epochs", "5", "--rewind", "0", "5"]
    assert train_lottery.main(words) == 2
    assert "error: --rewind: 5 is not below --epochs 5" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def listed(counts):
    labels = np.repeat(np.arange(len(counts)), counts)
    names = tuple(f"{row:03}" for row in range(len(labels)))
    classes = tuple("abcdef"[: len(counts)])
    return training_data.Listed(classes, names, labels, lambda index: names[index])


def test_held_out_images_are_a_share_of_each_class():
    images = listed([20, 7, 40, 2])
    train, test = training_data.hold_out(images, 0.1, 3)
    assert np.bincount(test.labels).tolist() == [2, 1, 4, 1]
    assert sorted(train.names + test.names) == list(images.names)
    assert [train.read(index) for index in range(len(train.names))] == list(train.names)
    assert (
        training_data.hold_out(images, 0.1, 3)[1].names == test.names != training_data.hold_out(images, 0.1, 4)[1].names
    )
    with pytest.raises(ConfigError, match="class b has one image"):
        training_data.hold_out(listed([3, 1]), 0.1, 0)


def test_images_per_class_are_drawn_by_the_seed():
    images = listed([20, 7, 40])
    few = training_data.draw_per_class(images, 8, 1, "training images")
    assert np.bincount(few.labels).tolist() == [8, 7, 8]
    assert [few.read(index) for index in range(len(few.names))] == list(few.names)
    assert set(few.names) < set(images.names)
    assert training_data.draw_per_class(images, 8, 1, "training images").names == few.names
    assert training_data.draw_per_class(images, 8, 2, "training images").names != few.names


def test_networks_have_the_layers_that_configs_name():
    for name, arguments, widths in (("small_resnet", {"width": 4}, (4, 32)), ("resnet18_cifar", {}, (64, 512))):
        model = build_model(f"{NETWORKS}:{name}", arguments, 0)
        stem = model.bn1(model.conv1(torch.zeros(1, 3, 32, 32)))
        first = model.layer1(stem)
        last = model.layer4(model.layer3(model.layer2(first)))
        assert first.shape == (1, widths[0], 32, 32)
        assert last.shape == (1, widths[-1], 4, 4)
        assert model(torch.zeros(1, 3, 32, 32)).shape == (1, 10)
        assert torch.equal(model(torch.zeros(1, 3, 32, 32)), model.fc(last.mean((2, 3))))  # nothing pools between


def test_worlds_images_lie_in_a_folder_for_each_class(tmp_path, monkeypatch, capsys):
    words = ["concept_world.py", str(tmp_path / "world"), "--images", "60", "--seed", "4", "--classes", "texture"]
    monkeypatch.setattr(sys, "argv", words)
    concept_world.main()
    world = concept_world.render(60, 4)
    textures = concept_world.CONCEPTS["texture"]
    assert sorted(path.name for path in (tmp_path / "world").iterdir()) == sorted(textures)
    for row, label in enumerate(world.labels["texture"]):
        with Image.open(tmp_path / "world" / textures[label] / f"{row:06d}.png") as image:
            assert np.array_equal(np.asarray(image), world.images[row])
    assert len(list((tmp_path / "world").rglob("*.png"))) == 60
    capsys.readouterr()
    concept_world.main()
    assert "already there" in capsys.readouterr().out
    assert [path.name for path in tmp_path.iterdir()] == ["world"]
    monkeypatch.setattr(sys, "argv", words[:-2])
    with pytest.raises(SystemExit, match="exists and is not a world"):
        concept_world.main()


def test_real_images_are_learned(tmp_path, capsys):
    if not (SHARED / "cifar10_train20k.zip").is_file():
        pytest.skip("../shared/data/cifar10_train20k.zip is absent")
    words = [tmp_path / "out", "--data", SHARED / "cifar10_train20k.zip", "--test-data", SHARED / "cifar10_test.zip"]
    words += ["--model", f"{NETWORKS}:small_resnet", "--model-args", '{"width": 4}', "--precision", "bfloat16"]
    words += ["--images-per-class", 100, "--test-images-per-class", 20, "--epochs", 3, "--batch-size", 32]
    assert train_standard.main([*map(str, words), "--threads", "1", "--device", "cpu"]) == 0
    said = capsys.readouterr().out
    assert "1000 training and 200 test images of 10 classes" in said
    accuracies = [torch.load(tmp_path / "out" / f"epoch_{epoch:03}.pt")["accuracy"] for epoch in (0, 3)]
    assert accuracies[1] > max(0.2, accuracies[0] + 0.05)  # chance is 0.1
