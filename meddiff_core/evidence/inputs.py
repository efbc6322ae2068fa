"""What is audited: the cohort, the real sides, the models, and how it is to be evaluated."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

from meddiff_core.contract import Condition, Contract, Frozen
from meddiff_core.data.split.sides import Side
from meddiff_core.evidence.features.records import Extractor
from meddiff_core.evidence.rejections import RealRejections, RejectionCount
from meddiff_core.models.augmentation import AugmentVectors
from meddiff_core.study import AuditConfig
from meddiff_core.types import Volumes


@runtime_checkable
class AuditData(Protocol):
    """The real data set."""

    def volumes(self, side: Side) -> Volumes:
        """The stored volumes of one side."""

    def subjects(self, side: Side) -> list[str]:
        """Whose each of them is."""

    def conditions(self, side: Side) -> list[Condition]:
        """The covariates of each of them."""


class ScreenSummary(Frozen):
    """What screening did, in counts."""

    candidates: int
    accepted: int
    rejections: tuple[RejectionCount, ...]
    """Rejected candidates by kind of reason."""
    real: RealRejections | None = None
    """What the same bounds do to validation volumes; None where that is not kept."""


@dataclass(frozen=True)
class FirstAttempts:
    """The first attempt at each volume of the cohort: what it would be without a screen."""

    volumes: Volumes
    sample_ids: Sequence[str]
    accepted: Sequence[bool]
    requested: Sequence[Condition]
    measured: Sequence[Mapping[str, float]]
    """These have one entry per volume, in its order."""


class Round(Frozen):
    """One round of the search for copies, in counts."""

    searched: int
    dropped: int
    """Suspected copies among them."""


@dataclass(frozen=True)
class AuditInput:
    """What is audited, and how."""

    dataset: AuditData
    contract: Contract
    accepted: Volumes
    requested: Sequence[Condition]
    measured: Sequence[Mapping[str, float]]
    sample_ids: Sequence[str]
    """These three have one entry per accepted volume, in its order."""
    extractors: Sequence[Extractor]
    """What distances between sets are taken with."""
    screen: ScreenSummary | None
    """None where it is not known how the cohort was screened."""
    config: AuditConfig
    train_known: bool = True
    """Whether the train side is what the cohort was made from; otherwise nobody can be told to be a member."""
    first_attempts: FirstAttempts | None = None
    """What screening saw first; None where it is not kept."""
    models: Path | None = None
    """Folder of the checkpoints `autoencoder` and `denoiser`; None where only volumes are at hand."""
    augmentations: AugmentVectors | None = None
    """Of the train side's volumes, several variants of each, as the denoiser saw them (see `encode_latents`); None
    where it saw none."""
    guarantee: str | None = None
    """What was promised of a differentially private training, in words."""
    device: str = "cpu"
    seed: int = 0
    copy_extractors: Sequence[Extractor] | None = None
    """What copies are looked for with, beside voxels; None for `extractors`."""
    first_round: Volumes | None = None
    """The cohort before suspected copies were dropped and replaced; None where that is `accepted` itself."""
    first_round_ids: Sequence[str] = ()
    """One entry per volume of it, in its order."""
    rounds: Sequence[Round] = ()
    """What each round of that did; none where there were no rounds."""

    @property
    def as_generated(self) -> Volumes:
        """What the model generates and screening accepts. Whether a model copies can be read from this alone: in a
        cohort whose suspects were replaced until none is left, a share of suspects says nothing.
        """
        return self.accepted if self.first_round is None else self.first_round

    @property
    def ids_as_generated(self) -> Sequence[str]:
        """Of them."""
        return self.sample_ids if self.first_round is None else self.first_round_ids
