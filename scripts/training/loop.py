"""Training by epochs: steps, measures, checkpoints, and going on where a killed process was."""

import argparse
import math
import time
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from cmon.checkpoints import sparsity
from cmon.errors import ConfigError
from training.attack import Attack
from training.command import TrainingError
from training.data import Data
from training.networks import Normalised, autocast, train_mode
from training.randomness import derived_seed, generator
from training.saving import Journal, Measures, on_cpu

TALK_S = 30.0  # seconds between two lines within an epoch


class Clock:
    """Say how far a training is; `units` is all its work, in epochs of any common length."""

    def __init__(self, units: float) -> None:
        self.left, self.done, self.start = units, 0.0, time.monotonic()

    def skip(self, units: float) -> None:
        """Leave out what an earlier process did."""
        self.left -= units

    def epoch_done(self, units: float) -> str:
        """Count an epoch, and return the time left."""
        self.left -= units
        self.done += units
        seconds = (time.monotonic() - self.start) * self.left / self.done
        return f"{seconds:.0f} s left" if seconds < 100 else f"{seconds / 60:.0f} min left"


class Trainer:
    """A model, its images and its optimizer.

    Args:
        arguments: of the command line.
        model: trained in place.
        data: its images.
        attack: what training images go through; None for none.
        judge: the attack that robust accuracy is measured by; None for none.
    """

    def __init__(
        self,
        arguments: argparse.Namespace,
        model: nn.Module,
        data: Data,
        attack: Attack | None = None,
        judge: Attack | None = None,
    ) -> None:
        self.arguments, self.data, self.attack, self.judge = arguments, data, attack, judge
        self.use(model)

    def use(self, model: nn.Module) -> None:
        """Train this model from now on, without momentum."""
        arguments = self.arguments
        self.model = model.to(arguments.device, memory_format=torch.channels_last)
        self.network = Normalised(self.model, arguments.mean, arguments.std).to(arguments.device)
        self.optimizer = torch.optim.SGD(
            [parameter for parameter in model.parameters() if parameter.requires_grad],
            lr=arguments.lr,
            momentum=arguments.momentum,
            weight_decay=arguments.weight_decay,
            nesterov=arguments.momentum > 0,
        )

    def learning_rate(self, step: int) -> float:
        """Return the rate of a step, counted from 0 over all epochs: a line up to the peak, then half a cosine."""
        per_epoch = self.data.train.steps()
        rising, total = round(self.arguments.warm_up * per_epoch), self.arguments.epochs * per_epoch
        if step < rising:
            return self.arguments.lr * (step + 1) / rising
        return self.arguments.lr * (1 + math.cos(math.pi * (step - rising) / (total - rising))) / 2

    def train_epoch(self, epoch: int, name: str) -> float:
        """Train one epoch, counted from 1; return the mean loss of its batches, and stop where that is no number."""
        arguments, steps = self.arguments, self.data.train.steps()
        torch.manual_seed(derived_seed(arguments.seed, "dropout", epoch))
        random = generator(arguments.seed, "attack", epoch, device=arguments.device)
        train_mode(self.network)
        total, said = torch.zeros((), device=arguments.device), time.monotonic()
        for step, (pixels, labels) in enumerate(self.data.train.training_batches(epoch)):
            for group in self.optimizer.param_groups:
                group["lr"] = self.learning_rate((epoch - 1) * steps + step)
            with autocast(arguments):
                if self.attack:
                    pixels = self.attack.perturb(self.network, pixels, labels, random)
                loss = nn.functional.cross_entropy(self.network(pixels), labels)
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            total += loss.detach()
            if time.monotonic() - said > TALK_S:
                said = time.monotonic()
                mean = self._number(total.item() / (step + 1), epoch)
                print(f"{name}: batch {step + 1} of {steps}, loss {mean:.3f}", flush=True)
        return self._number(total.item() / steps, epoch)

    def measure(self, epoch: int) -> Measures:
        """Measure the model on the test images; robust accuracy on --robust-images of them."""
        self.network.eval()
        loss, right = torch.zeros((), device=self.arguments.device), 0
        with torch.inference_mode(), autocast(self.arguments):
            for pixels, labels in self.data.test.testing_batches():
                scores = self.network(pixels)
                loss += nn.functional.cross_entropy(scores, labels, reduction="sum")
                right += int((scores.argmax(1) == labels).sum())
        count = len(self.data.test)
        mean = self._number(loss.item() / count, epoch)
        return Measures(mean, right / count, self._robust_accuracy(), sparsity(self.model))

    def _robust_accuracy(self) -> float | None:
        if self.judge is None:
            return None
        arguments = self.arguments
        drawn = torch.randperm(len(self.data.test), generator=generator(arguments.seed, "robust images"))
        images = self.data.test.only(drawn[: arguments.robust_images])
        random = generator(arguments.seed, "judge", device=arguments.device)
        right = 0
        for pixels, labels in images.testing_batches():
            with autocast(arguments):
                changed = self.judge.perturb(self.network, pixels, labels, random)
                with torch.no_grad():
                    right += int((self.network(changed).argmax(1) == labels).sum())
        return right / len(images)

    def _number(self, loss: float, epoch: int) -> float:
        if math.isfinite(loss):
            return loss
        hint = "start again in another folder with a smaller --lr, or with --warm-up; what was saved before is kept"
        raise TrainingError(f"epoch {epoch}", f"the loss is {loss}: training has diverged", hint)

    def momentum(self) -> dict[str, Tensor]:
        """Return the optimizer's momentum by the parameters' names; empty before the first step."""
        named = {name: self.optimizer.state.get(value, {}) for name, value in self.model.named_parameters()}
        return on_cpu({name: state["momentum_buffer"] for name, state in named.items() if "momentum_buffer" in state})

    def restore(self, weights: dict[str, Tensor], momentum: dict[str, Tensor]) -> None:
        """Put weights, buffers and momentum where they were; a pruned weight's momentum is its dense one's."""
        self.model.load_state_dict(weights)
        self.optimizer.state.clear()
        for name, parameter in self.model.named_parameters():
            buffer = momentum.get(name, momentum.get(name.removesuffix("_orig")))
            if buffer is not None:
                self.optimizer.state[parameter]["momentum_buffer"] = torch.empty_like(parameter).copy_(buffer)

    def state(self) -> dict[str, Any]:
        """Return what `restore` takes."""
        return {"weights": on_cpu(self.model.state_dict()), "momentum": self.momentum()}


def saved_epochs(arguments: argparse.Namespace, needed: Sequence[int] = ()) -> list[int]:
    """Return the epochs whose checkpoints are saved.

    Raises:
        ConfigError: where --save-epochs asks for one that will not be.
    """
    asked = arguments.save_epochs if arguments.save_epochs is not None else range(arguments.epochs + 1)
    epochs = sorted({*asked, *needed, arguments.epochs})
    if epochs[-1] > arguments.epochs:
        what = f"epoch {epochs[-1]} is beyond the last one, {arguments.epochs}"
        raise ConfigError("--save-epochs", what, "leave it out, or give more --epochs")
    return epochs


def epoch_name(epoch: int) -> str:
    """Return a checkpoint's name without its ending."""
    return f"epoch_{epoch:03d}"


def train_epochs(
    trainer: Trainer, journal: Journal, clock: Clock, units: float = 1, rewinds: Sequence[int] = ()
) -> None:
    """Train to the last epoch, from the start or from where a killed process was, and save the journal's epochs.

    Args:
        trainer: with the model before training.
        journal: of the folder.
        clock: of all that the command does.
        units: of an epoch.
        rewinds: epochs whose checkpoints also hold the optimizer's momentum.
    """
    epochs = trainer.arguments.epochs

    def save(epoch: int) -> str:
        if epoch_name(epoch) not in journal.names:
            return "not saved"
        measures = trainer.measure(epoch)
        extra = {"momentum": trainer.momentum()} if epoch in rewinds else {}
        content = {"epoch": epoch, "state_dict": on_cpu(trainer.model.state_dict()), **extra}
        journal.checkpoint(epoch_name(epoch), content, measures)
        return describe(measures)

    state = journal.load()
    if state:
        trainer.restore(state["weights"], state["momentum"])
    done = state["epoch"] if state else 0
    clock.skip(done * units)
    if state:
        print(f"{journal.folder.name}: goes on after epoch {done}", flush=True)
    else:
        print(f"{journal.folder.name} epoch 0 of {epochs}: {save(0)}", flush=True)
    for epoch in range(done + 1, epochs + 1):
        start, name = time.monotonic(), f"{journal.folder.name} epoch {epoch} of {epochs}"
        loss = trainer.train_epoch(epoch, name)
        said = save(epoch)
        if epoch < epochs:
            journal.keep(epoch=epoch, **trainer.state())
        seconds = time.monotonic() - start
        print(f"{name}: training loss {loss:.3f}, {said}, {seconds:.0f} s, {clock.epoch_done(units)}", flush=True)
    journal.close()


def describe(measures: Measures) -> str:
    """Say measures in a line."""
    robust = "" if measures.robust_accuracy is None else f", robust accuracy {measures.robust_accuracy:.1%}"
    sparse = f", sparsity {measures.sparsity:.1%}" if measures.sparsity else ""
    return f"test loss {measures.loss:.3f}, accuracy {measures.accuracy:.1%}{robust}{sparse}"
