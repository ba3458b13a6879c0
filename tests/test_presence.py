import io
import pickle
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cmon.config import Preprocess
from cmon.config import Probe as ProbeTable
from cmon.errors import ProbeError
from cmon.probes import open_labels, open_probe, read_presence
from cmon.probes.cifar import CLASSES
from cmon.records import Concepts, Presence, plain_word

SHARED = Path(__file__).resolve().parents[2] / "shared"
WHOLE = Preprocess()


def table(kind, path, **options):
    return ProbeTable.model_validate({"kind": kind, "path": path, **options})


def concepts(*words, category=""):
    return Concepts(words, (category,) * len(words))


def pairs(*words):
    """Make concepts of "word category" or "word"."""
    split = [word.partition(" / ") for word in words]
    return Concepts(tuple(word for word, _, _ in split), tuple(category for _, _, category in split))


def text(presence, words):
    """Say of each concept what it is in every image: # shown, . not shown, ? not judged; "" for an unknown one."""
    assert presence.shown.dtype == presence.judged.dtype == np.bool_
    assert presence.column.dtype == np.int32
    assert presence.shown.shape == presence.judged.shape
    assert not (presence.shown & ~presence.judged).any()
    assert presence.known.tolist() == [column >= 0 for column in presence.column.tolist()]
    found = {}
    for word, column in zip(words, presence.column.tolist(), strict=True):
        cells = zip(presence.shown[:, column], presence.judged[:, column], strict=True) if column >= 0 else ()
        found[word] = "".join("#" if shown else "." if judged else "?" for shown, judged in cells)
    return found


@pytest.mark.parametrize(
    ("word", "plain"),
    [
        ("Dining_Room", "dining room"),
        ("  dining-room ", "dining room"),
        ("dining  room", "dining room"),
        ("STRASSE", "strasse"),
        ("Straße", "strasse"),
        ("_", ""),
        ("", ""),
    ],
)
def test_words_are_compared_without_case_underscores_or_hyphens(word, plain):
    assert plain_word(word) == plain


def test_images_are_counted_by_concept():
    shown = np.array([[1, 0], [1, 0], [0, 0]], dtype=bool)
    found = Presence(shown, np.ones_like(shown), np.array([1, -1, 0, 0], dtype=np.int32))
    assert found.images.tolist() == [0, -1, 2, 2]
    assert found.images.dtype == np.int64
    assert found.known.tolist() == [True, False, True, True]
    none = Presence(shown[:, :0], shown[:, :0], np.array([-1, -1], dtype=np.int32))
    assert none.images.tolist() == [-1, -1]


# --- folders

IMAGES = ("Dining_Room/b.png", "cat/a.png", "loose.png", "test/cat/a.png", "test/other/dog/x.png", "train/u.png")


def of_folders(images, words):
    return text(read_presence(table("images", "x"), None, images, words, WHOLE), words.names)


def test_an_image_shows_the_name_of_the_folder_that_it_lies_in():
    found = of_folders(IMAGES, concepts("dog", "Cat", "dining-room", "loose", "other", "test", "sky"))
    assert found == {
        "dog": "..?.#.",
        "Cat": ".#?#..",
        "dining-room": "#.?...",
        "loose": "",
        "other": "",
        "test": "",
        "sky": "",
    }


def test_two_ways_to_write_a_word_are_the_same_class():
    assert of_folders(["A cat/1.png", "a_cat/2.png", "dog/3.png"], concepts("A_CAT", "a-cat", "dog")) == {
        "A_CAT": "##.",
        "a-cat": "##.",
        "dog": "..#",
    }


@pytest.mark.parametrize(
    ("images", "words"),
    [
        (["train/1.png", "test/2.png"], ["train", "dog"]),  # one folder is no class, "train" being a vehicle too
        (["cat/1.png", "Cat/2.png"], ["cat", "dog"]),  # nor is it two, for being written twice
        (["cat/1.png", "dog/2.png"], ["sky"]),
        (["1.png", "2.png"], ["", "1.png"]),
        (["_/1.png", "-/2.png"], ["_", "-"]),
        ([], ["cat"]),
    ],
)
def test_folders_that_are_no_classes_tell_nothing(images, words):
    assert set(of_folders(images, concepts(*words)).values()) == {""}


def test_ten_thousand_images_and_two_thousand_words_are_no_wait():
    images = [f"test/class {number % 1000}/{number}.png" for number in range(10_000)]
    words = concepts(*(f"class_{number}" for number in range(2_000)))
    start = time.perf_counter()
    found = read_presence(table("images", "x"), None, images, words, WHOLE)
    assert time.perf_counter() - start < 2
    assert found.shown.shape == (10_000, 1_000)
    assert found.images[:1000].tolist() == [10] * 1000
    assert not found.known[1000:].any()


# --- CIFAR


def write_batches(folder, kind, labels, python_3=False):
    """Write batches of as many grey images as labels, by file."""
    name = {"cifar10": "cifar-10-batches-py", "cifar100": "cifar-100-python"}[kind]
    (folder / name).mkdir(exist_ok=True)
    for file, numbers in labels.items():
        batch = {"data": np.full((3 if numbers is None else len(numbers), 3072), 99, np.uint8)}
        if numbers is not None:
            batch["labels" if kind == "cifar10" else "fine_labels"] = numbers
        batch = batch if python_3 else {key.encode(): value for key, value in batch.items()}
        (folder / name / file).write_bytes(pickle.dumps(batch))
    return folder


def of_cifar(folder, kind, words, **options):
    probe = table(kind, folder, **options)
    ids = open_probe(probe).ids
    return text(read_presence(probe, None, ids, words, WHOLE), words.names)


@pytest.mark.parametrize("python_3", [False, True])
def test_a_cifar_image_shows_its_class(tmp_path, python_3):
    write_batches(tmp_path, "cifar10", {"test_batch": [3, 0, 3, 9, 8]}, python_3)
    assert of_cifar(tmp_path, "cifar10", concepts("cat", "Airplane", "horse", "car")) == {
        "cat": "#.#..",
        "Airplane": ".#...",
        "horse": "",  # no image is of it, so that it is not among the classes that were seen
        "car": "",
    }


def test_one_class_among_the_concepts_is_enough_where_the_labels_are_certain(tmp_path):
    write_batches(tmp_path, "cifar10", {"test_batch": [3, 0]})
    assert of_cifar(tmp_path, "cifar10", concepts("sky", "cat")) == {"sky": "", "cat": "#."}


def test_fine_classes_of_cifar100_are_read(tmp_path):
    write_batches(tmp_path, "cifar100", {"test": np.array([0, 99, 1, 47])})
    found = of_cifar(tmp_path, "cifar100", concepts("aquarium fish", "worm", "maple-tree"))
    assert found == {"aquarium fish": "..#.", "worm": ".#..", "maple-tree": "...#"}


def test_classes_are_found_by_the_ids_of_the_images(tmp_path):
    batches = {f"data_batch_{number}": [number, 9 - number] for number in range(1, 6)}
    write_batches(tmp_path, "cifar10", {**batches, "test_batch": [0, 9, 1]})
    probe = table("cifar10", tmp_path, split="all")
    ids = open_probe(probe).ids
    assert ids == (*(f"test/{number:05}" for number in range(3)), *(f"train/{number:05}" for number in range(10)))
    words = concepts("truck", "airplane", "automobile", "ship")
    assert text(read_presence(probe, None, ids[::-1], words, WHOLE), words.names) == {
        "truck": "...........#.",
        "airplane": "............#",
        "automobile": ".........##..",
        "ship": "........#....",
    }


def test_a_batch_without_labels_is_not_judged(tmp_path):
    write_batches(tmp_path, "cifar10", {"test_batch": [0, 1], **{f"data_batch_{i}": None for i in range(1, 6)}})
    found = of_cifar(tmp_path, "cifar10", concepts("airplane", "automobile"), split="all")
    assert found == {"airplane": "#." + 15 * "?", "automobile": ".#" + 15 * "?"}


@pytest.mark.parametrize("labels", [[0, 1, 10], [0, 1, -1], [0.5, 1, 2], "abc", [[0], [1], [2]], [None] * 3])
def test_labels_that_are_no_classes_are_an_error(tmp_path, labels):
    write_batches(tmp_path, "cifar10", {"test_batch": labels})
    with pytest.raises(ProbeError, match="test_batch: is not a CIFAR batch: its labels are not its images' classes"):
        of_cifar(tmp_path, "cifar10", concepts("airplane", "cat"))


def test_labels_of_another_number_than_the_images_are_an_error(tmp_path):
    write_batches(tmp_path, "cifar10", {"test_batch": [1, 2]})
    path = tmp_path / "cifar-10-batches-py" / "test_batch"
    path.write_bytes(pickle.dumps({**pickle.loads(path.read_bytes()), b"labels": [1, 2, 3]}))
    with pytest.raises(ProbeError, match="its labels are not its images' classes"):
        of_cifar(tmp_path, "cifar10", concepts("airplane", "cat"))


def test_there_are_ten_and_a_hundred_classes_in_alphabetical_order():
    for kind, count in (("cifar10", 10), ("cifar100", 100)):
        assert len(set(CLASSES[kind].split())) == count
        assert sorted(CLASSES[kind].split()) == CLASSES[kind].split()


# --- Broden

LABELS = """\
number,name,category,frequency,coverage,syns
1,red-c,color(2),2,1,
2,street-s,scene(1),1,1,
3,cat,object(3),3,1,
4,ear,part(1),1,1,
5,orange-c,color(1),1,1,
6,orange,object(1);part(1),1,1,
7,dining_table,object(1),1,1,
8,nowhere,object(1),1,1,
"""
INDEX = """\
image,split,ih,iw,sh,sw,color,object,part,scene
a.png,train,4,4,4,4,a_color.png,a_object.png,,
b.png,train,4,4,4,4,,,,2
c.png,train,4,4,4,4,,c_object.png,c_part.png,
d.png,train,4,4,4,4,,,,
e.png,train,4,4,4,4,,e_object.png,,
"""
MASKS = {
    "a_color.png": [[1, 0, 0, 0]] + 3 * [[0] * 4],  # a corner
    "a_object.png": [[0] * 4, [0, 3, 0, 0], [0, 0, 7, 0], [0] * 4],
    "c_object.png": [[0] * 4, [0, 6, 6, 0], [0] * 4, [0, 0, 0, 3]],
    "c_part.png": [[0] * 4, [0, 4, 0, 0], [0] * 4, [0] * 4],
    "e_object.png": [[0] * 4, [0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 7]],
}
CROPPED = Preprocess(resize=4, crop=2)


def png(pixels):
    stream = io.BytesIO()
    Image.fromarray(np.array(pixels, dtype=np.uint8)).save(stream, "PNG")
    return stream.getvalue()


@pytest.fixture(scope="module")
def broden(tmp_path_factory):
    folder = tmp_path_factory.mktemp("broden")
    (folder / "images").mkdir()
    (folder / "index.csv").write_text(INDEX)
    (folder / "label.csv").write_text(LABELS)
    for name in "abcde":
        (folder / "images" / f"{name}.png").write_bytes(png(np.full((4, 4, 3), 99)))
    for name, rows in MASKS.items():
        (folder / "images" / name).write_bytes(png([[(number, 0, 0) for number in row] for row in rows]))
    return folder


def of_broden(folder, words, preprocess=WHOLE, images=("a.png", "b.png", "c.png", "d.png", "e.png")):
    probe, labels = table("broden", folder), open_labels(folder)
    names = [f"{w} / {c}" if c else w for w, c in zip(words.names, words.categories, strict=True)]
    return text(read_presence(probe, labels, images, words, preprocess), names)


def test_a_concept_is_shown_where_its_label_is_and_judged_where_its_category_is(broden):
    assert of_broden(broden, concepts("red", "street", "cat", "ear", "Dining Table", "nowhere", "sky")) == {
        "red": "#????",  # of one label alone in its category, nothing says where it is not
        "street": "?#???",
        "cat": "#?#?.",
        "ear": "??#??",
        "Dining Table": "#?.?#",
        "nowhere": ".?.?.",
        "sky": "",
    }


def test_only_what_the_network_sees_counts(broden):
    assert of_broden(broden, concepts("red", "street", "cat", "ear", "dining table"), CROPPED) == {
        "red": "?????",
        "street": "?#???",
        "cat": "#?.??",
        "ear": "??#??",
        "dining table": "#?.??",
    }


def test_a_word_and_its_category_are_one_label_a_word_alone_is_all_of_its_name(broden):
    words = pairs("orange", "orange / color", "orange / object", "Orange / PART", "orange / fruit", "cat / part")
    assert of_broden(broden, words) == {
        "orange": ".?#?.",
        "orange / color": ".????",
        "orange / object": ".?#?.",
        "Orange / PART": "??.??",
        "orange / fruit": ".?#?.",  # a category of the user's own
        "cat / part": "#?#?.",
    }


def test_concepts_of_the_same_labels_share_a_column(broden):
    found = read_presence(
        table("broden", broden), open_labels(broden), ["a.png"], concepts("cat", "CAT", "ear", "sky"), WHOLE
    )
    assert found.shown.shape == (1, 2)
    assert found.column[0] == found.column[1] != found.column[2]


def test_images_come_in_the_order_that_was_asked_for(broden):
    assert of_broden(broden, concepts("cat"), images=("e.png", "c.png", "b.png")) == {"cat": ".#?"}
    assert of_broden(broden, concepts("cat"), images=()) == {"cat": ""}


def test_a_damaged_mask_is_an_error_that_names_it(broden, tmp_path):
    folder = Path(shutil.copytree(broden, tmp_path / "broden"))
    (folder / "images" / "c_part.png").write_bytes(b"no PNG")
    with pytest.raises(ProbeError, match=r"c_part\.png \(index\.csv row 4\): unreadable mask"):
        of_broden(folder, concepts("cat"))


def test_the_labels_own_pairs_are_shown_as_often_as_the_labels_say():
    path = SHARED / "data" / "mini_broden.zip"
    if not path.exists():
        pytest.skip("no ../shared/data/mini_broden.zip here")
    labels = open_labels(path)
    ids = sorted(labels.rows)
    found = read_presence(table("broden", path), labels, ids, labels.concepts, WHOLE)
    counts = np.zeros(len(labels.concepts.names), dtype=int)
    judged = dict.fromkeys(labels.categories, 0)
    for image in ids:
        here = labels.of(image, WHOLE).concepts
        counts[here] += 1
        for category in {labels.concepts.categories[concept] for concept in here}:
            judged[category] += 1
    assert found.images.tolist() == counts.tolist()
    assert found.judged.sum(axis=0)[found.column].tolist() == [judged[c] for c in labels.concepts.categories]


def test_classes_of_real_folders_are_found():
    path = SHARED / "data" / "cifar10_test.zip"
    if not path.exists():
        pytest.skip("no ../shared/data/cifar10_test.zip here")
    probe = table("images", path)
    words = concepts("car", "Airplane", "truck")
    found = read_presence(probe, None, open_probe(probe).ids, words, WHOLE)
    assert found.images.tolist() == [-1, 1000, 1000]
    assert found.judged.all()
