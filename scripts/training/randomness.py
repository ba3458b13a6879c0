"""Random numbers that depend on a seed and a purpose, never on what was drawn before."""

import hashlib

import torch


def derived_seed(seed: int, *purpose: object) -> int:
    """Return a seed of 63 bits for one purpose, such as ("order", epoch)."""
    digest = hashlib.sha256(repr((seed, *purpose)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def generator(seed: int, *purpose: object, device: str = "cpu") -> torch.Generator:
    """Return the random numbers of one purpose."""
    return torch.Generator(device).manual_seed(derived_seed(seed, *purpose))
