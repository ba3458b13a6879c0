"""Find, order and load the checkpoints of a run.

Nothing in a checkpoint is run unless the user trusts it, nothing is guessed about its weights, and a damaged
file is an error. torch's zip format has a checksum for every record, which torch itself does not look at:
they are verified here. Its older format and safetensors have none: there a flipped byte can go unseen.
"""

from cmon.checkpoints.finding import CheckpointFile, discover, find_checkpoints
from cmon.checkpoints.fitting import fit, load_into, wrapping
from cmon.checkpoints.kinds import recognised
from cmon.checkpoints.loading import LOADERS
from cmon.checkpoints.masking import mask_weights
from cmon.checkpoints.pruning import sparsity
from cmon.checkpoints.reading import Weights, read_checkpoint, read_masks
from cmon.checkpoints.steps import resolve_steps
from cmon.checkpoints.units import Roster, Unit, Untrained

__all__ = [
    "LOADERS",
    "CheckpointFile",
    "Roster",
    "Unit",
    "Untrained",
    "Weights",
    "discover",
    "find_checkpoints",
    "fit",
    "load_into",
    "mask_weights",
    "read_checkpoint",
    "read_masks",
    "recognised",
    "resolve_steps",
    "sparsity",
    "wrapping",
]
