import csv
import io
import itertools
import os
import struct
import zipfile
import zlib
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from cmon.config import Preprocess
from cmon.errors import ProbeError
from cmon.fingerprint import HashMemory
from cmon.probes import crop, open_labels
from cmon.probes import files as probe_files

SHARED = Path(__file__).resolve().parents[2] / "shared"
NOT_CROPPED = Preprocess()

INDEX = "image,split,ih,iw,sh,sw,color,object,part,material,scene,texture\n"
LABEL = "number,name,category,frequency,coverage,syns\n"
# 3 and 5 are one bare word of one category; 2, 3 and 300 are in two categories; 6 is on no image.
LABELS = """\
1,red-c,color(2),2,1,
2,street-s,scene(1);object(1),2,1,road
3,cat,object(3);part(1),4,1,
300,wheel,part(1);object(1),2,1,
4,banded,texture(1),1,1,
5,cat,object(1),1,1,
6,unused,,0,0,
7,cat-c,color(1),1,1,
65535,last,object(1),1,1,
"""
CONCEPTS = [
    ("red", "color"),
    ("street", "scene"),
    ("street", "object"),
    ("cat", "object"),
    ("cat", "part"),
    ("wheel", "part"),
    ("wheel", "object"),
    ("banded", "texture"),
    ("cat", "color"),
    ("last", "object"),
]
MASKS = {
    "a_color.png": [[1, 1, 0, 0], [7, 7, 0, 0], [0, 0, 0, 0]],
    "a_object_1.png": [[3, 3, 5, 0], [0, 2, 2, 2], [0, 0, 0, 65535]],
    "a_object_2.png": [[3, 0, 300, 300], [3, 0, 2, 0], [0, 0, 0, 3]],
    "sub/a_part.png": [[300, 0, 0, 0], [0, 0, 3, 0], [0, 0, 0, 0]],
    "b_object.png": [[0, 0], [0, 0]],
}
ROWS = """\
a.png,train,6,8,3,4,a_color.png,a_object_1.png;a_object_2.png,sub/a_part.png,,2,4
b.png,val,5,5,2,2,,b_object.png,,,0,
sub/c.png,train,4,4,7,9,,,,,,
"""
# What a.png shows, pixel by pixel.
A = {
    "red color": "##.. .... ....",
    "street scene": "#### #### ####",
    "street object": ".... .### ....",
    "cat object": "###. #... ...#",
    "cat part": ".... ..#. ....",
    "wheel part": "#... .... ....",
    "wheel object": "..## .... ....",
    "banded texture": "#### #### ####",
    "cat color": ".... ##.. ....",
    "last object": ".... .... ...#",
}


def encoded(image, kind="PNG", **options):
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def picture(size, kind="PNG"):
    return encoded(Image.new("RGB", size, (9, 99, 199)), kind)


def mask(numbers, blue=0):
    pixels = [[(number % 256, number // 256, blue) for number in row] for row in numbers]
    return encoded(Image.fromarray(np.array(pixels, dtype=np.uint8)))


def broden(rows=ROWS, labels=LABELS, **others):
    """Return the files of a small set; others are further ones, or those that replace one, by name."""
    files = {f"images/{name}": mask(numbers) for name, numbers in MASKS.items()}
    files |= {"images/a.png": picture((8, 6)), "images/b.png": picture((5, 5)), "images/sub/c.png": picture((4, 4))}
    files |= {"index.csv": INDEX + rows, "label.csv": LABEL + labels} | others
    return {name: data.encode() if isinstance(data, str) else data for name, data in files.items()}


def write_folder(folder, files):
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def write_zip(path, files):
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


WRITERS = {"folder": write_folder, "zip": write_zip}
folder_and_zip = pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)


def shown(labels, image, preprocess=NOT_CROPPED):
    """Return what an image shows as text, by word and category, and hold that it is in order."""
    found = labels.of(image, preprocess)
    height, width = len(found.rows), len(found.columns)
    assert found.concepts.dtype == np.int32
    assert found.masks.dtype == np.bool_
    assert found.masks.shape == (len(found.concepts), height, width)
    assert found.concepts.tolist() == sorted(set(found.concepts.tolist()))
    assert all(one.any() for one in found.masks)
    text = {}
    for concept, one in zip(found.concepts.tolist(), found.masks.tolist(), strict=True):
        word = f"{labels.concepts.names[concept]} {labels.concepts.categories[concept]}"
        text[word] = " ".join("".join(".#"[pixel] for pixel in row) for row in one)
    return text


# --- what is read


@folder_and_zip
def test_concepts_are_the_pairs_of_bare_word_and_category_in_the_order_of_the_table(tmp_path, write):
    labels = open_labels(write(tmp_path / "probe", broden()))
    assert list(zip(labels.concepts.names, labels.concepts.categories, strict=True)) == CONCEPTS
    assert labels.categories == ("color", "object", "part", "scene", "texture")  # no material


@folder_and_zip
def test_every_pixel_of_every_label_is_where_the_masks_have_it(tmp_path, write):
    labels = open_labels(write(tmp_path / "probe", broden()))
    found = shown(labels, "a.png")
    assert found == A
    assert list(found) == [" ".join(concept) for concept in CONCEPTS]
    assert labels.of("a.png", NOT_CROPPED).rows == (1 / 6, 3 / 6, 5 / 6)
    assert labels.of("a.png", NOT_CROPPED).columns == (1 / 8, 3 / 8, 5 / 8, 7 / 8)


def test_a_mask_without_labels_and_an_image_without_masks_show_nothing(tmp_path):
    labels = open_labels(write_folder(tmp_path, broden()))
    assert shown(labels, "b.png") == shown(labels, "sub/c.png") == {}
    assert labels.of("b.png", NOT_CROPPED).masks.shape == (0, 2, 2)
    assert labels.of("sub/c.png", NOT_CROPPED).masks.shape == (0, 7, 9)


def test_images_without_any_label_are_counted(tmp_path):
    assert open_labels(write_folder(tmp_path / "1", broden())).unlabelled == 1
    rows = ROWS + "d.png,train,1,1,1,1,,,,,0,\ne.png,train,1,1,1,1\nf.png,train,1,1,1,1,,,,, ; ,4\n"
    assert open_labels(write_folder(tmp_path / "2", broden(rows))).unlabelled == 3


def test_the_label_zero_of_a_whole_image_is_none(tmp_path):
    """Broden itself has it, where a scene was too rare to be given a number."""
    labels = open_labels(write_folder(tmp_path, broden("b.png,train,5,5,2,2,,,,,0,0;4;0\n")))
    assert shown(labels, "b.png") == {"banded texture": "## ##"}


def test_a_cell_may_hold_labels_and_masks_and_blanks(tmp_path):
    labels = open_labels(write_folder(tmp_path, broden("a.png,train,6,8,3,4,, 65535 ; a_object_1.png;;2;,,,,\n")))
    assert shown(labels, "a.png") == {
        "street object": "#### #### ####",
        "cat object": "###. .... ....",
        "last object": "#### #### ####",
    }


def test_a_mask_may_be_named_twice_and_by_several_images(tmp_path):
    row = "{},train,6,8,3,4,,a_object_2.png;a_object_2.png,,,,\n"
    labels = open_labels(write_folder(tmp_path, broden(row.format("a.png") + row.format("b.png"))))
    assert shown(labels, "a.png") == shown(labels, "b.png")
    assert shown(labels, "a.png")["wheel object"] == "..## .... ...."


def test_an_alpha_channel_is_no_label(tmp_path):
    pixels = np.zeros((2, 2, 4), dtype=np.uint8)
    pixels[0, 0] = (44, 1, 0, 7)
    files = broden(**{"images/b_object.png": encoded(Image.fromarray(pixels))})
    assert shown(open_labels(write_folder(tmp_path, files)), "b.png") == {"wheel object": "#. .."}


@folder_and_zip
def test_the_tables_of_one_category_are_read_as_the_authors_write_them(tmp_path, write):
    others = {
        "category.csv": "name,first,last,count,frequency\ncolor,1,7,2,3\nobject,2,65535,5,7\n",
        "c_color.csv": "code,number,name,frequency,coverage\n1,1,red-c,2,1.0\n2,7,cat-c,1,1.0\n",
        "c_object.csv": "code,number,name,frequency,coverage\n1,3,cat,3,1.0\n2,2,street-s,1,1.0\n3,5,cat,1,1.0\n",
        "c_unknown.csv": "no table of ours",
        "images/c_object.csv": "no table of ours",
    }
    labels = open_labels(write(tmp_path / "probe", broden(**others)))
    assert shown(labels, "a.png") == A


def test_a_zip_is_read_by_several_threads_at_once(tmp_path):
    labels = open_labels(write_zip(tmp_path / "p.zip", broden()))
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda name: shown(labels, name), ["a.png", "b.png"] * 20))
    assert found == [A, {}] * 20


def test_broden_may_lie_deeper(tmp_path):
    files = {f"broden1_224/{name}": data for name, data in broden().items()}
    for path in (write_folder(tmp_path / "deep", files), write_zip(tmp_path / "p.zip", files)):
        assert shown(open_labels(path), "a.png") == A


# --- what a network sees


def torchvision_frame(width, height, preprocess):
    """Where torchvision's Resize and CenterCrop cut, from their documentation: size, left, top, width, height."""
    if preprocess.resize is not None:
        if width <= height:
            width, height = preprocess.resize, int(preprocess.resize * height / width)
        else:
            width, height = int(preprocess.resize * width / height), preprocess.resize
    if preprocess.crop is None:
        return (width, height), 0, 0, width, height
    side = preprocess.crop
    return (width, height), round((width - side) / 2), round((height - side) / 2), side, side


def centres(pixels, side, start, length):
    """The mask's pixels whose centres lie within the box, and where in it, in exact fractions."""
    found = {}
    for pixel in range(pixels):
        place = (Fraction(2 * pixel + 1, 2 * pixels) * side - start) / length
        if 0 < place < 1:
            found[pixel] = float(place)
    return found


@st.composite
def views(draw):
    """An image's size, its mask's and a preprocessing that fits, with many centres on the border of the crop."""
    width, height = draw(st.tuples(st.integers(1, 40), st.integers(1, 40)))
    resize = draw(st.none() | st.integers(1, 40))
    side = draw(st.none() | st.integers(1, resize or min(width, height)))
    columns, rows = draw(st.tuples(st.integers(1, 12), st.integers(1, 12)))
    return (width, height), (columns, rows), Preprocess(resize=resize, crop=side)


@settings(max_examples=150)
@given(view=views())
def test_of_a_mask_those_pixels_are_kept_whose_centres_the_network_sees(tmp_path_factory, view):
    (width, height), (columns, rows), preprocess = view
    numbers = [[1 + row * columns + column for column in range(columns)] for row in range(rows)]
    every = "".join(f"{number},n{number:03},object(1),1,1,\n" for number in range(1, rows * columns + 1))
    files = broden(
        f"a.png,train,{height},{width},{rows},{columns},,m.png,,,,999\n",
        every + "999,whole,texture(1),1,1,\n",
        **{"images/a.png": picture((width, height)), "images/m.png": mask(numbers)},
    )
    found = open_labels(write_folder(tmp_path_factory.mktemp("view"), files)).of("a.png", preprocess)
    (width, height), left, top, box_width, box_height = torchvision_frame(width, height, preprocess)
    across, down = centres(columns, width, left, box_width), centres(rows, height, top, box_height)
    assert found.rows == tuple(down.values())
    assert found.columns == tuple(across.values())
    expected = {numbers[row][column] - 1: (i, j) for i, row in enumerate(down) for j, column in enumerate(across)}
    whole = [rows * columns] if expected else []
    assert found.concepts.tolist() == [*sorted(expected), *whole]
    assert found.masks.shape == (len(found.concepts), len(down), len(across))
    for concept, one in zip(found.concepts.tolist(), found.masks, strict=True):
        seen = np.argwhere(one).tolist()
        assert seen == [list(expected[concept])] if concept in expected else len(seen) == one.size


@pytest.mark.parametrize(
    ("size", "cells", "preprocess"),
    [
        ((112, 112), (14, 14), {}),
        ((112, 112), (14, 14), {"crop": 70}),
        ((112, 112), (56, 56), {"resize": 224, "crop": 201}),
        ((112, 80), (14, 10), {"resize": 64, "crop": 48}),
        ((80, 112), (10, 14), {"resize": 64, "crop": 48, "interpolation": "bicubic"}),
        ((80, 112), (10, 14), {"crop": 51}),
        ((120, 50), (12, 10), {"resize": 101}),
        ((50, 200), (10, 10), {"resize": 97, "crop": 97}),
    ],
)
def test_an_image_painted_from_its_mask_is_cropped_as_the_mask_is(tmp_path, size, cells, preprocess):
    (width, height), (columns, rows) = size, cells
    painted = np.random.default_rng(3).integers(0, 2, (rows, columns))
    image = Image.fromarray(painted.astype(np.uint8) * 255).resize(size, Image.Resampling.NEAREST).convert("RGB")
    files = broden(
        f"a.png,train,{height},{width},{rows},{columns},,m.png,,,,\n",
        **{"images/a.png": encoded(image), "images/m.png": mask((painted * 3).tolist())},
    )
    preprocess = Preprocess(**preprocess)
    found = open_labels(write_folder(tmp_path, files)).of("a.png", preprocess)
    pixels = crop(image, preprocess)[:, :, 0] > 127
    (one,) = found.masks

    def nearest(places, count):
        """For each pixel of the crop, the mask's pixel that lies nearest: in the image's middle, that it lies in."""
        at = (np.arange(count) + 0.5) / count
        return np.abs(at[:, None] - np.array(places)).argmin(1)

    predicted = one[nearest(found.rows, len(pixels))][:, nearest(found.columns, pixels.shape[1])]
    # Where a pixel and its eight neighbours belong to one label, no border of the mask is near.
    around = [np.roll(predicted, shift, (0, 1)) for shift in itertools.product((-1, 0, 1), repeat=2)]
    inner = np.logical_and.reduce(around) | ~np.logical_or.reduce(around)
    margins = [
        1 + int(places[0] * count) for places, count in zip((found.rows, found.columns), pixels.shape, strict=True)
    ]
    middle = tuple(slice(margin, -margin) for margin in margins)
    assert inner[middle].sum() > 300
    assert not (predicted ^ pixels)[middle][inner[middle]].any()
    # A mask that is off by one of its own pixels would not pass.
    assert (np.roll(predicted, len(pixels) // len(found.rows), 0) ^ pixels)[middle][inner[middle]].sum() > 50


def test_labels_that_lie_outside_of_the_crop_are_not_carried(tmp_path):
    labels = open_labels(write_folder(tmp_path, broden()))
    assert shown(labels, "a.png", Preprocess(crop=4)) == {  # of 8x6: columns 2 to 5, rows 1 to 4
        "street scene": "##",
        "street object": "##",
        "cat part": ".#",
        "banded texture": "##",
        "cat color": "#.",
    }


def test_a_crop_that_holds_no_centre_of_the_mask_shows_nothing(tmp_path):
    labels = open_labels(write_folder(tmp_path, broden("a.png,train,6,8,1,2,,,,,,4\n")))
    found = labels.of("a.png", Preprocess(crop=2))  # the centres are at 2 and 6 of 8, the crop is from 3 to 5
    assert found.columns == ()
    assert found.rows == (0.5,)
    assert found.masks.shape == (0, 1, 0)
    assert shown(labels, "a.png", Preprocess(crop=6)) == {"banded texture": "##"}


def test_without_a_crop_no_image_is_read(tmp_path):
    files = broden(**{"images/a.png": b"no image"})
    labels = open_labels(write_folder(tmp_path, files))
    assert shown(labels, "a.png", Preprocess(resize=3)) == A


# --- what is wrong


def refused(write, path, files, match, image=None, preprocess=NOT_CROPPED):
    """Expect one line that says where and what, with a hint; at once, or, where an image is named, once it is read."""
    found = write(path, files)
    if image is not None:
        labels = open_labels(found)
    with pytest.raises(ProbeError, match=match) as caught:
        open_labels(found) if image is None else labels.of(image, preprocess)
    assert caught.value.where.startswith(f"{path}: ")
    assert "\n" not in str(caught.value)
    assert caught.value.hint


def gray(mode):
    return encoded(Image.new(mode, (4, 3), 1))


def deep_png():
    """A PNG of 4x3 pixels with 16 bits a channel, which Pillow does not write."""
    data = zlib.compress((b"\0" + struct.pack(">12H", *[3 * 257, 0, 0] * 4)) * 3)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        map(chunk, (b"IHDR", b"IDAT", b"IEND"), (struct.pack(">IIBBBBB", 4, 3, 16, 2, 0, 0, 0), data, b""))
    )


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


FOUR_BY_THREE = [[3] * 4] * 3
WRONG_MASKS = {
    "a label that there is not": (mask([[3, 3, 3, 3], [3, 4000, 3, 3], [3] * 4]), "holds label 4000, which .* object"),
    "a label without a category": (mask([[6] * 4] * 3), "holds label 6, which label.csv does not name under object"),
    "a label of another category": (mask([[4] * 4] * 3), "holds label 4, which label.csv does not name under object"),
    "another size": (mask([[3] * 3] * 4), "is 3x4, but sw and sh say 4x3"),
    "a larger one": (mask([[3] * 8] * 6), "is 8x6, but sw and sh say 4x3"),
    "gray": (gray("L"), "is no mask: it is 8-bit L, not 8-bit RGB"),
    "gray with alpha": (gray("LA"), "is no mask: it is 8-bit LA, not"),
    "black and white": (gray("1"), "is no mask: it is 1-bit 1, not"),
    "gray of 16 bits": (gray("I;16"), "is no mask: it is 16-bit I;16, not"),
    "a palette": (gray("P"), "is no mask: it is .-bit P, not"),
    "color of 16 bits": (deep_png(), "is no mask: it is 16-bit RGB, not"),
    "a blue channel": (mask(FOUR_BY_THREE, blue=1), "is no mask: its blue channel is not 0"),
    "a JPEG": (picture((4, 3), "JPEG"), "unreadable mask: not a PNG"),
    "a BMP": (picture((4, 3), "BMP"), "unreadable mask: not a PNG"),
    "text": (b"number,name\n", "unreadable mask: not a PNG"),
    "nothing": (b"", "unreadable mask: not a PNG"),
    "a cut one": (mask(FOUR_BY_THREE)[:-20], "unreadable mask: "),
    "the head of one": (mask(FOUR_BY_THREE)[:33], "unreadable mask: "),
}


@folder_and_zip
@pytest.mark.parametrize(("data", "match"), WRONG_MASKS.values(), ids=WRONG_MASKS)
def test_a_mask_that_is_wrong_is_named_with_its_row(tmp_path, write, data, match):
    rows = "b.png,val,5,5,2,2,,b_object.png,,,,4\na.png,train,6,8,3,4,,deep/m.png,,,,\n"
    files = broden(rows, **{"images/deep/m.png": data})
    refused(write, tmp_path / "p", files, rf"p: images/deep/m\.png \(index\.csv row 3\): {match}", "a.png")


def test_a_mask_that_is_wrong_outside_of_the_crop_is_named_too(tmp_path):
    files = broden(**{"images/a_object_1.png": mask([[4000, 0, 0, 0], [0] * 4, [0] * 4])})
    refused(write_folder, tmp_path, files, "holds label 4000", "a.png", Preprocess(crop=4))


@pytest.mark.parametrize("damage", ["gone", "broken link", "pipe", "folder"])
def test_a_mask_that_can_no_longer_be_read_is_named(tmp_path, damage):
    folder = write_folder(tmp_path / "probe", broden())
    labels, file = open_labels(folder), folder / "images" / "a_object_2.png"
    file.unlink()
    if damage == "broken link":
        file.symlink_to(tmp_path / "nowhere")
    elif damage == "pipe":
        os.mkfifo(file)
    elif damage == "folder":
        file.mkdir()
    for use in (lambda: labels.of("a.png", NOT_CROPPED), lambda: labels.fingerprint(HashMemory(tmp_path / "h.json"))):
        with pytest.raises(ProbeError, match=r"images/a_object_2\.png.*: .*is not (a file|there)") as caught:
            use()
        assert "again" in caught.value.hint


@folder_and_zip
@pytest.mark.parametrize(
    ("data", "match"),
    [
        (picture((6, 8)), r"images/a\.png \(index\.csv row 2\): is 6x8, but iw and ih say 8x6"),
        (picture((8, 6))[:20], r"images/a\.png \(index\.csv row 2\): unreadable image: Truncated File"),
        (picture((8, 6), "PCX"), r"images/a\.png \(index\.csv row 2\): unreadable image: not an image"),
        (b"text", r"images/a\.png \(index\.csv row 2\): unreadable image: not an image"),
    ],
    ids=["turned", "cut", "PCX", "text"],
)
def test_an_image_whose_size_is_not_known_cannot_be_cropped_with_its_masks(tmp_path, write, data, match):
    files = broden(**{"images/a.png": data})
    refused(write, tmp_path / "p", files, match, "a.png", Preprocess(crop=2))
    assert shown(open_labels(tmp_path / "p"), "a.png") == A


@pytest.mark.parametrize(("image", "row", "size"), [("a.png", 2, "8x6"), ("sub/c.png", 4, "4x4")])
def test_a_crop_larger_than_an_image_is_an_error(tmp_path, image, row, size):
    match = rf"images/{image} \(index\.csv row {row}\): is {size}, smaller than the crop of 7"
    refused(write_folder, tmp_path, broden(), match, image, Preprocess(crop=7))


A_ROW = "a.png,train,6,8,3,4,,a_object_1.png,,,,\n"
WRONG_INDEXES = {
    "no width": ("a.png,train,6,,3,4,,,,,,4\n", "row 2: iw, ih, sw and sh are not 1 to 16384: , 6, 4, 3"),
    "a size of 0": (A_ROW + "b.png,val,5,5,0,2,,,,,,4\n", "row 3: iw, ih, .*: 5, 5, 2, 0"),
    "a negative size": ("a.png,train,-6,8,3,4,,,,,,4\n", "row 2: iw, ih, .*: 8, -6, 4, 3"),
    "a fraction": ("a.png,train,6,8.0,3,4,,,,,,4\n", "row 2: iw, ih, .*: 8.0, 6, 4, 3"),
    "a word": ("a.png,train,6,8,3,x,,,,,,4\n", "row 2: iw, ih, .*: 8, 6, x, 3"),
    "a raised digit": ("a.png,train,6,8,3,²,,,,,,4\n", "row 2: iw, ih, .*: 8, 6, ², 3"),
    "a size that fills the memory": (f"a.png,train,6,8,3,{10**12},,,,,,4\n", "row 2: iw, ih, .*: 8, 6, 10+, 3"),
    "a size that is a little less large": ("a.png,train,6,8,3,16385,,,,,,4\n", "row 2: iw, ih, .*: 8, 6, 16385, 3"),
    "a size longer than Python reads": (f"a.png,train,6,8,3,{'9' * 5000},,,,,,4\n", "row 2: iw, ih, .*: 8, 6, 99"),
    "a row that ends early": (A_ROW + "b.png,val,5\n", "row 3: iw, ih, .*: None, 5, None, None"),
    "an image without a name": (A_ROW + ",val,5,5,2,2,,,,,,4\n", "row 3 names no image"),
    "an image twice": (A_ROW + A_ROW, r"row 3 names a\.png a second time"),
    "a whole image's label that there is not": ("a.png,t,6,8,3,4,,,,,,4;44\n", "row 2: label 44 is not .* texture"),
    "one of another category": ("a.png,t,6,8,3,4,,,,,3,\n", r"row 2: label 3 is not in label\.csv under scene"),
    "one of no category": ("a.png,t,6,8,3,4,,6,,,,\n", r"row 2: label 6 is not in label\.csv under object"),
    "one of a category without labels": ("a.png,t,6,8,3,4,,,,3,,\n", r"row 2: label 3 .* under material"),
    "one longer than Python reads": (f"a.png,t,6,8,3,4,,{'9' * 5000},,,,\n", r"row 2: images/99.* is not there"),
    "a mask that is missing": ("a.png,t,6,8,3,4,,,x.png;sub/a_part.png,,,\n", r"row 2: images/x\.png is not there"),
    "a mask elsewhere": ("a.png,t,6,8,3,4,,../label.csv,,,,\n", r"row 2: images/\.\./label\.csv is not there"),
    "a mask with a long name": (f"a.png,t,6,8,3,4,,{'x' * 5000}\n", "row 2: images/x+… is not there"),
    "a mask with a folded name": ('a.png,t,6,8,3,4,,"x\ny"\n', "row 3: images/x y is not there"),
    "no labels at all": ("a.png,t,6,8,3,4,,,,,,\nb.png,t,5,5,2,2,,,,,0,\n", "names no label for any image"),
}


@folder_and_zip
@pytest.mark.parametrize(("rows", "match"), WRONG_INDEXES.values(), ids=WRONG_INDEXES)
def test_an_index_that_is_wrong_is_named_with_its_row(tmp_path, write, rows, match):
    refused(write, tmp_path / "p", broden(rows), rf"p: index\.csv: {match}")


def test_a_mask_of_a_category_without_labels_is_named(tmp_path):
    files = broden("a.png,t,6,8,3,4,,,,a_color.png,,\n")
    refused(write_folder, tmp_path, files, "a_color.png .*holds label 1, which .* under material", "a.png")


WRONG_HEADS = {
    "no category": (
        "image,split,ih,iw,sh,sw\na.png,t,6,8,3,4\n",
        "has no column .* category color, object, p",
    ),
    "one category less": (INDEX.replace("scene", "Scene") + ROWS, r"has no column for label\.csv's category scene"),
    "no image": (INDEX.replace("image", "picture") + ROWS, "row 2 names no image"),
    "no sizes": ("image,color,object,part,scene,texture\na.png,,,,,4\n", "row 2: iw, ih, .*: None, None, None, None"),
    "no rows": (INDEX, "has no column for"),
    "nothing": ("", "has no column for"),
    "no table": (b"\xff\xfe\0", "cannot be read"),
    "another encoding": ((INDEX + ROWS).replace("sub/c", "größe").encode("latin-1"), "cannot be read: 'utf-8'"),
    "a quote without an end": (INDEX + 'a.png,"' + "x" * 200_000, "cannot be read: field larger"),
}


@folder_and_zip
@pytest.mark.parametrize(("index", "match"), WRONG_HEADS.values(), ids=WRONG_HEADS)
def test_an_index_with_a_wrong_head_is_an_error(tmp_path, write, index, match):
    refused(write, tmp_path / "p", broden() | broden(**{"index.csv": index}), rf"p: index\.csv: {match}")


WRONG_LABELS = {
    "a number twice": (LABELS + "7,dog,object(1),1,1,\n", r"number 7 stands twice \(rows 9, 11\)"),
    "a number twice, once with a zero": (LABELS + "03,dog,object(1),1,1,\n", r"number 3 stands twice \(rows 4, 11\)"),
    "a number twice, once without a category": (LABELS + "6,x,,,,\n", r"number 6 stands twice \(rows 8, 11\)"),
    "no number": (",dog,object(1),1,1,\n" + LABELS, "row 2 has no number above 0: "),
    "a word": ("x,dog,object(1),1,1,\n" + LABELS, "row 2 has no number above 0: x"),
    "zero": (LABELS + "0,dog,object(1),1,1,\n", "row 11 has no number above 0: 0"),
    "a negative number": (LABELS + "-3,dog,object(1),1,1,\n", "row 11 has no number above 0: -3"),
    "a fraction": (LABELS + "1.0,dog,object(1),1,1,\n", "row 11 has no number above 0: 1.0"),
    "one longer than Python reads": (LABELS + "9" * 5000 + ",dog,object(1),1,1,\n", "row 11 has no number above 0: 99"),
    "no word": (LABELS + "8,,object(1),1,1,\n", "row 11 is not a label"),
    "a row that ends early": (LABELS + "8,dog\n", "row 11 is not a label"),
    "no labels": ("6,unused,,0,0,\n", "holds no labels"),
    "another encoding": (LABELS.replace("unused", "größe").encode("latin-1"), "cannot be read: 'utf-8'"),
}


@folder_and_zip
@pytest.mark.parametrize(("labels", "match"), WRONG_LABELS.values(), ids=WRONG_LABELS)
def test_a_label_that_is_wrong_is_named_with_its_row(tmp_path, write, labels, match):
    table = LABEL.encode() + (labels if isinstance(labels, bytes) else labels.encode())
    refused(write, tmp_path / "p", broden(**{"label.csv": table}), rf"p: label\.csv: {match}")


@pytest.mark.parametrize("category", ["fabric", "image", "sw", ""])
def test_a_category_that_the_index_has_no_column_for_is_named(tmp_path, category):
    files = broden(labels=LABELS + f"8,dog,object(1);{category}(1),1,1,\n")
    refused(write_folder, tmp_path, files, rf"index\.csv: has no column for label\.csv's category {category}$")


@pytest.mark.parametrize("missing", ["index.csv", "label.csv"])
def test_a_missing_table_is_an_error(tmp_path, missing):
    files = broden()
    del files[missing]
    for path in (write_folder(tmp_path / "p", files), write_zip(tmp_path / "p.zip", files)):
        with pytest.raises(ProbeError, match=missing.replace(".", r"\.")):
            open_labels(path)


CODES = "code,number,name,frequency,coverage\n"
WRONG_CATEGORIES = {
    "an unknown category": ("category.csv", "name,first\ncolor,1\nfabric,2\n", "row 3: label.csv has no .*'fabric'"),
    "no category": ("category.csv", "name,first\n,1\n", "row 2: label.csv has no category"),
    "no column": ("category.csv", "first,last\n1,2\n", "row 2: label.csv has no category"),
    "no table": ("category.csv", b"\xff\xfe\0", "cannot be read"),
    "an unknown label": ("c_object.csv", CODES + "1,3,cat,1,1\n2,44,dog,1,1\n", "row 3: .* under object: .*'44'"),
    "another category's": ("c_object.csv", CODES + "1,4,banded,1,1\n", "row 2: label.csv has no such label under obj"),
    "no number": ("c_color.csv", CODES + "1,,red-c,1,1\n", "row 2: label.csv has no such label under color"),
    "a long number": ("c_color.csv", CODES + f"1,{'1' * 5000},red-c,1,1\n", "row 2: label.csv has no such label"),
    "a row that ends early": ("c_color.csv", CODES + "1,1,red-c,1,1\n2\n", "row 3: label.csv has no such label"),
    "another encoding": (
        "c_color.csv",
        CODES.encode() + "1,1,größe,1,1\n".encode("latin-1"),
        "cannot be read: 'utf-8'",
    ),
}


@folder_and_zip
@pytest.mark.parametrize(("name", "table", "match"), WRONG_CATEGORIES.values(), ids=WRONG_CATEGORIES)
def test_tables_of_categories_that_contradict_the_labels_are_named(tmp_path, write, name, table, match):
    refused(write, tmp_path / "p", broden(**{name: table}), rf"p: {name}: {match}")


def test_rows_are_numbered_as_an_editor_shows_them(tmp_path):
    table = "name,first\n\ncolor,1\n\n\nfabric,2\n"
    refused(write_folder, tmp_path / "p", broden(**{"category.csv": table}), "category.csv: row 6: ")


def test_a_table_with_two_columns_of_one_name_is_an_error(tmp_path):
    table = "name,first,name\ncolor,1,object\n"
    refused(write_folder, tmp_path / "p", broden(**{"category.csv": table}), "category.csv: has two columns name")


# --- what is damaged


def use_everything(path):
    """Open labels and read what every image shows, with a crop and without; return whether that worked."""
    try:
        labels = open_labels(path)
        for image in labels.rows:
            for preprocess in (NOT_CROPPED, Preprocess(crop=2)):
                shown(labels, image, preprocess)
    except ProbeError as error:
        assert "\n" not in str(error)
        assert error.hint
        return False
    return True


def test_a_flipped_bit_of_a_mask_is_found_or_changes_nothing(tmp_path):
    folder = write_folder(tmp_path, broden())
    labels, file = open_labels(folder), folder / "images" / "a_object_1.png"
    data, found = file.read_bytes(), 0
    for bit in range(8 * len(data)):
        damaged = bytearray(data)
        damaged[bit // 8] ^= 1 << bit % 8
        file.write_bytes(damaged)
        try:
            assert shown(labels, "a.png") == A, bit
        except ProbeError:
            found += 1
    assert found > 7 * len(data)


def test_a_cut_mask_is_found_or_changes_nothing(tmp_path):
    folder = write_folder(tmp_path, broden())
    labels, file = open_labels(folder), folder / "images" / "a_object_1.png"
    data, found = file.read_bytes(), 0
    for length in range(len(data)):
        file.write_bytes(data[:length])
        try:
            assert shown(labels, "a.png") == A, length
        except ProbeError as error:
            assert "unreadable mask" in error.what
            found += 1
    assert found > len(data) - 5


def damaged(data, places):
    """Replace the bytes at some places, shares of the whole, by others: none, one or many."""
    for share, new in places:
        place = int(share * len(data))
        data = data[:place] + new + data[place + 1 :]
    return data


TABLES = {
    "category.csv": "name,first,last,count,frequency\ncolor,1,7,2,3\nobject,2,65535,5,7\n",
    "c_object.csv": CODES + "1,3,cat,3,1.0\n2,2,street-s,1,1.0\n3,5,cat,1,1.0\n",
}
WHOLE = broden(**TABLES)
shares = st.floats(0, 1, exclude_max=True)
TEXTS = [
    b"",
    b",",
    b"\n",
    b'"',
    b";",
    b"0",
    b"1",
    b"9" * 5000,
    b"(",
    b"-",
    b"\0",
    b"\xff",
    b"\r",
    "²".encode(),
    b"\n" * 3,
]


@settings(max_examples=300)
@given(
    name=st.sampled_from([name for name in WHOLE if name.endswith(".csv")]),
    places=st.lists(
        st.tuples(shares, st.sampled_from(TEXTS) | st.binary(min_size=1, max_size=3)), min_size=1, max_size=4
    ),
)
def test_of_a_damaged_table_nothing_but_an_error_with_a_hint_comes(tmp_path_factory, name, places):
    files = WHOLE | {name: damaged(WHOLE[name], places)}
    use_everything(write_folder(tmp_path_factory.mktemp("damaged"), files))


@settings(max_examples=300)
@given(
    kind=st.sampled_from([b"IHDR", b"IDAT", b"IEND", b"PLTE", b"tRNS", b"iCCP", b"zTXt", b"gAMA", b"fcTL", b"eXIf"]),
    places=st.lists(st.tuples(shares, st.binary(max_size=3)), max_size=4),
    first=st.booleans(),
    keep=st.booleans(),
)
def test_of_a_mask_with_a_wrong_chunk_nothing_but_an_error_with_a_hint_comes(
    tmp_path_factory, kind, places, first, keep
):
    """Checksums are right, so that all of the chunk is looked at."""
    data = WHOLE["images/b_object.png"]
    parts, at = {}, 8
    while at < len(data):
        (length,) = struct.unpack(">I", data[at : at + 4])
        parts[data[at + 4 : at + 8]] = data[at + 8 : at + 8 + length]
        at += length + 12
    chunks = [*parts.items()]
    wrong = (kind, damaged(parts.get(kind, bytes(12)), places))
    chunks = [one for one in chunks if keep or one[0] != kind]
    chunks.insert(1 if first else min(2, len(chunks)), wrong)
    files = WHOLE | {"images/b_object.png": data[:8] + b"".join(chunk(*one) for one in chunks)}
    use_everything(write_folder(tmp_path_factory.mktemp("damaged"), files))


@settings(max_examples=200)
@given(places=st.lists(st.tuples(shares, st.binary(max_size=2)), min_size=1, max_size=3))
def test_of_a_damaged_zip_nothing_but_an_error_with_a_hint_comes(tmp_path_factory, places):
    packed = write_zip(tmp_path_factory.mktemp("damaged") / "p.zip", WHOLE)
    packed.write_bytes(damaged(packed.read_bytes(), places))
    use_everything(packed)


def test_a_sound_set_raises_no_error(tmp_path):
    assert use_everything(write_folder(tmp_path / "p", WHOLE))
    assert use_everything(write_zip(tmp_path / "p.zip", WHOLE))


# --- fingerprint


def fingerprint(path, folder):
    return open_labels(path).fingerprint(HashMemory(folder / "hashes.json"))


@folder_and_zip
@pytest.mark.parametrize("name", ["index.csv", "label.csv", *(f"images/{name}" for name in MASKS)])
def test_a_fingerprint_moves_when_a_byte_of_a_mask_or_table_does(tmp_path, write, name):
    files = broden()
    before = fingerprint(write(tmp_path / "p", files), tmp_path)
    data = files[name].replace(b"train", b"trayn").replace(b"road", b"rood")
    if name.startswith("images"):
        data = data[:-20] + bytes([data[-20] ^ 1]) + data[-19:]
    assert len(data) == len(files[name])
    assert data != files[name]
    assert fingerprint(write(tmp_path / "p", files | {name: data}), tmp_path) != before
    assert fingerprint(write(tmp_path / "p", files), tmp_path) == before


@folder_and_zip
def test_a_fingerprint_stays_when_an_image_or_something_else_changes(tmp_path, write):
    before = fingerprint(write(tmp_path / "p", broden()), tmp_path)
    others = {"images/a.png": b"another image", "images/unused.png": b"", "README.txt": b"", **TABLES}
    assert fingerprint(write(tmp_path / "p", broden(**others)), tmp_path) == before
    assert fingerprint(write(tmp_path / "elsewhere", broden()), tmp_path) == before


def test_a_folder_and_its_zip_have_the_same_fingerprint(tmp_path):
    folder, packed = write_folder(tmp_path / "p", broden()), write_zip(tmp_path / "p.zip", broden())
    assert fingerprint(folder, tmp_path) == fingerprint(packed, tmp_path)


def test_a_fingerprint_moves_when_two_masks_change_places(tmp_path):
    before = fingerprint(write_folder(tmp_path / "p", broden()), tmp_path)
    one, other = "images/a_object_1.png", "images/a_object_2.png"
    files = broden()
    files |= {one: files[other], other: files[one]}
    assert fingerprint(write_folder(tmp_path / "p", files), tmp_path) != before


def test_the_fingerprint_of_a_zip_is_remembered_until_the_zip_changes(tmp_path, monkeypatch):
    packed = write_zip(tmp_path / "p.zip", broden())
    os.utime(packed, (1, 1))
    monkeypatch.setattr("cmon.fingerprint.RACY_S", -1.0)
    memory, labels, reads = HashMemory(tmp_path / "hashes.json"), open_labels(packed), []
    read = probe_files.Archive.read
    monkeypatch.setattr(probe_files.Archive, "read", lambda self, name: reads.append(name) or read(self, name))
    before = labels.fingerprint(memory)
    assert sorted(reads) == sorted(["index.csv", "label.csv", *(f"images/{name}" for name in MASKS)])
    assert labels.fingerprint(memory) == before
    assert len(reads) == 2 + len(MASKS)
    write_zip(packed, broden(**{"images/b_object.png": mask([[0, 0], [0, 3]])}))
    assert open_labels(packed).fingerprint(memory) != before


# --- the small Broden


@pytest.fixture(scope="module")
def small():
    path = SHARED / "data" / "mini_broden.zip"
    if not path.exists():
        pytest.skip("../shared/data/mini_broden.zip is absent")
    return open_labels(path)


def test_the_small_broden_has_every_label_as_often_and_as_large_as_its_table_says(small):
    with zipfile.ZipFile(small.files.path) as archive:
        table = archive.read("mini_broden/label.csv").decode()
    stated = {}
    for row in csv.DictReader(io.StringIO(table)):
        for category in filter(None, row["category"].split(";")):
            word = row["name"].removesuffix("-c" if category.startswith("color(") else "-s")
            stated[word, category.split("(")[0]] = (int(row["frequency"]), float(row["coverage"]))
    frequency, coverage = defaultdict(int), defaultdict(float)
    for image in small.rows:
        found = small.of(image, NOT_CROPPED)
        assert found.masks.shape[1:] == (112, 112)
        for concept, one in zip(found.concepts.tolist(), found.masks, strict=True):
            frequency[concept] += 1
            coverage[concept] += np.count_nonzero(one) / 112**2
    assert len(small.rows) == 653
    assert small.unlabelled == 0
    concepts = list(zip(small.concepts.names, small.concepts.categories, strict=True))
    assert len(concepts) == len(stated) == 156
    assert {concepts[concept]: count for concept, count in frequency.items()} == {
        pair: count for pair, (count, _) in stated.items()
    }
    wrong = [pair for i, pair in enumerate(concepts) if abs(coverage[i] - stated[pair][1]) > 0.000051]
    assert wrong == []


def test_the_small_broden_is_cropped_on_both_sides(small):
    for image in sorted(small.rows)[::100]:
        whole, found = small.of(image, NOT_CROPPED), small.of(image, Preprocess(crop=192))
        middle = whole.masks[:, 8:104, 8:104]  # 192 of 224 pixels are 96 of 112
        kept = [bool(one.any()) for one in middle]
        assert found.concepts.tolist() == whole.concepts[kept].tolist()
        assert np.array_equal(found.masks, middle[kept])
