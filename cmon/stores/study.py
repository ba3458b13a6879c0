"""A detector's joint file of a whole study."""

from pathlib import Path

import h5py
import numpy as np

from cmon.fingerprint import Json, Recipe
from cmon.h5 import open_file, read_attribute, read_strings, write_array, write_attribute, write_file, write_strings
from cmon.records import Anchors, Baseline, CheckpointName, Study, Units
from cmon.stores.arrays import (
    read_arrays,
    read_concept_images,
    read_concepts,
    read_facts,
    write_arrays,
    write_concepts,
    write_facts,
)

LAYER_INDICES = ("d_anchor", "d_anchor_resampled", "spread", "spread_resampled", "prior_perplexity")
UNIT_NAMES = {"embedding": "u"}  # a field of Units that is called otherwise in the file


def write_study(path: Path, recipe: Recipe, provenance: Json, study: Study) -> None:
    """Write one detector's whole study."""

    def fill(file: h5py.File) -> None:
        write_attribute(file, "score_unit", study.score_unit)
        write_facts(file, study.facts)
        write_strings(file, "runs/name", study.runs)
        write_strings(file, "layer_names", study.layers)
        write_strings(file, "images/id", study.image_ids)
        write_concepts(file, study.concepts, study.concept_images)
        write_array(file, "concepts/features", study.concept_features)
        write_array(file, "concepts/xy", study.concept_xy)
        write_array(file, "checkpoints/run", np.array([c.run for c in study.checkpoints], dtype=np.int32))
        write_strings(file, "checkpoints/name", tuple(c.name for c in study.checkpoints))
        write_array(file, "checkpoints/step", np.array([c.step for c in study.checkpoints], dtype=np.int64))
        write_array(file, "checkpoints/sparsity", np.array([c.sparsity for c in study.checkpoints], dtype=np.float32))
        for name, values in vars(study.units).items():
            write_array(file, f"units/{UNIT_NAMES.get(name, name)}", values)
        write_strings(file, "anchors/name", study.anchors.names)
        write_array(file, "anchors/features", study.anchors.features)
        write_array(file, "anchors/xy", study.anchors.xy)
        for name in LAYER_INDICES:
            write_array(file, name, getattr(study, name))
        write_arrays(file.create_group("baseline"), study.baseline)

    write_file(path, "embedding", recipe, provenance, fill)


def read_study(path: Path) -> Study:
    """Read one detector's whole study."""
    with open_file(path, "embedding") as file:
        checkpoints = zip(
            file["checkpoints/run"][:].tolist(),
            read_strings(file, "checkpoints/name"),
            file["checkpoints/step"][:].tolist(),
            file["checkpoints/sparsity"][:].tolist(),
            strict=True,
        )
        units = {name: file[f"units/{UNIT_NAMES.get(name, name)}"][:] for name in Units.__dataclass_fields__}
        indices = {name: file[name][:] for name in LAYER_INDICES}
        return Study(
            detector=path.stem,
            score_unit=read_attribute(file, "score_unit"),
            runs=read_strings(file, "runs/name"),
            checkpoints=tuple(CheckpointName(*row) for row in checkpoints),
            layers=read_strings(file, "layer_names"),
            concepts=read_concepts(file),
            concept_features=file["concepts/features"][:],
            concept_xy=file["concepts/xy"][:],
            image_ids=read_strings(file, "images/id"),
            units=Units(**units),
            anchors=Anchors(read_strings(file, "anchors/name"), file["anchors/features"][:], file["anchors/xy"][:]),
            baseline=Baseline(**read_arrays(file["baseline"], Baseline)),
            **indices,
            facts=read_facts(file),
            concept_images=read_concept_images(file),
        )
