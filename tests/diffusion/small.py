"""What is small enough to be trained on in a test."""

import torch

from meddiff_core.contract import Contract
from meddiff_core.models.conditions import ConditionVectors, encode_conditions
from meddiff_core.models.latents import LatentSet


def small_side(contract: Contract, centre: float = 0.0, std: float = 1.0) -> tuple[LatentSet, ConditionVectors]:
    """Latents of five volumes, with an age and a sex for each."""
    mean = centre + std * torch.randn((5, 2, 4, 4, 4), generator=torch.Generator().manual_seed(0))
    conditions = [{"age": 30.0 + number, "sex": "FM"[number % 2]} for number in range(5)]
    return LatentSet(mean, torch.full_like(mean, 0.2)), encode_conditions(conditions, contract.conditions)
