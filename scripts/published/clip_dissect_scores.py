"""Soft-WPMI as CLIP-Dissect publishes it (METHOD, section 2.1): unit after unit, a whole table at each step."""

import torch


def probabilities(image_features: torch.Tensor, concept_features: torch.Tensor, a: float = 10.0) -> torch.Tensor:
    """Return the softmax over the concepts of a x cosines, (I, C)."""
    return torch.softmax(a * (image_features @ concept_features.T), dim=1)


def top_images(activations: torch.Tensor, top_k: int = 100) -> torch.Tensor:
    """Return the most activating images of (I, U) activations, (top_k, U)."""
    return torch.topk(activations, top_k, dim=0).indices


def soft_wpmi(
    best: torch.Tensor,
    probability: torch.Tensor,
    lam: float = 1.0,
    p_start: float = 0.998,
    p_end: float = 0.97,
    epsilon: float = 1e-7,
) -> torch.Tensor:
    """Score a layer, (U, C).

    Args:
        best: (top_k, U) each unit's most activating images, as from `top_images`.
        probability: (I, C)
    """
    top_k, units = best.shape
    member = (p_start - torch.arange(top_k) / top_k * (p_start - p_end))[:, None]
    likelihood = torch.stack(
        [torch.log(1 + member * (probability[best[:, unit]] - 1) + epsilon).sum(dim=0) for unit in range(units)]
    )
    log_prior = torch.logsumexp(likelihood, dim=0) - torch.log(torch.tensor(float(len(likelihood))))
    return likelihood - lam * log_prior
