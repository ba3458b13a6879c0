import csv
import io
import os
import pickle
import shutil
import struct
import subprocess
import sys
import time
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from cmon import probes
from cmon.config import Preprocess
from cmon.config import Probe as ProbeTable
from cmon.errors import ProbeError
from cmon.fingerprint import HashMemory
from cmon.probes import PROBES, broden_concepts, crop, decode, open_probe
from cmon.probes import files as probe_files

SHARED = Path(__file__).resolve().parents[2] / "shared"
RED, GREEN = (255, 0, 0), (0, 128, 0)


def encoded(image, kind="PNG", **options):
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def picture(color=RED, size=(6, 4), kind="PNG", mode="RGB"):
    return encoded(Image.new(mode, size, color), kind)


def noise(height, width, seed=0, channels=3):
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels), dtype=np.uint8)


def table(path, kind="images", **options):
    return ProbeTable.model_validate({"kind": kind, "path": path, **options})


def opened(path, kind="images", **options):
    return open_probe(table(path, kind, **options))


def write_files(folder, contents):
    for name, data in contents.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data.encode() if isinstance(data, str) else data)
    return folder


def write_zip(path, contents, folders=()):
    with zipfile.ZipFile(path, "w") as archive:
        for folder in folders:
            archive.writestr(f"{folder}/", b"")
        for name, data in contents.items():
            archive.writestr(name, data)
    return path


def fingerprint(probe, folder):
    return probe.fingerprint(HashMemory(folder / "hashes.json"))


PICTURES = {
    "b.png": picture(RED),
    "a/z.png": picture(GREEN),
    "a/deep/er/x.JPG": picture(GREEN, kind="JPEG"),
    "B.png": picture((1, 2, 3)),
    "größe 縞.png": picture((4, 5, 6)),
}


def write_images(folder):
    return write_files(folder, PICTURES)


def write_broden(folder):
    write_files(folder, {f"images/{name}": data for name, data in PICTURES.items()})
    rows = "".join(f"{name},train,4,6,4,6,,,,,,\n" for name in PICTURES)
    labels = "1,red-c,color(12),12,3.5,\n2,street-s,scene(3);object(5),8,1,\n3,cat,object(7),7,1,\n"
    index = "image,split,ih,iw,sh,sw,color,object,part,material,scene,texture\n"
    return write_files(
        folder, {"index.csv": index + rows, "label.csv": f"number,name,category,frequency,coverage,syns\n{labels}"}
    )


def batch(count, seed, fine=False):
    labels = {b"fine_labels": [0] * count, b"coarse_labels": [0] * count} if fine else {b"labels": [0] * count}
    return {b"batch_label": b"made by hand", b"data": noise(count, 3072, seed, 1)[:, :, 0], **labels}


def write_cifar10(folder):
    names = [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]
    return write_files(
        folder, {f"cifar-10-batches-py/{name}": pickle.dumps(batch(3, seed)) for seed, name in enumerate(names)}
    )


def write_cifar100(folder):
    return write_files(
        folder,
        {f"cifar-100-python/{name}": pickle.dumps(batch(4, seed, True)) for seed, name in enumerate(["train", "test"])},
    )


WRITERS = {"images": write_images, "broden": write_broden, "cifar10": write_cifar10, "cifar100": write_cifar100}
# a file of each kind that one byte is changed of, in what is seen of an image
TOUCHED = {
    "images": "a/z.png",
    "broden": "images/a/z.png",
    "cifar10": "cifar-10-batches-py/test_batch",
    "cifar100": "cifar-100-python/test",
}
kinds = pytest.mark.parametrize("kind", PROBES)


@kinds
def test_every_kind_has_unique_sorted_names_at_every_opening(tmp_path, kind):
    folder = WRITERS[kind](tmp_path / "probe")
    probe = opened(folder, kind)
    assert list(probe.ids) == sorted(set(probe.ids))
    assert len(probe.ids) > 2
    assert opened(folder, kind).ids == probe.ids
    assert probe.path == folder


@kinds
def test_every_image_of_every_kind_is_rgb(tmp_path, kind):
    probe = opened(WRITERS[kind](tmp_path / "probe"), kind)
    assert {probe.image(index).mode for index in range(len(probe.ids))} == {"RGB"}


@kinds
def test_a_fingerprint_moves_when_one_byte_does(tmp_path, kind):
    folder = WRITERS[kind](tmp_path / "probe")
    before = fingerprint(opened(folder, kind), tmp_path)
    file = folder / TOUCHED[kind]
    data = bytearray(file.read_bytes())
    data[-20] ^= 1
    file.write_bytes(data)
    if kind.startswith("cifar"):
        assert fingerprint(opened(folder, kind), tmp_path) != before
    else:
        assert fingerprint(opened(folder, kind), tmp_path / "other") != before


@kinds
def test_a_fingerprint_stays_when_times_or_the_place_change(tmp_path, kind):
    folder = WRITERS[kind](tmp_path / "probe")
    before = fingerprint(opened(folder, kind), tmp_path)
    for file in folder.rglob("*"):
        os.utime(file, (1, 1))
    assert fingerprint(opened(folder, kind), tmp_path) == before
    moved = shutil.copytree(folder, tmp_path / "elsewhere" / "other name")
    assert fingerprint(opened(moved, kind), tmp_path) == before


@pytest.mark.parametrize("kind", ["images", "broden"])
def test_a_fingerprint_moves_when_a_name_does(tmp_path, kind):
    folder = WRITERS[kind](tmp_path / "probe")
    before = fingerprint(opened(folder, kind), tmp_path)
    (folder / TOUCHED[kind]).rename(folder / TOUCHED[kind].replace("z.png", "y.png"))
    if kind == "broden":
        index = folder / "index.csv"
        index.write_text(index.read_text().replace("a/z.png", "a/y.png"))
    assert fingerprint(opened(folder, kind), tmp_path) != before


@pytest.mark.parametrize("kind", ["images", "broden"])
def test_a_folder_and_its_zip_are_the_same_probe(tmp_path, kind):
    folder = WRITERS[kind](tmp_path / "probe")
    contents = {file.relative_to(folder).as_posix(): file.read_bytes() for file in folder.rglob("*") if file.is_file()}
    packed = write_zip(tmp_path / "probe.zip", dict(reversed(contents.items())), ["a", "images"])
    one, other = opened(folder, kind), opened(packed, kind)
    assert one.ids == other.ids == tuple(sorted(PICTURES))
    assert fingerprint(one, tmp_path) == fingerprint(other, tmp_path)
    for index in range(len(one.ids)):
        assert one.image(index).tobytes() == other.image(index).tobytes()


def test_the_fingerprint_of_a_zip_is_remembered_until_the_zip_changes(tmp_path, monkeypatch):
    packed = write_zip(tmp_path / "probe.zip", PICTURES)
    os.utime(packed, (1, 1))
    monkeypatch.setattr("cmon.fingerprint.RACY_S", -1.0)
    memory, reads = HashMemory(tmp_path / "hashes.json"), []
    read = probe_files.Archive.read
    monkeypatch.setattr(probe_files.Archive, "read", lambda self, name: reads.append(name) or read(self, name))
    first = opened(packed).fingerprint(memory)
    assert len(reads) == len(PICTURES)
    assert opened(packed).fingerprint(memory) == first
    assert len(reads) == len(PICTURES)
    write_zip(packed, {**PICTURES, "b.png": picture(GREEN)})
    assert opened(packed).fingerprint(memory) != first


def test_images_lie_at_any_depth_and_others_are_left_out(tmp_path):
    hidden = {
        name: picture() for name in (".hidden.png", "a/._b.png", ".git/x.png", "__MACOSX/a/b.png", "a/.thumbs/c.png")
    }
    other = {"notes.txt": b"text", "a/labels.csv": b"", "Thumbs.db": b"", "png": b"", "a.png.part": b""}
    contents = {**PICTURES, **hidden, **other}
    assert opened(write_files(tmp_path / "probe", contents)).ids == tuple(sorted(PICTURES))
    assert opened(write_zip(tmp_path / "probe.zip", contents)).ids == tuple(sorted(PICTURES))


def test_a_hidden_place_may_hold_a_probe(tmp_path):
    assert len(opened(write_images(tmp_path / ".cache" / "probe")).ids) == len(PICTURES)


def test_links_are_followed_and_may_lead_back_up(tmp_path):
    folder = write_images(tmp_path / "probe")
    write_files(tmp_path / "outside", {"o.png": picture()})
    (folder / "linked").symlink_to(tmp_path / "outside")
    (folder / "a" / "up").symlink_to(folder)
    (tmp_path / "outside" / "back").symlink_to(folder)
    (folder / "itself").symlink_to(folder / "itself")
    assert opened(folder).ids == tuple(sorted([*PICTURES, "linked/o.png"]))


@pytest.mark.parametrize("what", ["broken", "loop", "pipe"])
def test_what_is_no_file_is_named_and_never_waited_for(tmp_path, what):
    folder = write_images(tmp_path / "probe")
    if what == "pipe":
        os.mkfifo(folder / "c.png")
    else:
        (folder / "c.png").symlink_to(folder / ("c.png" if what == "loop" else "nowhere.png"))
    probe = opened(folder)
    for use in (lambda: probe.image(probe.ids.index("c.png")), lambda: fingerprint(probe, tmp_path)):
        with pytest.raises(ProbeError, match=r"probe: c\.png: .*is not a file") as caught:
            use()
        assert 'on_error = "skip"' in caught.value.hint


def test_an_unreadable_file_does_not_stop_a_probe_that_skips(tmp_path):
    folder = write_images(tmp_path / "probe")
    (folder / "c.png").symlink_to(folder / "nowhere.png")
    before = fingerprint(opened(folder, on_error="skip"), tmp_path)
    with pytest.raises(ProbeError):
        fingerprint(opened(folder), tmp_path)
    write_files(folder, {"nowhere.png": picture()})
    (folder / "nowhere.png").rename(tmp_path / "nowhere.png")
    (folder / "c.png").unlink()
    (folder / "c.png").symlink_to(tmp_path / "nowhere.png")
    assert fingerprint(opened(folder, on_error="skip"), tmp_path) != before


def test_a_folder_that_cannot_be_listed_is_an_error(tmp_path, monkeypatch):
    folder = write_images(tmp_path / "probe")
    scandir = os.scandir

    def refuse(path):
        if Path(path).name == "deep":
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(ProbeError, match=r"a/deep: cannot be listed: Permission denied"):
        opened(folder)


def unreadable(tmp_path, name, data, match):
    """Expect an error that names the image, from a folder and from a zip."""
    for probe in (
        opened(write_files(tmp_path / "probe", {name: data})),
        opened(write_zip(tmp_path / "probe.zip", {name: data})),
    ):
        with pytest.raises(ProbeError, match=match) as caught:
            probe.image(0)
        assert name in caught.value.where
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "data",
    [b"", b"not an image", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"],
)
def test_a_file_that_is_no_image_is_named(tmp_path, data):
    unreadable(tmp_path, "a/picture.png", data, r"unreadable image: ")


@pytest.mark.parametrize("kind", ["PCX", "TGA", "ICO", "EPS"])
def test_a_format_that_is_not_among_the_endings_is_refused_under_any_name(tmp_path, kind):
    unreadable(tmp_path, "a/picture.png", picture(size=(16, 16), kind=kind), "unreadable image: not an image")


def test_a_text_with_the_ending_of_an_image_is_called_so(tmp_path):
    unreadable(tmp_path, "a/picture.png", b"concept,category\n", "unreadable image: not an image")


FULL = Image.fromarray(noise(40, 50))


@pytest.mark.parametrize(
    ("kind", "options"),
    [("JPEG", {}), ("JPEG", {"progressive": True}), ("PNG", {}), ("GIF", {}), ("BMP", {}), ("WEBP", {}), ("PPM", {})],
)
def test_a_cut_image_is_an_error_or_whole(kind, options):
    data = encoded(FULL, kind, **options)
    whole = decode(data).tobytes()
    assert len(whole) == 40 * 50 * 3
    refused = 0
    for length in [*range(0, len(data), len(data) // 50), *range(len(data) - 12, len(data))]:
        try:
            assert decode(data[:length]).tobytes() == whole, length
        except (OSError, SyntaxError, ValueError):
            refused += 1
    assert refused > 45


def test_a_cut_jpeg_is_named(tmp_path):
    data = encoded(FULL, "JPEG")
    unreadable(tmp_path, "x.jpg", data[: len(data) // 2], "truncated")


def png(width, height):
    """A PNG that claims a size, with hardly any data."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")


@pytest.mark.parametrize("size", [(2**31 - 1, 2**31 - 1), (100_000, 100_000), (10_000, 10_000), (8_200, 8_200)])
def test_an_image_of_enormous_size_is_refused_at_once(tmp_path, size):
    started = time.monotonic()
    unreadable(tmp_path, "x.png", png(*size), "more pixels than an image should")
    assert time.monotonic() - started < 5


@pytest.mark.parametrize("size", [(1, 60_000), (60_000, 59)])
def test_an_image_that_is_hardly_more_than_a_line_is_refused(tmp_path, size):
    unreadable(tmp_path, "x.png", png(*size), "hardly more than a line")


def test_an_image_that_resizing_would_make_enormous_is_an_error():
    with pytest.raises(ValueError, match=r"is 16x12000, and would be resized to 4096x3072000"):
        crop(Image.new("RGB", (16, 12_000)), Preprocess(resize=4096, crop=16))


def test_a_file_that_is_too_large_for_an_image_is_neither_read_nor_hashed(tmp_path):
    with (tmp_path / "x.png").open("wb") as file:
        file.truncate(2**28 + 1)
    for use in (lambda: opened(tmp_path).image(0), lambda: fingerprint(opened(tmp_path), tmp_path)):
        with pytest.raises(ProbeError, match=r"x\.png: .*holds 256 MiB"):
            use()


def ramp(dtype, top):
    return np.linspace(0, top, 24).astype(dtype).reshape(4, 6)


def test_gray_becomes_three_equal_channels():
    gray = ramp(np.uint8, 255)
    assert np.array_equal(np.asarray(decode(encoded(Image.fromarray(gray)))), np.stack([gray] * 3, axis=2))


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_of_sixteen_bits_the_upper_eight_are_kept(kind):
    values = ramp(np.uint16, 65535)
    found = np.asarray(decode(encoded(Image.fromarray(values), kind)))
    assert np.array_equal(found, np.stack([(values >> 8).astype(np.uint8)] * 3, axis=2))


def test_a_pgm_of_sixteen_bits_is_read_alike():
    values = ramp(">u2", 65535)
    found = np.asarray(decode(b"P5 6 4 65535\n" + values.tobytes()))
    assert np.array_equal(found, np.stack([(values >> 8).astype(np.uint8)] * 3, axis=2))


@pytest.mark.parametrize("dtype", [np.int32, np.float32])
def test_values_without_a_known_range_are_refused(tmp_path, dtype):
    unreadable(tmp_path, "x.tif", encoded(Image.fromarray(ramp(dtype, 1)), "TIFF"), "no known range")


def test_transparency_is_dropped():
    image = Image.fromarray(np.dstack([noise(4, 6), ramp(np.uint8, 255)]))
    assert np.array_equal(np.asarray(decode(encoded(image))), noise(4, 6))


@pytest.mark.parametrize("transparency", [1, bytes([0, 128, 255])])
def test_a_palette_with_transparency_keeps_its_colors(transparency):
    image = Image.new("P", (3, 1))
    image.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    image.putdata([0, 1, 2])
    found = np.asarray(decode(encoded(image, transparency=transparency)))
    assert found.tolist() == [[[255, 0, 0], [0, 255, 0], [0, 0, 255]]]


def test_cmyk_becomes_the_color_that_it_prints():
    found = np.asarray(decode(encoded(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG"))).reshape(-1, 3).mean(axis=0)
    assert np.abs(found - RED).max() < 8


def test_of_an_animation_the_first_frame_is_taken():
    frames = [Image.new("RGB", (5, 4), color) for color in (RED, GREEN, (0, 0, 255))]
    data = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert np.unique(np.asarray(decode(data)).reshape(-1, 3), axis=0).tolist() == [list(RED)]


def test_black_and_white_becomes_rgb():
    assert np.unique(np.asarray(decode(encoded(Image.new("1", (4, 4), 1))))).tolist() == [255]


def test_orientation_tags_are_ignored():
    exif = Image.Exif()
    exif[0x0112] = 6
    assert decode(encoded(FULL, "JPEG", exif=exif)).size == (50, 40)


# --- zips


def test_a_zip_with_two_files_of_one_name_is_refused(tmp_path):
    with pytest.warns(UserWarning, match="Duplicate name"), zipfile.ZipFile(tmp_path / "p.zip", "w") as archive:
        archive.writestr("a.png", picture())
        archive.writestr("a.png", picture(GREEN))
    with pytest.raises(ProbeError, match=r"two files named a\.png"):
        opened(tmp_path / "p.zip")


def test_an_encrypted_entry_is_named(tmp_path):
    packed = write_zip(tmp_path / "p.zip", {"a.png": picture()})
    data = bytearray(packed.read_bytes())
    data[6] |= 1  # the flag, in the entry's own header and in the directory
    data[data.index(b"PK\x01\x02") + 8] |= 1
    packed.write_bytes(data)
    for use in (lambda: opened(packed).image(0), lambda: fingerprint(opened(packed), tmp_path)):
        with pytest.raises(ProbeError, match=r"a\.png: .*encrypted"):
            use()


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_damaged_entry_of_any_compression_is_named(tmp_path, method):
    for place in range(60, 400, 20):
        with zipfile.ZipFile(tmp_path / "p.zip", "w", method) as archive:
            archive.writestr("a.bmp", encoded(FULL, "BMP"))
        data = bytearray((tmp_path / "p.zip").read_bytes())
        data[place] ^= 0x55
        (tmp_path / "p.zip").write_bytes(data)
        with pytest.raises(ProbeError, match=r"p\.zip: a\.bmp: unreadable image"):
            opened(tmp_path / "p.zip").image(0)


def test_an_entry_with_an_unknown_compression_is_named(tmp_path):
    packed = write_zip(tmp_path / "p.zip", {"a.png": picture()})
    data = bytearray(packed.read_bytes())
    data[8] = data[data.index(b"PK\x01\x02") + 10] = 77
    packed.write_bytes(data)
    with pytest.raises(ProbeError, match=r"a\.png: unreadable image: .*compression"):
        opened(packed).image(0)


def test_an_entry_that_claims_to_be_enormous_is_not_unpacked(tmp_path):
    packed = write_zip(tmp_path / "p.zip", {"a.png": picture()})
    data = bytearray(packed.read_bytes())
    place = data.index(b"PK\x01\x02") + 24
    data[place : place + 4] = struct.pack("<I", 2**30)
    packed.write_bytes(data)
    with pytest.raises(ProbeError, match=r"a\.png: unreadable image: unpacks to 1024 MiB"):
        opened(packed).image(0)


def test_an_entry_that_is_no_image_by_its_size_is_not_unpacked(tmp_path):
    with zipfile.ZipFile(tmp_path / "p.zip", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        archive.writestr("a.png", bytes(300 * 2**20))
    with pytest.raises(ProbeError, match=r"a\.png: unreadable image: unpacks to 300 MiB"):
        opened(tmp_path / "p.zip").image(0)


def test_a_pipe_in_place_of_a_probe_is_named_and_never_waited_for(tmp_path):
    os.mkfifo(tmp_path / "probe")
    with pytest.raises(ProbeError, match="a pipe or a device"):
        opened(tmp_path / "probe")


def test_an_entry_that_unpacks_to_more_than_it_claims_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "p.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.png", bytes(100 * 2**20))
    data = bytearray((tmp_path / "p.zip").read_bytes())
    place = data.index(b"PK\x01\x02") + 24
    data[place : place + 4] = struct.pack("<I", 1000)
    (tmp_path / "p.zip").write_bytes(data)
    with pytest.raises(ProbeError, match=r"a\.png: unreadable image"):
        opened(tmp_path / "p.zip").image(0)


def test_an_entry_without_a_name_is_no_image(tmp_path):
    packed = write_zip(tmp_path / "p.zip", {"a.png": picture(), "b": b""})
    data = bytearray(packed.read_bytes())
    last = data.rindex(b"PK\x01\x02")
    data[last + 28], data[last + 32] = 0, 1  # the name's length, and the comment's, which is then "b"
    packed.write_bytes(data)
    assert "" in zipfile.ZipFile(packed).namelist()
    assert opened(packed).ids == ("a.png",)


def test_nothing_of_a_zip_is_ever_written(tmp_path):
    names = ["../evil.png", "../../evil.png", "/abs/evil.png", "a/../../evil.png", "C:\\evil.png", "ok.png"]
    below = tmp_path / "one" / "two"
    below.mkdir(parents=True)
    packed = write_zip(below / "p.zip", {name: picture() for name in names})
    probe = opened(packed)
    for index in range(len(probe.ids)):
        assert probe.image(index).size == (6, 4)
    fingerprint(probe, tmp_path / "memory")
    assert not Path("/abs").exists()
    assert [file for file in tmp_path.rglob("*") if file.is_file()] == [packed]
    assert "ok.png" in probe.ids
    assert "../evil.png" not in probe.ids


@pytest.mark.parametrize("data", [b"", b"PK", b"PK\x05\x06", b"no zip at all", picture()])
def test_what_is_no_zip_is_an_error(tmp_path, data):
    (tmp_path / "p.zip").write_bytes(data)
    with pytest.raises(ProbeError, match=r"p\.zip: is neither a folder nor a readable zip"):
        opened(tmp_path / "p.zip")


def test_a_cut_zip_is_an_error(tmp_path):
    data = write_zip(tmp_path / "p.zip", PICTURES).read_bytes()
    for length in range(0, len(data), len(data) // 30):
        (tmp_path / "p.zip").write_bytes(data[:length])
        with pytest.raises(ProbeError):
            opened(tmp_path / "p.zip")


def test_a_zip_is_read_by_several_threads_at_once(tmp_path):
    from concurrent.futures import ThreadPoolExecutor

    contents = {f"{i:02d}.png": encoded(Image.fromarray(noise(20, 20, i))) for i in range(40)}
    probe = opened(write_zip(tmp_path / "p.zip", contents))
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda index: np.asarray(probe.image(index)), range(40)))
    assert all(np.array_equal(pixels, noise(20, 20, i)) for i, pixels in enumerate(found))


def test_a_path_that_no_system_takes_is_an_error():
    with pytest.raises(ProbeError, match="cannot be found: File name too long"):
        opened(Path("/" + "a" * 5000))


def test_a_missing_or_empty_probe_is_an_error(tmp_path):
    with pytest.raises(ProbeError, match="does not exist"):
        opened(tmp_path / "nowhere")
    with pytest.raises(ProbeError, match="holds no images") as caught:
        opened(write_files(tmp_path / "probe", {"notes.txt": b""}))
    assert ".webp" in caught.value.hint


# --- CIFAR


@pytest.mark.parametrize("nested", [True, False])
def test_cifar10_is_what_was_pickled(tmp_path, nested):
    folder = write_cifar10(tmp_path)
    probe = opened(folder if nested else folder / "cifar-10-batches-py", "cifar10", split="all")
    assert probe.ids == tuple([f"test/{i:05d}" for i in range(3)] + [f"train/{i:05d}" for i in range(15)])
    rows = np.concatenate([batch(3, seed)[b"data"] for seed in (5, 0, 1, 2, 3, 4)])
    for index, row in enumerate(rows):
        assert np.array_equal(np.asarray(probe.image(index)), row.reshape(3, 32, 32).transpose(1, 2, 0))


@pytest.mark.parametrize(("split", "seed"), [("train", 0), ("test", 1)])
def test_cifar100_is_what_was_pickled(tmp_path, split, seed):
    probe = opened(write_cifar100(tmp_path), "cifar100", split=split)
    assert probe.ids == tuple(f"{split}/{i:05d}" for i in range(4))
    expected = batch(4, seed)[b"data"].reshape(4, 3, 32, 32)
    assert np.array_equal(np.stack([np.asarray(probe.image(i)) for i in range(4)]), expected.transpose(0, 2, 3, 1))


@pytest.mark.parametrize(("kind", "name"), [("cifar10", "CIFAR10"), ("cifar100", "CIFAR100")])
@pytest.mark.parametrize("train", [True, False])
def test_cifar_is_read_as_torchvision_reads_it(tmp_path, monkeypatch, kind, name, train):
    from cmon.torchvision_import import torchvision

    torchvision()
    from torchvision import datasets

    folder, known = WRITERS[kind](tmp_path), getattr(datasets, name)
    for file in (folder / known.base_folder).iterdir():  # torchvision reads Python 2's strings as text
        file.write_bytes(pickle.dumps({key.decode(): value for key, value in pickle.loads(file.read_bytes()).items()}))
    monkeypatch.setattr(known, "_check_integrity", lambda self: True)
    monkeypatch.setattr(known, "_load_meta", lambda self: None)
    theirs = known(str(folder), train=train)
    ours = opened(folder, kind, split="train" if train else "test")
    assert len(theirs) == len(ours.ids)
    assert all(theirs[i][0].tobytes() == ours.image(i).tobytes() for i in range(len(theirs)))


# torchvision's files were pickled by Python 2 with numpy 1, whose module is named so.
PYTHON_2 = (
    b"\x80\x02}q\x01U\x04dataq\x02cnumpy.core.multiarray\n_reconstruct\nq\x03cnumpy\nndarray\nq\x04K\x00\x85U\x01b"
    b"\x87Rq\x05(K\x01K\x01M\x00\x0c\x86cnumpy\ndtype\nq\x06U\x02u1K\x00K\x01\x87Rq\x07(K\x03U\x01|NNNJ\xff\xff\xff\xff"
    b"J\xff\xff\xff\xffK\x00tb\x89T\x00\x0c\x00\x00" + bytes(range(256)) * 12 + b"tbs."
)


def test_a_batch_pickled_by_python_2_is_read(tmp_path):
    folder = write_files(tmp_path, {"cifar-10-batches-py/test_batch": PYTHON_2})
    found = np.asarray(opened(folder, "cifar10").image(0))
    assert np.array_equal(found.transpose(2, 0, 1).ravel(), np.arange(3072) % 256)


class Runs:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
def test_a_batch_that_would_run_code_is_refused_and_not_run(tmp_path, protocol):
    trace = tmp_path / "trace"
    data = pickle.dumps({b"data": Runs(os.mkdir, str(trace))}, protocol)
    folder = write_files(tmp_path, {"cifar-10-batches-py/test_batch": data})
    with pytest.raises(ProbeError, match=r"test_batch: is not a CIFAR batch: posix\.mkdir has no place"):
        opened(folder, "cifar10")
    assert not trace.exists()
    pickle.loads(data)
    assert trace.exists()  # the pickle was a live one


@pytest.mark.parametrize("function", [np.load, np.fromfile, eval, __import__, getattr])
def test_no_function_of_numpy_or_python_can_be_called(tmp_path, function):
    data = pickle.dumps({b"data": Runs(function, "x")})
    folder = write_files(tmp_path, {"cifar-10-batches-py/test_batch": data})
    with pytest.raises(ProbeError, match="has no place in a CIFAR batch"):
        opened(folder, "cifar10")


@pytest.mark.parametrize(
    "content",
    [
        {b"labels": [1]},
        {b"data": "text"},
        {b"data": np.zeros((2, 100), np.uint8)},
        {b"data": np.full((2, 3072), 0.5)},
        [1, 2],
        None,
    ],
)
def test_a_pickle_of_something_else_is_an_error(tmp_path, content):
    folder = write_files(tmp_path, {"cifar-10-batches-py/test_batch": pickle.dumps(content)})
    with pytest.raises(ProbeError, match="is not a CIFAR batch"):
        opened(folder, "cifar10")


def test_a_cut_batch_is_an_error(tmp_path):
    data = pickle.dumps(batch(1, 0))
    for length in range(0, len(data) - 1, 101):
        folder = write_files(tmp_path, {"cifar-10-batches-py/test_batch": data[:length]})
        with pytest.raises(ProbeError, match="test_batch: is not a CIFAR batch"):
            opened(folder, "cifar10")


def test_a_folder_without_batches_names_the_file_that_it_looked_for(tmp_path):
    with pytest.raises(ProbeError, match=r"test_batch: No such file") as caught:
        opened(tmp_path, "cifar10")
    assert "torchvision" in caught.value.hint


# --- Broden


def test_broden_lists_the_images_of_its_index(tmp_path):
    folder = write_broden(tmp_path / "probe")
    write_files(folder, {"images/unlisted.png": picture()})
    probe = opened(folder, "broden")
    assert probe.ids == tuple(sorted(PICTURES))
    assert probe.image(probe.ids.index("a/z.png")).getpixel((0, 0)) == GREEN


def test_broden_may_lie_deeper_and_the_outermost_index_counts(tmp_path):
    write_broden(tmp_path / "broden1_224")
    write_files(tmp_path, {"broden1_224/images/old/index.csv": "image\n"})
    assert opened(tmp_path, "broden").ids == tuple(sorted(PICTURES))


def test_broden_concepts_are_bare_unique_words_in_their_commonest_category(tmp_path):
    concepts = broden_concepts(write_broden(tmp_path))
    assert concepts.names == ("red", "street", "cat")
    assert concepts.categories == ("color", "object", "object")


def write_labels(folder, rows):
    header = "number,name,category,frequency,coverage,syns\n"
    return write_files(write_broden(folder), {"label.csv": header + rows})


def test_two_labels_that_are_one_bare_word_are_one_concept(tmp_path):
    folder = write_labels(tmp_path, "1,orange,object(9);part(2),,,\n2,orange-c,color(3),,,\n3,red-c,color,,,\n")
    assert broden_concepts(folder).names == ("orange", "red")
    assert broden_concepts(folder).categories == ("object", "color")


def test_marks_are_only_taken_from_their_own_category(tmp_path):
    folder = write_labels(tmp_path, "1,vitamin-c,object(3),,,\n2,x-s,color(1),,,\n")
    assert broden_concepts(folder).names == ("vitamin-c", "x-s")


@pytest.mark.parametrize(
    "row", ["2,cat", "2,cat,object(many),,,", "2,,object(3),,,", "2,-c,color(3),,,", '2,"cat'], ids=str
)
def test_a_row_that_is_no_label_is_named_with_its_file(tmp_path, row):
    with pytest.raises(ProbeError, match=r"label\.csv: row 3 is not a label"):
        broden_concepts(write_labels(tmp_path, f"1,red-c,color(3),,,\n{row}\n"))


def test_a_broden_without_labels_is_an_error(tmp_path):
    with pytest.raises(ProbeError, match=r"label\.csv: holds no labels"):
        broden_concepts(write_labels(tmp_path, ""))
    (tmp_path / "label.csv").unlink()
    with pytest.raises(ProbeError, match=r"label\.csv: cannot be read"):
        broden_concepts(tmp_path)


@pytest.mark.parametrize(
    ("index", "match"),
    [
        ("picture\na.png\n", r"index\.csv: has no column `image`"),
        ("image\nb.png\nB.png\nb.png\n", r"index\.csv: lists twice: b\.png \(rows 2, 4\)"),
        ("image\nb.png\nmissing.png\n", r"index\.csv: lists files that are not there: images/missing\.png \(row 3\)"),
        ("image\n../label.csv\n", r"index\.csv: lists files that are not there: images/\.\./label\.csv \(row 2\)"),
        ("image,split\nb.png,train\n,train\n", r"index\.csv: row 3 names no image"),
        ("split,image\ntrain,b.png\ntrain\n", r"index\.csv: row 3 names no image"),
        ("image\n", "holds no images"),
        ("", "holds no images"),
    ],
)
def test_a_broken_index_is_named_with_its_row(tmp_path, index, match):
    with pytest.raises(ProbeError, match=match):
        opened(write_files(write_broden(tmp_path), {"index.csv": index}), "broden")


@pytest.mark.parametrize("data", [b"\xff\xfe\x00", b"image\n\xff.png\n", b'image\n"' + b"x" * 200_000])
def test_an_index_that_is_no_table_is_an_error(tmp_path, data):
    with pytest.raises(ProbeError, match=r"index\.csv: "):
        opened(write_files(write_broden(tmp_path), {"index.csv": data}), "broden")


def test_a_folder_that_is_no_broden_is_an_error(tmp_path):
    with pytest.raises(ProbeError, match=r"holds no index\.csv"):
        opened(write_images(tmp_path), "broden")


def test_the_small_broden_opens_with_bare_words():
    path = SHARED / "data" / "mini_broden.zip"
    if not path.exists():
        pytest.skip("../shared/data/mini_broden.zip is absent")
    probe, concepts = opened(path, "broden"), broden_concepts(path)
    assert len(probe.ids) == len(set(probe.ids)) == 653
    assert probe.image(0).mode == probe.image(652).mode == "RGB"
    assert len(set(concepts.names)) == len(concepts.names)
    assert not [name for name in concepts.names if name.endswith(("-c", "-s"))]
    assert {"color", "object", "part", "texture"} <= set(concepts.categories)
    with zipfile.ZipFile(path) as archive:
        name = next(name for name in archive.namelist() if name.endswith("label.csv"))
        rows = list(csv.DictReader(io.StringIO(archive.read(name).decode())))
    used = {row["name"].removesuffix("-c").removesuffix("-s") for row in rows if row["category"]}
    assert used == set(concepts.names)
    assert len(rows) > len(used)  # some labels of its list are on no image


# --- crop


@settings(max_examples=150, deadline=None)
@given(
    width=st.integers(1, 90),
    height=st.integers(1, 90),
    resize=st.none() | st.integers(1, 80),
    share=st.none() | st.floats(0.01, 1),
    interpolation=st.sampled_from(["bilinear", "bicubic"]),
)
def test_crop_equals_torchvision_pixel_for_pixel(width, height, resize, share, interpolation):
    from cmon.torchvision_import import torchvision

    torchvision()
    from torchvision import transforms

    side = None if share is None else max(1, round((resize or min(width, height)) * share))
    image = Image.fromarray(noise(height, width, seed=width))
    expected = image
    if resize is not None:
        expected = transforms.Resize(resize, transforms.InterpolationMode(interpolation))(expected)
    if side is not None:
        expected = transforms.CenterCrop(side)(expected)
    found = crop(image, Preprocess(resize=resize, crop=side, interpolation=interpolation))
    assert found.dtype == np.uint8
    assert np.array_equal(found, np.asarray(expected))


def test_a_crop_larger_than_the_image_is_an_error():
    with pytest.raises(ValueError, match="is 5x4, smaller than the crop of 5"):
        crop(Image.fromarray(noise(4, 5)), Preprocess(crop=5))


def test_without_preprocessing_the_pixels_stay():
    assert np.array_equal(crop(Image.fromarray(noise(4, 5)), Preprocess()), noise(4, 5))


def test_opening_a_folder_does_not_import_torch(tmp_path):
    write_images(tmp_path)
    code = f"""
import sys
from pathlib import Path
from cmon.config import Probe
from cmon.probes import open_probe
assert len(open_probe(Probe(kind="images", path=Path({str(tmp_path)!r}))).ids) == {len(PICTURES)}
assert "torch" not in sys.modules and "open_clip" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_every_registered_kind_is_allowed_in_the_config():
    assert set(PROBES) == set(WRITERS) == set(ProbeTable.model_fields["kind"].annotation.__args__)
    assert all(callable(opener) for opener in probes.PROBES.values())
