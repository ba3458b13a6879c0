import io
import os
import pickle
import subprocess
import sys
import threading
import time
import zipfile

import pytest

from cmon.checkpoints import unfinished as module
from cmon.checkpoints.unfinished import is_early, unfinished

WRITTEN = "is still being written"


class Watch:
    """The module's clock: a nap takes no time, and `meanwhile` happens in each."""

    def __init__(self):
        self.slept_s = 0.0
        self.meanwhile = lambda: None
        self.time = time.time

    def monotonic(self):
        return self.slept_s

    def sleep(self, seconds):
        self.slept_s += seconds
        self.meanwhile()


@pytest.fixture
def watch(monkeypatch):
    clock = Watch()
    monkeypatch.setattr(module, "WATCH_S", 2.0)  # conftest turns both off for all other tests
    monkeypatch.setattr(module, "LAST_S", 30)
    monkeypatch.setattr(module, "time", clock)
    return clock


def zip_bytes(**how):
    import torch

    buffer = io.BytesIO()
    torch.save({"epoch": 3, "state_dict": {"weight": torch.ones(3000), "bias": torch.zeros(7)}}, buffer, **how)
    return buffer.getvalue()


def old_torch_bytes():
    return zip_bytes(_use_new_zipfile_serialization=False)


def safetensors_bytes():
    import torch
    from safetensors.torch import save

    return save({"a": torch.ones(3000), "b": torch.zeros(7)}, {"epoch": "3"})


def files(folder, *contents, ending=".pt", age_s=5.0):
    """Write a run's checkpoints in their natural order, all last changed so long ago."""
    paths = [folder / f"epoch_{number}{ending}" for number in range(len(contents))]
    for path, content in zip(paths, contents, strict=True):
        path.write_bytes(content)
        changed(path, age_s)
    return paths


def changed(path, age_s):
    os.utime(path, (time.time() - age_s,) * 2)


def test_whole_files_are_finished_at_once(tmp_path, watch):
    paths = files(tmp_path, *[zip_bytes()] * 3)
    paths += files(tmp_path, safetensors_bytes(), safetensors_bytes(), ending=".safetensors")
    assert unfinished(paths) == {}
    assert watch.slept_s == 0


def test_a_run_without_checkpoints_has_none_that_is_unfinished(watch):
    assert unfinished([]) == {}


@pytest.mark.parametrize("age_s", [61, 3600, -61, -3600])
def test_what_was_changed_long_ago_is_finished_whatever_it_holds(tmp_path, watch, age_s):
    assert unfinished(files(tmp_path, zip_bytes()[:-200], b"", b"PK\3\4", age_s=age_s)) == {}
    assert watch.slept_s == 0


CUT = {
    "a zip without its directory": (".pt", lambda: zip_bytes()[:-600]),
    "a zip without its last byte": (".pt", lambda: zip_bytes()[:-1]),
    "a zip of four bytes": (".pt", lambda: zip_bytes()[:4]),
    "a place reserved for a zip": (".pt", lambda: bytes(len(zip_bytes()))),
    "a zip in a place reserved for more": (".pt", lambda: zip_bytes() + bytes(2**18)),
    "a zip that ends with another": (".pt", lambda: zip_bytes()[:2000] + zip_bytes()),
    "an empty file": (".pt", lambda: b""),
    "safetensors without their last byte": (".safetensors", lambda: safetensors_bytes()[:-1]),
    "safetensors without data": (".safetensors", lambda: safetensors_bytes()[:200]),
    "safetensors within their header": (".safetensors", lambda: safetensors_bytes()[:30]),
    "safetensors of four bytes": (".safetensors", lambda: safetensors_bytes()[:4]),
    "a place reserved for safetensors": (".safetensors", lambda: bytes(len(safetensors_bytes()))),
    "no safetensors": (".safetensors", lambda: b'\x08\0\0\0\0\0\0\0["none"]'),
    "text for safetensors": (".safetensors", lambda: b"nothing of the kind"),
}


@pytest.mark.parametrize(("ending", "cut"), CUT.values(), ids=CUT)
def test_the_last_of_a_run_that_is_cut_short_is_unfinished(tmp_path, watch, ending, cut):
    whole = safetensors_bytes() if ending == ".safetensors" else zip_bytes()
    paths = files(tmp_path, whole, cut(), ending=ending)
    assert unfinished(paths) == {paths[1]: "is not whole yet, and was changed 5 s ago"}
    assert watch.slept_s == module.WATCH_S


@pytest.mark.parametrize(("ending", "cut"), CUT.values(), ids=CUT)
def test_another_that_is_cut_short_and_left_alone_is_damaged(tmp_path, watch, ending, cut):
    whole = safetensors_bytes() if ending == ".safetensors" else zip_bytes()
    assert unfinished(files(tmp_path, cut(), whole, ending=ending)) == {}
    assert watch.slept_s == module.WATCH_S


@pytest.mark.parametrize("age_s", [31, 45, -31])
def test_the_last_of_a_run_that_is_cut_short_is_damaged_after_half_a_minute(tmp_path, watch, age_s):
    assert unfinished(files(tmp_path, zip_bytes()[:-1], age_s=age_s)) == {}


def test_the_clock_of_a_file_server_may_be_ahead(tmp_path, watch):
    (path,) = files(tmp_path, zip_bytes()[:-1], age_s=-4)
    assert unfinished([path]) == {path: "is not whole yet, and was changed 4 s ago"}


@pytest.mark.parametrize("content", [old_torch_bytes, lambda: pickle.dumps({"epoch": 3}), lambda: b"neither of both"])
def test_a_format_that_has_no_end_is_finished_where_it_is_left_alone(tmp_path, watch, content):
    assert unfinished(files(tmp_path, content(), content()[:-1])) == {}
    assert watch.slept_s == module.WATCH_S


@pytest.mark.parametrize("content", [zip_bytes, old_torch_bytes])
def test_what_grows_is_being_written_wherever_it_stands(tmp_path, watch, content):
    paths = files(tmp_path, content()[:1000], zip_bytes(), content()[:1000], zip_bytes())

    def append():
        for path in (paths[0], paths[2]):
            path.write_bytes(path.read_bytes() + bytes(100))

    watch.meanwhile = append
    assert unfinished(paths) == {paths[0]: WRITTEN, paths[2]: WRITTEN}
    assert watch.slept_s == module.LOOK_S


def test_all_files_are_watched_at_once(tmp_path, watch):
    paths = files(tmp_path, *[b""] * 20)
    assert list(unfinished(paths)) == paths[-1:]
    assert watch.slept_s == module.WATCH_S


def test_what_is_overwritten_in_its_place_is_being_written(tmp_path, watch):
    paths = files(tmp_path, zip_bytes()[:-1], zip_bytes())
    size_bytes = paths[0].stat().st_size

    def overwrite():
        with paths[0].open("rb+") as file:
            file.write(b"PK\3\4 other")

    watch.meanwhile = overwrite
    assert unfinished(paths) == {paths[0]: WRITTEN}
    assert paths[0].stat().st_size == size_bytes


def test_what_becomes_whole_while_it_is_watched_is_finished(tmp_path, watch):
    (path,) = files(tmp_path, zip_bytes()[:1000])
    watch.meanwhile = lambda: path.write_bytes(zip_bytes())
    assert unfinished([path]) == {}
    assert watch.slept_s == module.LOOK_S


def test_what_is_deleted_or_renamed_while_it_is_watched_is_left_out(tmp_path, watch):
    paths = files(tmp_path, b"", zip_bytes()[:1000])

    def rename():
        paths[0].unlink(missing_ok=True)
        paths[1].rename(tmp_path / "epoch_1_whole.pt")
        watch.meanwhile = lambda: None

    watch.meanwhile = rename
    assert unfinished(paths) == {}


def test_what_cannot_be_read_is_left_to_those_who_read_it(tmp_path, watch):
    (tmp_path / "folder.pt").mkdir()
    (tmp_path / "broken.pt").symlink_to(tmp_path / "gone")
    (tmp_path / "circle.pt").symlink_to(tmp_path / "circle.pt")
    os.mkfifo(tmp_path / "pipe.pt")
    (tmp_path / "file").write_bytes(b"")
    names = ("folder.pt", "broken.pt", "circle.pt", "pipe.pt", "gone.pt", "file/below.pt")
    assert unfinished([tmp_path / name for name in names]) == {}
    assert watch.slept_s == 0


def test_what_may_not_be_read_is_left_to_those_who_read_it(tmp_path, watch):
    (path,) = files(tmp_path, b"")
    path.chmod(0)
    if os.access(path, os.R_OK):
        pytest.skip("this user may read everything")
    assert unfinished([path]) == {}


def test_a_link_is_its_file(tmp_path, watch):
    (path,) = files(tmp_path, zip_bytes()[:-1])
    link = tmp_path / "latest.pt"
    link.symlink_to(path)
    assert unfinished([link]) == {link: "is not whole yet, and was changed 5 s ago"}


def test_any_beginning_of_a_checkpoint_is_not_whole(tmp_path, watch):
    content = zip_bytes()
    for length in range(0, len(content), 97):
        (path,) = files(tmp_path, content[:length])
        assert list(unfinished([path])) == [path], length


def test_a_zip_of_zips_is_not_whole_where_one_of_these_is(tmp_path, watch):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("first", zip_bytes())
        archive.writestr("second", zip_bytes())
    content = buffer.getvalue()
    cut = content.index(b"PK\5\6") + 22  # where the first one ends
    paths = files(tmp_path, content, content[:cut])
    assert list(unfinished(paths)) == [paths[1]]


def test_a_training_that_writes_slowly_is_seen_until_it_has_written(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "WATCH_S", 5.0)
    monkeypatch.setattr(module, "LOOK_S", 0.01)
    (path,) = files(tmp_path, b"")
    content, go_on = zip_bytes(), threading.Event()

    def write():
        with path.open("wb", buffering=0) as file:
            for start in range(0, len(content), 500):
                file.write(content[start : start + 500])
                go_on.wait(0.02)

    training = threading.Thread(target=write)
    training.start()
    while path.stat().st_size == 0:
        time.sleep(0.001)
    assert unfinished([path]) == {path: WRITTEN}
    go_on.set()
    training.join()
    assert unfinished([path]) == {}


def test_it_is_told_without_torch():
    code = "import sys, cmon.checkpoints.unfinished; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_a_folder_of_the_trainer_is_unfinished_until_its_state_is_there(tmp_path):
    folder = tmp_path / "checkpoint-500"
    folder.mkdir()
    assert not is_early(folder)
    (folder / "training_args.bin").write_bytes(b"x")
    assert is_early(folder)
    (folder / "trainer_state.json").write_text("{}")
    assert not is_early(folder)
    (folder / "trainer_state.json").unlink()
    os.utime(folder / "training_args.bin", (time.time() - 61,) * 2)
    assert not is_early(folder)
