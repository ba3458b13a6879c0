"""Find lottery tickets: prune the smallest weights of a trained network, rewind the others, train again, and so on.

    python scripts/train_lottery.py OUT --data train.zip --test-data test.zip \\
        --model sample_configs/networks.py:small_resnet --stages 8 --prune 0.4 --rewind 0 5 16

writes OUT/dense/epoch_000.pt, ..., the dense training that all share, and for each rewind epoch a folder such as
OUT/rewind_05 with stage_00_rewound.pt, stage_00_trained.pt, stage_01_rewound.pt, ... and metrics.csv. Stage 0 is
dense; stage s has pruned 1 - (1 - PRUNE)^s of the weights of convolutions and linear layers, by magnitude over all
of them together. Rewinding to epoch k restores all of dense epoch k: weights, batch statistics and the optimizer's
momentum; training then runs through epochs k + 1 to the last with the same schedule, order and augmentation. The
stages' files are {"step": stage, "state_dict", "accuracy", "sparsity"} with weight_orig and weight_mask, as
torch.nn.utils.prune names them. A killed training goes on with the same command, to the same end.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from typing import Any

import torch
from training.command import Parser, number, run_script, shared_parser, whole
from training.loop import Clock, Trainer, describe, epoch_name, saved_epochs, train_epochs
from training.networks import build_trainable
from training.pruning import mask_model, masked_state, masks_in, next_masks, prunable, pruned_count, weights_in
from training.saving import Journal, locked, on_cpu, read_torch
from training.start import nothing_to_do, prepare

from cmon.errors import ConfigError


def train(arguments: argparse.Namespace) -> None:
    """Train the dense network, then the tickets of every rewind epoch, unless all checkpoints are there."""
    rewinds = sorted(set(arguments.rewind))
    if rewinds[-1] >= arguments.epochs:
        raise ConfigError(
            "--rewind", f"{rewinds[-1]} is not below --epochs {arguments.epochs}", "give an earlier epoch"
        )
    with locked(arguments.out):
        kept = saved_epochs(arguments, rewinds)
        dense = Journal(arguments.out / "dense", [epoch_name(epoch) for epoch in kept])
        names = [stage_name(stage, kind) for stage in range(arguments.stages + 1) for kind in ("rewound", "trained")]
        journals = {rewind: Journal(arguments.out / f"rewind_{rewind:02d}", names) for rewind in rewinds}
        if nothing_to_do(arguments, [dense, *journals.values()]):
            return
        data, model = prepare(arguments)
        if not prunable(model, arguments.keep_head):
            raise ConfigError(arguments.model, "has no convolution or linear layer to prune", "give another model")
        clock = Clock(arguments.epochs + arguments.stages * sum(arguments.epochs - rewind for rewind in rewinds))
        trainer = Trainer(arguments, model, data)
        if dense.finished():
            clock.skip(arguments.epochs)
        else:
            train_epochs(trainer, dense, clock, rewinds=rewinds)
        end = read_torch(dense.path(epoch_name(arguments.epochs)))
        for rewind, journal in journals.items():
            if journal.finished():
                clock.skip(arguments.stages * (arguments.epochs - rewind))
            else:
                Tickets(trainer, journal, clock, rewind, read_torch(dense.path(epoch_name(rewind))), end).train()


def stage_name(stage: int, kind: str) -> str:
    """Return a checkpoint's name without its ending; kind is rewound or trained."""
    return f"stage_{stage:02d}_{kind}"


class Tickets:
    """The stages of one rewind epoch.

    Args:
        trainer: of the arguments' model.
        journal: of the folder.
        clock: of the whole command.
        rewind: the dense training's epoch that surviving weights go back to.
        start: the dense checkpoint of that epoch, with its momentum.
        end: the dense checkpoint of the last epoch.
    """

    def __init__(
        self,
        trainer: Trainer,
        journal: Journal,
        clock: Clock,
        rewind: int,
        start: dict[str, Any],
        end: dict[str, Any],
    ) -> None:
        self.trainer, self.journal, self.clock = trainer, journal, clock
        self.arguments, self.rewind, self.start, self.end = trainer.arguments, rewind, start, end

    def train(self) -> None:
        """Train all stages, from the first or from where a killed process was."""
        last = self.arguments.epochs
        state = self.journal.load()
        stage, epoch = (state["stage"], state["epoch"]) if state else (0, None)
        if state:
            whole_stages = max(0, stage - 1) * (last - self.rewind)
            self.clock.skip(whole_stages + (epoch - self.rewind if stage else 0))
            print(f"{self.journal.folder.name}: goes on in stage {stage} after epoch {epoch}", flush=True)
        if state and epoch < last:
            self.restore(state["weights"], state["momentum"])
            self.finish_stage(stage, epoch)
        for following in range(stage + 1 if state else 0, self.arguments.stages + 1):
            self.begin_stage(following)
            self.finish_stage(following, self.rewind)
        self.journal.close()

    def restore(self, weights: dict[str, torch.Tensor], momentum: dict[str, torch.Tensor]) -> None:
        """Go on with a new model that has these masked weights."""
        self.trainer.use(mask_model(build_trainable(self.arguments), masks_in(weights)))
        self.trainer.restore(weights, momentum)

    def begin_stage(self, stage: int) -> None:
        """Prune by the weights that the stage before ended with, rewind what survives, and save that."""
        if stage:
            before = read_torch(self.journal.path(stage_name(stage - 1, "trained")))["state_dict"]
            masks = masks_in(before)
            total = sum(mask.numel() for mask in masks.values())
            masks = next_masks(weights_in(before), masks, pruned_count(total, self.arguments.prune, stage))
        else:
            layers = prunable(build_trainable(self.arguments), self.arguments.keep_head)
            masks = {name: torch.ones_like(layer.weight) for name, layer in layers.items()}
        self.restore(masked_state(self.start["state_dict"], masks), self.start["momentum"])
        self.save(stage, "rewound", self.rewind)

    def finish_stage(self, stage: int, done: int) -> None:
        """Train the epochs after `done`, and save the end; stage 0 ends as the dense training did."""
        last = self.arguments.epochs
        if not stage:
            self.trainer.model.load_state_dict(masked_state(self.end["state_dict"], masks_in(self.state_dict())))
            done = last
        for epoch in range(done + 1, last + 1):
            began, name = time.monotonic(), f"{self.journal.folder.name} stage {stage} epoch {epoch} of {last}"
            loss = self.trainer.train_epoch(epoch, name)
            if epoch < last:
                self.journal.keep(stage=stage, epoch=epoch, **self.trainer.state())
            left, seconds = self.clock.epoch_done(1), time.monotonic() - began
            print(f"{name}: training loss {loss:.3f}, {seconds:.0f} s, {left}", flush=True)
        self.save(stage, "trained", last)
        self.journal.keep(stage=stage, epoch=last)

    def save(self, stage: int, kind: str, epoch: int) -> None:
        """Measure and save the model."""
        measures = self.trainer.measure(epoch)
        self.journal.checkpoint(stage_name(stage, kind), {"step": stage, "state_dict": self.state_dict()}, measures)
        print(f"{self.journal.folder.name} {stage_name(stage, kind)}: {describe(measures)}", flush=True)

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Return the model's state as it is saved."""
        return on_cpu(self.trainer.model.state_dict())


def parser() -> Parser:
    """Return the options."""
    parser = shared_parser(__doc__ or "", epochs=160, lr=0.1)
    pruning = parser.add_argument_group("pruning")
    share = number(0, 1, least_is_allowed=False)
    pruning.add_argument("--stages", type=whole(1), default=8, help="of pruning, after the dense stage 0 (default 8)")
    pruning.add_argument("--prune", type=share, default=0.4, help="share of what remains, a stage (default 0.4)")
    pruning.add_argument("--rewind", type=whole(0), nargs="+", default=[0, 5, 16], help="epochs (default 0 5 16)")
    pruning.add_argument("--keep-head", action="store_true", help="do not prune the last linear layer")
    return parser


def main(words: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    return run_script(train, parser(), words)


if __name__ == "__main__":
    sys.exit(main())
