"""The study's TOML file as checked, frozen models; each field is one parameter of the method."""

import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import Field, ValidationError, model_validator

from cmon.config.detectors import ClipDissect, Detector, NetworkDissection, OtherDetector, false_discovery_rate
from cmon.config.encoders import ClipPreprocess, Features, OpenClip
from cmon.config.runs import Preprocess, Run, Step
from cmon.config.section import Name, Section
from cmon.errors import ConfigError, listing, one_line
from cmon.mistakes import PROMPT_PATTERN, as_config_error
from cmon.paths import FilePath, read_text

__all__ = [
    "FIGURES",
    "SECTIONS",
    "Activations",
    "ClipDissect",
    "ClipPreprocess",
    "Concepts",
    "Detector",
    "Embed",
    "Features",
    "NetworkDissection",
    "OpenClip",
    "OtherDetector",
    "Preprocess",
    "Probe",
    "Report",
    "Run",
    "Statistics",
    "Study",
    "false_discovery_rate",
    "read_config",
    "schema",
]

FigureName = Literal[
    "plane",
    "evolution",
    "categories",
    "indicators",
    "retention",
    "timeline",
    "trajectories",
    "top_units",
    "agreement",
    "finetune",
    "compare_categories",
    "compare_retention",
    "compare_units",
    "examples",
    "accuracy",
    "pruning",
]
FIGURES: tuple[FigureName, ...] = get_args(FigureName)
LARGEST_CONFIG_BYTES = 4 * 2**20


class Probe(Section):
    """The images that every checkpoint is shown."""

    kind: Literal["images", "broden", "cifar10", "cifar100"] = Field(
        "images",
        description="images: a folder or zip at any depth; cifar10 and cifar100: torchvision's files",
    )
    path: FilePath = Field(description="the folder or zip")
    split: Literal["train", "test", "all"] = Field("test", description="which CIFAR images; other kinds have no split")
    on_error: Literal["stop", "skip"] = Field("stop", description="what an unreadable image does")


class Concepts(Section):
    """The words that units may be given; without a file: a Broden probe's labels, or the features' own list."""

    file: FilePath | None = Field(None, description=".csv with columns concept and category, or .txt, a word a line")
    prompt: str = Field("{}", pattern=PROMPT_PATTERN, description="what the text encoder reads, {} being the word")


class Activations(Section):
    """How activations are recorded."""

    pooling: Literal["mean", "max"] = Field("mean", description="over the positions of an activation map")
    precision: Literal["float32", "bfloat16"] = "float32"
    batch_size: int | None = Field(
        None, ge=1, description="images at a time; without it 32 on a CPU, 256 on a GPU; does not change results"
    )
    quantile: float = Field(
        0.005,
        gt=0,
        lt=1,
        description="network_dissection: the share of all positions that a unit's threshold leaves above",
    )


class Statistics(Section):
    """How much is drawn at random to tell what chance alone makes; equal seeds draw equally."""

    permutations: int | None = Field(
        None,
        ge=1,
        le=10_000,
        description='of the images, for tau = "fdr:q"; without it 100, of masks 20, for rank_reorder 10; one unit '
        "alone can only pass where q times this is at least 1",
    )
    resamples: int | None = Field(
        None,
        ge=0,
        le=10_000,
        description="of the images with replacement, for intervals; without it 100, for rank_reorder 20; 0: none",
    )
    seed: int = Field(0, ge=0, lt=2**32)
    quality: bool = Field(True, description="judge words by the probe's own labels, on images that did not choose them")


class Embed(Section):
    """The unified embedding (Concept-Monitor, equation 1) with its plane."""

    top_k: int = Field(5, ge=1, le=10, description="concepts that a unit's place is averaged over")
    temperature: float = Field(1.0, gt=0, description="T of equation 1")
    anchors: list[str] = Field([], description="any words, placed where the text encoder puts them")
    projection: Literal["umap", "pca"] = "umap"
    neighbours: int = Field(15, ge=2, description="UMAP's n_neighbors")
    min_dist: float = Field(0.1, ge=0, le=1, description="UMAP's min_dist")
    metric: Literal["euclidean", "cosine"] = "euclidean"
    seed: int = Field(0, ge=0, lt=2**32)

    @model_validator(mode="after")
    def _unique_anchors(self) -> "Embed":
        if len(set(self.anchors)) < len(self.anchors):
            raise ValueError("anchors: a word stands twice")
        return self


class Report(Section):
    """Which figures, of what, in which formats."""

    figures: list[FigureName] = Field(
        list(FIGURES), description="agreement takes two detectors, those from compare_categories on several runs"
    )
    compare: dict[Name, list[str]] = Field(
        {}, description="name = runs to show together, the first being what others are compared with; none: all runs"
    )
    formats: list[Literal["png", "pdf", "svg"]] = Field(["png", "pdf"], min_length=1)
    track: list[str] = Field([], description="units to follow, as run/layer/unit; none: the clearest at the end")
    steps: list[int] = Field([], description="steps that plane and evolution show; none: first, last and between")
    top: int = Field(5, ge=1, le=20, description="units that top_units shows per layer")
    images: int = Field(5, ge=1, le=10, description="top images shown of a unit")
    reference: Step | None = Field(
        None, description="retention: the step that units are followed from; none: the first"
    )
    near: Annotated[float, Field(gt=-1, le=1)] | Literal["auto"] = Field(
        "auto",
        description="agreement and retention: the cosine of two words' features from which they are near in meaning; "
        "auto: what 1 % of pairs of different concepts exceed",
    )
    dpi: int = Field(200, ge=50, le=1200)


class Study(Section):
    """A whole config."""

    workspace: FilePath
    probe: Probe
    concepts: Concepts = Concepts()
    encoder: Annotated[OpenClip | Features, Field(discriminator="kind")]
    run: list[Run] = Field(min_length=1)
    activations: Activations = Activations()
    detector: list[Detector] = Field(min_length=1)
    statistics: Statistics = Statistics()
    embed: Embed = Embed()
    report: Report = Report()

    @model_validator(mode="after")
    def _names_are_unique(self) -> "Study":
        for kind, names in (("run", [r.name for r in self.run]), ("detector", [d.name for d in self.detector])):
            twice = sorted({name for name in names if names.count(name) > 1})
            if twice:
                raise ValueError(f"two [[{kind}]] tables share the name {listing(twice)}")
        return self

    @model_validator(mode="after")
    def _compares_runs(self) -> "Study":
        known = [run.name for run in self.run]
        for name, runs in self.report.compare.items():
            unknown = [run for run in runs if run not in known]
            if unknown:
                raise ValueError(f"report.compare.{name}: no run {unknown[0]}; there is {listing(known)}")
            if len(set(runs)) < max(2, len(runs)):
                raise ValueError(f"report.compare.{name}: takes two runs or more, each once")
        return self

    @property
    def comparisons(self) -> dict[str, list[str]]:
        """The runs that are shown together, by the name of the comparison."""
        names = [run.name for run in self.run]
        return self.report.compare or ({"all": names} if len(names) > 1 else {})

    @property
    def pairs_of_runs(self) -> tuple[tuple[int, int], ...]:
        """The runs whose units are compared, by index: in every comparison the first with each of the others."""
        place = {run.name: index for index, run in enumerate(self.run)}
        wanted = self.comparisons.values() if "compare_units" in self.report.figures else ()
        return tuple(dict.fromkeys((place[runs[0]], place[other]) for runs in wanted for other in runs[1:]))

    def same_start(self, run: int, other: int) -> bool:
        """Tell whether two runs, by index, began with the same weights: their units are then the same by number."""
        start = self.run[run].start
        return start is not None and start == self.run[other].start


# All tables, for the message on an unknown key.
SECTIONS: Mapping[str, type[Section]] = {
    "": Study,
    "probe": Probe,
    "concepts": Concepts,
    "encoder.open_clip": OpenClip,
    "encoder.open_clip.preprocess": ClipPreprocess,
    "encoder.features": Features,
    "run": Run,
    "run.preprocess": Preprocess,
    "activations": Activations,
    "detector.clip_dissect": ClipDissect,
    "detector.network_dissection": NetworkDissection,
    "detector.other": OtherDetector,
    "statistics": Statistics,
    "embed": Embed,
    "report": Report,
}


def read_config(path: Path) -> Study:
    """Read and check a study's TOML file.

    Relative paths start at the file's folder and may use $VARIABLES of the environment.

    Raises:
        ConfigError: naming the key, and the nearest known one where it is unknown.
    """
    try:
        table = tomllib.loads(read_text(path, LARGEST_CONFIG_BYTES))
    except OSError as error:
        raise ConfigError(path, error.strerror or "cannot be read", "name an existing TOML file") from error
    except UnicodeDecodeError as error:
        raise ConfigError(path, "is not UTF-8 text", "name a TOML file") from error
    except (ValueError, RecursionError) as error:  # a number of thousands of digits is no TOMLDecodeError
        raise ConfigError(path, f"is not TOML: {one_line(error)}", "see https://toml.io") from error
    try:
        return Study.model_validate(table, context={"folder": Path(os.path.realpath(path)).parent})
    except ValidationError as error:
        raise as_config_error(path, error, table, SECTIONS) from error


def schema() -> dict[str, Any]:
    """Return the JSON Schema of the config, for editors."""
    return Study.model_json_schema()
