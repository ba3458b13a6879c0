"""TorchScript archives, exported programs and folders of torch.distributed.checkpoint, read without their code."""

import io
import os
import pickle
import random
import warnings
import zipfile
from pathlib import Path

import pytest

from cmon.checkpoints.damage import DAMAGE
from cmon.checkpoints.distributed import distributed_members, load_distributed
from cmon.checkpoints.exported import is_exported, load_exported
from cmon.checkpoints.scripted import is_scripted, load_scripted
from cmon.errors import CheckpointError

torch = pytest.importorskip("torch")
nn = torch.nn


class Net(nn.Module):
    """Hold what archives have trouble with: ties, strides, small numbers, attributes that are no state."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.bn = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)
        self.small = nn.Parameter(torch.randn(3).half())
        self.register_buffer("brain", torch.randn(2).bfloat16())
        self.register_buffer("turned", torch.randn(3, 4).t())
        self.register_buffer("passing", torch.randn(2), persistent=False)
        self.attribute = torch.randn(5)
        self.blocks = nn.ModuleList([nn.Linear(4, 4), nn.Linear(4, 4)])
        self.tied = self.blocks[0]
        self.names, self.nothing = ["a"], None

    def forward(self, images):
        seen = self.tied(self.bn(self.conv(images)).mean((2, 3)))
        for block in self.blocks:
            seen = block(seen)
        return seen + self.attribute[0] + self.passing[0] + self.brain[0] + self.small[0] + self.turned.sum()


def equal(found, expected):
    """Compare names, numbers, kinds and strides."""
    return found.keys() == expected.keys() and all(
        torch.equal(found[name], value) and found[name].dtype == value.dtype and found[name].stride() == value.stride()
        for name, value in expected.items()
    )


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Save one network as all kinds of archives."""
    folder = tmp_path_factory.mktemp("made")
    net, images = Net().eval(), torch.randn(2, 3, 5, 5)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scripted = torch.jit.script(net)
        scripted.save(folder / "scripted.pt")
        torch.jit.trace(net, images).save(folder / "traced.pt")
        torch.jit.freeze(scripted).save(folder / "frozen.pt")
        torch.jit.script(nn.ReLU()).save(folder / "empty.pt")
        program = torch.export.export(net, (images,))
        torch.export.save(program, folder / "exported.pt2")
        torch.jit.save(torch.jit.script(Grown()), folder / "grown.pt")
    torch.save(net.state_dict(), folder / "plain.pt")
    return folder


class Grown(nn.Module):
    """Say itself how it is saved, as quantized layers do."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(2))
        self.training = False

    @torch.jit.export
    def __getstate__(self):
        return self.weight * 2, self.training

    @torch.jit.export
    def __setstate__(self, state: tuple[torch.Tensor, bool]):
        self.weight = state[0]
        self.training = state[1]

    def forward(self, images):
        return images + self.weight


def records(file):
    """Return the records of a zip."""
    with zipfile.ZipFile(file) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def zipped(file, content):
    """Write records as a zip with the right checksums."""
    with zipfile.ZipFile(file, "w") as archive:
        for name, data in content.items():
            archive.writestr(name, data)
    return file


def fails(load, path, *words):
    """Hold that a file is refused in words that are meant for people."""
    with pytest.raises(CheckpointError) as raised:
        load(path, False)
    assert raised.value.hint
    told = f"{raised.value} {raised.value.hint}"
    assert all(word in told for word in words), told


class Bomb:
    """Make a folder where it is unpickled."""

    def __init__(self, place):
        self.place = place

    def __reduce__(self):
        return os.mkdir, (str(self.place),)


# TorchScript


@pytest.mark.parametrize("file", ["scripted.pt", "traced.pt"])
def test_a_scripts_weights_are_those_that_torch_loads(made, file):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = torch.jit.load(made / file).state_dict()
    found = load_scripted(made / file, False)
    assert equal(found, expected)
    assert [*found] == [*expected]
    assert found["tied.weight"].data_ptr() == found["blocks.0.weight"].data_ptr()
    assert found.keys() - Net().state_dict().keys() == {"passing"}


def test_archives_are_told_from_each_other_by_their_records(made):
    kinds = {}
    for file in made.iterdir():
        with zipfile.ZipFile(file) as archive:
            names = archive.namelist()
        kinds[file.name] = is_scripted(names), is_exported(names)
        within = [name.partition("/")[2] for name in names]
        assert kinds[file.name] == (is_scripted(within), is_exported(within))
    scripted = {name for name, (is_script, _) in kinds.items() if is_script}
    assert scripted == {"scripted.pt", "traced.pt", "frozen.pt", "empty.pt", "grown.pt"}
    assert {name for name, (_, is_export) in kinds.items() if is_export} == {"exported.pt2"}


def test_a_script_whose_weights_have_no_names_is_refused(made):
    fails(load_scripted, made / "frozen.pt", "frozen", "state_dict()")
    fails(load_scripted, made / "empty.pt", "without weights")


def test_a_script_that_only_its_own_code_can_read_is_refused(made):
    fails(load_scripted, made / "grown.pt", "Grown", "only its own code can read")


def test_a_quantized_script_is_refused(made, tmp_path):
    content = records(made / "scripted.pt")
    whole = content["scripted/data.pkl"]
    # The same number of letters, so that the lengths within the pickle stay right.
    content["scripted/data.pkl"] = whole.replace(b"torch\nHalfStorage", b"torch\nQIntStorage")
    fails(load_scripted, zipped(tmp_path / "a.pt", content), "small", "QIntStorage")
    content["scripted/data.pkl"] = whole.replace(b"_rebuild_tensor_v2", b"_rebuild_qtensor")
    fails(load_scripted, zipped(tmp_path / "a.pt", content), "small", "_rebuild_qtensor")


@pytest.mark.parametrize("name", ["os.mkdir", "builtins.exec", "posix.system", "cmon.cli.main"])
def test_a_script_that_names_foreign_code_is_refused_and_none_of_it_is_imported(made, tmp_path, name):
    content = records(made / "scripted.pt")
    module, _, attribute = name.rpartition(".")
    content["scripted/data.pkl"] = f"c{module}\n{attribute}\n(S'{tmp_path / 'made'}'\ntR.".encode()
    fails(load_scripted, zipped(tmp_path / "a.pt", content), name, "could run code")
    assert not (tmp_path / "made").exists()


def test_code_of_torch_that_a_script_names_is_neither_imported_nor_called(made, tmp_path, monkeypatch):
    called = []
    monkeypatch.setattr(torch.hub, "load", lambda *words: called.append(words))
    content = records(made / "scripted.pt")
    content["scripted/data.pkl"] = b"ctorch.hub\nload\n(S'somewhere'\ntR."
    fails(load_scripted, zipped(tmp_path / "a.pt", content), "without weights")
    assert called == []


def test_a_tensor_beyond_its_storage_is_damage(made, tmp_path):
    content = records(made / "scripted.pt")
    content["scripted/data/0"] = content["scripted/data/0"][:2]
    with pytest.raises(DAMAGE, match="storage"):
        load_scripted(zipped(tmp_path / "a.pt", content), False)


def test_modules_that_hold_each_other_are_damage(made, tmp_path):
    content = records(made / "empty.pt")
    kind = b"c__torch__.torch.nn.modules.activation\nReLU\n"
    content["empty/data.pkl"] = kind + b")\x81p0\n}S'within'\ng0\nsb."
    with pytest.raises(DAMAGE, match="hold each other"):
        load_scripted(zipped(tmp_path / "a.pt", content), False)


def test_modules_that_hold_others_without_end_are_damage(made, tmp_path):
    content = records(made / "empty.pt")
    kind, pickled = b"c__torch__.torch.nn.modules.activation\nReLU\n", b""
    pickled += kind + b")\x81}bp0\n0"
    for level in range(30):  # which makes 2 ** 30 ways to the innermost
        pickled += kind + b")\x81}(S'a'\ng%d\nS'b'\ng%d\nubp%d\n" % (level, level, level + 1)
    content["empty/data.pkl"] = pickled + b"."
    with pytest.raises(DAMAGE, match="hold each other"):
        load_scripted(zipped(tmp_path / "a.pt", content), False)


def test_numbers_that_a_script_has_conjugated_are_refused(tmp_path):
    class Complex(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("turns", torch.ones(3, dtype=torch.complex64).conj())

        def forward(self, images):
            return images

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.script(Complex()).save(tmp_path / "a.pt")
    fails(load_scripted, tmp_path / "a.pt", "turns", "only its own code can read")


def test_a_few_bytes_of_a_script_that_would_fill_the_memory_do_not(made, tmp_path):
    content = records(made / "scripted.pt")
    content["scripted/data.pkl"] = b"\x80\x02Nr\xff\xff\xff\xff0N."  # a memo of 4 billion places
    fails(load_scripted, zipped(tmp_path / "a.pt", content), "without weights")
    with zipfile.ZipFile(tmp_path / "b.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("b/data.pkl", bytes(10**7))
    fails(load_scripted, tmp_path / "b.pt", "would unpack to 10 MiB")


def test_numbers_of_another_order_of_bytes_are_refused(made, tmp_path):
    for file, load in (("scripted.pt", load_scripted), ("exported.pt2", load_exported)):
        content = records(made / file)
        content[f"{Path(file).stem}/byteorder"] = b"big"
        fails(load, zipped(tmp_path / file, content), "order of bytes")


# exported programs


def test_an_exported_programs_weights_are_the_modules_state(made):
    found = load_exported(made / "exported.pt2", False)
    assert equal(found, Net().eval().state_dict())
    assert found["tied.weight"].data_ptr() == found["blocks.0.weight"].data_ptr()


@pytest.mark.parametrize(
    "place", ["serialized_state_dict.pt", "serialized_state_dict.json", "it/data/weights/model.pt"]
)
def test_programs_of_older_torches_are_read(tmp_path, place):
    saved = io.BytesIO()
    torch.save({name: nn.Parameter(value, False) for name, value in Net().state_dict().items()}, saved)
    graph = "it/models/model.json" if "/" in place else "serialized_exported_program.json"
    content = {place: saved.getvalue(), graph: b"", "it/archive_format" if "/" in place else "version": b"pt2"}
    file = zipped(tmp_path / "old.pt2", content)
    assert is_exported(content)
    assert equal(load_exported(file, False), Net().state_dict())


def test_programs_without_one_set_of_named_weights_are_refused(made, tmp_path):
    content = records(made / "exported.pt2")
    config = "exported/data/weights/model_weights_config.json"
    two = content | {config.replace("model_", "other_"): content[config]}
    fails(load_exported, zipped(tmp_path / "two.pt2", two), "several programs", "other_weights_config.json")
    del content[config]
    fails(load_exported, zipped(tmp_path / "none.pt2", content), "without weights by name")


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        (b'"use_pickle": false', b'"use_pickle": true', ["as an object"]),
        (b'"dtype": 6', b'"dtype": 99', ["small", "99"]),
        (b'"as_int": 27', b'"as_int": 270', ["storage"]),
        (b'"as_int": 27', b'"as_expr": 27', ["as_int"]),
        (b'"as_int": 27', b'"as_int": "27"', ["size"]),
        (b'"weight_0"', b'"../weight_0"', ["weight_0"]),
    ],
)
def test_weights_of_a_program_that_are_not_as_described_are_an_error(made, tmp_path, old, new, words):
    content = records(made / "exported.pt2")
    config = "exported/data/weights/model_weights_config.json"
    assert old in content[config]
    content[config] = content[config].replace(old, new)
    with pytest.raises((CheckpointError, *DAMAGE)) as raised:
        load_exported(zipped(tmp_path / "a.pt2", content), False)
    assert all(word in str(raised.value) for word in words), raised.value


def test_code_within_an_old_program_is_not_run(tmp_path):
    content = {"serialized_state_dict.pt": pickle.dumps({"a": Bomb(tmp_path / "made")})}
    with pytest.raises(DAMAGE):
        load_exported(zipped(tmp_path / "a.pt2", content), False)
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize(("file", "load"), [("scripted.pt", load_scripted), ("exported.pt2", load_exported)])
def test_a_damaged_archive_is_an_error_and_never_other_weights(made, tmp_path, file, load):
    whole, numbers = (made / file).read_bytes(), random.Random(0)
    expected = load(made / file, False)
    damaged = [whole[: len(whole) * part // 9] for part in range(9)]
    for place in numbers.sample(range(len(whole)), 300):
        damaged.append(whole[:place] + bytes([whole[place] ^ 1 << place % 8]) + whole[place + 1 :])
    refused = 0
    for number, content in enumerate(damaged):
        (tmp_path / file).write_bytes(content)
        try:
            found = load(tmp_path / file, False)
        except (CheckpointError, *DAMAGE):
            refused += 1
        else:
            assert equal(found, expected), number  # the bit is of what is not read
    assert refused > 50


# torch.distributed.checkpoint

SIZE = (5, 3)


def folder_of_pieces(folder, **changes):
    """Save a tensor of SIZE as two ranks do that hold 3 and 2 rows, with an epoch and an optimizer beside it.

    Args:
        folder: is made.
        changes: what the metadata say instead: size, dtype, rows as [(first, count)], file, start, length, transforms,
            planner_data, stored; extra and more are added to what is described and stored. saved are the rows
            that the files hold, epoch is the object beside them.
    """
    from torch.distributed.checkpoint import filesystem
    from torch.distributed.checkpoint.metadata import (
        BytesStorageMetadata,
        ChunkStorageMetadata,
        Metadata,
        MetadataIndex,
        TensorProperties,
        TensorStorageMetadata,
    )

    folder.mkdir(exist_ok=True)
    weight, rows = torch.arange(15.0).reshape(SIZE), changes.get("rows", [(0, 3), (3, 2)])
    chunks, stored = [], {}
    for rank, (first, count) in enumerate(rows):
        saved_first, saved_count = changes.get("saved", rows)[rank]
        file = io.BytesIO()
        torch.save(weight[saved_first : saved_first + saved_count].clone(), file)
        (folder / f"__{rank}_0.distcp").write_bytes(file.getvalue())
        chunks.append(ChunkStorageMetadata(torch.Size([first, 0]), torch.Size([count, 3])))
        name, length = changes.get("file", f"__{rank}_0.distcp"), changes.get("length", len(file.getvalue()))
        info = filesystem._StorageInfo(name, changes.get("start", 0), length, changes.get("transforms"))
        stored[MetadataIndex("model.weight", [first, 0])] = info
    epoch = io.BytesIO()
    torch.save(changes.get("epoch", 7), epoch)
    (folder / "__2_0.distcp").write_bytes(epoch.getvalue())
    stored[MetadataIndex("epoch")] = filesystem._StorageInfo("__2_0.distcp", 0, len(epoch.getvalue()))
    properties = TensorProperties(changes.get("dtype", torch.float32))
    stored |= changes.get("more", {})
    described = {
        "model.weight": TensorStorageMetadata(properties, torch.Size(changes.get("size", SIZE)), chunks),
        "epoch": BytesStorageMetadata(),
        "optim.state": BytesStorageMetadata(),  # which is nowhere: it is not asked for
        **changes.get("extra", {}),
    }
    paths = {"model.weight": ("model", "weight"), "epoch": ("epoch",), "optim.state": ("optim", "state")}
    metadata = Metadata(described, changes.get("planner_data", paths), changes.get("stored", stored))
    (folder / ".metadata").write_bytes(pickle.dumps(metadata))
    return folder


def test_pieces_of_several_ranks_make_up_the_tensors_that_torch_reads(tmp_path):
    from torch.distributed import checkpoint

    folder = folder_of_pieces(tmp_path / "step_7")
    expected = {"model": {"weight": torch.zeros(SIZE)}}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        checkpoint.load(expected, checkpoint_id=folder, no_dist=True)
    found = load_distributed(folder, False)
    assert found.keys() == {"model", "epoch"}
    assert found["epoch"] == 7
    assert equal(found["model"], expected["model"])
    assert equal(found["model"], {"weight": torch.arange(15.0).reshape(SIZE)})


def test_what_torch_itself_saved_is_what_is_read(tmp_path):
    from torch.distributed import checkpoint

    state = Net().state_dict()
    optimizer = {"state": {0: {"step": torch.ones(())}}}
    saved = {"model": state, "optimizer": optimizer, "epoch": 3, "args": {"out": Path("x"), "rates": [0.1, {"a": 1}]}}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        checkpoint.save(saved, checkpoint_id=tmp_path / "step_3", no_dist=True)
    found = load_distributed(tmp_path / "step_3", False)
    assert found.keys() == {"model", "epoch", "args"}
    assert found["model"].keys() == state.keys()
    assert all(torch.equal(found["model"][name], value) for name, value in state.items())
    assert found["epoch"] == 3
    assert found["args"]["rates"] == {0: 0.1, 1: {"a": 1}}
    names = [file.name for file in distributed_members(tmp_path / "step_3")]
    assert names == [".metadata", "__0_0.distcp"]


def test_what_lightning_keeps_beside_the_pieces_is_read_with_them(tmp_path):
    folder = folder_of_pieces(tmp_path / "epoch=0-step=2.ckpt")
    torch.save({"epoch": 0, "global_step": 2, "hyper_parameters": {"place": Path("x")}}, folder / "meta.pt")
    found = load_distributed(folder, False)
    assert found["global_step"] == 2
    assert found["model"].keys() == {"weight"}
    assert distributed_members(folder)[-1] == folder / "meta.pt"


def test_an_object_of_somebodys_own_beside_the_tensors_is_inert(tmp_path):
    found = load_distributed(folder_of_pieces(tmp_path / "a", epoch=Bomb(tmp_path / "made")), False)
    assert not isinstance(found["epoch"], int)
    assert found["model"].keys() == {"weight"}
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"file": "../weights"}, ["places model.weight in ../weights"]),
        ({"file": "/etc/passwd"}, ["places model.weight in /etc/passwd"]),
        ({"file": "__9_0.distcp"}, ["lacks __9_0.distcp"]),
        ({"length": 10**12}, ["bytes", "1000000000000"]),
        ({"start": -1}, ["places model.weight"]),
        ({"start": 10**12}, ["bytes"]),
        ({"size": (10**9, 3)}, ["promises model.weight of 12000000000 bytes"]),
        ({"size": (6, 3)}, ["lacks a part of model.weight"]),
        ({"size": (4, 3)}, ["another part of model.weight"]),
        ({"size": (5, 3, 1)}, ["another part of model.weight"]),
        ({"rows": [(0, 3), (2, 2)]}, ["lacks a part of model.weight"]),
        ({"saved": [(0, 3), (3, 1)]}, ["another part of model.weight"]),
        ({"dtype": torch.int32}, ["another part of model.weight"]),
        ({"stored": {}}, ["does not say where model.weight is"]),
        ({"transforms": ["zstd"]}, ["form of somebody's own"]),
        ({"planner_data": {"model.weight": ()}}, ["no place for model.weight"]),
        ({"extra": {"other": 3}}, ["attribute"]),
        ({"extra": {"other": Path("x")}}, ["describes other"]),
        ({"extra": {"other": Bomb(Path("nowhere"))}}, ["posix.mkdir", "could run code"]),
    ],
)
def test_a_folder_that_is_not_as_its_metadata_say_is_an_error(tmp_path, changes, words):
    folder = folder_of_pieces(tmp_path / "a", **changes)
    with pytest.raises((CheckpointError, *DAMAGE)) as raised:
        load_distributed(folder, False)
    assert all(word in str(raised.value) for word in words), raised.value
    assert not Path("nowhere").exists()


def test_metadata_that_are_none_are_refused(tmp_path):
    folder = folder_of_pieces(tmp_path / "a")
    (folder / ".metadata").write_bytes(pickle.dumps({"a": 1}))
    fails(load_distributed, folder, "no metadata")
    (folder / ".metadata").write_bytes(pickle.dumps(Bomb(tmp_path / "made")))
    fails(load_distributed, folder, "posix.mkdir", "could run code")
    assert not (tmp_path / "made").exists()


def test_tensors_that_would_all_be_read_from_the_same_bytes_are_refused(tmp_path):
    from torch.distributed.checkpoint.filesystem import _StorageInfo
    from torch.distributed.checkpoint.metadata import BytesStorageMetadata, MetadataIndex

    size = (folder_of_pieces(tmp_path / "a") / "__2_0.distcp").stat().st_size
    names = [f"more.{number}" for number in range(1000)]
    stored = {MetadataIndex(name): _StorageInfo("__2_0.distcp", 0, size) for name in names}
    folder = folder_of_pieces(tmp_path / "a", more=stored, extra=dict.fromkeys(names, BytesStorageMetadata()))
    fails(load_distributed, folder, "several tensors of the same bytes")


def test_a_missing_piece_is_an_error(tmp_path):
    folder = folder_of_pieces(tmp_path / "a")
    (folder / "__1_0.distcp").unlink()
    fails(load_distributed, folder, "lacks __1_0.distcp")


def test_code_within_a_piece_is_not_run(tmp_path):
    folder = folder_of_pieces(tmp_path / "a")
    hostile = pickle.dumps(Bomb(tmp_path / "made"), 2)
    (folder / "__1_0.distcp").write_bytes(hostile + bytes((folder / "__1_0.distcp").stat().st_size - len(hostile)))
    with pytest.raises(DAMAGE):
        load_distributed(folder, True)
    assert not (tmp_path / "made").exists()


def test_a_damaged_folder_is_an_error_and_never_other_weights(tmp_path):
    folder, numbers = folder_of_pieces(tmp_path / "a"), random.Random(0)
    expected, refused = load_distributed(folder, False)["model"], 0
    for name in (".metadata", "__0_0.distcp", "__1_0.distcp"):
        whole = (folder / name).read_bytes()
        damaged = [whole[: len(whole) * part // 9] for part in range(9)]
        for place in numbers.sample(range(len(whole)), 150):
            damaged.append(whole[:place] + bytes([whole[place] ^ 1 << place % 8]) + whole[place + 1 :])
        for content in damaged:
            (folder / name).write_bytes(content)
            try:
                found = load_distributed(folder, False)
            except (CheckpointError, *DAMAGE):
                refused += 1
            else:
                assert all(torch.equal(value, expected["weight"]) for value in found.get("model", {}).values())
        (folder / name).write_bytes(whole)
    assert refused > 100
