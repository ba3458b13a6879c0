"""Files of single checkpoints, and of the evidence."""

from pathlib import Path

import h5py
import numpy as np

from cmon.fingerprint import Json, Recipe
from cmon.h5 import open_file, read_attribute, read_strings, write_array, write_attribute, write_file, write_strings
from cmon.records import (
    CheckpointActivations,
    CheckpointCounts,
    CheckpointLabels,
    Evidence,
    FloatArray,
    LayerActivations,
    LayerCounts,
    LayerLabels,
    MaskDraws,
)
from cmon.stores.arrays import (
    read_arrays,
    read_concept_images,
    read_concepts,
    read_facts,
    write_arrays,
    write_concepts,
    write_facts,
)

LABEL_ARRAYS = tuple(name for name in LayerLabels.__dataclass_fields__ if name not in ("name", "facts"))
COUNT_ARRAYS = ("threshold", "intersection", "unit_area", "whole_area")


def write_activations(
    path: Path, recipe: Recipe, provenance: Json, recorded: CheckpointActivations, pooling: str
) -> None:
    """Write one checkpoint's activations; `pooling` names the datasets."""

    def fill(file: h5py.File) -> None:
        _write_steps(file, recorded.steps)
        write_facts(file, {"sparsity": recorded.sparsity})
        write_strings(file, "images/id", recorded.image_ids)
        write_strings(file, "layer_names", tuple(layer.name for layer in recorded.layers))
        for layer in recorded.layers:
            write_array(file, f"layers/{layer.name}/{pooling}", layer.values)

    write_file(path, "activations", recipe, provenance, fill)


def read_activations(path: Path, pooling: str) -> CheckpointActivations:
    """Read one checkpoint's activations."""
    with open_file(path, "activations") as file:
        layers = tuple(
            LayerActivations(name, file[f"layers/{name}/{pooling}"][:]) for name in read_strings(file, "layer_names")
        )
        return CheckpointActivations(read_strings(file, "images/id"), layers, _read_steps(file), _read_sparsity(file))


def write_counts(path: Path, recipe: Recipe, provenance: Json, counts: CheckpointCounts) -> None:
    """Write one checkpoint's counts of pixels."""

    def fill(file: h5py.File) -> None:
        write_facts(file, {"quantile": counts.quantile, "rank_error": counts.rank_error})
        write_strings(file, "images/id", counts.image_ids)
        write_concepts(file, counts.concepts)
        write_strings(file, "categories", counts.categories)
        write_array(file, "concept_area", counts.concept_area)
        write_array(file, "concept_images", counts.concept_images)
        write_strings(file, "layer_names", tuple(layer.name for layer in counts.layers))
        for layer in counts.layers:
            group = file.create_group(f"layers/{layer.name}")
            for name in COUNT_ARRAYS:
                write_array(group, name, getattr(layer, name))
            for union, drawn in layer.draws.items():
                write_arrays(group.create_group(f"draws/{union}"), drawn)

    write_file(path, "counts", recipe, provenance, fill)


def read_counts(path: Path) -> CheckpointCounts:
    """Read one checkpoint's counts of pixels."""
    with open_file(path, "counts") as file:
        layers = tuple(_read_layer_counts(file[f"layers/{name}"], name) for name in read_strings(file, "layer_names"))
        return CheckpointCounts(
            concepts=read_concepts(file),
            categories=read_strings(file, "categories"),
            image_ids=read_strings(file, "images/id"),
            concept_area=file["concept_area"][:],
            concept_images=file["concept_images"][:],
            layers=layers,
            **read_facts(file),
        )


def write_evidence(path: Path, recipe: Recipe, provenance: Json, evidence: Evidence) -> None:
    """Write what the image-text model says of the probe."""

    def fill(file: h5py.File) -> None:
        write_strings(file, "images/id", evidence.image_ids)
        write_concepts(file, evidence.concepts)
        write_array(file, "image_features", evidence.image_features)
        write_array(file, "concept_features", evidence.concept_features)

    write_file(path, "evidence", recipe, provenance, fill)


def read_evidence(path: Path) -> Evidence:
    """Read what the image-text model says of the probe."""
    with open_file(path, "evidence") as file:
        ids, concepts = read_strings(file, "images/id"), read_concepts(file)
        return Evidence(ids, concepts, file["image_features"][:], file["concept_features"][:])


def write_labels(path: Path, recipe: Recipe, provenance: Json, labels: CheckpointLabels) -> None:
    """Write one checkpoint's scores and labels under one detector."""

    def fill(file: h5py.File) -> None:
        _write_steps(file, labels.steps)
        write_facts(file, {"sparsity": labels.sparsity})
        write_attribute(file, "score_unit", labels.score_unit)
        write_strings(file, "images/id", labels.image_ids)
        write_concepts(file, labels.concepts, labels.concept_images)
        write_strings(file, "layer_names", tuple(layer.name for layer in labels.layers))
        for layer in labels.layers:
            group = file.create_group(f"layers/{layer.name}")
            write_facts(group, layer.facts)
            for name in LABEL_ARRAYS:
                if getattr(layer, name) is not None:
                    write_array(group, name, getattr(layer, name))

    write_file(path, "similarity", recipe, provenance, fill)


def read_labels(path: Path) -> CheckpointLabels:
    """Read one checkpoint's labels under one detector, all but the full scores (`scores` is None)."""
    with open_file(path, "similarity") as file:
        layers = []
        for name in read_strings(file, "layer_names"):
            group = file[f"layers/{name}"]
            arrays = {key: group[key][:] for key in LABEL_ARRAYS if key in group and key != "scores"}
            layers.append(
                LayerLabels(**{"log_prior": None, "scores": None, **arrays}, name=name, facts=read_facts(group))
            )
        ids, concepts = read_strings(file, "images/id"), read_concepts(file)
        images, unit = read_concept_images(file), read_attribute(file, "score_unit")
        facts = (_read_steps(file), unit, images, _read_sparsity(file))
        return CheckpointLabels(concepts, ids, tuple(layers), *facts)


def read_scores(path: Path, layer: str) -> FloatArray:
    """Read one layer's full scores, (U, C)."""
    with open_file(path, "similarity") as file:
        scores: FloatArray = file[f"layers/{layer}/scores"][:]
        return scores


def _read_layer_counts(group: h5py.Group, name: str) -> LayerCounts:
    draws = {union: MaskDraws(**read_arrays(drawn, MaskDraws)) for union, drawn in group["draws"].items()}
    return LayerCounts(name=name, draws=draws, **{array: group[array][:] for array in COUNT_ARRAYS})


def _write_steps(file: h5py.File, steps: dict[str, int]) -> None:
    for unit, number in steps.items():
        file.attrs[unit] = np.int64(number)


def _read_steps(file: h5py.File) -> dict[str, int]:
    return {unit: int(file.attrs[unit]) for unit in ("epoch", "step") if unit in file.attrs}


def _read_sparsity(file: h5py.File) -> float:
    return read_facts(file).get("sparsity", float("nan"))
