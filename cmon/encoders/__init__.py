"""Image-text models: what they say of images and words, as unit vectors of one space."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, TypeAlias

from PIL import Image

from cmon.config import Features, OpenClip
from cmon.encoders.clip import load_open_clip
from cmon.encoders.features import feature_concepts, features_recipe, read_features
from cmon.encoders.weights import open_clip_recipe
from cmon.fingerprint import HashMemory, Recipe
from cmon.records import FloatArray

__all__ = ["ENCODERS", "Encoder", "encoder_recipe", "feature_concepts", "open_encoder"]

EncoderTable: TypeAlias = OpenClip | Features


class Encoder(Protocol):
    """A source of image and text features."""

    def image_features(self, ids: Sequence[str], images: Iterable[Image.Image]) -> FloatArray:
        """Return (I, D) unit vectors of images, given by name and as pixels."""

    def text_features(self, words: Sequence[str], prompt: str) -> FloatArray:
        """Return (N, D) unit vectors of words, each put in the prompt's {}."""


class Kind(NamedTuple):
    """How an encoder is told apart without loading it, and how it is loaded to a device, trusted to run code or not."""

    recipe: Callable[[Any, HashMemory], Recipe]
    load: Callable[[Any, str, bool], Encoder]


# kind in the config -> its two functions, both of the [encoder] table.
ENCODERS: Mapping[str, Kind] = {
    "open_clip": Kind(open_clip_recipe, load_open_clip),
    "features": Kind(features_recipe, lambda table, *_: read_features(table)),
}


def encoder_recipe(table: EncoderTable, memory: HashMemory) -> Recipe:
    """Return all of an encoder that can change its features, without loading it.

    Raises:
        EncoderError: where a file is missing.
        ConfigError: where open_clip does not know the model.
    """
    return ENCODERS[table.kind].recipe(table, memory)


def open_encoder(table: EncoderTable, device: str, trust_pickle: bool = False) -> Encoder:
    """Load an encoder; only with `trust_pickle` may its weights run code while they are read."""
    return ENCODERS[table.kind].load(table, device, trust_pickle)
