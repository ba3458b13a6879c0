"""The [encoder] table: an image-text model, or features that were computed elsewhere."""

from typing import Any, Literal

from pydantic import Field

from cmon.config.section import Section
from cmon.paths import FilePath, Source, Weights


class ClipPreprocess(Section):
    """What to change of open_clip's own preprocessing; what is left out stays the model's."""

    mean: list[float] | None = Field(None, min_length=3, max_length=3)
    std: list[float] | None = Field(None, min_length=3, max_length=3)
    interpolation: Literal["bilinear", "bicubic"] | None = None
    resize_mode: Literal["shortest", "longest", "squash"] | None = None

    def stated(self) -> dict[str, Any]:
        """Dump what is stated."""
        return self.model_dump(mode="json", exclude_none=True)


class OpenClip(Section):
    """An image-text model of open_clip."""

    kind: Literal["open_clip"]
    model: Source = Field(description="a name that open_clip knows, or local-dir:FOLDER with open_clip_config.json")
    pretrained: Weights | None = Field(None, description="a tag, or a local file of weights")
    preprocess: ClipPreprocess = ClipPreprocess()
    download: bool = Field(False, description="may a tag's weights be fetched from the internet")
    batch_size: int = Field(128, ge=1, description="images at a time; does not change results")


class Features(Section):
    """Image and concept features that were computed elsewhere, matched by name."""

    kind: Literal["features"]
    image_features: FilePath = Field(description=".npy, (images, dimensions)")
    images: FilePath = Field(description="the image of each row, as its path below the probe")
    concept_features: FilePath = Field(description=".npy, (concepts, dimensions)")
    concepts: FilePath = Field(description="the word of each row")
