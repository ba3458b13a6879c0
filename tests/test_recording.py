import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

from cmon.errors import CheckpointError, ModelError
from cmon.recording import Recorder, pick_device
from cmon.torchvision_import import torchvision


@pytest.fixture(autouse=True)
def seeded():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def images_of(count, size=16):
    side = (size, size) if isinstance(size, int) else size
    return torch.randn(count, 3, *side, generator=torch.Generator().manual_seed(1))


def record(model, images, layers, batch_size=4, **options):
    recorded = Recorder(tuple(layers), **options)(model.eval(), images.split(batch_size), len(images))
    return {layer.name: layer.values for layer in recorded}


def outputs(model, images, layers):
    """What the layers put out in one plain pass, every map kept: copied, so that nothing later changes them."""
    kept, handles = {}, []
    for name in layers:

        def keep(module, inputs, output, name=name):
            kept[name] = (output[0] if isinstance(output, tuple) else output).clone()

        handles.append(model.get_submodule(name).register_forward_hook(keep))
    with torch.no_grad():
        model.eval()(images)
    for handle in handles:
        handle.remove()
    return {name: kept[name].numpy() for name in layers}


def hooks_of(model):
    return sum(len(module._forward_hooks) for module in model.modules())


class Small(nn.Module):
    """Convolutions with in-place ReLUs, as ResNets have them, and two linear layers."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 5, 3, padding=1)
        self.relu = nn.ReLU(inplace=True)
        self.block = nn.Sequential(nn.Conv2d(5, 7, 3, stride=2), nn.BatchNorm2d(7), nn.ReLU(inplace=True))
        self.hidden = nn.Linear(7, 6)
        self.late_relu = nn.ReLU(inplace=True)
        self.fc = nn.Linear(6, 4)

    def forward(self, x):
        x = self.block(self.relu(self.conv1(x)))
        return self.fc(self.late_relu(self.hidden(x.mean((2, 3)))))


SMALL_LAYERS = ("conv1", "relu", "block.0", "block.1", "block", "hidden", "fc")


@pytest.fixture
def small():
    return Small()


def tiny_vit():
    return torchvision().models.VisionTransformer(
        image_size=16, patch_size=4, num_layers=2, num_heads=2, hidden_dim=8, mlp_dim=16, num_classes=3
    )


VIT_LAYERS = ("encoder.layers.encoder_layer_0", "encoder.layers.encoder_layer_1", "encoder.ln", "heads.head")


# Pooling


@pytest.mark.parametrize("pooling", ["mean", "max"])
def test_maps_are_pooled_as_a_plain_pass_has_them(small, pooling):
    images = images_of(10)
    plain = outputs(small, images, SMALL_LAYERS)
    recorded = record(small, images, SMALL_LAYERS, pooling=pooling)
    for name in SMALL_LAYERS:
        expected = getattr(plain[name], pooling)(axis=(2, 3)) if plain[name].ndim == 4 else plain[name]
        assert recorded[name].dtype == np.float32
        np.testing.assert_allclose(recorded[name], expected, atol=1e-6)


def test_a_layer_before_an_in_place_relu_keeps_its_own_values(small):
    images = images_of(6)
    recorded = record(small, images, ["conv1", "relu", "hidden"], pooling="max")
    assert (recorded["relu"] >= 0).all()
    assert (record(small, images, ["conv1"])["conv1"] < 0).any()
    assert (recorded["hidden"] < 0).any()


@pytest.mark.parametrize("tokens", ["class", "mean"])
def test_tokens_stand_for_an_image_as_asked(tokens):
    model, images = tiny_vit(), images_of(6)
    plain = outputs(model, images, VIT_LAYERS)
    recorded = record(model, images, VIT_LAYERS, tokens=tokens)
    for name in VIT_LAYERS[:3]:
        assert plain[name].shape == (6, 17, 8)
        np.testing.assert_allclose(
            recorded[name], plain[name][:, 0] if tokens == "class" else plain[name].mean(1), atol=1e-6
        )
    np.testing.assert_allclose(recorded["heads.head"], plain["heads.head"], atol=1e-6)


@pytest.mark.parametrize("tokens", ["class", "mean"])
def test_tokens_that_are_changed_in_place_afterwards_keep_their_values(tokens):
    class Residual(nn.Module):
        def __init__(self):
            super().__init__()
            self.tokens = nn.Linear(3, 8)

        def forward(self, x):
            x = self.tokens(x.flatten(2).transpose(1, 2)[:, :5])
            before = x.clone()
            x += 100
            return before

    model, images = Residual(), images_of(4)
    with torch.no_grad():
        expected = model(images)
    recorded = record(model, images, ["tokens"], tokens=tokens)["tokens"]
    np.testing.assert_allclose(recorded, expected[:, 0] if tokens == "class" else expected.mean(1), atol=1e-6)


def test_the_first_of_several_outputs_is_taken():
    model, images = tiny_vit(), images_of(3)
    name = "encoder.layers.encoder_layer_0.self_attention"  # puts out (tokens, None)
    expected = outputs(model, images, [name])[name][:, 0]
    np.testing.assert_allclose(record(model, images, [name])[name], expected, atol=1e-6)


@pytest.mark.parametrize("batch_size", [1, 3, 10, 64])
def test_the_batch_size_does_not_matter(small, batch_size):
    images = images_of(10)
    expected, recorded = record(small, images, SMALL_LAYERS), record(small, images, SMALL_LAYERS, batch_size=batch_size)
    vit = tiny_vit()
    expected |= record(vit, images, VIT_LAYERS)
    recorded |= record(vit, images, VIT_LAYERS, batch_size=batch_size)
    for name, values in expected.items():
        np.testing.assert_allclose(recorded[name], values, atol=1e-6)


def test_layers_come_in_forward_order_however_they_are_listed(small):
    assert list(record(small, images_of(2), ["fc", "block", "conv1", "block.0"])) == ["conv1", "block.0", "block", "fc"]


def test_bfloat16_is_close_to_float32_and_stored_as_float32(small):
    images = images_of(8)
    exact, coarse = (record(small, images, SMALL_LAYERS, precision=p) for p in ("float32", "bfloat16"))
    for name in SMALL_LAYERS:
        assert coarse[name].dtype == np.float32
        np.testing.assert_allclose(coarse[name], exact[name], atol=0.03)
    assert not np.array_equal(coarse["fc"], exact["fc"])


# Which axis counts the units


class ToLast(nn.Module):
    def forward(self, x):
        return x.permute(0, 2, 3, 1)


def swin(size=4):
    return torchvision().models.SwinTransformer(
        patch_size=[4, 4], embed_dim=24, depths=[1, 1], num_heads=[2, 2], window_size=[size, size], num_classes=3
    )


def test_swins_units_are_its_channels_though_they_come_last():
    model, images = swin(), images_of(3, 32)
    layers = ("features.0", "features.1", "features.1.0.norm1", "features.1.0.mlp.1", "features.2", "features.3")
    plain = outputs(model, images, (*layers, "features.0.0", "permute"))
    assert plain["features.1"].shape == (3, 8, 8, 24)
    assert plain["permute"].shape == (3, 48, 4, 4)
    recorded = record(model, images, (*layers, "features.0.0", "permute"))
    for name in layers:
        np.testing.assert_allclose(recorded[name], plain[name].mean((1, 2)), atol=1e-6)
    for name in ("features.0.0", "permute"):
        np.testing.assert_allclose(recorded[name], plain[name].mean((2, 3)), atol=1e-6)


def test_timms_swin_is_pooled_over_its_positions():
    torchvision()
    import timm

    model = timm.create_model(
        "swin_tiny_patch4_window7_224", img_size=28, embed_dim=8, depths=(1, 1), num_heads=(2, 2), num_classes=3
    )
    plain = outputs(model, images_of(2, 28), ["layers.0", "layers.1", "norm"])
    assert plain["layers.0"].shape == (2, 7, 7, 8)
    recorded = record(model, images_of(2, 28), plain, pooling="max")
    for name, values in plain.items():
        np.testing.assert_allclose(recorded[name], values.max(axis=(1, 2)), atol=1e-6)


@pytest.mark.parametrize("source", ["timm", "torchvision"])
def test_convnext_stages_have_their_channels_first_and_their_norms_last(source):
    if source == "timm":
        torchvision()
        import timm

        model = timm.create_model("convnext_atto", depths=(1,) * 4, dims=(12, 24, 24, 24), num_classes=3)
        first, last = ["stem", "stages.0", "stages.1", "stages.0.blocks.0.norm"], []
    else:
        blocks = [torchvision().models.convnext.CNBlockConfig(12, 24, 2)]
        model = torchvision().models.ConvNeXt(blocks, num_classes=3)
        first, last = ["features.0", "features.1", "features.1.0.block.6"], ["features.1.0.block.2"]
    images = images_of(2, 32)
    plain = outputs(model, images, first + last)
    recorded = record(model, images, first + last)
    for name in first:
        np.testing.assert_allclose(recorded[name], plain[name].mean((2, 3)), atol=1e-6)
    for name in last:
        np.testing.assert_allclose(recorded[name], plain[name].mean((1, 2)), atol=1e-6)


@pytest.mark.parametrize("size", [(16, 24), (30, 17), (9, 50)])
def test_images_that_are_not_square_say_which_axis_counts_the_units(size):
    model = nn.Sequential(nn.Conv2d(3, 6, 4, stride=4), nn.Identity(), ToLast(), nn.LayerNorm(6), nn.Identity())
    images = images_of(3, size)
    plain = outputs(model, images, ["1", "2", "4"])
    recorded = record(model, images, ["1", "2", "4"])
    np.testing.assert_allclose(recorded["1"], plain["1"].mean((2, 3)), atol=1e-6)
    for name in ("2", "4"):
        np.testing.assert_allclose(recorded[name], plain[name].mean((1, 2)), atol=1e-6)


def test_as_many_channels_as_rows_are_channels_first_in_a_convolutional_network():
    model = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Sequential(nn.MaxPool2d(1), nn.Identity()))
    images = images_of(3)
    plain = outputs(model, images, ["0", "1", "2"])
    assert plain["2"].shape == (3, 16, 16, 16)
    for name, values in record(model, images, ["0", "1", "2"]).items():
        np.testing.assert_allclose(values, plain[name].mean((2, 3)), atol=1e-6)


def test_a_map_that_could_be_either_way_round_is_refused_in_a_network_with_layer_norms():
    def cube(order):
        return nn.Sequential(nn.Conv2d(3, 4, 4, stride=4), *order, nn.Identity())

    images = images_of(3)
    for model in (cube([ToLast(), nn.LayerNorm(4)]), cube([ToLast(), nn.LayerNorm(4), ToLast(), ToLast()])):
        last = str(len(model) - 1)
        with pytest.raises(
            ModelError, match=r"layer \d: puts out a tensor of shape \(3, 4, 4, 4\), of which"
        ) as caught:
            record(model, images, [last])
        assert "within it" in caught.value.hint
        plain = outputs(model, images, ["0", "2"])  # the types of these say it
        recorded = record(model, images, ["0", "2"])
        np.testing.assert_allclose(recorded["0"], plain["0"].mean((2, 3)), atol=1e-6)
        np.testing.assert_allclose(recorded["2"], plain["2"].mean((1, 2)), atol=1e-6)


def test_a_map_of_one_position_is_pooled_to_its_channels():
    model = nn.Sequential(nn.Conv2d(3, 6, 16), nn.Identity(), ToLast(), nn.LayerNorm(6))
    images = images_of(2)
    plain = outputs(model, images, ["1", "3"])
    for name, values in record(model, images, ["1", "3"]).items():
        np.testing.assert_allclose(values, plain[name].reshape(2, 6), atol=1e-6)


def test_a_one_dimensional_convolution_is_pooled_over_its_positions():
    model, images = nn.Sequential(nn.Flatten(2), nn.Conv1d(3, 6, 1), nn.BatchNorm1d(6)), images_of(2)
    for name, values in record(model, images, ["1", "2"]).items():
        np.testing.assert_allclose(values, outputs(model, images, [name])[name].mean(2), atol=1e-6)


# What has no units


def patches(side, extra=0):
    """A network of tokens: a grid of patches, with other tokens before it."""

    class Tokens(nn.Module):
        def __init__(self):
            super().__init__()
            self.patch = nn.Conv2d(3, 6, side, stride=side)
            self.norm = nn.LayerNorm(6)

        def forward(self, x):
            x = self.patch(x).flatten(2).transpose(1, 2)
            return self.norm(torch.cat([torch.zeros(len(x), extra, 6), x], 1))

    return Tokens()


@pytest.mark.parametrize(("size", "tokens"), [(16, 16), ((8, 24), 12)])
def test_a_grid_of_patches_has_no_class_token(size, tokens):
    images = images_of(3, size)
    with pytest.raises(ModelError, match=rf"\(3, {tokens}, 6\), a grid of patches without a class token") as caught:
        record(patches(4), images, ["norm"])
    assert 'tokens = "mean"' in caught.value.hint
    assert record(patches(4), images, ["norm"], tokens="mean")["norm"].shape == (3, 6)


@pytest.mark.parametrize("extra", [1, 2, 5])
def test_tokens_before_the_grid_are_class_tokens(extra):
    recorded = record(patches(4, extra), images_of(3), ["norm"])["norm"]
    np.testing.assert_allclose(recorded, np.zeros((3, 6)), atol=1e-6)


def test_tokens_before_images_are_refused():
    class SequenceFirst(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = nn.LayerNorm(3)

        def forward(self, x):
            return self.norm(x.flatten(2)[:, :, :5].permute(2, 0, 1))

    with pytest.raises(ModelError, match=r"shape \(5, 4, 3\), for 4 images"):
        record(SequenceFirst(), images_of(8), ["norm"])
    with pytest.raises(ModelError, match="images and tokens cannot be told apart") as caught:
        record(SequenceFirst(), images_of(10), ["norm"], batch_size=5)
    assert "batch_size" in caught.value.hint


def test_an_output_that_is_not_one_row_an_image_is_refused():
    model = nn.Sequential(nn.Linear(16, 4), nn.Flatten(0, 1), nn.Flatten())
    with pytest.raises(ModelError, match=r"layer 1: puts out a tensor of shape \(6, 16, 4\), for 2 images"):
        record(model, images_of(4), ["1"], batch_size=2)


@pytest.mark.parametrize(
    ("output", "kind"),
    [
        (lambda x: x[:, 0, 0, 0].long()[:, None], r"a tensor of shape \(4, 1\)"),
        (lambda x: x[:, 0, 0, 0], r"a tensor of shape \(4,\)"),
        (lambda x: x.mean(), r"a tensor of shape \(\)"),
        (lambda x: x[:, :, None], r"a tensor of shape \(4, 3, 1, 16, 16\)"),
        (lambda x: torch.fft.fft(x), r"a tensor of shape \(4, 3, 16, 16\)"),
        (lambda x: {"out": x}, "a dict"),
        (lambda x: (), "a tuple"),
        (lambda x: None, "a NoneType"),
    ],
)
def test_an_output_without_units_is_refused_by_its_kind(output, kind):
    class Odd(nn.Module):
        def forward(self, x):
            return output(x)

    model = nn.Sequential(Odd())
    with pytest.raises(ModelError, match=f"layer 0: puts out {kind}, which has no units"):
        record(model, images_of(4), ["0"])
    assert hooks_of(model) == 0


# Models that cannot be recorded


def test_a_layer_that_runs_twice_is_refused():
    shared = nn.Conv2d(3, 3, 1)
    model = nn.Sequential(shared, nn.ReLU(), shared)
    with pytest.raises(ModelError, match="layer 0: runs more than once in a forward pass"):
        record(model, images_of(2), ["0"])
    assert hooks_of(model) == 0


def test_a_layer_that_never_runs_is_named(small):
    small.aside = nn.Linear(3, 3)
    with pytest.raises(ModelError, match="layer aside: does not run in a forward pass"):
        record(small, images_of(2), ["conv1", "aside"])
    assert hooks_of(small) == 0


def test_a_layer_that_runs_in_the_first_batch_only_is_named():
    class Once(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.ran = nn.Conv2d(3, 3, 1), False

        def forward(self, x):
            self.ran, ran = True, self.ran
            return x if ran else self.layer(x)

    with pytest.raises(ModelError, match="layer layer: does not run"):
        record(Once(), images_of(4), ["layer"], batch_size=2)


def failing(error):
    class Fails(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Identity()

        def forward(self, x):
            self.layer(x)
            raise error

    return Fails()


def test_a_model_that_fails_on_the_image_size_says_so():
    model = nn.Sequential(nn.Conv2d(3, 2, 3), nn.Flatten(), nn.Linear(2 * 14 * 14, 2))
    with pytest.raises(ModelError, match=r"shape \(3, 20, 20\): RuntimeError: mat1 and mat2") as caught:
        record(model, images_of(4, 20), ["0"])
    assert "preprocess" in caught.value.hint
    assert hooks_of(model) == 0
    assert record(model, images_of(4, 16), ["0"])["0"].shape == (4, 2)


def test_a_vision_transformers_assertion_on_the_image_size_is_reported():
    with pytest.raises(ModelError, match=r"fails on images of shape \(3, 24, 24\): AssertionError: Wrong image height"):
        record(tiny_vit(), images_of(2, 24), VIT_LAYERS)


@pytest.mark.parametrize("kind", [AssertionError, AttributeError, IndexError, KeyError, TypeError, ValueError])
def test_what_a_models_code_raises_is_one_line_and_leaves_no_hook(kind):
    model = failing(kind("first\nsecond"))
    with pytest.raises(ModelError, match="fails on images of shape") as caught:
        record(model, images_of(2), ["layer"])
    assert "\n" not in str(caught.value)
    assert isinstance(caught.value.__cause__, kind)
    assert hooks_of(model) == 0


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory"),
    ],
)
def test_too_little_memory_asks_for_smaller_batches(error):
    with pytest.raises(ModelError) as caught:
        record(failing(error), images_of(2), ["layer"])
    assert "activations.batch_size" in caught.value.hint


def test_what_the_images_raise_is_not_blamed_on_the_model(small):
    def batches():
        yield images_of(2)
        raise ValueError("the cache is damaged")

    with pytest.raises(ValueError, match="the cache is damaged"):
        Recorder(("conv1",))(small.eval(), batches(), 4)
    assert hooks_of(small) == 0


def test_interrupting_leaves_no_hook(small):
    def batches():
        yield images_of(2)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Recorder(("conv1", "fc"))(small.eval(), batches(), 4)
    assert hooks_of(small) == 0


def test_recording_leaves_no_hook(small):
    record(small, images_of(2), SMALL_LAYERS)
    assert hooks_of(small) == 0


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_activations_that_are_not_finite_name_the_layer_and_its_units(small, value):
    small.conv1.bias.data[[1, 3]] = value
    with pytest.raises(CheckpointError, match="units 1, 3 of layer conv1 are NaN or infinite") as caught:
        record(small, images_of(5), ["conv1"])
    assert "weights" in caught.value.hint


def test_one_image_that_makes_nan_is_enough(small):
    images = images_of(5)
    images[4, 0, 3, 3] = float("nan")
    with pytest.raises(CheckpointError, match=r"units 0, 1, 2, 3, 4 of layer conv1"):
        record(small, images, ["conv1", "fc"])


# Memory

MEASURE = """
import os, psutil, torch
from torch import nn
from cmon.recording import Recorder
torch.set_num_threads(1)
process, peak = psutil.Process(), []

class Step(nn.Module):
    def forward(self, x):
        peak.append(process.memory_info().rss)
        return x * 1.01

layers, shape = 12, SHAPE
model = nn.Sequential(*(Step() for _ in range(layers)))

class Images(nn.Module):
    def __init__(self):
        super().__init__()
        self.steps = model
    def forward(self, x):
        return self.steps(torch.ones(shape) * x.mean())

images = torch.ones(6, 3, 8, 8)
start = process.memory_info().rss
kept = Recorder(tuple(f"steps.{i}" for i in range(layers)), precision=PRECISION)(Images().eval(), images.split(2), 6)
print((max(peak) - start) / (4 * torch.Size(shape).numel()))
"""


@pytest.mark.parametrize("shape", ["(2, 64, 256, 256)", "(2, 4097, 1024)"])
def test_no_map_is_kept_beyond_its_layer(shape):
    """Twelve maps of 32 MiB in a row, of which the network itself holds two or three at a time."""
    program = MEASURE.replace("SHAPE", shape).replace("PRECISION", "'float32'")
    finished = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert float(finished.stdout) < 5


# Devices


def test_a_device_that_is_not_there_is_refused():
    assert pick_device("cpu") == "cpu"
    assert pick_device("auto") in ("cpu", "cuda")
    for asked in ("cuda:99", "gpu"):
        with pytest.raises(ModelError, match=f"--device: {asked} cannot be used") as caught:
            pick_device(asked)
        assert "\n" not in str(caught.value)


# Maps


def watched(model, images, layers, batch_size=4, **options):
    """The maps that a watch is shown, over all batches."""
    shown = {name: [] for name in layers}
    recorder = Recorder(tuple(layers), **options)
    recorder.watch(model.eval(), images.split(batch_size), lambda name, maps: shown[name].append(maps.clone()))
    return {name: torch.cat(maps).numpy() for name, maps in shown.items()}


def test_a_watch_is_shown_maps_as_a_plain_pass_has_them_and_columns_as_one_position(small):
    images = images_of(6)
    plain, shown = outputs(small, images, SMALL_LAYERS), watched(small, images, SMALL_LAYERS)
    for name in SMALL_LAYERS:
        expected = plain[name] if plain[name].ndim == 4 else plain[name][:, :, None, None]
        assert shown[name].dtype == np.float32
        np.testing.assert_allclose(shown[name], expected, atol=1e-6)


def test_a_watch_is_shown_the_same_in_a_recording_pass(small):
    images, shown = images_of(6), []
    recorder = Recorder(SMALL_LAYERS)
    recorder(small.eval(), images.split(4), 6, lambda name, maps: shown.append((name, maps.clone().numpy())))
    apart = watched(small, images, SMALL_LAYERS)
    for name in SMALL_LAYERS:
        together = np.concatenate([maps for layer, maps in shown if layer == name])
        np.testing.assert_array_equal(together, apart[name])


def test_patches_of_a_transformer_are_a_map_without_the_class_token():
    model, images = tiny_vit(), images_of(5)
    layer = VIT_LAYERS[0]
    tokens = outputs(model, images, [layer])[layer]
    shown = watched(model, images, [layer])[layer]
    assert shown.shape == (5, 8, 4, 4)
    for row in range(4):
        for column in range(4):
            np.testing.assert_allclose(shown[:, :, row, column], tokens[:, 1 + 4 * row + column], atol=1e-5)


def test_maps_with_their_units_last_are_turned():
    class UnitsLast(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = nn.LayerNorm(3)

        def forward(self, x):
            return self.norm(x.permute(0, 2, 3, 1))

    model, images = UnitsLast(), images_of(4)
    expected = outputs(model, images, ["norm"])["norm"].transpose(0, 3, 1, 2)
    np.testing.assert_allclose(watched(model, images, ["norm"])["norm"], expected, atol=1e-6)


def test_positions_that_have_no_place_in_the_image_are_an_error():
    model = nn.Sequential(nn.Flatten(2), nn.Conv1d(3, 7, 5))
    with pytest.raises(ModelError, match="no place in the image"):
        watched(model, images_of(4), ["1"])
    record(model, images_of(4), ["1"])


@pytest.mark.parametrize("prefix", [2, 5])
def test_tokens_of_which_it_is_not_known_which_are_patches_are_an_error(prefix):
    class Tokens(nn.Module):
        def __init__(self):
            super().__init__()
            self.last = nn.Linear(3, 4)

        def forward(self, x):
            return self.last(torch.zeros(len(x), prefix + 16, 3))

    with pytest.raises(ModelError, match="no place in the image"):
        watched(Tokens(), images_of(4), ["last"])


def test_maps_of_a_half_precision_pass_are_float32():
    model, images = Small().eval(), images_of(4)
    shown = watched(model, images, ["conv1"], precision="bfloat16")["conv1"]
    assert shown.dtype == np.float32
    np.testing.assert_allclose(shown, outputs(model, images, ["conv1"])["conv1"], atol=0.05)
