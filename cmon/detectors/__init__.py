"""Concept detectors: each scores every unit of a layer against every concept."""

from collections.abc import Callable, Mapping
from importlib.metadata import entry_points
from typing import Any

from cmon.detectors import clip_dissect, network_dissection
from cmon.detectors.base import Detector
from cmon.detectors.study_prior import chance_scores, relabel, study_log_prior
from cmon.errors import ConfigError, listing

__all__ = ["DETECTORS", "Detector", "chance_scores", "detector_from", "relabel", "study_log_prior"]

# kind in the config -> a function from its [[detector]] table to the detector.
DETECTORS: Mapping[str, Callable[[Any], Detector]] = {
    "clip_dissect": clip_dissect.from_config,
    "network_dissection": network_dissection.from_config,
}


def detector_from(table: Any) -> Any:
    """Make a Detector from its config table, from ours or from the entry-point group `cmon.detectors`."""
    if table.kind in DETECTORS:
        return DETECTORS[table.kind](table)
    others = {point.name: point for point in entry_points(group="cmon.detectors")}
    if table.kind not in others:
        raise ConfigError("detector.kind", f"unknown: {table.kind}", f"known: {listing([*DETECTORS, *others])}")
    return others[table.kind].load()(table)
