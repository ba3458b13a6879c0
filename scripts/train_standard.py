"""Train a classifier, and save a checkpoint of every epoch.

    python scripts/train_standard.py OUT --data train.zip --test-data test.zip \\
        --model sample_configs/networks.py:small_resnet

writes OUT/epoch_000.pt (before training), OUT/epoch_001.pt, ..., each {"epoch", "state_dict", "accuracy",
"sparsity"}, and beside them metrics.csv (loss and accuracy on the test images) and arguments.json. SGD with Nesterov's
momentum, and a cosine for the learning rate. A killed training goes on with the same command, to the same end.
"""

import argparse
import sys
from collections.abc import Sequence

from training.command import Parser, run_script, shared_parser
from training.loop import Clock, Trainer, epoch_name, saved_epochs, train_epochs
from training.saving import Journal, locked
from training.start import nothing_to_do, prepare


def train(arguments: argparse.Namespace) -> None:
    """Train, unless all checkpoints are there."""
    with locked(arguments.out):
        journal = Journal(arguments.out, [epoch_name(epoch) for epoch in saved_epochs(arguments)])
        if nothing_to_do(arguments, [journal]):
            return
        data, model = prepare(arguments)
        train_epochs(Trainer(arguments, model, data), journal, Clock(arguments.epochs))


def parser() -> Parser:
    """Return the options."""
    return shared_parser(__doc__ or "", epochs=30, lr=0.1)


def main(words: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    return run_script(train, parser(), words)


if __name__ == "__main__":
    sys.exit(main())
