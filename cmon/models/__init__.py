"""Build a run's model from its name in the config, tell whether a seed decides its weights, and name its layers."""

from cmon.models.building import MODELS, build_model, model_recipe
from cmon.models.huggingface import saved_names
from cmon.models.layers import select_layers
from cmon.models.untrained import check_random

__all__ = ["MODELS", "build_model", "check_random", "model_recipe", "saved_names", "select_layers"]
