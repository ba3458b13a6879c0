"""Train a classifier on PGD's adversarial images, and its clean twin.

    python scripts/train_adversarial.py OUT --data train.zip --test-data test.zip --eps 8/255 \\
        --model sample_configs/networks.py:small_resnet

writes OUT/robust and OUT/standard, each with epoch_000.pt (before training), epoch_001.pt, ... as train_standard.py
does, and "robust_accuracy" in each. The twin has everything else equal: initial weights, order of the images,
augmentation, schedule. The attack is l-infinity PGD from a random start, in pixels of [0, 1] (mean and std are
taken off inside the attacked network), on the network in evaluation mode, as TRADES and the `robustness` library do.
A killed training goes on with the same command, to the same end.
"""

import argparse
import sys
from collections.abc import Sequence

from training.attack import Attack
from training.command import Parser, number, run_script, shared_parser, whole
from training.loop import Clock, Trainer, epoch_name, saved_epochs, train_epochs
from training.networks import build_trainable
from training.saving import Journal, locked
from training.start import nothing_to_do, prepare


def train(arguments: argparse.Namespace) -> None:
    """Train both, or the one that is asked for, unless all checkpoints are there."""
    attack = Attack(arguments.eps, arguments.attack_steps, arguments.step_size)
    judge = Attack(arguments.eps, arguments.eval_attack_steps, arguments.eval_step_size)
    attacks = {"robust": attack, "standard": None}
    kinds = [arguments.only] if arguments.only else list(attacks)
    # A step of the attack costs a forward and most of a backward pass.
    units = {"robust": 1 + 0.8 * arguments.attack_steps, "standard": 1.0}
    with locked(arguments.out):
        names = [epoch_name(epoch) for epoch in saved_epochs(arguments)]
        journals = {kind: Journal(arguments.out / kind, names) for kind in kinds}
        if nothing_to_do(arguments, list(journals.values())):
            return
        data, _ = prepare(arguments)
        unfinished = [kind for kind in kinds if not journals[kind].finished()]
        clock = Clock(arguments.epochs * sum(units[kind] for kind in unfinished))
        for kind in unfinished:
            trainer = Trainer(arguments, build_trainable(arguments), data, attacks[kind], judge)
            train_epochs(trainer, journals[kind], clock, units[kind])


def parser() -> Parser:
    """Return the options."""
    parser = shared_parser(__doc__ or "", epochs=40, lr=0.1)
    attack = parser.add_argument_group("attack")
    positive = number(0, least_is_allowed=False)
    attack.add_argument("--only", choices=["robust", "standard"], help="train one of the two only")
    attack.add_argument("--eps", type=number(0, 1), default=8 / 255, help="largest change of a pixel (default 8/255)")
    attack.add_argument("--attack-steps", type=whole(1), default=7, help="in training (default 7)")
    attack.add_argument("--step-size", type=positive, default=2 / 255, help="of the training's steps (default 2/255)")
    attack.add_argument("--eval-attack-steps", type=whole(1), default=10, help="in testing (default 10)")
    attack.add_argument("--eval-step-size", type=positive, default=2 / 255, help="default 2/255")
    attack.add_argument("--robust-images", type=whole(1), default=1000, help="test images to attack (default 1000)")
    return parser


def main(words: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    return run_script(train, parser(), words)


if __name__ == "__main__":
    sys.exit(main())
