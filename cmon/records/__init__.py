"""What passes between stages, as plain frozen records of arrays that know no files."""

from cmon.records.arrays import (
    BLOCK_BYTES,
    BoolArray,
    FloatArray,
    IntArray,
    LongArray,
    Pixels,
    Table,
    blocks,
)
from cmon.records.recorded import (
    TOP_CONCEPTS,
    TOP_IMAGES,
    CheckpointActivations,
    CheckpointLabels,
    Concepts,
    Evidence,
    ImageLabels,
    LayerActivations,
    LayerCounts,
    LayerLabels,
    Scores,
)
from cmon.records.study import (
    Anchors,
    CheckpointName,
    Study,
    Units,
    View,
)

__all__ = [
    "BLOCK_BYTES",
    "TOP_CONCEPTS",
    "TOP_IMAGES",
    "Anchors",
    "BoolArray",
    "CheckpointActivations",
    "CheckpointLabels",
    "CheckpointName",
    "Concepts",
    "Evidence",
    "FloatArray",
    "ImageLabels",
    "IntArray",
    "LayerActivations",
    "LayerCounts",
    "LayerLabels",
    "LongArray",
    "Pixels",
    "Scores",
    "Study",
    "Table",
    "Units",
    "View",
    "blocks",
]
