"""Records of arrays, concepts and named numbers, as the files of a workspace hold them."""

from collections.abc import Mapping
from typing import Any

import h5py
import numpy as np

from cmon.h5 import Array, read_strings, write_array, write_strings
from cmon.records import Concepts, LongArray


def write_arrays(group: h5py.Group, record: Any) -> None:
    """Write a record of arrays, a dataset a field."""
    for name, values in vars(record).items():
        write_array(group, name, values)


def read_arrays(group: h5py.Group, kind: Any) -> dict[str, Array]:
    """Read a record's fields."""
    return {name: group[name][:] for name in kind.__dataclass_fields__}


def write_concepts(file: h5py.File, concepts: Concepts, images: LongArray | None = None) -> None:
    """Write words with their categories and, where that is known, how many images show each."""
    write_strings(file, "concepts/name", concepts.names)
    write_strings(file, "concepts/category", concepts.categories)
    if images is not None:
        write_array(file, "concepts/images", images)


def read_concept_images(file: h5py.File) -> LongArray | None:
    """Read how many images show each concept, (C,); None where that is not known."""
    return file["concepts/images"][:] if "concepts/images" in file else None


def read_concepts(file: h5py.File) -> Concepts:
    """Read words with their categories."""
    return Concepts(read_strings(file, "concepts/name"), read_strings(file, "concepts/category"))


def write_facts(group: h5py.Group, facts: Mapping[str, float]) -> None:
    """Write named numbers as attributes."""
    for name, value in facts.items():
        group.attrs[name] = np.float64(value)


def read_facts(group: h5py.Group) -> dict[str, float]:
    """Read the attributes that are named numbers."""
    values: dict[str, Any] = dict(group.attrs)
    return {name: float(value) for name, value in values.items() if isinstance(value, np.float64)}
