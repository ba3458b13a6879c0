"""What may stand on the command line, and what is made of it."""

import re
import tomllib
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cmon.errors import ConfigError, one_line

if TYPE_CHECKING:
    from cmon.recipes import Plan

ConfigArgument = Annotated[Path, typer.Argument(help="The study's TOML file.", show_default=False)]
RunOption = Annotated[list[str] | None, typer.Option("--run", help="Only this run (repeatable).")]
CheckpointOption = Annotated[list[str] | None, typer.Option("--checkpoint", help="Only this checkpoint (repeatable).")]
ForceOption = Annotated[bool, typer.Option("--force", help="Make again what is current.")]
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Say what would be made, and make nothing.")]
DeviceOption = Annotated[str, typer.Option("--device", help="auto, cpu, cuda, cuda:1 or mps.")]
QuietOption = Annotated[bool, typer.Option("--quiet", help="Say nothing but errors.")]
TrustOption = Annotated[bool, typer.Option("--trust-pickle", help="Let checkpoints and encoder weights run code.")]
ProfileOption = Annotated[bool, typer.Option("--profile", help="Say where the seconds and bytes of a stage went.")]
WatchOption = Annotated[
    float | None, typer.Option("--watch", min=0, help="Go on until nothing new has appeared for so many seconds.")
]
MissingOption = Annotated[bool, typer.Option("--missing", help="Only name the units that lack something, one a line.")]
ShardsOption = Annotated[int, typer.Option("--shards", min=1, max=10_000, help="How many jobs share a stage's work.")]
SbatchArgument = Annotated[
    list[str] | None, typer.Argument(help="After --: options of sbatch, for all jobs.", show_default=False)
]
ShardOption = Annotated[str, typer.Option("--shard", help="I/N: every N-th unit of work from the I-th on, from 0.")]
ManifestOption = Annotated[Path | None, typer.Option("--manifest", help="The units of work as cmon submit froze them.")]
RequeueOption = Annotated[bool, typer.Option("--requeue", help="In a Slurm job: requeue it where its time ends.")]
WaitOption = Annotated[float, typer.Option("--wait", min=0, help="Look again so many seconds for a missing input.")]
DebugOption = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]
PathsArgument = Annotated[
    list[Path], typer.Argument(help="Checkpoints, folders of them, or globs.", metavar="PATH", show_default=False)
]
ModelOption = Annotated[
    str, typer.Option("--model", metavar="SOURCE", help="Say how they match this model, named as in a config.")
]
ModelArgOption = Annotated[
    list[str] | None,
    typer.Option("--model-arg", metavar="KEY=VALUE", help="An argument of the model, its value as TOML (repeatable)."),
]
StateDictKeyOption = Annotated[
    str | None, typer.Option("--state-dict-key", metavar="KEY", help='Where the weights are, such as "state_dict.0".')
]
AllowMissingOption = Annotated[
    list[str] | None,
    typer.Option("--allow-missing", metavar="GLOB", help="Tensors that need not fit, such as fc.* (repeatable)."),
]


class Which(StrEnum):
    """Which weights are meant of a checkpoint that holds both."""

    RAW = "raw"
    EMA = "ema"


WeightsOption = Annotated[Which, typer.Option("--weights", help="ema: their moving average, where both are there.")]


def read_plan(config: Path, manifest: Path | None = None) -> "Plan":
    """Read a study's config, and list its units of work, or take them from a submission's list."""
    from cmon.config import read_config
    from cmon.manifest import read_manifest
    from cmon.recipes import plan_study

    study = read_config(config)
    return plan_study(study, read_manifest(manifest, study) if manifest else None)


def read_shard(text: str) -> tuple[int, int] | None:
    """Read I/N; None of "".

    Raises:
        ConfigError: for anything else, and an I that is not below N.
    """
    if not text:
        return None
    match = re.fullmatch(r"([0-9]{1,6})/([0-9]{1,6})", text)
    if not match or int(match[1]) >= int(match[2]):
        raise ConfigError("--shard", f"{one_line(text)} is no share", "write I/N with I from 0 to N - 1, such as 0/4")
    return int(match[1]), int(match[2])


def read_model(source: str, arguments: Sequence[str]) -> tuple[str, dict[str, Any]]:
    """Read a model's name, whose path starts at the working directory, and its arguments, each KEY=VALUE in TOML.

    Raises:
        ConfigError: for anything else.
    """
    from pydantic import TypeAdapter, ValidationError

    from cmon.paths import Source

    try:
        name = TypeAdapter(Source).validate_python(source, context={"folder": Path.cwd()})
    except ValidationError as error:
        raise ConfigError("--model", one_line(error.errors()[0]["msg"])) from error
    return name, dict(map(_read_argument, arguments))


def _read_argument(text: str) -> tuple[str, Any]:
    key, equals, value = text.partition("=")
    hint = """write KEY=VALUE, such as num_classes=10, drop=0.5, pretrained=false or 'pool="avg"'"""
    if not (key.isidentifier() and equals):
        raise ConfigError("--model-arg", f"{one_line(text)} names no argument", hint)
    try:
        read = tomllib.loads(f"value = {value}")
    except ValueError as error:
        raise ConfigError("--model-arg", f"{one_line(text)} has no value of TOML: {one_line(error)}", hint) from error
    if len(read) > 1:
        raise ConfigError("--model-arg", f"{one_line(text)} has more than one value", hint)
    return key, read["value"]
