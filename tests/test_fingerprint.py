import hashlib
import json
import os
import subprocess
import sys
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cmon import fingerprint as module
from cmon.fingerprint import (
    HashMemory,
    bytes_sha256,
    canonical_json,
    changes,
    file_sha256,
    fingerprint,
    named_fingerprint,
)

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters()),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


def test_canonical_json_is_one_form():
    assert canonical_json({"b": [1, 2.5, None, True], "a": "größe"}) == '{"a":"größe","b":[1,2.5,null,true]}'


@given(value=json_values)
def test_equal_values_have_equal_fingerprints_and_others_not(value):
    again = json.loads(json.dumps(value))
    assert fingerprint(again) == fingerprint(value)
    assert len(fingerprint(value)) == 64
    assert fingerprint([value]) != fingerprint(value)


def test_the_order_of_keys_does_not_matter_and_that_of_items_does():
    assert fingerprint({"a": 1, "b": 2}) == fingerprint({"b": 2, "a": 1})
    assert fingerprint([1, 2]) != fingerprint([2, 1])
    assert len({fingerprint(value) for value in (1, 1.0, True, "1", [1])}) == 5


@pytest.mark.parametrize("value", [float("nan"), [float("inf")], {"a": -float("inf")}])
def test_numbers_that_are_none_have_no_fingerprint(value):
    with pytest.raises(ValueError, match="Out of range"):
        fingerprint(value)


def test_a_fingerprint_is_the_sha256_of_the_text():
    assert fingerprint({"a": "ß"}) == hashlib.sha256('{"a":"ß"}'.encode()).hexdigest()


def test_files_and_bytes_are_hashed_alike(tmp_path):
    (tmp_path / "x").write_bytes(b"abc" * 100_000)
    assert file_sha256(tmp_path / "x") == bytes_sha256(b"abc" * 100_000) == hashlib.sha256(b"abc" * 100_000).hexdigest()


def test_a_set_of_files_has_one_fingerprint_in_any_order():
    hashes = [("b.png", "1" * 64), ("a.png", "2" * 64), ("größe\udcff", "3" * 64)]
    assert named_fingerprint(hashes) == named_fingerprint(reversed(hashes))
    assert named_fingerprint(hashes) != named_fingerprint([("c.png", "1" * 64), *hashes[1:]])
    assert named_fingerprint(hashes) != named_fingerprint([("b.png", "2" * 64), ("a.png", "1" * 64), hashes[2]])


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        ({"a": 1}, {"a": 1}, []),
        ({"a": 1, "b": 2}, {"b": 3, "a": 2}, ["b", "a"]),
        ({"a": {"b": {"c": 1, "d": 2}}}, {"a": {"b": {"c": 1, "d": 3}}}, ["a.b.d"]),
        ({"a": 1}, {"b": 1}, ["b", "a"]),
        ({"a": {"b": 1}}, {"a": {}}, ["a.b"]),
        ({"a": {"b": 1}}, {"a": 3}, ["a"]),
        ({"a": [1, 2]}, {"a": [2, 1]}, ["a"]),
        ({"a": None}, {}, ["a"]),
        ({"a": 1}, {"a": 1.0}, ["a"]),
        ({"a": 1}, {"a": True}, ["a"]),
        ({"a": [1, 2]}, {"a": (1, 2)}, []),
        (1, {"a": 1}, ["everything"]),
    ],
)
def test_changes_name_dotted_keys(old, new, named):
    assert changes(old, new) == named


@given(old=json_values, new=json_values)
def test_something_is_named_exactly_where_fingerprints_differ(old, new):
    assert bool(changes(old, new)) == (fingerprint(old) != fingerprint(new))


# --- HashMemory


@pytest.fixture
def hashed(monkeypatch):
    """The files that were really hashed, in order."""
    done = []

    def counted(path):
        done.append(path.name)
        return file_sha256(path)

    monkeypatch.setattr(module, "file_sha256", counted)
    return done


@pytest.fixture
def old_file(tmp_path, monkeypatch):
    """A file that counts as old enough to be remembered."""
    monkeypatch.setattr(module, "RACY_S", -1.0)
    (tmp_path / "data").write_bytes(b"data")
    return tmp_path / "data"


def remembered(path, file):
    memory = HashMemory(path)
    value = memory.sha256(file)
    memory.save()
    return value


def test_a_hash_is_right_and_remembered(tmp_path, old_file, hashed):
    place = tmp_path / "new" / "hashes.json"
    assert remembered(place, old_file) == bytes_sha256(b"data")
    assert remembered(place, old_file) == bytes_sha256(b"data")
    assert hashed == ["data"]


def test_a_memory_that_was_not_saved_still_helps_itself(tmp_path, old_file, hashed):
    memory = HashMemory(tmp_path / "hashes.json")
    assert memory.sha256(old_file) == memory.sha256(old_file)
    assert hashed == ["data"]
    assert not (tmp_path / "hashes.json").exists()


@pytest.mark.parametrize("change", ["size", "mtime", "ctime", "inode", "bytes with the old mtime"])
def test_a_file_is_hashed_again_when_anything_of_it_changes(tmp_path, old_file, hashed, change):
    place = tmp_path / "hashes.json"
    remembered(place, old_file)
    times = (old_file.stat().st_atime_ns, old_file.stat().st_mtime_ns)
    time.sleep(0.02)
    if change == "size":
        with old_file.open("ab") as file:
            file.write(b"!")
        os.utime(old_file, ns=times)
    if change == "mtime":
        os.utime(old_file, ns=(1, 1))
    if change == "ctime":
        old_file.chmod(0o600)
    if change == "inode":
        (tmp_path / "other").write_bytes(b"DATA")
        os.utime(tmp_path / "other", ns=times)
        (tmp_path / "other").replace(old_file)
    if change == "bytes with the old mtime":
        old_file.write_bytes(b"DATA")
        os.utime(old_file, ns=times)
    assert remembered(place, old_file) == bytes_sha256(old_file.read_bytes())
    assert hashed == ["data", "data"]


def test_a_file_changed_a_moment_ago_is_not_trusted(tmp_path, hashed):
    (tmp_path / "data").write_bytes(b"data")
    memory = HashMemory(tmp_path / "hashes.json")
    memory.sha256(tmp_path / "data")
    memory.sha256(tmp_path / "data")
    memory.save()
    assert hashed == ["data", "data"]
    assert not (tmp_path / "hashes.json").exists()


def test_an_old_time_of_content_does_not_make_a_new_file_old(tmp_path, hashed):
    (tmp_path / "data").write_bytes(b"data")
    os.utime(tmp_path / "data", (1, 1))  # as an archive does; the inode's own time is now
    memory = HashMemory(tmp_path / "hashes.json")
    memory.sha256(tmp_path / "data")
    memory.sha256(tmp_path / "data")
    assert hashed == ["data", "data"]


def test_a_file_older_than_the_clock_can_err_is_remembered(tmp_path, monkeypatch, hashed):
    (tmp_path / "data").write_bytes(b"data")
    now = time.time()
    monkeypatch.setattr(module.time, "time", lambda: now + module.RACY_S + 1)
    memory = HashMemory(tmp_path / "hashes.json")
    memory.sha256(tmp_path / "data")
    memory.sha256(tmp_path / "data")
    assert hashed == ["data"]


def test_a_file_that_changes_while_it_is_hashed_is_not_remembered(tmp_path, old_file):
    memory = HashMemory(tmp_path / "hashes.json")

    def compute(path):
        value = file_sha256(path)
        path.write_bytes(b"other data")
        return value

    assert memory.recall(old_file, "x", compute) == bytes_sha256(b"data")
    memory.save()
    assert not memory.path.exists()
    assert memory.recall(old_file, "x", file_sha256) == bytes_sha256(b"other data")


def test_different_questions_on_one_file_are_kept_apart(tmp_path, old_file):
    memory = HashMemory(tmp_path / "hashes.json")
    assert memory.recall(old_file, "one", lambda path: "1") == "1"
    assert memory.recall(old_file, "two", lambda path: "2") == "2"
    assert memory.recall(old_file, "one", lambda path: "3") == "1"


def test_two_ways_to_one_file_are_one(tmp_path, old_file, hashed, monkeypatch):
    (tmp_path / "link").symlink_to(old_file)
    monkeypatch.chdir(tmp_path)
    memory = HashMemory(tmp_path / "hashes.json")
    for path in (old_file, tmp_path / "link", old_file.relative_to(tmp_path)):
        assert memory.sha256(path) == bytes_sha256(b"data")
    assert hashed == ["data"]


def test_a_missing_file_is_not_found(tmp_path):
    with pytest.raises(FileNotFoundError):
        HashMemory(tmp_path / "hashes.json").sha256(tmp_path / "nowhere")


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"3", b"null", b"\xff\xfe", b"[" * 100_000, b'{"files": 3}', b'{"sha256:/x": 3}']
)
def test_a_damaged_memory_is_an_empty_one(tmp_path, old_file, hashed, content):
    (tmp_path / "hashes.json").write_bytes(content)
    assert remembered(tmp_path / "hashes.json", old_file) == bytes_sha256(b"data")
    assert remembered(tmp_path / "hashes.json", old_file) == bytes_sha256(b"data")
    assert hashed == ["data"]


def test_no_flipped_bit_of_a_memory_gives_another_hash(tmp_path, old_file):
    place = tmp_path / "hashes.json"
    remembered(place, old_file)
    data = place.read_bytes()
    for position in range(len(data)):
        place.write_bytes(data[:position] + bytes([data[position] ^ 1 << position % 8]) + data[position + 1 :])
        assert HashMemory(place).sha256(old_file) == bytes_sha256(b"data")


@pytest.mark.parametrize("place", ["file/hashes.json", "file/below/hashes.json", "folder", "x" * 300])
def test_a_memory_that_cannot_be_written_only_costs_time(tmp_path, old_file, hashed, place):
    (tmp_path / "file").write_text("not a folder")
    (tmp_path / "folder" / "inside").mkdir(parents=True)
    assert remembered(tmp_path / place, old_file) == bytes_sha256(b"data")
    assert remembered(tmp_path / place, old_file) == bytes_sha256(b"data")
    assert hashed == ["data", "data"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "file", "folder"]


def test_two_memories_of_one_file_keep_what_both_learned(tmp_path, old_file, hashed):
    (tmp_path / "more").write_bytes(b"more")
    one, other = HashMemory(tmp_path / "hashes.json"), HashMemory(tmp_path / "hashes.json")
    one.sha256(old_file)
    other.sha256(tmp_path / "more")
    one.save()
    other.save()
    third = HashMemory(tmp_path / "hashes.json")
    third.sha256(old_file)
    third.sha256(tmp_path / "more")
    assert hashed == ["data", "more"]


def test_processes_that_save_at_once_leave_a_whole_memory(tmp_path):
    code = f"""
import sys
from pathlib import Path
from cmon import fingerprint
fingerprint.RACY_S = -1.0
for i in range(30):
    memory = fingerprint.HashMemory(Path({str(tmp_path)!r}) / "hashes.json")
    memory.recall(Path(__import__("cmon").__file__), sys.argv[1] + str(i), lambda path: "x")
    memory.save()
    table = fingerprint.json.loads(memory.path.read_text())
    assert fingerprint.fingerprint(table["files"]) == table["fingerprint"]
"""
    others = [subprocess.Popen([sys.executable, "-c", code, name]) for name in ("a", "b", "c")]
    assert [other.wait(timeout=60) for other in others] == [0, 0, 0]
    assert [path.name for path in tmp_path.iterdir()] == ["hashes.json"]


def test_nothing_new_writes_nothing(tmp_path, old_file):
    place = tmp_path / "hashes.json"
    remembered(place, old_file)
    before = place.stat().st_mtime_ns, place.stat().st_ino
    remembered(place, old_file)
    assert (place.stat().st_mtime_ns, place.stat().st_ino) == before
