"""Seeds by name: every random choice is a pure function of what it is for.

No generator is carried along a loop, so a restart needs no random state, and nothing depends on what was
drawn before.
"""

import hashlib

import torch
from torch import Tensor


def derive_seed(*parts: object) -> int:
    """A 63-bit seed from a path of names and numbers, e.g. `(study seed, "denoiser", "noise", step)`."""
    text = "/".join(str(part) for part in parts)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator_for(*parts: object) -> torch.Generator:
    """A CPU generator for one purpose; the device never changes what is drawn."""
    return torch.Generator().manual_seed(derive_seed(*parts))


def batch_indices(count: int, batch: int, step: int, seed: int, purpose: str) -> Tensor:
    """Items of the batch at `step` (from 0): each epoch a permutation of its own, batches run across epochs."""
    positions = range(step * batch, (step + 1) * batch)
    epochs = {position // count for position in positions}
    orders = {epoch: torch.randperm(count, generator=generator_for(seed, purpose, "order", epoch)) for epoch in epochs}
    return torch.stack([orders[position // count][position % count] for position in positions])
