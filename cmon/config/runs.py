"""A run's table: its checkpoints, its network, and what this network sees."""

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from cmon.config.section import Name, Section
from cmon.fingerprint import canonical_json
from cmon.paths import FilePath, Source

Step = Annotated[int, Field(ge=-(2**63), lt=2**63)]


class Preprocess(Section):
    """What a run's network sees of an image; without it, values in [0, 1] at the image's own size."""

    resize: int | None = Field(None, ge=1, le=4096, description="the shorter side in pixels after resizing")
    crop: int | None = Field(None, ge=1, le=4096, description="the side of the central crop in pixels")
    interpolation: Literal["bilinear", "bicubic"] = Field("bilinear", description="how resizing interpolates")
    mean: list[float] = Field([0.0, 0.0, 0.0], min_length=3, max_length=3, description="subtracted, of [0, 1]")
    std: list[float] = Field([1.0, 1.0, 1.0], min_length=3, max_length=3, description="divided by, of [0, 1]")

    @model_validator(mode="after")
    def _divides(self) -> "Preprocess":
        if min(self.std) <= 0:
            raise ValueError("std must be positive")
        if self.resize is not None and self.crop is not None and self.crop > self.resize:
            raise ValueError(f"a crop of {self.crop} does not fit into a shorter side of {self.resize}")
        return self

    def geometry(self) -> dict[str, Any]:
        """Return what decides the pixels before they are normalised."""
        return self.recipe("mean", "std")


class Run(Section):
    """One training: its checkpoints, its architecture and the layers to look at."""

    name: Name
    checkpoints: FilePath | list[FilePath] = Field(description="a glob or folder, or a list of files")
    steps: list[Step] | None = Field(None, description="the step of each checkpoint, in natural order of their names")
    model: Source = Field(
        description="torchvision:NAME, timm:NAME, transformers:FOLDER, package.module:function or file.py:function"
    )
    model_args: dict[str, Any] = Field({}, description="keyword arguments of the model's function")
    layers: list[str] = Field(min_length=1, description="names or globs; * stays within one level, ** does not")
    preprocess: Preprocess = Preprocess()
    state_dict_key: str | None = Field(None, description='where the weights are, such as "state_dict.0"')
    weights: Literal["raw", "ema"] = Field(
        "raw", description="ema: their moving average, of checkpoints that hold both, such as timm's"
    )
    allow_missing: list[str] = Field(
        [], description="globs of the model's tensors, such as fc.*, that no chosen layer depends on: they need not fit"
    )
    layer_names: dict[str, str] = Field(
        {}, description="what tables and figures call a layer, so that layers of other architectures stand beside it"
    )
    masks: FilePath | None = Field(
        None, description="a file of masks that weights are multiplied by; {checkpoint} in it stands for the name"
    )
    batchnorm: Literal["as-saved", "recalibrate"] = Field(
        "as-saved",
        description="recalibrate: the statistics of batch normalisation are taken anew, from at most 5,000 images",
    )
    batchnorm_images: FilePath | None = Field(
        None, description="a folder or zip to recalibrate on, decoded as the probe is; without it the probe itself"
    )
    start: str | None = Field(
        None, description="runs of the same start began with the same weights: their units are compared one by one"
    )
    metrics: FilePath | None = Field(
        None, description="a .csv with a column checkpoint or step, and numbers such as accuracy and robust_accuracy"
    )
    tokens: Literal["class", "mean", "patches"] = Field(
        "class", description="which tokens stand for a transformer's unit; patches: all but class and register tokens"
    )
    prefix_tokens: int | None = Field(
        None, ge=0, le=1024, description="how many tokens precede the patches, where the model does not tell"
    )
    baseline: Literal["none", "random-init"] = Field(
        "none", description="random-init: how many units of the untrained network pass the same test"
    )
    baseline_seeds: int = Field(3, ge=1, le=100, description="untrained networks")

    @model_validator(mode="after")
    def _is_json(self) -> "Run":
        try:
            canonical_json(self.model_args)
        except (TypeError, ValueError) as error:
            raise ValueError(f"model_args must be plain numbers, texts, lists and tables: {error}") from error
        return self

    @model_validator(mode="after")
    def _says_one_place(self) -> "Run":
        if self.state_dict_key is not None and self.weights != "raw":
            raise ValueError('weights = "ema" is for the usual places: let state_dict_key alone name them')
        return self

    @model_validator(mode="after")
    def _recalibrates(self) -> "Run":
        if self.batchnorm_images is not None and self.batchnorm != "recalibrate":
            raise ValueError('batchnorm_images is for batchnorm = "recalibrate"')
        if len(set(self.layer_names.values())) < len(self.layer_names):
            raise ValueError("layer_names: two layers have one name")
        return self
