"""Recording units in forward passes: pooled activations, thresholds, and counts against concept masks."""

from cmon.recording.recorder import Recorder, pick_device

__all__ = ["Recorder", "pick_device"]
