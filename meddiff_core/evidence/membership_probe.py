"""Whether a denoiser that is still in training begins to betray who it is trained on.

The audit attacks the weights when all is done, and refuses after the whole of the work. Here one attack of its kind is
repeated at each validation, between training and validation subjects: the error at low noise, by how much it fell
since early in the training (calibration by difficulty, Watson et al. 2022), which falls for all and more for members.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from meddiff_core.diffusion.checkpoint_selection import Denoise, MembershipScore
from meddiff_core.evidence.intervals import Matrix
from meddiff_core.evidence.privacy.membership import area, auc_interval
from meddiff_core.evidence.subjects import one_of_each
from meddiff_core.models.conditions import ConditionVectors
from meddiff_core.models.denoiser import LatentScale
from meddiff_core.models.latents import LatentSet
from meddiff_core.models.randomness import generator_for
from meddiff_core.types import Latents

SIGMAS = (0.15, 0.4)
"""Noise levels of the error, one noise and its opposite at each: where the audit's strongest attacks look."""
MOST = 60
"""Subjects of a side that are asked about."""
BATCH = 16
CONFIDENCE = 0.95


@dataclass(frozen=True)
class MembershipProbe:
    """Clean standardised latents of some subjects of both sides, and the noise that all of them meet."""

    latents: Latents
    conditions: ConditionVectors
    members: int
    """So many of the first are of the train side, the others of the validation side."""
    seed: int
    limit: float
    """As `MembershipScore` has it."""

    def __call__(self, denoise: Denoise, early: Denoise, device: str) -> MembershipScore:
        """Area under the ROC curve, and its interval, of telling sides apart by what the error lost since `early`."""
        scores = self._log_errors(early, device) - self._log_errors(denoise, device)
        members = np.arange(len(scores)) < self.members
        found = auc_interval(area(scores, members), self.members, len(scores) - self.members, CONFIDENCE)
        return MembershipScore(auc=found.value, low=found.low, high=found.high, limit=self.limit)

    @torch.inference_mode()
    def _log_errors(self, denoise: Denoise, device: str) -> Matrix:
        """(n,) mean logarithm of the squared error over the noise levels."""
        found = [self._log_error(denoise, sigma, device) for sigma in SIGMAS]
        return np.asarray(np.mean(found, axis=0))

    def _log_error(self, denoise: Denoise, sigma: float, device: str) -> Matrix:
        noise = torch.randn(self.latents.shape[1:], generator=generator_for(self.seed, "probe", sigma)).to(device)
        errors = []
        for clean, conditions in zip(self.latents.split(BATCH), self.conditions.split(BATCH), strict=True):
            clean, own = clean.to(device), conditions.to(device)
            level = torch.full((len(clean),), sigma, device=device)
            pair = [denoise(clean + sign * sigma * noise, level, own).float() - clean for sign in (1, -1)]
            errors.append(torch.stack(pair).square().flatten(2).mean((0, 2)).cpu())
        return np.asarray(torch.cat(errors).double().clamp_min(1e-12).log().numpy())


@dataclass(frozen=True)
class LatentSide:
    """Latents of one side, with the condition and the subject of each volume."""

    latents: LatentSet
    conditions: ConditionVectors
    subjects: Sequence[str]

    def one_of_each(self, seed: int) -> tuple[Latents, ConditionVectors]:
        """Mean latents and conditions of one volume of each of some subjects."""
        rows = torch.from_numpy(one_of_each(self.subjects, len(self.subjects), seed)[:MOST])
        return self.latents.mean[rows], self.conditions[rows]


def open_probe(
    train: LatentSide, validation: LatentSide, scale: LatentScale, seed: int, limit: float
) -> MembershipProbe | None:
    """The probe of a study; None where a side has a single subject. `limit` as `MembershipScore` has it."""
    latents, conditions = zip(*[side.one_of_each(seed) for side in (train, validation)], strict=True)
    if min(map(len, latents)) < 2:
        return None
    standardised = scale.standardise(torch.cat(latents))
    return MembershipProbe(standardised, torch.cat(conditions), len(latents[0]), seed, limit)
