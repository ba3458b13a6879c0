"""Projected gradient descent in the l-infinity norm (Madry et al., 2018)."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Attack:
    """An attack's strength.

    Args:
        eps: the largest change of a pixel, of [0, 1].
        steps: of gradient ascent.
        step_size: the change of a pixel in one step, of [0, 1].
    """

    eps: float
    steps: int
    step_size: float

    def perturb(self, network: nn.Module, pixels: Tensor, labels: Tensor, random: torch.Generator) -> Tensor:
        """Return (b, 3, h, w) images within eps of `pixels` and within [0, 1] that raise the cross-entropy.

        The network is in evaluation mode meanwhile, as in TRADES and the `robustness` library: the gradient is
        that of the network as it is tested, and the batch statistics of half-made attacks stay out of its own.

        Args:
            network: of pixels in [0, 1].
            pixels: (b, 3, h, w) in [0, 1].
            labels: (b,) int64.
            random: draws the start, uniform within eps.
        """
        if not self.eps:
            return pixels
        modes = {module: module.training for module in network.modules()}
        network.eval()
        low, high = (pixels - self.eps).clamp_(0, 1), (pixels + self.eps).clamp_(0, 1)
        start = torch.rand(pixels.shape, generator=random, device=pixels.device) * 2 - 1
        changed = torch.clamp(pixels + self.eps * start, low, high)
        for _ in range(self.steps):
            changed.requires_grad_(True)
            # The sum, not the mean: a batch's last images must not be attacked with vanishing gradients.
            loss = nn.functional.cross_entropy(network(changed), labels, reduction="sum")
            (gradient,) = torch.autograd.grad(loss, changed)
            changed = torch.clamp(changed.detach() + self.step_size * gradient.sign(), low, high)
        for module, mode in modes.items():
            module.training = mode
        return changed.detach()
