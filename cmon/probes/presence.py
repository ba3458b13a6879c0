"""Which image shows which concept, by what the probe itself says: Broden's labels, CIFAR's classes, folders' names."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from cmon.config import Preprocess
from cmon.config import Probe as ProbeTable
from cmon.probes.cifar import read_classes
from cmon.probes.labels import Labels
from cmon.records import Concepts, IntArray, Presence, plain_word

# A single folder may be named as a concept by chance, such as "train".
FEWEST_FOLDERS = 2


def read_presence(
    probe: ProbeTable, labels: Labels | None, image_ids: Sequence[str], concepts: Concepts, preprocess: Preprocess
) -> Presence:
    """Read which images show which concepts; words are compared without case, underscores or hyphens.

    A Broden probe shows a concept in an image that carries its label anywhere in the part that a network sees. Its
    sources were labelled for different categories, so that only images with a label of a concept's category are judged
    by it, as in Network Dissection. A concept with a category is the label of that word and category, or, where there
    is none, and for a concept without, all labels of that word.

    Any other image shows its class and nothing else: CIFAR's label, or the name of the folder that the image lies in.
    Folders are classes where at least two of them are named as concepts; an image in no folder is not judged.

    Args:
        probe: the config's table.
        labels: of a Broden probe; None of any other.
        image_ids: (I,) some of the probe's.
        concepts: C of them.
        preprocess: of the run, which decides what its network sees.

    Raises:
        ProbeError: for masks, and for CIFAR's classes, that cannot be read or are not what they should be.
    """
    if probe.kind == "broden":
        assert labels is not None, "a Broden probe has labels"
        return _by_labels(labels, image_ids, concepts, preprocess)
    if probe.kind in ("cifar10", "cifar100"):
        classes = read_classes(probe)
        return _by_classes([classes.get(image, "") for image in image_ids], concepts, fewest=1)
    folders = [image.rpartition("/")[0].rpartition("/")[2] for image in image_ids]
    return _by_classes(folders, concepts, FEWEST_FOLDERS)


def _by_classes(classes: Sequence[str], concepts: Concepts, fewest: int) -> Presence:
    """Take every image as showing its class alone, where at least so many are concepts; "" is no class."""
    names, of_image = np.unique([plain_word(name) for name in classes], return_inverse=True)
    words = {plain_word(word) for word in concepts.names} - {""}
    found = [place for place, name in enumerate(names.tolist()) if name in words]
    if len(found) < fewest:
        found = []
    column = {str(names[place]): k for k, place in enumerate(found)}
    judged = np.broadcast_to((names != "")[of_image][:, None], (len(classes), len(found)))
    shown = of_image[:, None] == np.array(found, dtype=of_image.dtype)
    return Presence(shown, judged, _places(column.get(plain_word(word), -1) for word in concepts.names))


def _by_labels(labels: Labels, image_ids: Sequence[str], concepts: Concepts, preprocess: Preprocess) -> Presence:
    """Take every image as showing all that its labels and masks name within what a network sees."""
    of_concept = _labels_of(labels.concepts, concepts)
    names = sorted(set(filter(None, of_concept)))
    groups = np.array(labels.concepts.groups(labels.categories))
    carried = np.zeros((len(image_ids), len(groups)), dtype=np.bool_)
    labelled = np.zeros((len(image_ids), len(labels.categories)), dtype=np.bool_)

    def labels_in(image: str) -> IntArray:
        return labels.of(image, preprocess).concepts

    with ThreadPoolExecutor() as pool:  # decoding leaves Python's lock
        for row, found in enumerate(pool.map(labels_in, image_ids)):
            carried[row, found] = True
            labelled[row, groups[found]] = True
    shown = np.empty((len(image_ids), len(names)), dtype=np.bool_)
    judged = np.empty_like(shown)
    for k, same in enumerate(names):
        shown[:, k] = carried[:, same].any(axis=1)
        judged[:, k] = labelled[:, groups[list(same)]].any(axis=1)
    column = {same: k for k, same in enumerate(names)}
    return Presence(shown, judged, _places(column.get(same, -1) for same in of_concept))


def _labels_of(labelled: Concepts, concepts: Concepts) -> list[tuple[int, ...]]:
    """List the labels that mean each concept; none where there are none."""
    by_word: dict[str, list[int]] = defaultdict(list)
    by_pair: dict[tuple[str, str], list[int]] = defaultdict(list)
    for place, pair in enumerate(_plain(labelled)):
        by_word[pair[0]].append(place)
        by_pair[pair].append(place)
    return [tuple(by_pair.get(pair) or by_word.get(pair[0], [])) for pair in _plain(concepts)]


def _plain(concepts: Concepts) -> list[tuple[str, str]]:
    return [(plain_word(w), plain_word(c)) for w, c in zip(concepts.names, concepts.categories, strict=True)]


def _places(columns: Iterable[int]) -> IntArray:
    return np.fromiter(columns, dtype=np.int32)
