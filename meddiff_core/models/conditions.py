"""Conditions as vectors, and the layer that embeds them.

A value that is not known and one that is dropped for guidance are the same thing to the network: absent.
So a table with gaps needs no imputation, and guidance needs no second model. The augmentation of a training volume
is a condition too, so that it does not leak into samples (Karras et al. 2022, appendix F.2).
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from meddiff_core.contract import CategoricalCondition, Condition, ConditionSpec
from meddiff_core.errors import ConfigurationError

ConditionVectors = Float[Tensor, "b n"]
"""One number per condition: standardised value or category index; NaN where absent."""


def encode_conditions(conditions: Sequence[Condition], specs: Sequence[ConditionSpec]) -> ConditionVectors:
    """Conditions by name to vectors.

    Raises:
        ConfigurationError: an unknown name, or a category that training never saw.
    """
    known = {spec.name for spec in specs}
    if unknown := {name for condition in conditions for name in condition} - known:
        raise ConfigurationError(f"condition must be one of {sorted(known)}, is {sorted(unknown)[0]!r}")
    rows = [[_encode(condition.get(spec.name), spec) for spec in specs] for condition in conditions]
    return torch.tensor(rows, dtype=torch.float32).reshape(len(conditions), len(specs))


def _encode(value: float | str | None, spec: ConditionSpec) -> float:
    if value is None:
        return float("nan")
    if isinstance(spec, CategoricalCondition):
        if value not in spec.categories:
            raise ConfigurationError(f"condition {spec.name} must be one of {list(spec.categories)}, is {value!r}")
        return float(spec.categories.index(str(value)))
    if isinstance(value, str):
        raise ConfigurationError(f"condition {spec.name} must be a number, is {value!r}")
    return (value - spec.mean) / spec.std


AUGMENT_DIM = 10
"""Numbers that describe the augmentation of a volume (see models/augmentation.py). 0 is no augmentation."""


class ConditionEmbedding(nn.Module):
    """Sum of one embedding per condition; an absent one contributes a learned vector of its own.

    Vectors may carry `AUGMENT_DIM` more numbers after the conditions; without them nothing was augmented.
    """

    def __init__(self, specs: Sequence[ConditionSpec], width: int) -> None:
        super().__init__()
        self.moves = nn.Linear(AUGMENT_DIM, width, bias=False)  # checkpoints know the augmentations under this name
        self.embeddings = nn.ModuleList(_embedding(spec, width) for spec in specs)
        self.absent = nn.Parameter(torch.zeros(len(specs), width))
        self.register_load_state_dict_pre_hook(_know_all_augmentations)  # type: ignore[no-untyped-call]

    def forward(self, vectors: Float[Tensor, "b n"]) -> Float[Tensor, "b width"]:
        count = len(self.embeddings)
        extra = vectors[:, count:] if vectors.shape[1] > count else vectors.new_zeros(len(vectors), AUGMENT_DIM)
        total: Tensor = self.moves(extra)
        for position, embedding in enumerate(self.embeddings):
            value = vectors[:, position]
            known = ~value.isnan()
            embedded = embedding(torch.where(known, value, torch.zeros_like(value)))
            total = total + torch.where(known[:, None], embedded, self.absent[position])
        return total


def _know_all_augmentations(_: nn.Module, weights: dict[str, Tensor], prefix: str, *__: object) -> None:
    """Weights from before a kind of augmentation was known have no column for it; it is 0 for all that they sample."""
    name = f"{prefix}moves.weight"
    if name in weights and weights[name].shape[1] < AUGMENT_DIM:
        weights[name] = functional.pad(weights[name], (0, AUGMENT_DIM - weights[name].shape[1]))


def _embedding(spec: ConditionSpec, width: int) -> nn.Module:
    if isinstance(spec, CategoricalCondition):
        return CategoryEmbedding(len(spec.categories), width)
    return nn.Sequential(NumberFeatures(), nn.Linear(NumberFeatures.width, width), nn.SiLU(), nn.Linear(width, width))


class NumberFeatures(nn.Module):
    """A standardised number as itself and as slow waves of it: smooth, so that near values stay near."""

    width = 9

    def forward(self, value: Float[Tensor, " b"]) -> Float[Tensor, "b 9"]:
        phases = value[:, None] * torch.tensor([0.5, 1.0, 2.0, 4.0], device=value.device)
        return torch.cat([value[:, None], phases.sin(), phases.cos()], dim=1)


class CategoryEmbedding(nn.Module):
    """A learned vector per category."""

    def __init__(self, count: int, width: int) -> None:
        super().__init__()
        self.table = nn.Embedding(count, width)

    def forward(self, value: Float[Tensor, " b"]) -> Float[Tensor, "b width"]:
        embedded: Tensor = self.table(value.long())
        return embedded
