"""Pruned weights: as torch's own pruning saves them, by masks of a file of their own, and how sparse they are."""

from functools import partial
from math import isnan
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import nn
from torch.nn.utils import prune

from cmon.checkpoints import Weights, fit, load_into, mask_weights, read_checkpoint, read_masks, sparsity
from cmon.errors import CheckpointError

ANYWHERE = Path("checkpoint.pt")
MASKS = Path("masks.pt")


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 4, 3)
        self.layer = nn.Sequential(nn.Conv2d(4, 5, 3), nn.BatchNorm2d(5), nn.ReLU())
        self.fc = nn.Linear(5, 2)

    def forward(self, x):
        return self.fc(self.layer(self.conv1(x)).mean((2, 3)))


def net(seed=0):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Net().eval()


def images():
    return torch.randn(6, 3, 9, 9, generator=torch.Generator().manual_seed(1))


def features(model):
    with torch.no_grad():
        return model(images())


def by_torch(model):
    """Prune as torch does it, each layer in another way, one twice, and a bias too."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        prune.l1_unstructured(model.conv1, "weight", 0.5)
        prune.random_unstructured(model.conv1, "weight", 0.4)
        prune.ln_structured(model.layer[0], "weight", 0.4, n=2, dim=0)
        prune.random_unstructured(model.fc, "bias", 1)
    return model


# 70 % of the 108, 180 and 10 weights of conv1, layer.0 and fc are 208.6.
SHARE = 209 / 298


def globally(model):
    weights = [(model.conv1, "weight"), (model.layer[0], "weight"), (model.fc, "weight")]
    prune.global_unstructured(weights, prune.L1Unstructured, amount=0.7)
    return model


def saved(path, content):
    torch.save(content, path)
    return path


def refusal(act, *words):
    """Hold that it is refused in one line, and return this."""
    with pytest.raises(CheckpointError) as caught:
        act()
    told = f"{caught.value}: {caught.value.hint}"
    assert told.isprintable()
    for word in words:
        assert word in told, told
    return caught.value


# --- as torch saves them


@pytest.mark.parametrize("pruned", [by_torch, globally])
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "model.", "module._orig_mod.", "net.backbone."])
def test_a_network_that_torch_pruned_puts_out_the_same_to_the_last_bit(tmp_path, pruned, prefix):
    source = pruned(net())
    state = {prefix + name: value for name, value in source.state_dict().items()}
    path = saved(tmp_path / "x.pt", {"state_dict": state, "epoch": 4})
    model = net(seed=1)
    load_into(model, read_checkpoint(path, None, "raw", False), path)
    assert torch.equal(features(model), features(source))
    assert not torch.equal(features(model), features(net()))


@pytest.mark.parametrize("wrap", [nn.DataParallel, partial(torch.compile, backend="eager")])
def test_wrappers_of_torch_itself_are_no_hindrance(wrap):
    source = globally(net())
    model = net(seed=1)
    load_into(model, Weights(wrap(source).state_dict(), None), ANYWHERE)
    assert torch.equal(features(model), features(source))


def test_wrappers_within_names_are_taken_off_pruned_ones_too():
    source = globally(net())
    state = {name.replace("layer.", "layer._orig_mod."): value for name, value in source.state_dict().items()}
    model = net(seed=1)
    load_into(model, Weights(state, None), ANYWHERE)
    assert torch.equal(features(model), features(source))


def test_pruning_that_was_removed_before_saving_is_plain_zeros():
    source = globally(net())
    for module in (source.conv1, source.layer[0], source.fc):
        prune.remove(module, "weight")
    model = net(seed=1)
    load_into(model, Weights(source.state_dict(), None), ANYWHERE)
    assert torch.equal(features(model), features(source))
    assert sparsity(model) == SHARE


def linear(**tensors):
    model = nn.Module()
    model.fc = nn.Linear(2, 2, bias=False)
    return model, Weights({name.replace("__", "."): value for name, value in tensors.items()}, None)


ORIGINAL = torch.tensor([[1.0, -2.0], [3.0, 4.0]])
KEPT = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
PRODUCT = torch.tensor([[1.0, 0.0], [0.0, 4.0]])


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int64, torch.float16, torch.float64])
@pytest.mark.parametrize("of", [torch.float16, torch.float32, torch.float64, torch.bfloat16, torch.float8_e5m2])
def test_masks_and_originals_of_any_type_are_multiplied(dtype, of):
    model, weights = linear(fc__weight_orig=ORIGINAL.to(of), fc__weight_mask=KEPT.to(dtype))
    assert torch.equal(fit(weights, model, ANYWHERE)["fc.weight"], PRODUCT)


@pytest.mark.parametrize(
    ("tensors", "words"),
    [
        ({"fc__weight_orig": ORIGINAL}, ["fc.weight_orig without fc.weight_mask"]),
        ({"fc__weight_mask": KEPT}, ["fc.weight_mask without fc.weight_orig"]),
        ({"fc__weight_mask": KEPT, "fc__weight": ORIGINAL}, ["fc.weight_mask beside fc.weight without", "run's masks"]),
        ({"fc__weight_orig": ORIGINAL, "fc__weight": ORIGINAL}, ["fc.weight_orig beside fc.weight without"]),
        (
            {"fc__weight_orig": ORIGINAL, "fc__weight_mask": KEPT[:1]},
            ["fc.weight_mask is 1x2", "fc.weight_orig is 2x2"],
        ),
        ({"fc__weight_orig": ORIGINAL, "fc__weight_mask": KEPT / 2}, ["fc.weight_mask is no mask", "holds 0.5"]),
        ({"fc__weight_orig": ORIGINAL, "fc__weight_mask": KEPT * torch.nan}, ["fc.weight_mask", "holds nan"]),
        ({"fc__weight_orig": ORIGINAL, "fc__weight_mask": KEPT.to_sparse()}, ["fc.weight_mask is quantized or sparse"]),
        ({"fc__weight_orig": ORIGINAL, "fc__weight_mask": KEPT.to("meta")}, ["fc.weight_mask is without data"]),
        ({"fc__weight_orig": ORIGINAL.to_sparse(), "fc__weight_mask": KEPT}, ["fc.weight_orig is quantized or sparse"]),
        ({"fc__weight_orig": ORIGINAL.int(), "fc__weight_mask": KEPT}, ["fc.weight_orig is integer"]),
        (
            {"fc__weight_orig": ORIGINAL, "fc__weight_mask": KEPT, "fc__weight": PRODUCT},
            ["fc.weight beside fc.weight_orig and fc.weight_mask", "prune.remove"],
        ),
        (
            {"fc__weight_orig": ORIGINAL, "fc__weight_mask": KEPT, "fc__more": KEPT},
            ["1 left over (fc.more)"],
        ),
    ],
)
def test_half_of_a_pruned_weight_or_a_mask_that_is_none_is_told_in_one_line(tensors, words):
    model, weights = linear(**tensors)
    before = model.fc.weight.clone()
    error = refusal(lambda: load_into(model, weights, ANYWHERE), *words)
    assert error.where == str(ANYWHERE)
    assert torch.equal(model.fc.weight, before)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_under_a_mask_is_not_finite_in_torch_either_and_is_told(value):
    bad = torch.tensor([[1.0, value], [3.0, 4.0]])
    model, weights = linear(fc__weight_orig=bad, fc__weight_mask=KEPT)
    assert (bad * KEPT).isnan().any()
    refusal(lambda: fit(weights, model, ANYWHERE), "1 of 1 tensors hold NaN or infinity, the first is fc.weight")


def test_a_model_that_itself_has_originals_and_masks_keeps_them():
    source, model = globally(net()), globally(net(seed=1))
    load_into(model, Weights(source.state_dict(), None), ANYWHERE)
    assert torch.equal(features(model), features(source))
    assert torch.equal(model.fc.weight_orig, source.fc.weight_orig)
    assert sparsity(model) == sparsity(source) == SHARE


def test_a_model_whose_own_parameters_are_called_so_loads():
    class Odd(nn.Module):
        def __init__(self, fill):
            super().__init__()
            self.image = nn.Parameter(torch.full((2, 2), fill))
            self.image_orig = nn.Parameter(torch.full((2, 2), fill))
            self.text_mask = nn.Parameter(torch.full((3,), fill))
            self.both_orig = nn.Parameter(torch.full((2,), fill))
            self.register_buffer("both_mask", torch.full((2, 7), fill))

    model = Odd(1.0)
    load_into(
        model, Weights({f"module.{name}": value for name, value in Odd(5.0).state_dict().items()}, None), ANYWHERE
    )
    assert all((value == 5).all() for value in model.state_dict().values())


def test_spectral_normalisation_which_has_originals_without_masks_loads():
    def spectral(seed):
        model = net(seed)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            nn.utils.spectral_norm(model.fc)
        return model.eval()

    source, model = spectral(0), spectral(1)
    assert "fc.weight_orig" in source.state_dict()
    load_into(model, Weights(source.state_dict(), None), ANYWHERE)
    assert torch.equal(features(model), features(source))


# --- by a file of masks


def masks(model, share=0.5, seed=2):
    generator = torch.Generator().manual_seed(seed)
    weights = {name: value for name, value in model.named_parameters() if value.ndim > 1}
    return {name: torch.rand(value.shape, generator=generator) < share for name, value in weights.items()}


def multiplied(model, held):
    """Multiply by hand, on a copy."""
    copy = net()
    copy.load_state_dict(model.state_dict())
    for name, mask in held.items():
        copy.get_parameter(name).data = torch.where(mask, copy.get_parameter(name).data, 0.0)
    return copy


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.float32, torch.float64, torch.float8_e5m2])
@pytest.mark.parametrize("suffix", ["", "_mask"])
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "model.", "module._orig_mod."])
def test_masks_of_any_type_and_name_are_multiplied_onto_the_weights(prefix, suffix, dtype):
    model, held = net(), masks(net())
    expected = multiplied(model, held)
    mask_weights(model, {prefix + name + suffix: mask.to(dtype) for name, mask in held.items()}, MASKS)
    assert torch.equal(features(model), features(expected))
    assert not torch.equal(features(model), features(net()))


@pytest.mark.parametrize("place", [None, "masks", "mask", "state_dict", "model"])
def test_masks_are_read_from_the_usual_places_of_torchs_files(tmp_path, place):
    held = masks(net())
    path = saved(tmp_path / "m.pt", held if place is None else {place: held, "epoch": 3})
    read = read_masks(path, False)
    assert read.keys() == held.keys()
    assert all(torch.equal(read[name], held[name]) for name in held)


def test_masks_are_read_from_safetensors(tmp_path):
    held = masks(net())
    safetensors.torch.save_file(held, tmp_path / "m.safetensors", metadata={"format": "pt"})
    read = read_masks(tmp_path / "m.safetensors", False)
    assert all(torch.equal(read[name], held[name]) for name in held)


def test_masks_beside_weights_in_one_file_are_told_apart(tmp_path):
    held, weights = masks(net()), net().state_dict()
    path = saved(tmp_path / "x.pt", {"state_dict": weights, "masks": held})
    assert read_masks(path, False).keys() == held.keys()
    assert read_checkpoint(path, None, "raw", False).tensors.keys() == weights.keys()


def test_masks_of_some_parameters_leave_the_others_as_they_are():
    model = net()
    mask_weights(model, {"layer.0.weight": torch.zeros(5, 4, 3, 3), "fc.bias_mask": torch.tensor([1, 0])}, MASKS)
    assert (model.layer[0].weight == 0).all()
    assert model.fc.bias.tolist() == [net().fc.bias[0].item(), 0]
    assert torch.equal(model.conv1.weight, net().conv1.weight) and torch.equal(model.fc.weight, net().fc.weight)


def test_a_parameter_of_two_names_is_masked_under_either():
    model = nn.Module()
    model.first = nn.Linear(2, 2, bias=False)
    model.second = nn.Linear(2, 2, bias=False)
    model.second.weight = model.first.weight
    state = {"first.weight": ORIGINAL, "second.weight": ORIGINAL}
    for name in state:
        load_into(model, Weights(state, None), ANYWHERE)
        mask_weights(model, {name: KEPT}, MASKS)
        assert torch.equal(model.first.weight, PRODUCT) and torch.equal(model.second.weight, PRODUCT)


def test_a_parameter_that_is_called_a_mask_is_masked_by_its_own_name():
    model = nn.Module()
    model.token_mask = nn.Parameter(ORIGINAL.clone())
    mask_weights(model, {"token_mask": KEPT}, MASKS)
    assert torch.equal(model.token_mask, PRODUCT)
    mask_weights(model, {"token_mask_mask": torch.zeros(2, 2)}, MASKS)
    assert (model.token_mask == 0).all()


@pytest.mark.parametrize(
    ("held", "words"),
    [
        ({"fc.weigth": torch.ones(2, 5)}, ["1 of 1 masks are of no parameter of the model: fc.weigth", "conv1.weight"]),
        (
            {"module.fc.weight_mask": torch.ones(2, 5), "module.fc2.weight_mask": torch.ones(2, 5)},
            ["1 of 2 masks are of no parameter of the model: module.fc2.weight_mask"],
        ),
        ({"layer.1.running_mean": torch.ones(5)}, ["of no parameter", "layer.1.running_mean"]),
        ({"fc.weight": torch.ones(5, 2)}, ["fc.weight is 5x2, the model has 2x5"]),
        ({"fc.weight": torch.ones(1, 5)}, ["fc.weight is 1x5, the model has 2x5"]),
        ({"fc.weight_mask": torch.full((2, 5), -1)}, ["fc.weight_mask is no mask of zeros and ones: it holds -1"]),
        ({"fc.weight": torch.full((2, 5), 0.5)}, ["fc.weight is no mask of zeros and ones: it holds 0.5"]),
        ({"fc.weight": torch.ones(2, 5, dtype=torch.complex64)}, ["fc.weight is complex, and no mask"]),
        ({"fc.weight": torch.ones(2, 5), "fc.weight_mask": torch.ones(2, 5)}, ["two masks of fc.weight"]),
    ],
)
def test_a_mask_that_does_not_fit_is_told_in_one_line_and_nothing_is_masked(held, words):
    model = net()
    assert refusal(lambda: mask_weights(model, held, MASKS), *words).where == str(MASKS)
    with pytest.raises(CheckpointError):
        mask_weights(model, {"conv1.weight": torch.zeros(4, 3, 3, 3)} | held, MASKS)
    assert torch.equal(model.conv1.weight, net().conv1.weight)


@pytest.mark.parametrize(
    "content", [{}, {"masks": {}}, {"epoch": 1}, [1], torch.ones(2), {"fc": torch.tensor(1.0)}, None]
)
def test_a_file_without_masks_is_told_in_one_line(tmp_path, content):
    error = refusal(lambda: read_masks(saved(tmp_path / "m.pt", content), False), "holds no masks in the usual places")
    assert "state_dict_key" not in error.hint


def test_masks_in_two_places_are_not_chosen_between(tmp_path):
    path = saved(tmp_path / "m.pt", {"model": masks(net()), "net": masks(net())})
    error = refusal(lambda: read_masks(path, False), "holds masks under model, net")
    assert "state_dict_key" not in error.hint


@pytest.mark.parametrize("data", [b"", b"hello", b"PK\x03\x04", b"\x80\x02."])
def test_a_damaged_file_of_masks_is_told_in_one_line(tmp_path, data):
    (tmp_path / "m.pt").write_bytes(data)
    refusal(lambda: read_masks(tmp_path / "m.pt", False), "m.pt")
    refusal(lambda: read_masks(tmp_path / "absent.pt", False), "absent.pt", "No such file")


# --- how many are zero


def test_sparsity_is_the_share_of_zeros_among_parameters_of_two_or_more_dimensions():
    model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2), nn.Conv2d(1, 2, 2))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(0.0 if parameter.ndim == 1 else 1.0)
        assert sparsity(model) == 0
        model[0].weight[0, :2] = 0
        model[2].weight[1] = -0.0
        model[2].weight[0, 0, 0, 0] = float("nan")  # is no zero
    assert sparsity(model) == (2 + 4) / (6 + 8)
    for parameter in model.parameters():
        parameter.data.zero_()
    assert sparsity(model) == 1


def test_a_network_without_such_parameters_has_no_sparsity():
    assert isnan(sparsity(nn.BatchNorm2d(3))) and isnan(sparsity(nn.ReLU()))


def test_a_weight_of_two_names_counts_once():
    model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False), nn.Linear(2, 1, bias=False))
    model[1].weight = model[0].weight
    with torch.no_grad():
        model[0].weight.copy_(KEPT)
        model[2].weight.fill_(1)
    assert sparsity(model) == 2 / 6
