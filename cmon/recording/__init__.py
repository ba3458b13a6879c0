"""Recording units in forward passes: pooled activations, thresholds, and counts against concept masks."""

from cmon.recording.batchnorm import check_batch_norm, recalibrate
from cmon.recording.counting import Counter
from cmon.recording.describing import LayerShape, describe_layers
from cmon.recording.folding import Pairs, foldable, folded
from cmon.recording.recorder import MemoryShortageError, Recorder, pick_device
from cmon.recording.tails import Thresholds

__all__ = [
    "Counter",
    "LayerShape",
    "MemoryShortageError",
    "Pairs",
    "Recorder",
    "Thresholds",
    "check_batch_norm",
    "describe_layers",
    "foldable",
    "folded",
    "pick_device",
    "recalibrate",
]
