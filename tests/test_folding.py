"""Batch normalisation folded into convolutions: the same outputs, and only where nobody else sees the difference."""

import pytest
import torch
from torch import Tensor, nn

from cmon.models import build_model
from cmon.recording import Recorder, foldable, folded


def settle(model):
    """Give all normalisation statistics and weights of its own, so that leaving one out or taking it twice shows."""
    random = torch.Generator().manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.5, generator=random)
            module.running_var.uniform_(0.3, 3, generator=random)
            if module.affine:
                nn.init.uniform_(module.weight, 0.5, 2, generator=random)
                nn.init.normal_(module.bias, 0, 0.5, generator=random)
    return model.eval().requires_grad_(False)


def images(count=3, side=32):
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(1))


def recorded(model, layers):
    return {layer.name: torch.from_numpy(layer.values) for layer in Recorder(layers)(model, [images()], 3)}


def close(one, other):
    assert one.keys() == other.keys()
    for name in one:
        torch.testing.assert_close(one[name], other[name], rtol=1e-4, atol=1e-5)


class Plain(nn.Module):
    """A convolution, its normalisation, and what a subclass makes of both."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, bias=False)
        self.norm = nn.BatchNorm2d(4)
        self.layer = nn.Conv2d(4, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(self.norm(self.conv(x)).relu())


class ReadTwice(Plain):
    def forward(self, x: Tensor) -> Tensor:
        before = self.conv(x)
        return self.layer(self.norm(before).relu() + before)


class RunTwice(Plain):
    def forward(self, x: Tensor) -> Tensor:
        return self.layer(self.norm(self.conv(x)).relu() + self.norm(self.conv(-x)))


class WeightRead(Plain):
    def forward(self, x: Tensor) -> Tensor:
        return self.layer(self.norm(self.conv(x)).relu()) * self.conv.weight.mean()


class Branching(Plain):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x if x.mean() > 0 else -x)


class Inner(nn.Module):
    """Puts out the convolution first and its normalisation second, of which the network uses the second alone."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        before = self.conv(x)
        return before, self.norm(before)


class Outer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner, self.layer = Inner(), nn.Conv2d(4, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(self.inner(x)[1])


@pytest.mark.parametrize(
    ("source", "layers", "count"),
    [
        ("torchvision:resnet18", ("layer2", "layer4"), 20),
        # A recorded convolution or normalisation is left as it is.
        ("torchvision:resnet18", ("layer2.0.conv1", "layer4.1.bn2", "layer4"), 18),
        ("torchvision:mobilenet_v2", ("features.5",), 52),
        # A dense block normalises what it has put together, of which its convolutions are only parts.
        ("torchvision:densenet121", ("features.denseblock2",), 59),
    ],
)
def test_real_networks_are_folded_and_put_out_the_same(source, layers, count):
    model = settle(build_model(source, {}))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    expected, pairs = recorded(model, layers), foldable(model, layers)
    assert len(pairs) == count
    with folded(model, pairs):
        close(recorded(model, layers), expected)
        assert sum(isinstance(module, nn.Identity) for module in model.modules()) >= count
    assert list(model.state_dict()) == list(before)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(torch.equal(one, expected[name]) for name, one in recorded(model, layers).items())


def test_a_plain_pair_is_folded():
    assert foldable(settle(Plain()), ("layer",)) == (("conv", "norm"),)


@pytest.mark.parametrize("kind", [ReadTwice, RunTwice, WeightRead, Branching])
def test_a_convolution_that_someone_else_sees_is_left_alone(kind):
    assert foldable(settle(kind()), ("layer",)) == ()


def test_what_a_recorded_layer_puts_out_counts_as_seen():
    model = settle(Outer())
    assert foldable(model, ("layer",)) == (("inner.conv", "inner.norm"),)
    assert foldable(model, ("inner", "layer")) == ()


@pytest.mark.parametrize("layer", ["conv", "norm"])
def test_a_recorded_module_is_left_alone(layer):
    assert foldable(settle(Plain()), (layer,)) == ()


def test_normalisation_by_the_batch_itself_is_left_alone():
    model = Plain()
    model.norm = nn.BatchNorm2d(4, track_running_stats=False)
    assert foldable(model.eval(), ("layer",)) == ()


def test_hooked_modules_are_left_alone():
    model = settle(Plain())
    model.conv.register_forward_hook(lambda module, inputs, output: output * 2)
    assert foldable(model, ("layer",)) == ()


def test_normalisation_without_scale_and_shift_is_folded():
    model = Plain()
    model.norm = nn.BatchNorm2d(4, affine=False)
    model = settle(model)
    expected, pairs = recorded(model, ("layer",)), foldable(model, ("layer",))
    assert pairs
    with folded(model, pairs):
        close(recorded(model, ("layer",)), expected)


class Shared(Plain):
    def __init__(self) -> None:
        super().__init__()
        self.again = self.norm

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(self.again(self.norm(self.conv(x))))


def test_a_shared_module_under_two_names_is_left_alone():
    assert foldable(settle(Shared()), ("layer",)) == ()


def test_a_model_whose_forward_was_replaced_is_left_alone():
    model = settle(Plain())
    model.forward = lambda x: model.layer(model.norm(model.conv(x))) + model.conv(x).mean()
    assert foldable(model, ("layer",)) == ()


def test_the_weights_are_restored_after_an_error():
    model = settle(Plain())
    weight = model.conv.weight
    with pytest.raises(ZeroDivisionError), folded(model, foldable(model, ("layer",))):
        raise ZeroDivisionError
    assert model.conv.weight is weight and model.conv.bias is None and isinstance(model.norm, nn.BatchNorm2d)


def test_nothing_is_left_in_a_model_by_looking_at_it():
    class Remembers(Plain):
        def forward(self, x: Tensor) -> Tensor:
            self.last = x
            return super().forward(x)

    model = settle(Remembers())
    foldable(model, ("layer",))
    assert not hasattr(model, "last")
