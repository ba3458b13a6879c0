"""Best and last files: which repeat another checkpoint, which are one of their own, and which tell no step."""

import pytest
import torch

from cmon.checkpoints import discover
from cmon.checkpoints.repeats import set_aside
from cmon.config import Run
from cmon.fingerprint import HashMemory


def saved(folder, **contents):
    for name, content in contents.items():
        torch.save(content, folder / f"{name}.pt")


def state(value, **beside):
    return {"state_dict": {"fc.weight": torch.full((2, 3), float(value))}, **beside}


def aside(folder, **settings):
    run = Run(name="standard", checkpoints=folder, model="timm:x", layers=["*"], **settings)
    return set_aside(run, discover(run), HashMemory(folder / "hashes.json"))


def test_what_holds_anothers_weights_is_set_aside_and_says_whose(tmp_path):
    saved(tmp_path, epoch_1=state(1, epoch=1), epoch_2=state(2, epoch=2), best=state(1, epoch=1, metric=0.5))
    saved(tmp_path, last=state(2, epoch=2, callbacks={"other": "bytes"}))
    told = aside(tmp_path)
    assert list(told) == ["best", "last"]
    assert told["best"] == f"{tmp_path}/best.pt holds the same weights as epoch_1"
    assert told["last"] == f"{tmp_path}/last.pt holds the same weights as epoch_2"


def test_a_link_is_what_it_links_to(tmp_path):
    saved(tmp_path, epoch_1=state(1))
    (tmp_path / "last.pt").symlink_to("epoch_1.pt")
    assert list(aside(tmp_path)) == ["last"]


def test_a_best_one_whose_step_was_deleted_is_a_checkpoint_of_its_own(tmp_path):
    saved(tmp_path, epoch_1=state(1, epoch=1), epoch_2=state(2, epoch=2), best=state(7, epoch=7))
    assert aside(tmp_path) == {}


def test_one_that_tells_no_step_and_is_nobodys_copy_is_set_aside(tmp_path):
    saved(tmp_path, epoch_1=state(1), epoch_2=state(2), resnet18_best=state(3), model=state(4))
    told = aside(tmp_path)
    assert list(told) == ["model", "resnet18_best"]
    assert all("tells no step" in reason and "steps" in reason for reason in told.values())


def test_one_with_other_weights_under_anothers_step_is_set_aside(tmp_path):
    saved(tmp_path, epoch_1=state(1, epoch=1), epoch_2=state(2, epoch=2), model=state(1.5, epoch=2))
    told = aside(tmp_path)
    assert list(told) == ["model"] and "tells the step of epoch_2, and holds other weights" in told["model"]


def test_equal_weights_of_two_steps_are_two_checkpoints(tmp_path):
    saved(tmp_path, epoch_1=state(1), epoch_2=state(1))
    assert aside(tmp_path) == {}


def test_one_checkpoint_under_the_names_of_two_schemes_is_counted_once(tmp_path):
    for epoch, step in ((0, 50), (1, 100), (2, 150)):
        torch.save(state(epoch, epoch=epoch, global_step=step), tmp_path / f"epoch={epoch}.ckpt")
    torch.save(state(1, epoch=1, global_step=100), tmp_path / "step=100.ckpt")
    torch.save(state(7, epoch=1, global_step=120), tmp_path / "step=120.ckpt")
    assert aside(tmp_path) == {"step=100": f"{tmp_path}/step=100.ckpt holds the same weights as epoch=1"}


def test_where_the_config_lists_steps_all_are_counted(tmp_path):
    saved(tmp_path, epoch_1=state(1), last=state(1))
    assert aside(tmp_path, steps=[1, 2]) == {}


def test_two_that_tell_nothing_are_both_counted_unless_they_are_equal(tmp_path):
    saved(tmp_path, best=state(1), last=state(2))
    assert aside(tmp_path) == {}
    saved(tmp_path, last=state(1))
    assert list(aside(tmp_path)) == ["last"]


def test_a_second_version_of_a_name_is_compared(tmp_path):
    torch.save(state(1), tmp_path / "epoch=3-step=9.ckpt")
    torch.save(state(1), tmp_path / "epoch=3-step=9-v1.ckpt")
    torch.save(state(2), tmp_path / "epoch=4-step=12.ckpt")
    assert list(aside(tmp_path)) == ["epoch=3-step=9-v1"]


def test_timms_recovery_files_are_from_within_an_epoch(tmp_path):
    for name, value in (("checkpoint-3", 3), ("recovery-4-50", 5)):
        torch.save(state(value, epoch=4), tmp_path / f"{name}.pth.tar")
    assert aside(tmp_path) == {"recovery-4-50": f"{tmp_path}/recovery-4-50.pth.tar is from the middle of an epoch"}


def test_the_weights_that_are_asked_for_are_compared(tmp_path):
    def both(raw, averaged):
        return {**state(raw), "state_dict_ema": {"fc.weight": torch.full((2, 3), float(averaged))}}

    saved(tmp_path, epoch_1=both(1, 1), epoch_2=both(2, 1.5), best=both(2, 7))
    assert aside(tmp_path)["best"].endswith("as epoch_2")
    assert "tells no step" in aside(tmp_path, weights="ema")["best"]


def test_wrappers_make_no_difference(tmp_path):
    saved(tmp_path, epoch_1={"module.fc.weight": torch.ones(2, 3)}, best={"fc.weight": torch.ones(2, 3)})
    assert list(aside(tmp_path)) == ["best"]


@pytest.mark.parametrize("other", [torch.ones(3, 2), torch.ones(2, 3).double(), torch.ones(2, 3).int()])
def test_other_shapes_and_kinds_are_other_weights(tmp_path, other):
    saved(tmp_path, epoch_1={"w": torch.ones(2, 3)}, best={"w": other, "epoch": 4})
    assert aside(tmp_path) == {}


def test_damaged_files_are_left_to_those_who_read_them(tmp_path):
    saved(tmp_path, epoch_1=state(1))
    (tmp_path / "epoch_2.pt").write_bytes(b"PK\3\4 and no more")
    (tmp_path / "last.pt").write_bytes(b"PK\3\4 and no more")
    (tmp_path / "best.pt").write_bytes(b"PK\3\4 and less")
    (tmp_path / "final.pt").symlink_to("gone.pt")
    assert list(aside(tmp_path)) == ["last"]  # the same bytes, of which it is said once what is wrong


def test_names_that_all_tell_a_step_of_their_own_are_not_looked_into(tmp_path, monkeypatch):
    monkeypatch.setattr("cmon.checkpoints.repeats.held_by", None)
    saved(tmp_path, epoch_1=state(1), epoch_2=state(1))
    assert aside(tmp_path) == {}


def test_weights_are_read_once_as_long_as_the_bytes_are_the_same(tmp_path, monkeypatch):
    saved(tmp_path, epoch_1=state(1), last=state(1))
    run = Run(name="standard", checkpoints=tmp_path, model="timm:x", layers=["*"])
    memory = HashMemory(tmp_path / "hashes.json")
    first = set_aside(run, discover(run), memory)
    memory.save()
    monkeypatch.setattr("cmon.checkpoints.repeats.read_checkpoint", None)
    assert set_aside(run, discover(run), HashMemory(tmp_path / "hashes.json")) == first
