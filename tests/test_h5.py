import errno
import fcntl
import os
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as stnp

from cmon import h5
from cmon.errors import StoreError
from cmon.fingerprint import fingerprint
from cmon.h5 import open_file, read_header, read_json, read_strings, write_array, write_file, write_strings, write_whole

RECIPE = {"algorithm": 1, "pooling": "mean", "layers": ["layer1", "größe", "層"]}
NOBODY = 65534
anything = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
strings = st.text(st.characters(), max_size=12)  # surrogates and NUL among them
json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | strings,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(strings, inner, max_size=3),
    max_leaves=8,
)


def fill(file):
    write_strings(file, "names", ("cat", "", "縞模様"))
    write_array(file, "group/values", np.arange(12, dtype=np.float32).reshape(4, 3))


def written(path, kind="evidence", recipe=RECIPE, provenance=None, content=fill):
    write_file(path, kind, recipe, provenance, content)
    return path


def read_all(path, kind="evidence"):
    with open_file(path, kind) as file:
        return read_strings(file, "names"), file["group/values"][:].tolist()


CONTENT = (("cat", "", "縞模様"), np.arange(12, dtype=np.float32).reshape(4, 3).tolist())


@contextmanager
def unprivileged():
    """Lose root's right to write anywhere; folders on the way must be open to all."""
    mine = os.geteuid()
    if mine == 0:
        os.seteuid(NOBODY)
    try:
        yield
    finally:
        if mine == 0:
            os.seteuid(mine)


@pytest.fixture
def closed_folder():
    """A folder that anybody may list; tmp_path is closed to all but its owner."""
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)
        Path(folder).chmod(0o755)


@pytest.mark.parametrize(
    "names", [(), ("",), ("a",), ("", "ab", ""), ("a\0", "\0", "a", "\0b"), ("\udcff.png", "\ud800")]
)
def test_strings_come_back_exactly(tmp_path, names):
    written(tmp_path / "f.h5", content=lambda file: write_strings(file, "names", names))
    with open_file(tmp_path / "f.h5", "evidence") as file:
        assert read_strings(file, "names") == names


@anything
@given(names=st.lists(strings, max_size=6).map(tuple), text=strings)
def test_any_strings_come_back_exactly(tmp_path, names, text):
    def content(file):
        write_strings(file, "names", names)
        h5.write_attribute(file, "note", text)

    written(tmp_path / "f.h5", content=content)
    with open_file(tmp_path / "f.h5", "evidence") as file:
        assert read_strings(file, "names") == names
        assert h5.read_attribute(file, "note") == text


@anything
@given(value=json_values)
def test_any_json_comes_back_exactly(tmp_path, value):
    written(tmp_path / "f.h5", recipe={"value": value}, provenance=value, content=lambda file: None)
    header = read_header(tmp_path / "f.h5", "evidence")
    assert header is not None
    assert header.recipe == {"value": value}
    assert header.fingerprint == fingerprint({"value": value})
    with open_file(tmp_path / "f.h5", "evidence") as file:
        assert read_json(file, "provenance") == value


ARRAYS = stnp.arrays(
    st.sampled_from([np.dtype(np.bool_), np.dtype(np.int32), np.dtype(np.int64), np.dtype(np.float32)]),
    stnp.array_shapes(min_dims=1, max_dims=3, min_side=0, max_side=5),
)


@anything
@given(values=ARRAYS)
def test_any_array_comes_back_exactly(tmp_path, values):
    written(tmp_path / "f.h5", content=lambda file: write_array(file, "values", values))
    with open_file(tmp_path / "f.h5", "evidence") as file:
        found = file["values"][:]
    assert found.dtype == values.dtype
    assert found.shape == values.shape
    assert found.tobytes() == values.tobytes()  # NaN, infinities and -0 among them


def test_a_json_text_longer_than_an_attribute_may_be_comes_back(tmp_path):
    recipe = {"words": [f"word {i}" for i in range(20_000)]}
    header = read_header(written(tmp_path / "f.h5", recipe=recipe), "evidence")
    assert header is not None
    assert header.recipe == recipe


def test_a_large_array_is_cut_into_several_checksummed_chunks(tmp_path, monkeypatch):
    monkeypatch.setattr(h5, "CHUNK_BYTES", 64)
    values = np.arange(100, dtype=np.float32).reshape(25, 4)
    written(tmp_path / "f.h5", content=lambda file: write_array(file, "values", values))
    with open_file(tmp_path / "f.h5", "evidence") as file:
        assert file["values"].chunks == (4, 4)
        assert file["values"].fletcher32
        assert np.array_equal(file["values"][:], values)


def test_every_dataset_that_holds_something_is_checksummed(tmp_path):
    found = []
    with h5py.File(written(tmp_path / "f.h5"), "r") as file:
        file.visititems(lambda name, item: found.append((name, getattr(item, "fletcher32", True))))
    assert {name for name, _ in found} == {"names", "group", "group/values", "provenance", "recipe"}
    assert all(checked for _, checked in found)


def test_no_string_is_of_variable_length(tmp_path):
    with h5py.File(written(tmp_path / "f.h5"), "r") as file:
        kinds = [file[name].dtype for name in ("names", "recipe", "provenance")]
        kinds += [file.attrs.get_id(name).dtype for name in file.attrs]
    assert all(h5py.check_string_dtype(kind) is None or h5py.check_string_dtype(kind).length for kind in kinds)


def test_equal_content_gives_equal_bytes_at_any_time(tmp_path):
    first = written(tmp_path / "a.h5").read_bytes()
    time.sleep(1.1)  # HDF5 would note whole seconds
    assert written(tmp_path / "elsewhere" / "b.h5").read_bytes() == first


def test_h5py_alone_can_read_the_strings(tmp_path):
    with h5py.File(written(tmp_path / "f.h5"), "r") as file:
        assert file["names"].asstr()[:].tolist() == ["cat", "", "縞模様"]
        assert file.attrs["kind"] == b"evidence"


@pytest.mark.parametrize("broken", ["fsync", "replace"])
@pytest.mark.parametrize("error", [OSError(errno.EIO, "Input/output error"), KeyboardInterrupt()])
@pytest.mark.parametrize("before", [None, b"what was there"])
def test_a_write_that_ends_early_leaves_what_was_there(tmp_path, monkeypatch, broken, error, before):
    path = tmp_path / "f.h5"
    if before:
        path.write_bytes(before)

    def fail(*_):
        raise error

    monkeypatch.setattr(*((os, "fsync", fail) if broken == "fsync" else (Path, "replace", fail)))
    with pytest.raises(StoreError if isinstance(error, OSError) else KeyboardInterrupt):
        written(path)
    assert [p.name for p in tmp_path.iterdir()] == (["f.h5"] if before else [])
    assert not before or path.read_bytes() == before


def test_a_full_disk_says_to_make_room(tmp_path, monkeypatch):
    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StoreError, match=r"f\.h5: cannot be written: No space left") as caught:
        written(tmp_path / "f.h5")
    assert "make room" in caught.value.hint


def test_a_file_that_cannot_be_filled_leaves_what_was_there(tmp_path):
    path = written(tmp_path / "f.h5")
    before = path.read_bytes()

    def content(file):
        fill(file)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        written(path, content=content)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["f.h5"]


def test_a_process_killed_while_it_writes_leaves_the_old_file(tmp_path):
    path = written(tmp_path / "f.h5")
    before = path.read_bytes()
    code = f"""
import os, signal
from pathlib import Path
from cmon import h5
os.fsync = lambda _: os.kill(os.getpid(), signal.SIGKILL)
h5.write_whole(Path({str(path)!r}), b"new")
"""
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == -9
    assert path.read_bytes() == before
    assert read_all(path) == CONTENT


@pytest.mark.parametrize("place", ["file/f.h5", "file/below/f.h5", "x" * 300 + ".h5"])
def test_a_place_that_cannot_be_written_is_an_error(tmp_path, place):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(StoreError, match="cannot be written"):
        written(tmp_path / place)


def test_a_folder_without_permission_is_an_error(closed_folder):
    closed_folder.chmod(0o555)
    with unprivileged(), pytest.raises(StoreError, match="cannot be written: Permission denied"):
        write_whole(closed_folder / "f.h5", b"data")
    assert list(closed_folder.iterdir()) == []


def test_a_file_that_cannot_be_changed_is_read(closed_folder):
    path = written(closed_folder / "f.h5")
    path.chmod(0o444)
    closed_folder.chmod(0o555)
    with unprivileged():
        with pytest.raises(PermissionError):
            path.open("r+b")
        assert read_all(path) == CONTENT
        assert read_header(path, "evidence") is not None


HOLD = """
import sys, h5py
with h5py.File(sys.argv[1], "r") as file:
    print("open", flush=True)
    sys.stdin.readline()
"""


def test_a_file_that_another_process_holds_open_is_read_and_replaced(tmp_path):
    path = written(tmp_path / "f.h5")
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout.readline() == "open\n"
        assert read_all(path) == CONTENT
        written(path, recipe={"other": True})
        assert read_header(path, "evidence").recipe == {"other": True}
        other.communicate("\n", timeout=30)
    assert other.returncode == 0


def test_a_file_that_another_has_locked_is_read(tmp_path):
    path = written(tmp_path / "f.h5")
    with path.open("r+b") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        assert read_all(path) == CONTENT


def test_reading_changes_nothing(tmp_path):
    path = written(tmp_path / "f.h5")
    before = path.read_bytes(), path.stat().st_mtime_ns
    read_all(path)
    read_header(path, "evidence")
    assert (path.read_bytes(), path.stat().st_mtime_ns) == before


def test_no_file_has_no_header(tmp_path):
    assert read_header(tmp_path / "f.h5", "evidence") is None
    with pytest.raises(FileNotFoundError):
        read_all(tmp_path / "f.h5")


def refused(path, what, kind="evidence"):
    for read in (read_all, read_header):
        with pytest.raises(StoreError, match=what) as caught:
            read(path, kind)
        assert caught.value.where == str(path)
        assert caught.value.hint
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "content", [b"", b"concept,category\n", b"\x89HDF\r\n\x1a\n", b"\x89HDF\r\n\x1a\n" + bytes(600)]
)
def test_a_file_that_is_no_hdf5_is_an_error(tmp_path, content):
    (tmp_path / "f.h5").write_bytes(content)
    refused(tmp_path / "f.h5", "is damaged")


def test_a_folder_in_its_place_is_an_error(tmp_path):
    (tmp_path / "f.h5").mkdir()
    refused(tmp_path / "f.h5", "cannot be read")


def test_a_foreign_hdf5_file_is_an_error(tmp_path):
    with h5py.File(tmp_path / "f.h5", "w") as file:
        file["data"] = np.arange(3)
        file.attrs["format"] = "somebody else's"
    refused(tmp_path / "f.h5", "is not a cmon file of kind evidence")


def test_a_file_of_another_kind_is_an_error(tmp_path):
    refused(written(tmp_path / "f.h5", "activations"), "is not a cmon file of kind evidence")


def test_a_newer_format_asks_for_a_newer_cmon(tmp_path, monkeypatch):
    monkeypatch.setattr(h5, "FORMAT_VERSION", h5.FORMAT_VERSION + 1)
    path = written(tmp_path / "f.h5")
    monkeypatch.undo()
    refused(path, "newer than this cmon")
    with pytest.raises(StoreError) as caught:
        read_header(path, "evidence")
    assert caught.value.hint == "upgrade cmon"


def test_an_older_format_counts_as_none(tmp_path, monkeypatch):
    monkeypatch.setattr(h5, "FORMAT_VERSION", h5.FORMAT_VERSION - 1)
    path = written(tmp_path / "f.h5")
    monkeypatch.undo()
    assert read_header(path, "evidence") is None


@pytest.mark.parametrize("version", ["1", [1, 2], None, float("nan")])
def test_a_format_version_that_is_no_number_is_an_error(tmp_path, version):
    path = written(tmp_path / "f.h5")
    with h5py.File(path, "r+") as file:
        del file.attrs["format_version"]
        if version is not None:
            file.attrs["format_version"] = version
    refused(path, "is damaged")


def test_a_recipe_that_does_not_match_its_fingerprint_is_an_error(tmp_path):
    path = written(tmp_path / "f.h5")
    with h5py.File(path, "r+") as file:
        del file["recipe"]
        write_strings(file, "recipe", ('{"pooling":"max"}',))
    with pytest.raises(StoreError, match="does not match its fingerprint"):
        read_header(path, "evidence")


@pytest.mark.parametrize("recipe", [(), ("{",), ("[" * 100_000,), ("3",)])
def test_a_recipe_that_is_no_json_object_is_an_error(tmp_path, recipe):
    path = written(tmp_path / "f.h5")
    with h5py.File(path, "r+") as file:
        del file["recipe"]
        write_strings(file, "recipe", recipe)
    with pytest.raises(StoreError, match="is damaged"):
        read_header(path, "evidence")


def test_a_group_where_a_dataset_should_be_is_an_error(tmp_path):
    path = written(tmp_path / "f.h5")
    with h5py.File(path, "r+") as file:
        del file["names"]
        file.create_group("names")
    with pytest.raises(StoreError, match="is damaged"):
        read_all(path)


def test_many_lengths_of_a_cut_file_are_errors(tmp_path):
    data = written(tmp_path / "whole.h5").read_bytes()
    path = tmp_path / "f.h5"
    for length in [*range(0, len(data), 37), len(data) - 1]:
        path.write_bytes(data[:length])
        refused(path, "is damaged")
