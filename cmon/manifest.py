"""What a submission to a cluster has frozen: a training that goes on must not move units between its shards."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from cmon.config import Study
from cmon.errors import ConfigError, StoreError, listing, one_line
from cmon.fingerprint import Json, changes
from cmon.h5 import write_whole


@dataclass(frozen=True)
class Manifest:
    """A list of the units of work as it was when they were submitted.

    Args:
        config: the study's file.
        study: what stood in it.
        checkpoints: run -> checkpoint -> file.
        due: names of the units that lacked something: what the shards are made of.
        shards: their number.
    """

    config: str
    study: Json
    checkpoints: dict[str, dict[str, str]]
    due: list[str]
    shards: int

    def write(self, path: Path) -> None:
        """Write the list; a StoreError where that cannot be."""
        write_whole(path, json.dumps(asdict(self), indent=1).encode())


def frozen_study(study: Study) -> Json:
    """Return all that stands in a config, as JSON."""
    return json.loads(json.dumps(study.model_dump(mode="json")))  # type: ignore[no-any-return]


def read_manifest(path: Path, study: Study) -> Manifest:
    """Read what was frozen.

    Raises:
        ConfigError: where the config says something else by now.
        StoreError: where the list cannot be read.
    """
    try:
        manifest = Manifest(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise StoreError(path, f"is no list of cmon submit: {one_line(error)}", "submit again") from error
    if changed := changes(manifest.study, frozen_study(study)):
        what = f"changed since it was submitted: {listing(changed, 4)}"
        raise ConfigError(manifest.config, what, "submit again, or change it back")
    return manifest
