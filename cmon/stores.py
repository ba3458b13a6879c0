"""The kinds of file in a workspace: their specification, writers and readers.

Every file is HDF5 (readable from 1.10 on) with the attributes `format` = "cmon", `kind`, `format_version` and
`fingerprint`, and two datasets of one JSON string each: `/recipe`, exactly what was hashed into the fingerprint, and
`/provenance`, what is never hashed: versions, command, host, device, seconds, peak memory. Every dataset carries the
fletcher32 filter; strings are UTF-8 of fixed length; numbers are float32 unless said otherwise.
I images, U units of a layer, C concepts, D dimensions, R rows, K checkpoints, L layers.

activations, a file per checkpoint: activations/<run>/<checkpoint>.h5
    attribute step                  int64  what the checkpoint's content says of its step, if it does
    /images/id                      (I,)   str, sorted; row i of every array below is image i
    /layer_names                    (L,)   str, in forward order
    /layers/<layer>/mean or max     (I, U) pooled activations, in the unit of the layer's output

counts, a file per checkpoint, where a detector compares units with masks: counts/<run>/<checkpoint>.h5
    attributes quantile, the share of positions above a threshold, and rank_error, by how much it may be off at most
    /images/id, /concepts/name, /concepts/category; a concept is a pair of word and category
    /categories                     (G,)   str
    /concept_area                   (C,)   int64, pixels of the masks of each concept over all images
    /concept_images                 (C,)   int64, images that show each concept
    /layer_names                    (L,)   str, in forward order
    /layers/<layer>/threshold       (U,)   the activation that a unit exceeds at `quantile` of all positions
    /layers/<layer>/intersection    (U, C) int64, pixels above the threshold within the concept's mask
    /layers/<layer>/unit_area       (U, G) int64, pixels above it in the images that carry a label of the category
    /layers/<layer>/whole_area      (U,)   int64, pixels above it in all images that carry any label

evidence, a file per workspace: evidence.h5
    /images/id, /concepts/name, /concepts/category
    /image_features                 (I, D) unit norm; I is 0 where no detector asks what the images show
    /concept_features               (C, D) unit norm

similarity, a file per detector and checkpoint: similarity/<detector>/<run>/<checkpoint>.h5
    attribute step, attribute score_unit; concepts are those of its detector: the evidence's, or the counts'
    /images/id, /concepts/name, /concepts/category, /layer_names
    /layers/<layer>                 attributes: numbers on the scoring, such as a, spread, prior_perplexity
    /layers/<layer>/scores          (U, C) higher is better, under the layer's own prior; NaN for dead units
    /layers/<layer>/log_prior       (C,)   nats, only for similarities that have a prior
    /layers/<layer>/top_concept     (U, T) int32, best first, T = min(10, C); -1 for dead units
    /layers/<layer>/top_score       (U, T) NaN for dead units
    /layers/<layer>/top_images      (U, M) int32, most activating first, M = min(20, I); -1 for dead units
    /layers/<layer>/alive           (U,)   bool, varies over the probe
    /layers/<layer>/interpretable   (U,)   bool, alive with a best score of at least tau

embedding, a file per detector: embedding/<detector>.h5
    attribute score_unit; attributes with numbers on the projection, such as trustworthiness
    /runs/name, /layer_names, /images/id, /concepts/name, /concepts/category
    /checkpoints/run (K,) int32, /checkpoints/name, /checkpoints/step (K,) int64
    /units/run, checkpoint, layer, unit, concept      (R,) int32; concept is -1 for dead units
    /units/score (R,), /units/interpretable, /units/alive (R,) bool
    /units/top_concept, top_score, top_images         (R, T), (R, T), (R, M) as in similarity
    /units/u                        (R, D) the unified embedding (Concept-Monitor, equation 1); NaN for dead units
    /concepts/features              (C, D) unit norm
    /units/xy, /concepts/xy, /anchors/xy   (R, 2), (C, 2), (N, 2) the plane, comparable only within this file
    /anchors/name (N,) str, /anchors/features (N, D)
    /d_anchor                       (K, L) mean distance of units to the nearest anchor in the space itself
    /prior_perplexity               (K, L) units that the layer's prior rests on; NaN where there is no prior
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from cmon.fingerprint import Json, Recipe
from cmon.h5 import (
    Array,
    open_file,
    read_attribute,
    read_strings,
    write_array,
    write_attribute,
    write_file,
    write_strings,
)
from cmon.records import (
    Anchors,
    CheckpointActivations,
    CheckpointCounts,
    CheckpointLabels,
    CheckpointName,
    Concepts,
    Evidence,
    LayerActivations,
    LayerCounts,
    LayerLabels,
    Study,
    Units,
)

LABEL_ARRAYS = ("scores", "log_prior", "top_concept", "top_score", "top_images", "alive", "interpretable")
COUNT_ARRAYS = ("threshold", "intersection", "unit_area", "whole_area")
UNIT_NAMES = {"embedding": "u"}  # a field of Units that is called otherwise in the file


def write_activations(
    path: Path, recipe: Recipe, provenance: Json, recorded: CheckpointActivations, pooling: str
) -> None:
    """Write one checkpoint's activations; `pooling` names the datasets."""

    def fill(file: h5py.File) -> None:
        _write_step(file, recorded.step)
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
        return CheckpointActivations(read_strings(file, "images/id"), layers, _read_step(file))


def write_counts(path: Path, recipe: Recipe, provenance: Json, counts: CheckpointCounts) -> None:
    """Write one checkpoint's counts of pixels."""

    def fill(file: h5py.File) -> None:
        _write_facts(file, {"quantile": counts.quantile, "rank_error": counts.rank_error})
        write_strings(file, "images/id", counts.image_ids)
        _write_concepts(file, counts.concepts)
        write_strings(file, "categories", counts.categories)
        write_array(file, "concept_area", counts.concept_area)
        write_array(file, "concept_images", counts.concept_images)
        write_strings(file, "layer_names", tuple(layer.name for layer in counts.layers))
        for layer in counts.layers:
            for name in COUNT_ARRAYS:
                write_array(file, f"layers/{layer.name}/{name}", getattr(layer, name))

    write_file(path, "counts", recipe, provenance, fill)


def read_counts(path: Path) -> CheckpointCounts:
    """Read one checkpoint's counts of pixels."""
    with open_file(path, "counts") as file:
        layers = tuple(
            LayerCounts(name, *(file[f"layers/{name}/{array}"][:] for array in COUNT_ARRAYS))
            for name in read_strings(file, "layer_names")
        )
        return CheckpointCounts(
            concepts=_read_concepts(file),
            categories=read_strings(file, "categories"),
            image_ids=read_strings(file, "images/id"),
            concept_area=file["concept_area"][:],
            concept_images=file["concept_images"][:],
            layers=layers,
            **_facts(file),
        )


def write_evidence(path: Path, recipe: Recipe, provenance: Json, evidence: Evidence) -> None:
    """Write what the image-text model says of the probe."""

    def fill(file: h5py.File) -> None:
        write_strings(file, "images/id", evidence.image_ids)
        _write_concepts(file, evidence.concepts)
        write_array(file, "image_features", evidence.image_features)
        write_array(file, "concept_features", evidence.concept_features)

    write_file(path, "evidence", recipe, provenance, fill)


def read_evidence(path: Path) -> Evidence:
    """Read what the image-text model says of the probe."""
    with open_file(path, "evidence") as file:
        ids, concepts = read_strings(file, "images/id"), _read_concepts(file)
        return Evidence(ids, concepts, file["image_features"][:], file["concept_features"][:])


def write_labels(path: Path, recipe: Recipe, provenance: Json, labels: CheckpointLabels) -> None:
    """Write one checkpoint's scores and labels under one detector."""

    def fill(file: h5py.File) -> None:
        _write_step(file, labels.step)
        write_attribute(file, "score_unit", labels.score_unit)
        write_strings(file, "images/id", labels.image_ids)
        _write_concepts(file, labels.concepts)
        write_strings(file, "layer_names", tuple(layer.name for layer in labels.layers))
        for layer in labels.layers:
            group = file.create_group(f"layers/{layer.name}")
            _write_facts(group, layer.facts)
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
            layers.append(LayerLabels(**{"log_prior": None, "scores": None, **arrays}, name=name, facts=_facts(group)))
        ids, concepts = read_strings(file, "images/id"), _read_concepts(file)
        return CheckpointLabels(concepts, ids, tuple(layers), _read_step(file), read_attribute(file, "score_unit"))


def read_scores(path: Path, layer: str) -> Array:
    """Read one layer's full scores, (U, C)."""
    with open_file(path, "similarity") as file:
        scores: Array = file[f"layers/{layer}/scores"][:]
        return scores


def write_study(path: Path, recipe: Recipe, provenance: Json, study: Study) -> None:
    """Write one detector's whole study."""

    def fill(file: h5py.File) -> None:
        write_attribute(file, "score_unit", study.score_unit)
        _write_facts(file, study.facts)
        write_strings(file, "runs/name", study.runs)
        write_strings(file, "layer_names", study.layers)
        write_strings(file, "images/id", study.image_ids)
        _write_concepts(file, study.concepts)
        write_array(file, "concepts/features", study.concept_features)
        write_array(file, "concepts/xy", study.concept_xy)
        write_array(file, "checkpoints/run", np.array([c.run for c in study.checkpoints], dtype=np.int32))
        write_strings(file, "checkpoints/name", tuple(c.name for c in study.checkpoints))
        write_array(file, "checkpoints/step", np.array([c.step for c in study.checkpoints], dtype=np.int64))
        for name, values in vars(study.units).items():
            write_array(file, f"units/{UNIT_NAMES.get(name, name)}", values)
        write_strings(file, "anchors/name", study.anchors.names)
        write_array(file, "anchors/features", study.anchors.features)
        write_array(file, "anchors/xy", study.anchors.xy)
        write_array(file, "d_anchor", study.d_anchor)
        write_array(file, "prior_perplexity", study.prior_perplexity)

    write_file(path, "embedding", recipe, provenance, fill)


def read_study(path: Path) -> Study:
    """Read one detector's whole study."""
    with open_file(path, "embedding") as file:
        checkpoints = zip(
            file["checkpoints/run"][:].tolist(),
            read_strings(file, "checkpoints/name"),
            file["checkpoints/step"][:].tolist(),
            strict=True,
        )
        units = {name: file[f"units/{UNIT_NAMES.get(name, name)}"][:] for name in Units.__dataclass_fields__}
        return Study(
            detector=path.stem,
            score_unit=read_attribute(file, "score_unit"),
            runs=read_strings(file, "runs/name"),
            checkpoints=tuple(CheckpointName(*row) for row in checkpoints),
            layers=read_strings(file, "layer_names"),
            concepts=_read_concepts(file),
            concept_features=file["concepts/features"][:],
            concept_xy=file["concepts/xy"][:],
            image_ids=read_strings(file, "images/id"),
            units=Units(**units),
            anchors=Anchors(read_strings(file, "anchors/name"), file["anchors/features"][:], file["anchors/xy"][:]),
            d_anchor=file["d_anchor"][:],
            prior_perplexity=file["prior_perplexity"][:],
            facts=_facts(file),
        )


def _write_concepts(file: h5py.File, concepts: Concepts) -> None:
    write_strings(file, "concepts/name", concepts.names)
    write_strings(file, "concepts/category", concepts.categories)


def _read_concepts(file: h5py.File) -> Concepts:
    return Concepts(read_strings(file, "concepts/name"), read_strings(file, "concepts/category"))


def _write_step(file: h5py.File, step: int | None) -> None:
    if step is not None:
        file.attrs["step"] = np.int64(step)


def _read_step(file: h5py.File) -> int | None:
    return int(file.attrs["step"]) if "step" in file.attrs else None


def _write_facts(group: h5py.Group, facts: Mapping[str, float]) -> None:
    for name, value in facts.items():
        group.attrs[name] = np.float64(value)


def _facts(group: h5py.Group) -> dict[str, float]:
    values: dict[str, Any] = dict(group.attrs)
    return {name: float(value) for name, value in values.items() if isinstance(value, np.float64)}
