import argparse
import collections
import enum
import io
import os
import pickle
import random
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn

from cmon.checkpoints import LOADERS, Weights, discover, fit, load_into, read_checkpoint, resolve_steps
from cmon.config import Run
from cmon.errors import CheckpointError, ConfigError

SHARED = Path(__file__).resolve().parents[2] / "shared"
ANYWHERE = Path("checkpoint.pt")


def shared(path):
    if not (SHARED / path).exists():
        pytest.skip(f"../shared/{path} is absent")
    return SHARED / path


def run_of(checkpoints, steps=None):
    return Run(name="standard", checkpoints=checkpoints, model="timm:x", layers=["*"], steps=steps)


def touch(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")


def names_of(checkpoints):
    return [file.name for file in discover(run_of(checkpoints))]


def saved(path, content, **options):
    torch.save(content, path, **options)
    return path


def weights():
    return {"fc.weight": torch.arange(6.0).reshape(2, 3), "fc.bias": torch.ones(2)}


def linear():
    model = nn.Module()
    model.fc = nn.Linear(3, 2)
    return model


# --- finding and ordering


def test_a_glob_finds_files_in_natural_order(tmp_path):
    touch(tmp_path, "epoch_10.pt", "epoch_2.pt", "epoch_1.pt", "other.pt")
    assert names_of(tmp_path / "epoch_*.pt") == ["epoch_1", "epoch_2", "epoch_10"]


def test_a_folder_means_its_checkpoints_of_every_known_ending(tmp_path):
    touch(tmp_path, *(f"e{index}{ending}" for index, ending in enumerate(LOADERS)), "net.py", "log.txt")
    assert names_of(tmp_path) == [f"e{index}" for index in range(len(LOADERS))]


def test_two_stars_look_into_all_folders(tmp_path):
    touch(tmp_path, "a.pt", "x/b.pt", "x/y/c.pt", ".hidden/d.pt")
    assert names_of(tmp_path / "**" / "*.pt") == ["a", "b", "c"]


def test_globs_leave_out_hidden_temporary_and_folders(tmp_path):
    touch(tmp_path, "a.pt", ".b.pt", "c.pt.tmp", "d.part", "e.pt/f.txt")
    assert names_of(tmp_path / "*") == ["a"]
    with pytest.raises(ConfigError, match="nothing matches"):
        discover(run_of(tmp_path / ".*"))


def test_a_file_with_brackets_in_its_name_wins_over_its_reading_as_a_glob(tmp_path):
    touch(tmp_path, "epoch[12].pt", "epoch1.pt")
    assert names_of(tmp_path / "epoch[12].pt") == ["epoch[12]"]


def test_a_glob_below_a_folder_with_brackets_is_found(tmp_path):
    touch(tmp_path, "[a]/epoch1.pt", "a/epoch2.pt")
    assert names_of(tmp_path / "[a]" / "*.pt") == ["epoch1"]


def test_a_list_joins_files_folders_and_globs_each_file_once(tmp_path):
    touch(tmp_path, "a/x2.pt", "b/x1.pt", "x3.model")
    asked = [tmp_path / "a", tmp_path / "**" / "x*.pt", tmp_path / "x3.model"]
    assert names_of(asked) == ["x1", "x2", "x3"]


def test_two_files_of_one_name_are_both_named(tmp_path):
    touch(tmp_path, "a/x.pt", "b/x.pt")
    with pytest.raises(CheckpointError) as caught:
        discover(run_of(tmp_path / "*" / "x.pt"))
    assert "a/x.pt" in str(caught.value) and "b/x.pt" in str(caught.value)


@pytest.mark.parametrize("name", ["", "absent.pt", "*.pt", "absent/*.pt", "*.tmp", "file.pt/*.pt", "a" * 300])
def test_nothing_found_is_a_config_error_that_names_the_key(tmp_path, name):
    touch(tmp_path, "file.txt", "x.tmp")
    with pytest.raises(ConfigError) as caught:
        discover(run_of(tmp_path / name))
    assert caught.value.where == "run standard: checkpoints"
    assert str(tmp_path) in caught.value.what


def test_an_empty_list_is_a_config_error():
    with pytest.raises(ConfigError, match="empty list"):
        discover(run_of([]))


@pytest.mark.parametrize("name", ["a\nb.pt", "a\x7f.pt", "é" * 101 + ".pt", os.fsdecode(b"\xff.pt")])
def test_a_name_that_the_workspace_cannot_use_is_refused(tmp_path, name):
    touch(tmp_path, name)
    with pytest.raises(CheckpointError, match="name cannot be used") as caught:
        discover(run_of(tmp_path))
    assert str(caught.value).isprintable()


def test_finding_checkpoints_does_not_import_torch(tmp_path):
    touch(tmp_path, "a.pt")
    program = (
        "import sys; from pathlib import Path;"
        "from cmon.checkpoints import discover; from cmon.config import Run;"
        f"discover(Run(name='r', checkpoints=Path({str(tmp_path)!r}), model='m', layers=['x']));"
        "print({'torch', 'numpy'} & set(sys.modules))"
    )
    finished = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert finished.stdout.strip() == "set()"


# --- steps


def epochs(told):
    """Return what contents say of which each tells an epoch, or nothing."""
    return [{} if epoch is None else {"epoch": epoch} for epoch in told]


@pytest.mark.parametrize(
    ("names", "content", "steps"),
    [
        (["resnet18_epoch_012"], [None], [12]),
        (["epoch=3-step=500"], [None], [3]),
        (["epoch=3-step=500", "epoch=3-step=900"], [None, None], [500, 900]),
        (["epoch=0-step=5", "epoch=0-step=9"], [0, 0], [5, 9]),
        (["resnet18_iter_40_v2"], [None], [40]),
        (["Epoch7_of_90"], [None], [7]),
        (["model-12-0.95"], [None], [12]),
        (["resnet.7"], [None], [7]),
        (["a", "b"], [None, None], [0, 1]),
        (["a_1", "a_2"], [5, 6], [5, 6]),
        (["a_1", "a_2"], [5, None], [1, 2]),
        (["final", "x_1"], [9, None], [9, 1]),
        (["x_" + "9" * 30], [None], [0]),
    ],
)
def test_steps_come_from_the_content_else_from_the_names(names, content, steps):
    assert list(resolve_steps(run_of(Path()), names, epochs(content))) == steps


def test_an_epoch_that_does_not_tell_all_apart_leaves_it_to_the_step():
    content = [{"epoch": 0, "step": 50}, {"epoch": 0, "step": 100}, {"epoch": 1, "step": 150}]
    assert resolve_steps(run_of(Path()), ["a", "b", "last"], content) == (50, 100, 150)


def test_listed_steps_win():
    assert resolve_steps(run_of(Path(), [7, 3]), ["e1", "e2"], epochs([1, 2])) == (7, 3)


@pytest.mark.parametrize("steps", [[1], [1, 2, 3], [4, 4]])
def test_listed_steps_that_do_not_fit_are_a_config_error(steps):
    with pytest.raises(ConfigError):
        resolve_steps(run_of(Path(), steps), ["e1", "e2"], epochs([1, 2]))


@pytest.mark.parametrize(
    ("names", "content"),
    [(["best", "epoch_3"], [3, 3]), (["a_1", "b_1"], [None, None]), (["a_1", "b_01"], [4, 4])],
)
def test_two_checkpoints_of_one_step_are_both_named(names, content):
    with pytest.raises(CheckpointError) as caught:
        resolve_steps(run_of(Path()), names, epochs(content))
    assert all(name in str(caught.value) for name in names)
    assert "`steps`" in caught.value.hint


def test_a_checkpoint_that_alone_tells_no_step_is_not_put_somewhere():
    with pytest.raises(CheckpointError, match="final tells no step"):
        resolve_steps(run_of(Path()), ["epoch_10", "epoch_20", "final"], [{}] * 3)


@pytest.mark.parametrize(
    ("content", "steps"),
    [
        ({"epoch": 3, "global_step": 500}, {"epoch": 3, "step": 500}),
        ({"iteration": 8, "step": 9}, {"step": 9}),
        ({"epoch": 4.0}, {"epoch": 4}),
        ({"epoch": 4.5}, {}),
        ({"epoch": torch.tensor(6)}, {"epoch": 6}),
        ({"epoch": np.int64(7)}, {"epoch": 7}),
        ({"epoch": np.float32(8)}, {"epoch": 8}),
        ({"epoch": float("nan")}, {}),
        ({"epoch": float("inf")}, {}),
        ({"epoch": True}, {}),
        ({"epoch": -1, "step": 2}, {"step": 2}),
        ({"epoch": "last"}, {}),
        ({}, {}),
    ],
)
def test_the_content_tells_its_steps(tmp_path, content, steps):
    path = saved(tmp_path / "x.pt", {**content, "state_dict": weights()})
    assert read_checkpoint(path, None, "raw", False).steps == steps


# --- reading


def equal(read, expected):
    return read.keys() == expected.keys() and all(torch.equal(read[name], expected[name]) for name in expected)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("place", [None, "state_dict", "model", "model_state_dict", "net"])
def test_weights_are_found_in_the_usual_places(tmp_path, place, zipped):
    content = {**weights(), "epoch": 2} if place is None else {place: weights(), "epoch": 2, "best": torch.tensor(1.0)}
    path = saved(tmp_path / "x.pt", content, _use_new_zipfile_serialization=zipped)
    read = read_checkpoint(path, None, "raw", False)
    assert equal(read.tensors, weights()) and read.steps == {"epoch": 2}


def test_safetensors_tell_their_step_in_the_metadata(tmp_path):
    path = tmp_path / "x.safetensors"
    safetensors.torch.save_file(weights(), path, metadata={"format": "pt", "epoch": "12"})
    read = read_checkpoint(path, None, "raw", False)
    assert equal(read.tensors, weights()) and read.steps == {"epoch": 12}


def test_an_unknown_ending_is_read_if_it_begins_like_torchs(tmp_path):
    assert equal(read_checkpoint(saved(tmp_path / "x.tar", weights()), None, "raw", False).tensors, weights())
    (tmp_path / "x.txt").write_text("hello")
    with pytest.raises(CheckpointError, match=r"known endings: \.pt, \.pth"):
        read_checkpoint(tmp_path / "x.txt", None, "raw", False)


def test_a_key_may_go_through_lists(tmp_path):
    path = saved(tmp_path / "x.pt", {"ema": [{"shadow": weights()}]})
    assert equal(read_checkpoint(path, "ema.0.shadow", "raw", False).tensors, weights())


@pytest.mark.parametrize("key", ["absent", "ema.1", "ema.0.shadow.gc", "epoch.x"])
def test_a_wrong_key_lists_what_is_there(tmp_path, key):
    path = saved(tmp_path / "x.pt", {"ema": [{"shadow": weights()}], "epoch": 1})
    with pytest.raises(CheckpointError, match="there is") as caught:
        read_checkpoint(path, key, "raw", False)
    assert key in caught.value.what


def test_weights_in_an_unusual_place_are_pointed_out(tmp_path):
    path = saved(tmp_path / "x.pt", {"state_dict": [weights()], "epoch": 1})
    with pytest.raises(CheckpointError, match="usual places; it has state_dict, epoch") as caught:
        read_checkpoint(path, None, "raw", False)
    assert caught.value.hint == 'set state_dict_key = "state_dict.0"'


def test_weights_in_two_places_are_not_chosen_between(tmp_path):
    path = saved(tmp_path / "x.pt", {"model": weights(), "state_dict": weights()})
    with pytest.raises(CheckpointError, match="state_dict, model") as caught:
        read_checkpoint(path, None, "raw", False)
    assert "state_dict_key" in caught.value.hint
    assert equal(read_checkpoint(path, "model", "raw", False).tensors, weights())


def test_the_same_weights_in_two_places_are_one(tmp_path):
    same = weights()
    path = saved(tmp_path / "x.pt", {"model": same, "state_dict": same})
    assert equal(read_checkpoint(path, None, "raw", False).tensors, weights())


@pytest.mark.parametrize("content", [{}, {"epoch": 1}, [1, 2], torch.ones(2), {"best": torch.tensor(1.0)}, None])
def test_a_file_without_weights_is_an_error(tmp_path, content):
    with pytest.raises(CheckpointError, match="holds no weights"):
        read_checkpoint(saved(tmp_path / "x.pt", content), None, "raw", False)


@pytest.mark.parametrize("zipped", [True, False])
def test_harmless_things_beside_the_weights_are_no_hindrance(tmp_path, zipped):
    lists = collections.defaultdict(list, {"loss": [1.0]})
    content = {
        "state_dict": weights(),
        "args": argparse.Namespace(rate=0.1, out=Path("runs")),
        "history": [np.arange(3), np.float64(2.5), np.dtype("float32"), np.array(["a"])],
        "more": [lists, collections.Counter("aab"), collections.OrderedDict(a=1), {1, 2}],
    }
    path = saved(tmp_path / "x.pt", content, _use_new_zipfile_serialization=zipped)
    assert equal(read_checkpoint(path, None, "raw", False).tensors, weights())


@pytest.mark.parametrize("zipped", [True, False])
def test_numpy_1_names_are_read_as_numpy_2_names_are(tmp_path, zipped):
    data, path = io.BytesIO(), tmp_path / "x.pt"
    torch.save({"state_dict": weights(), "epoch": np.int64(5)}, data, _use_new_zipfile_serialization=zipped)
    old, new = b"numpy.core.multiarray", b"numpy._core.multiarray"
    if zipped:
        with zipfile.ZipFile(data) as source, zipfile.ZipFile(path, "w") as copy:
            for entry in source.infolist():
                copy.writestr(entry.filename, source.read(entry).replace(new, old))
            assert old in copy.read("archive/data.pkl")
    else:
        path.write_bytes(data.getvalue().replace(new, old))
        assert old in path.read_bytes()
    assert read_checkpoint(path, None, "raw", False).steps == {"epoch": 5}


class RunsCode:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_that_would_run_code_is_refused_and_not_run(tmp_path, zipped):
    proof = tmp_path / "ran"
    content = {"state_dict": weights(), "more": RunsCode(proof)}
    path = saved(tmp_path / "x.pt", content, _use_new_zipfile_serialization=zipped)
    with pytest.raises(CheckpointError, match=r"needs posix\.system") as caught:
        read_checkpoint(path, None, "raw", False)
    assert "--trust-pickle" in caught.value.hint
    assert not proof.exists()
    read_checkpoint(path, None, "raw", True)
    assert proof.exists()


def test_a_plain_pickle_that_would_run_code_is_refused_and_not_run(tmp_path):
    path, proof = tmp_path / "x.pt", tmp_path / "ran"
    path.write_bytes(pickle.dumps(RunsCode(proof), protocol=2))
    with pytest.raises(CheckpointError, match="system"):
        read_checkpoint(path, None, "raw", False)
    assert not proof.exists()


def test_a_whole_module_gives_its_weights_once_trusted(tmp_path):
    path = saved(tmp_path / "x.pt", {"epoch": 2, "model": nn.Sequential(nn.Linear(3, 2))})
    with pytest.raises(CheckpointError, match=r"needs torch\.nn\.modules") as caught:
        read_checkpoint(path, None, "raw", False)
    assert "--trust-pickle" in caught.value.hint
    assert list(read_checkpoint(path, None, "raw", True).tensors) == ["0.weight", "0.bias"]


class Gone(nn.Linear):
    """A class that is there while a file is saved only."""


def test_a_whole_module_whose_class_is_gone_is_read_by_its_parts_where_trusted(tmp_path, monkeypatch):
    model = nn.Sequential(Gone(3, 2), nn.BatchNorm1d(2))
    path = saved(tmp_path / "x.pt", {"model": model, "epoch": 4})
    monkeypatch.delitem(globals(), "Gone")
    with pytest.raises(CheckpointError, match=r"needs test_checkpoints.Gone, which could run code|needs torch"):
        read_checkpoint(path, None, "raw", False)
    read = read_checkpoint(path, None, "raw", True)
    assert equal(read.tensors, model.state_dict()) and read.steps == {"epoch": 4} and read.kind == "whole module"


class Settings(dict):
    """A dictionary of a class of its own, as Lightning's hyper-parameters are."""


class Seen(list):
    """A list of a class of its own."""


class Colour(enum.Enum):
    RED = 1


@pytest.mark.parametrize("zipped", [True, False])
def test_objects_of_any_class_beside_the_weights_are_left_alone(tmp_path, zipped):
    loss = nn.CrossEntropyLoss() if zipped else torch.optim.Adam  # of a module the older format keeps the source
    beside = [Settings(lr=0.1, loss=loss), Seen([1, Settings()]), Colour.RED, collections.deque([1])]
    path = tmp_path / "x.pt"
    saved(path, {"extra": beside, "state_dict": weights(), "epoch": 2}, _use_new_zipfile_serialization=zipped)
    read = read_checkpoint(path, None, "raw", False)
    assert equal(read.tensors, weights()) and read.steps == {"epoch": 2}


def test_a_module_in_the_older_format_needs_trust(tmp_path):
    content = {"state_dict": weights(), "loss": nn.CrossEntropyLoss()}
    path = saved(tmp_path / "x.pt", content, _use_new_zipfile_serialization=False)
    with pytest.raises(CheckpointError, match="a module that was pickled whole, which could run code") as caught:
        read_checkpoint(path, None, "raw", False)
    assert "--trust-pickle" in caught.value.hint
    assert equal(read_checkpoint(path, None, "raw", True).tensors, weights())


def test_the_allowance_for_harmless_things_ends_with_the_reading(tmp_path):
    before = set(torch.serialization.get_safe_globals())  # torch lists a set, in any order
    read_checkpoint(saved(tmp_path / "x.pt", weights()), None, "raw", False)
    assert set(torch.serialization.get_safe_globals()) == before


# --- damage


def damaged_files():
    content = {"epoch": 3, "state_dict": {f"l{index}.w": torch.randn(8, 8) for index in range(4)}}
    for zipped in (True, False):
        data = io.BytesIO()
        torch.save(content, data, _use_new_zipfile_serialization=zipped)
        yield "zip.pt" if zipped else "legacy.pt", data.getvalue(), content["state_dict"]
    yield (
        "x.safetensors",
        safetensors.torch.save(content["state_dict"], {"epoch": "3"}),
        content["state_dict"],
    )


@pytest.mark.parametrize("index", [0, 1, 2])
def test_a_file_cut_anywhere_is_a_checkpoint_error_of_one_line(tmp_path, index):
    name, data, _ = list(damaged_files())[index]
    for size in [*range(0, len(data), max(1, len(data) // 150)), len(data) - 1]:
        (tmp_path / name).write_bytes(data[:size])
        with pytest.raises(CheckpointError) as caught:
            read_checkpoint(tmp_path / name, None, "raw", False)
        assert str(caught.value).isprintable()


@pytest.mark.parametrize("index", [0, 1, 2])
def test_a_flipped_bit_is_an_error_or_a_reading_and_in_a_zip_never_another_number(tmp_path, index):
    name, data, state = list(damaged_files())[index]
    chance = random.Random(0)
    for _ in range(250):
        flipped = bytearray(data)
        flipped[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        (tmp_path / name).write_bytes(flipped)
        try:
            read = read_checkpoint(tmp_path / name, None, "raw", False)
        except CheckpointError as error:
            assert str(error).isprintable()
        else:
            assert name != "zip.pt" or (equal(read.tensors, state) and read.steps == {"epoch": 3})


def test_every_flipped_byte_of_a_tensor_in_a_zip_is_seen(tmp_path):
    path = saved(tmp_path / "x.pt", weights())
    data = bytearray(path.read_bytes())
    start = data.find(weights()["fc.weight"].numpy().tobytes())
    for place in range(start, start + 24):
        flipped = data.copy()
        flipped[place] ^= 1
        path.write_bytes(flipped)
        with pytest.raises(CheckpointError, match="CRC-32"):
            read_checkpoint(path, None, "raw", False)


def test_a_file_that_was_saved_without_checksums_is_read(tmp_path):
    before = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(False)
    try:
        path = saved(tmp_path / "x.pt", weights())
    finally:
        torch.serialization.set_crc32_options(before)
    assert equal(read_checkpoint(path, None, "raw", False).tensors, weights())


@pytest.mark.parametrize("ending", [*LOADERS, ".unknown"])
@pytest.mark.parametrize(
    "data", [b"", b"hello, world\n" * 40, b"PK\x03\x04", b"\x80", b"\x80\x02", b"\x80\x02.", bytes(1000)]
)
def test_what_is_no_checkpoint_is_a_checkpoint_error(tmp_path, ending, data):
    path = tmp_path / f"x{ending}"
    path.write_bytes(data)
    for trust_pickle in (False, True):
        with pytest.raises(CheckpointError) as caught:
            read_checkpoint(path, None, "raw", trust_pickle)
        assert data or "0 bytes" in caught.value.what


def test_random_bytes_are_a_checkpoint_error(tmp_path):
    chance = random.Random(1)
    for _ in range(100):
        (tmp_path / "x.pt").write_bytes(b"\x80\x02" + chance.randbytes(200))
        with pytest.raises(CheckpointError):
            read_checkpoint(tmp_path / "x.pt", None, "raw", False)


def test_folders_and_missing_files_are_checkpoint_errors(tmp_path):
    with pytest.raises(CheckpointError, match="is a folder"):
        read_checkpoint(tmp_path, None, "raw", False)
    with pytest.raises(CheckpointError, match="No such file"):
        read_checkpoint(tmp_path / "absent.pt", None, "raw", False)


def test_a_file_that_may_not_be_read_is_a_checkpoint_error(tmp_path, monkeypatch):
    def refuse(self, *arguments):
        raise PermissionError(13, "Permission denied", str(self))

    path = saved(tmp_path / "x.pt", weights())
    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(CheckpointError, match="Permission denied"):
        read_checkpoint(path, None, "raw", False)


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_a_tensor_without_a_shape_is_one_line(tmp_path):
    ragged = torch.nested.nested_tensor([torch.ones(2), torch.ones(3)])
    path = saved(tmp_path / "x.pt", {"state_dict": {**weights(), "fc.bias": ragged}})
    with pytest.raises(CheckpointError, match=r"fc\.bias is a nested tensor, which has no shape"):
        read_checkpoint(path, None, "raw", False)


@pytest.mark.parametrize("place", [None, "model_ema"])
def test_the_count_of_torchs_averaged_model_is_no_weight(tmp_path, place):
    averaged = torch.optim.swa_utils.AveragedModel(linear())
    held = averaged.state_dict()
    path = saved(tmp_path / "x.pt", {place: held, "model": weights()} if place else held)
    read = read_checkpoint(path, None, "ema" if place else "raw", False)
    assert equal(fit(read, linear(), ANYWHERE), averaged.module.state_dict())


# --- fitting


@pytest.mark.parametrize(
    "prefix",
    ["", "module.", "_orig_mod.", "model.", "module._orig_mod.", "model.module.", "net.backbone.", "fc."],
)
def test_prefixes_are_taken_off(prefix):
    renamed = Weights({prefix + name: value for name, value in weights().items()}, {})
    assert equal(fit(renamed, linear(), ANYWHERE), weights())


def test_wrappers_within_names_are_taken_off():
    names = ["module.fc._orig_mod.weight", "module.fc._orig_mod.bias"]
    assert equal(fit(Weights(dict(zip(names, weights().values(), strict=True)), {}), linear(), ANYWHERE), weights())


def test_a_model_that_has_a_module_of_a_wrappers_name_keeps_it():
    model = nn.Module()
    model.module = linear()
    expected = {f"module.{name}": value for name, value in weights().items()}
    assert equal(fit(Weights(expected, {}), model, ANYWHERE), expected)
    wrapped = {f"module.{name}": value for name, value in expected.items()}
    assert equal(fit(Weights(wrapped, {}), model, ANYWHERE), expected)


def test_what_does_not_fit_is_listed_under_the_best_renaming():
    held = {"module.fc.weight": torch.ones(2, 4), "module.head.weight": torch.ones(1)}
    with pytest.raises(CheckpointError) as caught:
        fit(Weights(held, {}), linear(), ANYWHERE)
    assert caught.value.what == (
        "does not fit the model: 1 missing (fc.bias), 1 left over (head.weight), "
        "1 of another shape (fc.weight is 2x4, the model has 2x3)"
    )


@pytest.mark.parametrize("change", ["missing", "left over", "shape"])
def test_a_single_misfit_leaves_the_model_as_it_was(change):
    model, held = linear(), weights()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    if change == "missing":
        del held["fc.bias"]
    else:
        held["extra" if change == "left over" else "fc.bias"] = torch.ones(5)
    with pytest.raises(CheckpointError, match=change):
        load_into(model, Weights(held, {}), ANYWHERE)
    assert equal(model.state_dict(), before)


def test_two_names_that_would_become_one_are_not_merged():
    held = {**weights(), "module.fc.weight": torch.zeros(2, 3)}
    with pytest.raises(CheckpointError, match="1 left over"):
        fit(Weights(held, {}), linear(), ANYWHERE)


def test_loading_replaces_all_of_the_previous_checkpoint():
    model = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2))
    for fill in (1.0, 2.0):
        held = {name: torch.full_like(value, int(fill)) for name, value in model.state_dict().items()}
        load_into(model, Weights(held, {}), ANYWHERE)
        assert all((value == fill).all() for value in model.state_dict().values())


def test_a_model_with_state_that_is_no_tensor_cannot_be_filled_by_half():
    class Odd(nn.Linear):
        def get_extra_state(self):
            return {"phase": 1}

        def set_extra_state(self, state):
            raise AssertionError("nothing was saved")

    held = {"weight": torch.ones(2, 3), "bias": torch.ones(2)}
    with pytest.raises(CheckpointError, match="_extra_state"):
        load_into(Odd(3, 2), Weights(held, {}), ANYWHERE)


def test_batch_counters_may_be_missing_on_either_side():
    with_counter, without = nn.BatchNorm1d(2), nn.BatchNorm1d(2)
    with_counter.num_batches_tracked.fill_(9)
    model, other = nn.Sequential(with_counter), nn.Sequential(without)
    held = {name: value for name, value in other.state_dict().items() if "tracked" not in name}
    load_into(model, Weights(held, {}), ANYWHERE)
    assert with_counter.num_batches_tracked == 0
    del without.num_batches_tracked
    assert "0.num_batches_tracked" not in fit(Weights(model.state_dict(), {}), other, ANYWHERE)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_are_cast_to_the_models(dtype):
    held = {name: value.to(dtype) for name, value in weights().items()}
    fitted = fit(Weights(held, {}), linear(), ANYWHERE)
    assert equal(fitted, weights()) and fitted["fc.bias"].dtype == torch.float32


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (torch.ones(2, dtype=torch.int8), "integer"),
        (torch.ones(2, dtype=torch.complex64), "complex"),
        (torch.ones(2).to_sparse(), "quantized or sparse"),
        (torch.ones(2, device="meta"), "without data"),
    ],
)
def test_tensors_that_are_no_plain_numbers_are_refused(value, kind):
    with pytest.raises(CheckpointError, match=f"1 of another kind .fc.bias is {kind}, the model has float"):
        fit(Weights({**weights(), "fc.bias": value}, {}), linear(), ANYWHERE)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e300])
def test_numbers_that_are_not_finite_in_the_model_are_an_error(value):
    held = {**weights(), "fc.bias": torch.tensor([1.0, value], dtype=torch.float64)}
    with pytest.raises(CheckpointError, match=r"1 of 2 tensors hold NaN or infinity, the first is fc\.bias"):
        fit(Weights(held, {}), linear(), ANYWHERE)


# --- real files


def test_the_real_run_is_found_ordered_and_loaded():
    from cmon.models import build_model

    folder = shared("data/resnet20_epochs")
    run = run_of(folder / "epoch_*.pt")
    files = discover(run)
    model = build_model(f"{folder}/keras_resnet20.py:build", {})
    read = [read_checkpoint(file.path, None, "raw", False) for file in files]
    steps = resolve_steps(run, [file.name for file in files], [one.steps for one in read])
    assert steps == (1, 2, 3, 4, 5, 6, 7, 9, 11, 12, 14, 24)
    for one in (read[0], read[-1]):
        load_into(model, one, ANYWHERE)
        assert torch.equal(model.fc.weight, one.tensors["fc.weight"])
    assert not torch.equal(read[0].tensors["fc.weight"], read[-1].tensors["fc.weight"])


@pytest.mark.parametrize(
    ("file", "key", "function", "step"),
    [
        ("resnet20-12fca82f.th", None, "resnet20", None),
        ("cifar_small_8px.pth", "state_dict.0", "small_robust", 20),
        ("cifar_small_l2_36px.pth", "state_dict.0", "small_robust", 17),
    ],
)
def test_old_files_that_were_saved_on_a_gpu_load(file, key, function, step):
    from cmon.models import build_model

    folder = shared("data/standard_vs_robust")
    read = read_checkpoint(folder / file, key, "raw", False)
    assert read.steps.get("epoch") == step
    load_into(build_model(f"{folder}/models.py:{function}", {}), read, ANYWHERE)


def test_a_real_list_of_weights_is_pointed_out():
    with pytest.raises(CheckpointError) as caught:
        read_checkpoint(shared("data/standard_vs_robust/cifar_small_8px.pth"), None, "raw", False)
    assert caught.value.hint == 'set state_dict_key = "state_dict.0"'


def test_a_few_numbers_that_say_they_are_billions_are_not_multiplied():
    spread = torch.zeros(1).expand(10**5, 10**5)
    content = Weights({"fc.weight_orig": spread, "fc.weight_mask": spread, "fc.bias": torch.ones(2)}, {})
    with pytest.raises(CheckpointError, match=r"fc\.weight_orig is 100000x100000, and stored with fewer numbers"):
        fit(content, linear(), ANYWHERE)


def test_a_small_file_that_unpacks_to_much_more_is_not_unpacked(tmp_path):
    saved(tmp_path / "a.pt", {"state_dict": weights()})
    with zipfile.ZipFile(tmp_path / "a.pt", "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data/9", bytes(64 * 2**20))
    with pytest.raises(CheckpointError, match="would unpack to 64 MiB"):
        read_checkpoint(tmp_path / "a.pt", None, "raw", trust_pickle=False)
