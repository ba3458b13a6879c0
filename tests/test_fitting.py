"""Wrong pairings of checkpoint and model: what does not match is said, and what may be missing does no harm."""

from pathlib import Path

import pytest
import torch
from torch import nn

from cmon.checkpoints import Weights, fit, load_into, read_checkpoint, wrapping
from cmon.errors import CheckpointError

ANYWHERE = Path("checkpoint.pt")


def net(classes=10, width=4):
    torch.manual_seed(classes)
    model = nn.Module()
    model.body = nn.Sequential(nn.Conv2d(3, width, 1), nn.BatchNorm2d(width))
    model.fc = nn.Linear(width, classes)
    return model


def refused(weights, model, *allow_missing, place=""):
    with pytest.raises(CheckpointError) as caught:
        fit(Weights(weights, {}, place=place), model, ANYWHERE, allow_missing)
    return caught.value


def test_a_head_of_another_size_says_what_it_is_and_how_to_go_on_without():
    error = refused(net(365).state_dict(), net(10))
    assert "2 of another shape (fc.weight is 365x4, the model has 10x4, fc.bias is 365, the model has 10)" in error.what
    assert error.hint == 'if no layer of the run depends on it, set allow_missing = ["fc.*"]'


def test_a_head_of_another_size_may_be_missing_where_it_is_allowed_and_holds_nan_then():
    saved, model = net(365), net(10)
    unset = load_into(model, Weights(saved.state_dict(), {}), ANYWHERE, ["fc.*"])
    assert unset == ("fc.weight", "fc.bias")
    assert torch.equal(model.body[0].weight, saved.body[0].weight)
    assert model.fc.weight.isnan().all() and model.fc.bias.isnan().all()


@pytest.mark.parametrize("change", ["absent", "left over"])
def test_a_head_may_be_absent_on_either_side_where_it_is_allowed(change):
    saved, model = net(), net()
    del (saved if change == "absent" else model).fc
    assert load_into(model, Weights(saved.state_dict(), {}), ANYWHERE, ["fc.*"]) == (
        ("fc.weight", "fc.bias") if change == "absent" else ()
    )


def test_what_is_allowed_for_the_head_is_not_for_the_body():
    error = refused(net(365, width=5).state_dict(), net(10), "fc.*")
    assert "body.0.weight is 5x3x1x1, the model has 4x3x1x1" in error.what and "fc." not in error.what


def test_one_layer_of_another_shape_is_named():
    weights = net().state_dict()
    weights["body.0.weight"] = torch.ones(4, 3, 3, 3)
    error = refused(weights, net())
    assert error.what == (
        "does not fit the model: 1 of another shape (body.0.weight is 4x3x3x3, the model has 4x3x1x1)"
    )
    assert "allow_missing" not in error.hint


def test_whole_numbers_that_are_missing_cannot_be_allowed():
    model = net()
    model.register_buffer("order", torch.arange(4))
    assert "1 missing (order)" in refused(net().state_dict(), model, "*").what


def test_a_checkpoint_that_lacks_all_weights_loads_nothing_but_nan():
    model = net()
    unset = load_into(model, Weights({"other.weight": torch.ones(2)}, {}), ANYWHERE, ["*"])
    assert set(unset) == {name for name, value in model.state_dict().items() if value.is_floating_point()}


def test_prefixes_are_taken_off_though_a_part_may_be_missing():
    saved, model = net(365), net(10)
    wrapped = {f"module._orig_mod.{name}": value for name, value in saved.state_dict().items()}
    load_into(model, Weights(wrapped, {}), ANYWHERE, ["fc.*"])
    assert torch.equal(model.body[0].weight, saved.body[0].weight)


def test_names_that_a_prefix_alone_tells_apart_are_both_named():
    weights = {**net().state_dict(), **{f"module.{name}": value for name, value in net().state_dict().items()}}
    error = refused(weights, net())
    assert "left over (module.body.0.weight" in error.what
    weights = {**net().state_dict(), "module.fc.weight": torch.ones(10, 4)}
    assert "both fc.weight and module.fc.weight would be fc.weight" in refused(weights, net()).what
    weights = {**net().state_dict(), **{f"module.{name}": value for name, value in net().state_dict().items()}}
    assert "both body.0.weight and module.body.0.weight would be body.0.weight" in refused(weights, net()).what


def test_a_part_of_a_larger_network_is_pointed_out():
    weights = {f"encoder.{name}": value for name, value in net().state_dict().items()}
    error = refused({**weights, "projector.weight": torch.ones(2, 2)}, net(), place="state_dict")
    assert "1 left over (projector.weight)" in error.what or "missing" in error.what
    assert error.hint == 'a part of it fits: set state_dict_key = "state_dict.encoder"'


def test_of_two_parts_that_fit_neither_is_taken_unasked(tmp_path):
    student, teacher = ({f"{who}.{k}": v + by for k, v in net().state_dict().items()} for who, by in WHO)
    error = refused({**student, **teacher}, net())
    assert error.hint == 'a part of it fits: set state_dict_key = "student" or teacher'
    torch.save({"state_dict": {**student, **teacher}, "epoch": 1}, tmp_path / "x.pt")
    read = read_checkpoint(tmp_path / "x.pt", "state_dict.teacher", "raw", False)
    assert torch.equal(fit(read, net(), ANYWHERE)["fc.bias"], net().fc.bias + 1)


def test_of_a_lightning_module_the_one_part_that_fits_is_taken(tmp_path):
    part = {f"net.{name}": value for name, value in net().state_dict().items()}
    saved = {"pytorch-lightning_version": "2", "epoch": 1, "state_dict": {**part, "loss.weight": torch.ones(10)}}
    torch.save(saved, tmp_path / "x.ckpt")
    read = read_checkpoint(tmp_path / "x.ckpt", None, "raw", False)
    assert torch.equal(fit(read, net(), ANYWHERE)["fc.bias"], net().fc.bias)
    saved["state_dict"] |= {f"teacher.{name}": value for name, value in net().state_dict().items()}
    torch.save(saved, tmp_path / "x.ckpt")
    with pytest.raises(CheckpointError) as caught:
        fit(read_checkpoint(tmp_path / "x.ckpt", None, "raw", False), net(), ANYWHERE)
    assert caught.value.hint == 'a part of it fits: set state_dict_key = "state_dict.net" or state_dict.teacher'


WHO = (("student", 0), ("teacher", 1))


def test_a_tensor_that_the_model_has_under_two_names_may_be_saved_under_one():
    model = nn.Module()
    model.first = nn.Linear(3, 3)
    model.second = nn.Linear(3, 3)
    model.second.weight = model.first.weight
    for kept in ("first.weight", "second.weight"):
        held = {kept: torch.ones(3, 3), "first.bias": torch.zeros(3), "second.bias": torch.zeros(3)}
        fitted = fit(Weights(held, {}), model, ANYWHERE)
        assert (fitted["first.weight"] == 1).all() and (fitted["second.weight"] == 1).all()


def test_a_buffer_that_is_no_state_may_be_saved_all_the_same():
    model = net()
    model.register_buffer("grid", torch.arange(4), persistent=False)
    held = {**net().state_dict(), "grid": torch.arange(4)}
    assert "grid" not in fit(Weights(held, {}), model, ANYWHERE)
    assert "1 left over (grid)" in refused(held, net()).what


def test_names_that_a_library_saves_under_others_are_found_under_wrappers_too():
    held = {f"model.old.{name}": value for name, value in net().state_dict().items()}
    saved_as = {f"old.{name}": name for name in net().state_dict()}
    held["model.aside"] = torch.ones(1)
    with pytest.raises(CheckpointError, match=r"1 left over \(aside\)"):
        fit(Weights(held, {}), net(), ANYWHERE, (), saved_as)
    del held["model.aside"]
    assert torch.equal(fit(Weights(held, {}), net(), ANYWHERE, (), saved_as)["fc.bias"], net().fc.bias)


@pytest.mark.parametrize(
    ("names", "wrappers"),
    [
        (["module.a.b", "module.c"], "module."),
        (["module._orig_mod.a.b", "module._orig_mod.c"], "module._orig_mod."),
        (["model.a", "b"], ""),
        (["layer.a", "layer.b"], ""),
        ([], ""),
    ],
)
def test_the_wrappers_before_all_names_are_named(names, wrappers):
    assert wrapping(names) == wrappers


# --- through the command line


def with_head(study, classes):
    """Give the study's network a head, and its checkpoints one of another size."""
    for epoch in (1, 2, 3):
        path = study.checkpoint(f"epoch_{epoch}")
        content = torch.load(path)
        content["state_dict"] |= {"head.weight": torch.ones(classes, 8), "head.bias": torch.ones(classes)}
        torch.save(content, path)
    model = study.folder / "net.py"
    model.write_text(
        model.read_text()
        .replace("    def forward", "        self.head = nn.Linear(width, 5)\n\n    def forward")
        .replace("return self.second(torch.relu_(self.first(x)))", "x = self.second(torch.relu_(self.first(x)))")
        + "\n"
    )
    text = model.read_text().replace(
        "x = self.second(torch.relu_(self.first(x)))",
        "x = self.second(torch.relu_(self.first(x)))\n        return self.head(x.mean((2, 3)))",
    )
    model.write_text(text)


def test_a_backbone_is_watched_whatever_its_head_where_that_is_allowed(study):
    before = study.cmon("activations")
    assert before.code == 0, before.err
    plain = study.datasets("activations/plain/epoch_1.h5")
    with_head(study, 7)
    refused = study.cmon("activations")
    assert refused.code == 1 and "head.weight is 7x8, the model has 5x8" in refused.err
    assert 'allow_missing = ["head.*"]' in refused.err
    study.edit("run", allow_missing=["head.*"])
    result = study.cmon("run")
    assert result.code == 0, result.err
    now = study.datasets("activations/plain/epoch_1.h5")
    assert all((now[name] == plain[name]).all() for name in ("layers/first/mean", "layers/second/mean"))


def test_a_layer_that_depends_on_what_is_missing_is_an_error(study):
    with_head(study, 7)
    study.edit("run", allow_missing=["head.*"], layers=["second", "head"])
    result = study.cmon("activations")
    assert result.code == 1
    assert "layer head are NaN or infinite: allow_missing takes out head.weight, head.bias" in result.err


def test_best_and_last_files_are_said_and_not_counted_twice(study):
    for name, epoch in (("best", 2), ("last", 3)):
        content = torch.load(study.checkpoint(f"epoch_{epoch}"))
        torch.save({**content, "metric": 0.5}, study.checkpoint(name))
    result = study.cmon("run")
    assert result.code == 0, result.err
    assert f"not counted: {study.checkpoint('best')} holds the same weights as epoch_2" in result.err
    assert f"not counted: {study.checkpoint('last')} holds the same weights as epoch_3" in result.err
    assert sorted(path.name for path in study.workspace.glob("activations/plain/*")) == [
        f"epoch_{epoch}.h5" for epoch in (1, 2, 3)
    ]
    status = study.cmon("status")
    assert status.code == 0 and status.out.count("holds the same weights as") == 2


def test_averaged_weights_are_taken_where_they_are_asked_for_and_else_said(study):
    raw = torch.load(study.checkpoint("epoch_1"))["state_dict"]
    averaged = {name: value / 2 for name, value in raw.items()}
    for epoch in (1, 2, 3):
        content = {"state_dict": raw, "state_dict_ema": averaged, "epoch": epoch, "arch": "net", "version": 2}
        torch.save(content, study.checkpoint(f"epoch_{epoch}"))
    result = study.cmon("activations")
    assert result.code == 0 and 'weights = "ema" takes the others' in result.err
    as_raw = study.datasets("activations/plain/epoch_1.h5")["layers/first/mean"]
    study.edit("run", weights="ema")
    result = study.cmon("activations")
    assert result.code == 0 and "changed: weights" in result.err and "takes the others" not in result.err
    as_averaged = study.datasets("activations/plain/epoch_1.h5")["layers/first/mean"]
    assert abs(as_averaged - as_raw / 2).max() < 1e-5  # of a convolution with its bias, before anything else


def test_averaged_weights_that_are_not_there_are_an_error(study):
    study.edit("run", weights="ema")
    study.cmon("activations").fails(1, "holds no averaged weights; it has epoch, state_dict")


def test_averaged_weights_and_a_place_contradict_each_other(study):
    study.edit("run", weights="ema", state_dict_key="state_dict")
    study.cmon("activations").fails(2, "state_dict_key")
