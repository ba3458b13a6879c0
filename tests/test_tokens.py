"""What stands for an image in a sequence of tokens, and what a model's layers are told to put out."""

import numpy as np
import pytest
import torch
from torch import nn

from cmon.errors import ModelError
from cmon.recording import LayerShape, MemoryShortageError, Recorder, describe_layers


class Tokens(nn.Module):
    """A grid of patches with other tokens, which are numbered, before it."""

    def __init__(self, extra=0, side=4, embed=True):
        super().__init__()
        self.embed = nn.Conv2d(3, 6, side, stride=side) if embed else None
        self.side, self.extra = side, extra
        self.last = nn.Identity()

    def patches(self, x):
        return self.embed(x) if self.embed else nn.functional.avg_pool2d(x.repeat(1, 2, 1, 1), self.side)

    def forward(self, x):
        before = torch.arange(self.extra * 6.0).view(1, self.extra, 6).expand(len(x), -1, -1)
        return self.last(torch.cat([before, self.patches(x).flatten(2).mT], 1))


@pytest.fixture(autouse=True)
def seeded():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def images_of(count, *size):
    return torch.randn(count, 3, *(size or (16, 16)), generator=torch.Generator().manual_seed(1))


def record(model, images, tokens="patches", batch_size=2, layer="last", **options):
    recorder = Recorder((layer,), tokens=tokens, **options)
    return recorder(model.eval(), images.split(batch_size), len(images))[0].values


def shown(model, images, **options):
    kept = []
    Recorder(("last",), **options).watch(model.eval(), [images], lambda name, maps: kept.append(maps.numpy().copy()))
    return kept[0]


def grid_of(model, images):
    with torch.no_grad():
        return model.eval().patches(images).numpy()


# How many come before the patches


@pytest.mark.parametrize("pooling", ["mean", "max"])
@pytest.mark.parametrize("extra", [0, 1, 2, 5, 16])
def test_patches_are_pooled_without_the_tokens_before_them(extra, pooling):
    model, images = Tokens(extra), images_of(3)
    expected = getattr(grid_of(model, images), pooling)(axis=(2, 3))
    np.testing.assert_allclose(record(model, images, pooling=pooling), expected, atol=1e-6)
    np.testing.assert_allclose(shown(model, images), grid_of(model, images), atol=1e-6)


def test_more_tokens_than_any_network_has_before_its_patches_are_an_error_unless_stated():
    model, images = Tokens(17), images_of(3)
    for use in (record, shown):
        with pytest.raises(ModelError) as caught:
            use(model, images)
        assert caught.value.hint.startswith("set the run's prefix_tokens")
    expected = grid_of(model, images)
    np.testing.assert_allclose(record(model, images, prefix_tokens=17), expected.mean((2, 3)), atol=1e-6)
    np.testing.assert_allclose(shown(model, images, prefix_tokens=17), expected, atol=1e-6)


@pytest.mark.parametrize("stated", [0, 3])
def test_what_is_stated_counts_more_than_what_is_found(stated):
    model, images = Tokens(1), images_of(3)
    tokens = torch.cat(
        [torch.arange(6.0).view(1, 1, 6).expand(3, -1, -1), torch.from_numpy(grid_of(model, images)).flatten(2).mT], 1
    )
    recorded = record(model, images, prefix_tokens=stated)
    np.testing.assert_allclose(recorded, tokens[:, stated:].mean(1), atol=1e-6)
    with pytest.raises(ModelError, match="no place in the image"):
        shown(model, images, prefix_tokens=stated)


def test_no_patch_left_is_an_error():
    with pytest.raises(ModelError, match="17 tokens, of which none is left after prefix_tokens = 17"):
        record(Tokens(1), images_of(2), prefix_tokens=17)
    assert record(Tokens(1), images_of(2), prefix_tokens=16).shape == (2, 6)


@pytest.mark.parametrize(("extra", "found"), [(0, True), (1, True), (2, False), (4, False)])
def test_without_a_patch_embedding_a_grid_that_divides_the_image_is_told_by_its_number(extra, found):
    model, images = Tokens(extra, embed=False), images_of(3)
    expected = grid_of(model, images)
    if not found:
        for use in (record, shown):
            with pytest.raises(ModelError) as caught:
                use(model, images)
            assert "prefix_tokens" in caught.value.hint
    stated = {} if found else {"prefix_tokens": extra}
    np.testing.assert_allclose(record(model, images, **stated), expected.mean((2, 3)), atol=1e-6)
    np.testing.assert_allclose(shown(model, images, **stated), expected, atol=1e-6)


@pytest.mark.parametrize("rounded_up", [True, False])
@pytest.mark.parametrize("size", [(28, 20), (56, 40), (32, 16)])
def test_patches_that_are_merged_in_squares_are_a_grid_too(size, rounded_up):
    class Merged(Tokens):
        def patches(self, x):
            return nn.functional.avg_pool2d(self.embed(x), 2, ceil_mode=rounded_up)

    model, images = Merged(), images_of(3, *size)
    expected = grid_of(model, images)
    np.testing.assert_allclose(record(model, images), expected.mean((2, 3)), atol=1e-6)
    np.testing.assert_allclose(shown(model, images), expected, atol=1e-6)
    with pytest.raises(ModelError, match="a grid of patches without a class token"):
        record(model, images, "class")


def test_an_image_that_is_padded_within_the_network_is_no_matter():
    class Padded(Tokens):
        def patches(self, x):
            return self.embed(nn.functional.pad(x, (0, 3, 0, 2)))

    model, images = Padded(2), images_of(3, 14, 17)
    expected = grid_of(model, images)
    assert expected.shape[2:] == (4, 5)
    np.testing.assert_allclose(record(model, images), expected.mean((2, 3)), atol=1e-6)
    np.testing.assert_allclose(shown(model, images), expected, atol=1e-6)


def test_each_of_two_patch_embeddings_explains_its_own_tokens():
    class Two(Tokens):
        def __init__(self):
            super().__init__(1, side=5)
            self.finer = nn.Conv2d(3, 6, 4, stride=4)
            self.fine = nn.Identity()

        def forward(self, x):
            coarse = super().forward(x)
            self.fine(torch.cat([torch.zeros(len(x), 1, 6), self.finer(x).flatten(2).mT], 1))
            return coarse

    model, images = Two(), images_of(3, 20, 20)
    np.testing.assert_allclose(record(model, images), grid_of(model, images).mean((2, 3)), atol=1e-6)
    with torch.no_grad():
        expected = model.finer(images).mean((2, 3))
    np.testing.assert_allclose(record(model, images, layer="fine"), expected, atol=1e-6)


def test_a_convolution_of_single_pixels_is_no_patch_embedding():
    class Coloured(Tokens):
        def __init__(self):
            super().__init__(side=3, embed=False)
            self.colours = nn.Conv2d(3, 3, 1)

        def patches(self, x):
            return super().patches(self.colours(x))

    model, images = Coloured(), images_of(3, 15, 15)
    np.testing.assert_allclose(shown(model, images), grid_of(model, images), atol=1e-6)


def test_images_of_another_size_have_a_grid_of_their_own():
    model, kept = Tokens(8), []
    batches = [images_of(1, 16, 24), images_of(1, 16, 16)]
    Recorder(("last",)).watch(model.eval(), batches, lambda name, maps: kept.append(maps.numpy().copy()))
    for maps, batch in zip(kept, batches, strict=True):
        np.testing.assert_allclose(maps, grid_of(model, batch), atol=1e-6)


# The class token


@pytest.mark.parametrize("name", ["reg_token", "register_tokens", "storage_tokens"])
@pytest.mark.parametrize(("extra", "is_class"), [(4, False), (5, True)])
def test_a_register_is_not_passed_off_as_the_class_token(name, extra, is_class):
    model, images = Tokens(extra), images_of(3)
    model.register_parameter(name, nn.Parameter(torch.zeros(1, 4, 6)))
    if is_class:
        np.testing.assert_allclose(record(model, images, "class"), np.tile(np.arange(6.0), (3, 1)))
    else:
        with pytest.raises(ModelError, match="4 registers and a grid of patches without a class token") as caught:
            record(model, images, "class")
        assert caught.value.hint == 'set the run\'s tokens = "mean" or "patches"'
    np.testing.assert_allclose(record(model, images), grid_of(model, images).mean((2, 3)), atol=1e-6)


@pytest.mark.parametrize("name", ["region_token", "cls_token", "prereg_tokens"])
def test_other_tokens_are_no_registers(name):
    model = Tokens(1)
    model.register_parameter(name, nn.Parameter(torch.zeros(1, 1, 6)))
    np.testing.assert_allclose(record(model, images_of(3), "class"), np.tile(np.arange(6.0), (3, 1)))


def test_where_the_patches_are_not_known_a_register_or_a_grid_is_no_class_token():
    model = Tokens(4, embed=False)
    model.reg_token = nn.Parameter(torch.zeros(1, 4, 6))
    with pytest.raises(ModelError, match="without a class token") as caught:
        record(model, images_of(3), "class")
    assert "prefix_tokens" in caught.value.hint
    assert record(model, images_of(3), "class", prefix_tokens=5).shape == (3, 6)

    class Finer(Tokens):
        def patches(self, x):
            self.embed(x)
            return x.repeat(1, 2, 1, 1)[:, :, ::2, ::2]

    with pytest.raises(ModelError, match=r"\(2, 64, 6\), a grid of patches without a class token"):
        record(Finer(), images_of(3), "class")


def test_a_class_token_by_itself_is_one_and_has_no_patches():
    class Alone(Tokens):
        def forward(self, x):
            return self.last(super().patches(x).mean((2, 3))[:, None])

    model, images = Alone(), images_of(3)
    expected = grid_of(model, images).mean((2, 3))
    np.testing.assert_allclose(record(model, images, "class"), expected, atol=1e-6)
    with pytest.raises(ModelError, match="1 tokens, of which it is not known which are patches"):
        record(model, images)


# Images and tokens


def test_tokens_before_images_are_refused_for_as_many_images_as_tokens():
    class SequenceFirst(Tokens):
        def forward(self, x):
            return self.last(self.patches(x).flatten(2).permute(2, 0, 1))

    with pytest.raises(ModelError, match=r"shape \(16, 16, 6\), for 16 images, so that images and tokens cannot be"):
        record(SequenceFirst(), images_of(16), "mean", 16)


@pytest.mark.parametrize("tokens", ["class", "mean", "patches"])
def test_as_many_images_as_tokens_give_what_any_other_batch_does(tokens):
    model, images = Tokens(1), images_of(17)
    expected = record(model, images, tokens, 5)
    np.testing.assert_allclose(record(model, images, tokens, 17), expected, atol=1e-6)


# What is read


@pytest.mark.parametrize("layer", [nn.AdaptiveAvgPool1d(2), nn.AdaptiveMaxPool1d(1), nn.AvgPool1d(4), nn.MaxPool1d(4)])
def test_pooling_over_a_sequence_leaves_its_units_where_they_are(layer):
    model, images = nn.Sequential(nn.Conv2d(3, 6, 4, stride=4), nn.Flatten(2), layer), images_of(3)
    with torch.no_grad():
        expected = model(images).mean(2)
    np.testing.assert_allclose(record(model, images, "class", layer="2"), expected, atol=1e-6)


def test_of_a_model_output_the_first_value_counts():
    class ModelOutput(dict):
        def to_tuple(self):
            return tuple(self.values())

    class Named(nn.Module):
        def forward(self, x):
            return ModelOutput(logits=x.mean((2, 3)), other=x)

    images = images_of(3)
    recorded = record(nn.Sequential(Named()), images, layer="0")
    np.testing.assert_allclose(recorded, images.mean((2, 3)), atol=1e-6)


# All layers described


class Described(Tokens):
    def __init__(self):
        super().__init__(1)
        self.twice, self.never = nn.ReLU(), nn.Linear(2, 2)
        self.whole, self.nothing = nn.Identity(), nn.Identity()
        self.head = nn.Sequential(nn.Linear(6, 4), nn.LayerNorm(4))

    def forward(self, x):
        self.nothing(None)
        self.whole(self.twice(x).sum())
        return self.head(self.twice(super().forward(x)).mean(1))


def test_layers_are_described_with_what_keeps_them_from_being_recorded():
    whole = "puts out a tensor of shape (), which has no units"
    expected = [
        LayerShape("embed", "Conv2d", "map", 6, (6, 4, 4)),
        LayerShape("last", "Identity", "tokens", 6, (17, 6), 1),
        LayerShape("twice", "ReLU", "map", 3, (3, 16, 16), problem="runs more than once in a forward pass"),
        LayerShape("never", "Linear", problem="does not run in a forward pass"),
        LayerShape("whole", "Identity", problem=whole),
        LayerShape("nothing", "Identity", problem="puts out a NoneType, which has no units"),
        LayerShape("head", "Sequential", "columns", 4, (4,)),
        LayerShape("head.0", "Linear", "columns", 4, (4,)),
        LayerShape("head.1", "LayerNorm", "columns", 4, (4,)),
    ]
    model = Described().eval()
    assert describe_layers(model, images_of(2)) == tuple(expected)
    assert not any(module._forward_hooks for module in model.modules())


@pytest.mark.parametrize(
    ("tokens", "prefix", "problem"),
    [
        ("class", None, "a grid of patches without a class token"),
        ("mean", None, ""),
        ("patches", None, ""),
        ("patches", 16, "of which none is left after prefix_tokens = 16"),
    ],
)
def test_a_layer_is_described_for_the_tokens_that_are_asked_for(tokens, prefix, problem):
    *_, last = describe_layers(Tokens().eval(), images_of(2), tokens, prefix)
    assert (last.kind, last.units, last.shape) == ("tokens", 6, (16, 6))
    assert problem in last.problem
    assert bool(problem) == bool(last.problem)


def test_a_model_that_fails_cannot_be_described():
    with pytest.raises(ModelError, match=r"fails on images of shape \(3, 2, 2\): RuntimeError") as caught:
        describe_layers(Tokens().eval(), images_of(2, 2, 2))
    assert "preprocess" in caught.value.hint

    class Large(nn.Module):
        def forward(self, x):
            raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(MemoryShortageError, match="out of memory with 2 images"):
        describe_layers(Large(), images_of(2))
