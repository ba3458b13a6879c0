"""An image-text model of open_clip, from weights that are on this machine."""

import pickle
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from cmon.config import OpenClip
from cmon.encoders.weights import (
    LOCAL_FOLDER,
    check_quick_gelu,
    model_config,
    tag_config,
    tagged_weights,
    weights_file,
)
from cmon.errors import EncoderError, one_line
from cmon.records import FloatArray
from cmon.torchvision_import import torchvision

TRUST_HINT = "save its state_dict as .safetensors; or, if you trust where it comes from, run with --trust-pickle"
# What of a tag's statement is preprocessing.
PREPROCESS_KEYS = ("mean", "std", "interpolation", "resize_mode")
# All that open_clip and torch let through of weights or a config that are damaged or not of this model.
LOADING_ERRORS = (
    RuntimeError,
    OSError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    AssertionError,
    ArithmeticError,
    EOFError,
    StopIteration,
)


@dataclass(frozen=True)
class OpenClipModel:
    """An open_clip model in evaluation mode with its own preprocessing and tokenizer."""

    model: Any
    preprocess: Callable[[Image.Image], Any]
    tokenize: Callable[[list[str]], Any]
    device: str
    batch_size: int

    def image_features(self, ids: Sequence[str], images: Iterable[Image.Image]) -> FloatArray:
        """Return (I, D) unit vectors; `images` is read once, a batch at a time."""
        import torch

        rows: list[FloatArray] = []
        batch: list[Any] = []
        for image in images:
            batch.append(self.preprocess(image))
            if len(batch) == self.batch_size:
                rows.append(self._encode(self.model.encode_image, torch.stack(batch)))
                batch = []
        if batch:
            rows.append(self._encode(self.model.encode_image, torch.stack(batch)))
        features: FloatArray = np.concatenate(rows)
        assert len(features) == len(ids), "as many images as names"
        return features

    def text_features(self, words: Sequence[str], prompt: str) -> FloatArray:
        """Return (N, D) unit vectors of the words, each put in the prompt's {}."""
        texts = [prompt.replace("{}", word) for word in words]
        starts = range(0, len(texts), self.batch_size)
        batches = [self.tokenize(texts[start : start + self.batch_size]) for start in starts]
        return np.concatenate([self._encode(self.model.encode_text, batch) for batch in batches])

    def _encode(self, encode: Callable[..., Any], batch: Any) -> FloatArray:
        import torch

        with torch.inference_mode():
            features: FloatArray = encode(batch.to(self.device), normalize=True).float().cpu().numpy()
        if not np.isfinite(features).all():
            raise EncoderError("encoder", "its features hold NaN or infinity", "look at its weights")
        return features


def load_open_clip(table: OpenClip, device: str, trust_pickle: bool) -> OpenClipModel:
    """Load an open_clip model from a local folder, a local file, or a tag whose weights are on this machine.

    Raises:
        EncoderError: where weights are missing or do not fit, or QuickGELU is set otherwise than they were trained.
    """
    torchvision()
    from safetensors import SafetensorError

    weights, preprocess = weights_file(table), table.preprocess.stated()
    model_config(table.model)
    check_quick_gelu(table, weights)
    if weights is None:
        known = tag_config(table)
        preprocess = {key: known[key] for key in PREPROCESS_KEYS if known.get(key) is not None} | preprocess
        weights = tagged_weights(table, known)
    try:
        return _load(table, weights, preprocess, device, weights_only=not trust_pickle)
    except (*LOADING_ERRORS, SafetensorError) as error:
        if "TorchScript" in str(error) and not trust_pickle:
            raise EncoderError(weights, "is a TorchScript archive, which holds code", TRUST_HINT) from error
        raise EncoderError(weights, f"does not load: {one_line(error)}", "is it this model's weights?") from error
    except ImportError as error:
        hint = "install the package, or choose a model that needs none"
        raise EncoderError("encoder.model", f"{table.model} needs another package: {one_line(error)}", hint) from error
    except pickle.UnpicklingError as error:
        raise EncoderError(weights, f"does not load safely: {one_line(error)}", TRUST_HINT) from error


def _load(table: OpenClip, weights: Path, preprocess: dict[str, Any], device: str, weights_only: bool) -> OpenClipModel:
    import open_clip

    local = table.model.startswith(LOCAL_FOLDER)
    # The name as open_clip lists it: by "ViT-B/32" it finds a model, but not that model's tokenizer.
    name = table.model if local else table.model.replace("/", "-")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = open_clip.create_model(
            name,
            None if local else str(weights),
            force_preprocess_cfg=preprocess,
            device=device,
            require_pretrained=True,
            weights_only=weights_only,
        )
        settings = open_clip.transform.PreprocessCfg(**model.visual.preprocess_cfg)
        transform = open_clip.transform.image_transform_v2(settings, is_train=False)
        # A tokenizer of the Hugging Face hub would be fetched unseen.
        hub = bool(open_clip.get_model_config(name)["text_cfg"].get("hf_tokenizer_name")) and not table.download
        tokenize = open_clip.get_tokenizer(name, **({"local_files_only": True} if hub else {}))
    return OpenClipModel(model.eval(), transform, tokenize, device, table.batch_size)
