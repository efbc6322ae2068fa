"""The study: everything a user decides, one frozen model per stage, read from study.yaml.

A value left out, or null, is decided by the plan from the data and the hardware. A key that no stage
knows is refused with the nearest one that exists, so that a typing error never runs for a night.
"""

import difflib
import re
import sys
from collections.abc import Callable, Sequence
from ipaddress import ip_address
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal, get_args
from urllib.parse import urlsplit

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    field_validator,
    model_serializer,
    model_validator,
)

from meddiff_core.contract import along_each_axis
from meddiff_core.errors import ConfigurationError
from meddiff_core.objects.storage import fault_of_storage

Fraction = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]
Precision = Literal["float32", "bfloat16"]


MOST_YAML = 4 << 20
"""Bytes of a YAML file."""


class Config(BaseModel):
    """Base of all settings: frozen, unknown keys refused, no infinities, documentation under each field."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)


class DataConfig(Config):
    """Where the real scans are, and what is known of them."""

    images: str
    """Folder or glob of NIfTI files, folder of DICOM series, BIDS, nnU-Net or Decathlon data set, or CSV/TSV table
    with the columns subject, image and optionally label and covariates. Relative to this file."""
    follow_links: bool = False
    """Also use files that links inside the folder point to outside of it."""
    labels: str | None = None
    """Folder of label maps on the grid of their images, named as the image or with a suffix."""
    participants: str | None = None
    """Table of covariates with a column participant_id (or subject)."""
    subject: str | None = None
    """Who a scan is of: a regular expression with a group named `subject`, searched in each scan's path below
    `images`, such as `(?P<subject>P[0-9]+)`. Null: by the table, BIDS, DICOM's Patient ID, folders or file names."""
    same_subject: list[list[str]] | str | None = None
    """Subjects that are one person under several names: lists of ids, or a CSV/TSV table with one such list a row."""
    exclude: Annotated[list[str], Field(exclude_if=lambda names: not names)] = []
    """Subjects whose scans are left out, by the names that split.json has. `meddiff recall` leaves a subject out by
    itself, and for good."""
    kinds: list[str] | None = None
    """Which kinds of image to use, by the names that `meddiff plan` lists: contrasts, channels, fields of view.
    Several become the condition `kind`. Null: all scans must be of one kind."""
    channel: int | str | None = None
    """nnU-Net and Decathlon data sets: the channel to use, by its number or its name in dataset.json."""
    modality: Literal["MR", "CT"] | None = None
    """MR maps intensities by percentiles, CT by a window in Hounsfield units. Null: from the data."""
    label_groups: dict[str, list[Count]] = {}
    """Structures to synthesise: name and the label values that it gathers. Empty: every value found."""
    unlisted_labels: Literal["background", "refuse"] = "background"
    """What a label value outside the groups means: background (reported), or the case is refused."""
    covariates: dict[str, str] | None = None
    """Conditions: name and `continuous`, `categorical`, or `volume of GROUP` (mm3, measured on the
    label map). Null: every column of the table; empty: none."""
    missing: list[str | float] | None = None
    """Cells of the table that mean `not known`, besides empty ones, n/a, NA, NaN, NULL, None and the like: [-999].
    Null: a number far outside all others is asked about. []: every number is taken as it is."""
    mask: Literal["none", "label", "brain"] = "none"
    """Set all voxels outside to background: where the label map is not 0, or by a brain extractor
    (extra `brain`)."""
    window_hu: tuple[float, float] = (-1000.0, 1000.0)
    """CT only: Hounsfield units that are mapped; what lies outside is clipped."""

    @model_validator(mode="after")
    def _consistent(self) -> "DataConfig":
        for name, kind in (self.covariates or {}).items():
            if kind in ("continuous", "categorical"):
                continue
            group = kind.removeprefix("volume of ")
            if group == kind:
                raise ValueError(f"covariates.{name} must be continuous, categorical or `volume of GROUP`, is {kind!r}")
            if group not in self.label_groups:
                known = sorted(self.label_groups)
                raise ValueError(f"covariates.{name} must be the volume of one of {known}, is that of {group!r}")
        values = [value for group in self.label_groups.values() for value in group]
        if twice := sorted({value for value in values if values.count(value) > 1}):
            raise ValueError(f"label_groups must not share values, shared is {twice}")
        if self.subject is not None and (fault := _fault_of_pattern(self.subject)):
            raise ValueError(f"subject must be a regular expression with a group named `subject`, {fault}")
        if self.mask == "label" and self.labels is None and not self.images.endswith((".csv", ".tsv")):
            raise ValueError("labels must be given for `mask: label`, is null")
        if self.window_hu[0] >= self.window_hu[1]:
            raise ValueError(f"window_hu must be [low, high], is {list(self.window_hu)}")
        return self


def _fault_of_pattern(pattern: str) -> str | None:
    """Why a pattern cannot identify subjects, or None."""
    try:
        groups = re.compile(pattern).groupindex
    except re.error as error:
        return f"{pattern!r} is none: {error}"
    return None if "subject" in groups else f"{pattern!r} has no such group"


class SplitConfig(Config):
    """Shares of subjects, to which sides are filled at first. Who is on which side is kept in split.json."""

    train: Fraction = 0.7
    """Share that models and thresholds are fitted on."""
    validation: Fraction = 0.15
    """Share for choosing and monitoring. The rest is the holdout, sealed until the audit."""

    @model_validator(mode="after")
    def _leaves_a_holdout(self) -> "SplitConfig":
        if (modelled := round(self.train + self.validation, 9)) > 0.95:
            raise ValueError(f"train + validation must leave at least 0.05 as holdout, is {modelled:.2f}")
        return self


class PlanConfig(Config):
    """What the plan may not decide by itself."""

    spacing_mm: tuple[float, float, float] | None = None
    """Voxel size of the synthetic volumes in mm: one number, or three, along i, j and k."""
    size: tuple[Count, Count, Count] | None = None
    """Voxels along i (left-right), j (back-front), k (down-up)."""
    latent_factor: Literal[2, 4, 8] | None = None
    """Downsampling of the autoencoder; less along an axis of thick slices or of few voxels."""
    memory_gb: Positive | None = None
    """Memory that training may use. Null: what the device has free."""
    budget_minutes: Positive = 60.0
    """Time for both trainings together on this machine; sets the steps where they are null."""

    @field_validator("spacing_mm", mode="before")
    @classmethod
    def _has_a_length_along_each_axis(cls, given: Any) -> Any:
        lengths = along_each_axis(given)
        numbers = isinstance(lengths, list | tuple) and all(isinstance(length, int | float) for length in lengths)
        if given is not None and not (numbers and len(lengths) == 3 and min(lengths) > 0):
            raise ValueError(f"must be one number above 0, or three, is {given!r}")
        return lengths


class AutoencoderConfig(Config):
    """Training of the autoencoder over image and label channels together."""

    steps: Count | None = None
    """Optimiser steps. Null: from the budget."""
    batch: Count | None = None
    """Volumes a step. Null: two for each process on a CPU, four on a GPU, fewer where the memory is short."""
    channels: tuple[Count, ...] | None = None
    """Width per level, all multiples of 8. Null: 16 at the finest level on a CPU, 32 on a GPU, doubled from level to
    level; there are as many levels as the latent factor asks for."""
    latent_channels: Count = 4
    """Channels of the latents."""
    learning_rate: Positive = 1e-3
    """Peak rate of Adam; warm-up, then cosine decay."""
    kl_weight: Annotated[float, Field(ge=0)] = 1e-4
    """Weight of the Kullback-Leibler term, per latent element."""
    label_weight: Annotated[float, Field(ge=0)] = 0.2
    """Weight of the cross-entropy of the label maps; the error of the image has 1."""
    dice_weight: Annotated[float, Field(ge=0)] = 0.05
    """Weight of the soft Dice loss of the label maps, in which small structures count as much as large ones."""
    perceptual: Literal["discriminator", "fft", "both", "imagenet", "none"] = "discriminator"
    """Perceptual distance: features of the discriminator that is trained along, the Fourier spectrum (from the
    first step on), both, features of an ImageNet network on slices in three planes (from the first step on; extra
    `imagenet`), or nothing."""
    perceptual_weight: Annotated[float, Field(ge=0)] = 0.1
    """Weight of the perceptual distance between real and reconstruction."""
    adversarial_adaptive: bool = False
    """Weigh the patch-adversarial term anew at each step, such that its gradient at the decoder's last layer is in
    proportion to that of the others, instead of by a fixed weight. It also amplifies a discriminator that has
    learned nothing yet."""
    adversarial_weight: Annotated[float, Field(ge=0)] = 0.02
    """The fixed weight, or that proportion; as such, 0.5 is a place to start."""
    adversarial_start: Fraction = 0.5
    """Share of the steps after which discriminator terms act."""
    gradient_checkpointing: bool | None = None
    """Compute activations again for the gradients instead of keeping them: less memory, a third more time. Null: from
    the memory."""
    patch: tuple[Count, Count, Count] | None = None
    """Voxels along i, j, k of random crops to train on, where whole volumes do not fit the memory; multiples of the
    latent factor. Null: whole volumes."""


class PrivacyConfig(Config):
    """Differentially private training: what the denoiser's weights say of any one training subject is bounded."""

    epsilon: Positive
    """The weights become at most exp(epsilon) times as likely by any one subject: 1 is strong, 50 hardly means
    anything. `meddiff plan` says how much noise it takes."""
    delta: Annotated[float, Field(gt=0, lt=1)]
    """Probability with which that may fail; below one over the number of training subjects, better a tenth of it."""
    clip: Positive = 1.0
    """Length to which the gradient of each subject is clipped."""


Augmentation = Literal["mirror", "shift", "rotate", "scale", "warp", "contrast"]


class DenoiserConfig(Config):
    """Training of the latent denoiser with EDM preconditioning."""

    steps: Count | None = None
    """Optimiser steps. Null: from the budget."""
    batch: Count | None = None
    """Latents a step. Null: 8 on a CPU, 32 on a GPU, fewer where the memory is short."""
    channels: tuple[Count, ...] | None = None
    """Width per level, all multiples of 32. Null: 64 and 128, or on a GPU 128, 256 and 256 where the latents can be
    halved twice."""
    learning_rate: Positive = 5e-4
    """Peak rate of AdamW; warm-up, then cosine decay."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    """Weight decay of AdamW."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Probability with which attention between two voxels is dropped in training."""
    condition_dropout: Fraction = 0.1
    """Probability that a condition is dropped, so that the model also learns the case without it."""
    sigma_mean: float = -0.4
    """Mean of ln(sigma) of the training noise; sigma in standard deviations of the latents."""
    sigma_std: Positive = 1.2
    """Standard deviation of ln(sigma) of the training noise."""
    uncertainty_weighting: bool = True
    """Divide the error at each noise level by the one to be expected there, which is learned along."""
    augmentations: tuple[Augmentation, ...] | None = None
    """Augmentation of training volumes: mirrored left to right, shifted by up to 2 voxels, rotated by up to 8 degrees
    about each axis, scaled by up to 8%, warped smoothly, contrast changed. It is a condition of the network, so that
    no sample is augmented. [] where an augmented volume would be wrong. Null: all, if the training is so long that it
    would memorise the volumes."""
    augmented_share: Fraction = 1.0
    """Share of training volumes that are augmented. Fewer make better samples after as many steps, and weights that
    know who was trained on (tests/benchmarks/TRAINING.md)."""
    ema_std: tuple[Annotated[float, Field(gt=0, le=0.28)], ...] = (0.05, 0.15)
    """Relative standard deviations of the moving averages of weights (Karras et al. 2024, `sigma_rel`): about the share
    of the steps done that each spans; 0.28 is nearly uniform. The average whose samples score best is kept."""
    gradient_checkpointing: bool | None = None
    """As for the autoencoder."""
    patience: Count = 3
    """Validations without better samples, of about 6 that have samples to compare, after which training ends early."""
    privacy: PrivacyConfig | None = None
    """`{epsilon: 8, delta: 0.001}`: differentially private training (extra `privacy`), for each subject with all of its
    scans. It covers the denoiser's weights alone: not the autoencoder, nor what screens a cohort. Its noise costs
    quality, most of it where subjects are few. It takes one process, and scores no samples along the way."""

    @model_validator(mode="after")
    def _learns_nothing_beside(self) -> "DenoiserConfig":
        if self.privacy is not None and self.uncertainty_weighting:
            raise ValueError("uncertainty_weighting must be false with privacy, which does not cover it, is true")
        return self


class TrainConfig(Config):
    """Both trainings."""

    autoencoder: AutoencoderConfig = AutoencoderConfig()
    """Image and label maps to latents, and back."""
    denoiser: DenoiserConfig = DenoiserConfig()
    """The diffusion model on latents."""
    checkpoint_every: Count = 100
    """Steps between resume points; a kill loses at most so many."""
    checkpoints_kept: Count = 2
    """Newest resume points that are kept while a training runs."""
    checkpoint_hourly: bool = False
    """Keep one resume point for each hour before those, too, until the training is finished."""
    deterministic: bool = True
    """The same bits at each run on a GPU too, at some cost in speed. On a CPU they always are."""


class CellConfig(Config):
    """Some of a cohort's volumes, and where their conditions lie."""

    where: dict[str, Any] = {}
    """Part of the distribution, as `cohort.where`; {} is all of it."""
    count: Count | None = None
    """Volumes in it."""
    share: Annotated[float, Field(gt=0, le=1)] | None = None
    """Instead: its share of `cohort.size`."""

    @model_validator(mode="after")
    def _one_number(self) -> "CellConfig":
        if (self.count is None) == (self.share is None):
            given = "neither" if self.count is None else "both"
            raise ValueError(f"exactly one of count and share must be given, is {given}")
        return self


class CohortConfig(Config):
    """Which volumes are wanted."""

    size: Count = 200
    """Accepted volumes that the release shall hold. Null or left out beside cells that all have a count: their sum."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Changes every volume of the cohort, and nothing else."""
    like: Literal["train"] | None = "train"
    """Conditions from a smoothed joint distribution of the training covariates, never an exact row where one of
    them is a number."""
    where: dict[str, Any] = {}
    """Part of that distribution: `{age: [60, 90], sex: F}`. Per condition a range, where null is the end
    of the training range, one number, a category, or a list of them."""
    shares: dict[str, dict[str, Annotated[float, Field(ge=0)]]] = {}
    """Its categories in other shares: `{sex: {F: 0.5, M: 0.5}}`. How conditions go together stays as in training."""
    cells: list[CellConfig] = []
    """Or so many from each of several parts: `[{where: {sex: F, age: [60, 90]}, count: 30}, {where: {sex: M}, share:
    0.5}]`. Counts and shares must add up to the size. A part with fewer than 10 training volumes is sampled evenly.
    Growing the size under shares, or all counts alike, keeps the conditions of the first volumes."""
    distributions: dict[str, Any] | None = None
    """Instead: per condition a range `[low, high]` (uniform) or shares `{M: 0.5, F: 0.5}`."""
    requests: str | None = None
    """Instead: a CSV/TSV table with a row per volume and a column per condition."""
    extrapolation: Literal["refuse", "allow"] = "refuse"
    """Whether numbers outside the training range may be asked for. The release marks such volumes."""

    @model_validator(mode="before")
    @classmethod
    def _counts_give_the_size(cls, content: Any) -> Any:
        if not isinstance(content, dict) or content.get("size") is not None:
            return content
        total = _sum_of_counts(content.get("cells"))
        return content if total is None else content | {"size": total}

    @model_validator(mode="after")
    def _one_source(self) -> "CohortConfig":
        others = [name for name in ("distributions", "requests") if getattr(self, name) is not None]
        narrowed = [name for name in ("where", "shares", "cells") if getattr(self, name)]
        if len(others) > 1:
            raise ValueError("only one of distributions and requests must be given, is both")
        if not others and self.like is None:
            raise ValueError("one of like, distributions and requests must be given, is none")
        if narrowed and others:
            raise ValueError(f"{narrowed[0]} must go with `like: train`, goes with {others[0]}")
        if self.shares and self.cells:
            raise ValueError("only one of shares and cells must be given, is both")
        return self

    @model_validator(mode="after")
    def _cells_fill_the_cohort(self) -> "CohortConfig":
        if not self.cells:
            return self
        counts = sum(cell.count or 0 for cell in self.cells)
        shared = sum(cell.share or 0 for cell in self.cells)
        # Shares may be rounded (0.33, 0.33, 0.33); what the counts leave is divided among them.
        off = abs(counts + shared * self.size - self.size)
        if off > (0.01 * self.size if shared else 0) or (shared and counts >= self.size):
            total = f"{counts + shared * self.size:g}"
            raise ValueError(f"counts and shares of cells must add up to size, {self.size}, add up to {total}")
        return self


def _sum_of_counts(cells: Any) -> int | None:
    """Sum of the counts of cells that all have one; anything else is refused later, by its key."""
    if not isinstance(cells, list):
        return None
    counts = [cell.get("count") if isinstance(cell, dict) else getattr(cell, "count", None) for cell in cells]
    whole = [count for count in counts if isinstance(count, int)]
    return sum(whole) if whole and len(whole) == len(counts) else None


def _falling(levels: tuple[float, ...]) -> tuple[float, ...]:
    if len(levels) < 2 or any(lower >= sigma for sigma, lower in pairwise(levels)):
        raise ValueError(f"must be two or more levels, each below the one before, is {list(levels)}")
    return levels


OUTDATED_GUIDANCE = {"absent": "classifier_free", "earlier": "autoguidance"}
"""Values of `sampling.guided_by` in older studies and releases, and their names now."""


class CalibrationConfig(Config):
    """The line by which samples follow a condition: measured = intercept + slope * asked."""

    condition: str
    """Name of a condition that is a number."""
    intercept: float
    """In its unit."""
    slope: Positive
    """1 follows fully."""


class SamplingConfig(Config):
    """How volumes are sampled. Part of the identity of every sample."""

    solver: Literal["heun", "dpmpp_2m", "adams", "euler", "ancestral"] = "adams"
    """Heun's method takes 2 * steps - 1 network evaluations, the others one a step: dpmpp_2m is DPM-Solver++(2M),
    adams the exponential Adams-Bashforth method of third order, ancestral Euler's method with fresh noise at each
    level, which needs many. `meddiff tune-solver` measures them on the trained study."""
    steps: Count = 15
    """Noise levels to walk through."""
    guidance: Annotated[float, Field(ge=0)] | None = None
    """Weight of the guidance: 1 is none and costs one network evaluation instead of two, more exaggerates. Null: chosen
    after training among 1, 1.5, 2 and 3 by what samples of the validation scans' conditions measure; see
    `guidance.json`. It is 1 where no condition is the volume of a structure."""
    guided_by: Literal["classifier_free", "autoguidance"] = "classifier_free"
    """What guidance leads away from. `classifier_free`: the same denoiser without conditions, which makes conditions
    stronger. `autoguidance`: its own weights from early in the training with the same conditions, which corrects
    errors and keeps variety."""
    guidance_interval: tuple[Annotated[float, Field(ge=0)], Positive] | None = None
    """Lowest and highest noise level at which guidance acts. Null: at all of them, or [0.3, 5] where its weight is
    chosen after training."""
    calibration: tuple[CalibrationConfig, ...] | None = None
    """Lines by which samples follow conditions, `[{condition: ventricles_mm3, intercept: 4000, slope: 0.8}]`. The
    denoiser is asked for their inverse, within the training range; the table holds what was asked for. Null: fitted
    after training where the guidance is chosen, if samples then follow better. []: none."""
    best_of: Count = 4
    """Volumes that are sampled for each one wanted: that which comes nearest to its condition is kept, by the volumes
    of structures and by what latents were found to tell of other conditions (`models/predictors`). It is rejection
    sampling from p(volume | measured = asked), and costs as many times the evaluations, or with drafts as many drafts.
    What asks for nothing that can be measured has one."""
    draft_steps: Count | None = None
    """Noise levels of a short walk, a draft, by which they are compared: the nearest alone is then sampled in
    full. Null, or no fewer than `steps`: all are sampled in full, as they always are by the ancestral solver, whose
    fresh noise no draft foresees."""
    precision: Precision = "float32"
    """Numbers of the networks' convolutions. `bfloat16` takes about 0.6 of the time on a processor with instructions
    for it (AVX-512 BF16, AMX), elsewhere it is refused. A volume has the bits of the kind of processor. Solver, norms
    and outputs stay in float32."""
    grain: bool = True
    """Add a random field to what the decoder gives, with the power by frequency, label and intensity that the training
    scans' reconstructions lack (`models/grain`): noise and finest texture, of which a decoder gives the mean. It comes
    from a stream of its own of each sample's seed and leaves label maps as they are."""
    sigma_min: Positive = 0.01
    """Lowest noise level before 0."""
    sigma_max: Positive = 40.0
    """Highest noise level, where sampling starts."""
    rho: Positive = 7.0
    """Curvature of the noise levels (Karras et al. 2022, eq. 5)."""
    sigmas: Annotated[tuple[Positive, ...], AfterValidator(_falling)] | None = None
    """The noise levels themselves, from the highest to the lowest before 0, as `meddiff tune-solver` fits them. Where
    given, they hold instead of steps, sigma_min, sigma_max and rho."""
    batch: Count = 8
    """Volumes a network call, halved where the memory is short. On a CPU it changes no bit of a volume; on a GPU, where
    kernels may round by the shape of a batch, it is part of the identity, and the release names smaller ones."""
    shard: Count = 8
    """Volumes a shard: the unit of work, of restart and of integrity."""

    @field_validator("guided_by", mode="before")
    @classmethod
    def _is_not_outdated(cls, given: Any) -> Any:
        if isinstance(given, str) and given in OUTDATED_GUIDANCE:
            raise ValueError(f"`{given}` is called {OUTDATED_GUIDANCE[given]} now")
        return given

    @model_validator(mode="after")
    def _ordered(self) -> "SamplingConfig":
        if self.sigma_min >= self.sigma_max:
            raise ValueError(f"sigma_min must be below sigma_max, {self.sigma_max:g}, is {self.sigma_min:g}")
        if self.guidance_interval is not None and self.guidance_interval[0] >= self.guidance_interval[1]:
            raise ValueError(f"guidance_interval must be [low, high], is {list(self.guidance_interval)}")
        return self

    @model_serializer(mode="wrap")
    def _as_before_it_was_known(self, dump: Callable[[Any], dict[str, Any]]) -> dict[str, Any]:
        """Without the precision that every sample of older versions has, whose digests so stay what they are."""
        settings = dump(self)
        if settings.get("precision") == "float32":
            del settings["precision"]
        return settings

    @property
    def levels(self) -> int:
        """Noise levels above 0."""
        return self.steps if self.sigmas is None else len(self.sigmas)

    @property
    def span(self) -> tuple[float, float]:
        """Lowest and highest of them."""
        return (self.sigma_min, self.sigma_max) if self.sigmas is None else (self.sigmas[-1], self.sigmas[0])


class ScreenConfig(Config):
    """Which volumes are rejected. Bounds are fitted on the training volumes."""

    quantile: Annotated[float, Field(gt=0, lt=0.5)] = 0.005
    """Quantile of the training volumes that is the lower bound, before the margin; 1 minus it is the upper one."""
    margin: Annotated[float, Field(ge=0)] = 0.25
    """Widening of each bound, as a share of the range between them."""
    outliers: bool = True
    """Also reject volumes that the denoiser reconstructs worse from noise than training volumes: three evaluations a
    volume."""
    budget: Annotated[float, Field(ge=1)] = 3.0
    """Most candidates per wanted volume before the shortfall is reported."""


class GateConfig(Config):
    """One condition for a release: the unfavourable bound of the confidence interval must pass."""

    metric: str
    """Name of a metric of the audit; one that ends in `:*` stands for every metric that begins so."""
    max: float | None = None
    """The upper confidence bound must not exceed this."""
    min: float | None = None
    """The lower confidence bound must not fall below this."""
    confidence: Annotated[float, Field(gt=0.5, lt=1)] | None = None
    """Confidence of the bound; at most `audit.confidence`, at which intervals are computed, and below it by normal
    approximation. Null: that one."""

    @model_validator(mode="after")
    def _one_direction(self) -> "GateConfig":
        if (self.max is None) == (self.min is None):
            given = "neither" if self.max is None else "both"
            raise ValueError(f"exactly one of max and min must be given for {self.metric}, is {given}")
        return self


Words = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]


class WaiverConfig(Config):
    """A failed gate that a person answers for. It is printed on the card."""

    metric: Words
    """The gate, by the name that the audit gave it."""
    name: Words
    """Who answers for it."""
    reason: Words
    """Why the cohort may be released nevertheless."""


OwnNetwork = Literal["resnet10", "resnet18", "resnet50"]
PackedNetwork = Literal["efficientnet-lite0"]


class UtilityConfig(Config):
    """How usefulness is measured: networks and predictors trained on real, on synthetic and on both, tested on the
    holdout."""

    effort: Literal["full", "quick", "none"] | None = None
    """`full`: three seeds, and half, just and twice as many synthetic volumes as real ones: 21 trainings of a small
    segmentation network, about 10 minutes on two cores. `quick`: one seed, as many synthetic volumes as real ones,
    half the steps: 3 trainings. Null: `quick` for the preset `trial`, `full` for the others."""
    seeds: Count | None = None
    """Trainings of each kind. Null: by the effort."""
    steps: Count | None = None
    """Steps of every training, whatever its volumes. Null: 3 for each real training volume, between 150 and 600; half
    of it for `quick`."""
    mirror: bool = False
    """Whether the segmentation may see training volumes mirrored left to right. Not where a label group is of one
    side."""


class AuditConfig(Config):
    """What is measured, and what a release must reach."""

    preset: Literal["strict", "research", "trial"] = "research"
    """Gates to start from; the card of a release names the preset. `trial` is for phantoms and first attempts."""
    gates: list[GateConfig] = []
    """Gates that replace those of the same metric in the preset, or are added; the card shows both thresholds."""
    waivers: list[WaiverConfig] = []
    """Failed gates that are let pass: `[{metric: ms_ssim_gap, name: A. Person, reason: ...}]`, one for each gate. The
    card prints them. Not gates on the power to find copies, and under `strict` no privacy gate."""
    confidence: Annotated[float, Field(gt=0.5, lt=1)] = 0.95
    """Confidence of all intervals."""
    repeats: Count = 200
    """Bootstrap samples and equal-size subsamples per metric."""
    rounds: Count = 5
    """Most rounds of the search for copies: what a round flags is dropped and sampled anew, and the next round searches
    the new volumes. Rounds end when nothing is flagged; `screen.budget` limits the candidates of all of them."""
    utility: UtilityConfig = UtilityConfig()
    """Whether the synthetic volumes can stand in for real ones."""
    extractor: OwnNetwork | PackedNetwork | None = None
    """Network for one more set of features. `efficientnet-lite0` sees slices in three planes and brings its ImageNet
    weights with the extra `imagenet`. Of your own: `resnet10` and `resnet18` are 3D (MedicalNet), `resnet50` sees
    slices (RadImageNet, ImageNet). Null: none."""
    extractor_weights: str | None = None
    """The weights of your own: a safetensors or torch file that holds tensors alone. Relative to this file."""

    @model_validator(mode="after")
    def _extractor_has_weights(self) -> "AuditConfig":
        own = self.extractor in get_args(OwnNetwork)
        if own and self.extractor_weights is None:
            raise ValueError(f"extractor_weights must be given for {self.extractor}")
        if self.extractor_weights is not None and not own:
            known = ", ".join(get_args(OwnNetwork))
            raise ValueError(f"extractor_weights must be given for an extractor of {known} alone")
        return self

    @model_validator(mode="after")
    def _intervals_reach(self) -> "AuditConfig":
        for gate in self.gates:
            if gate.confidence is not None and gate.confidence > self.confidence:
                limit = f"audit.confidence, {self.confidence:g}, at which intervals are computed"
                raise ValueError(f"confidence of gate {gate.metric} must be at most {limit}; is {gate.confidence:g}")
        return self

    @model_validator(mode="after")
    def _waived_once(self) -> "AuditConfig":
        names = [waiver.metric for waiver in self.waivers]
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise ValueError(f"waivers must name each gate once, {twice} has {names.count(twice)}")
        return self


def _semantic(version: str) -> str:
    if not re.fullmatch(r"(0|[1-9]\d*)(\.(0|[1-9]\d*)){2}", version):
        raise ValueError(f"must be a semantic version such as 1.0.0, is {version!r}")
    return version


class ReleaseConfig(Config):
    """What the outside sees."""

    title: str | None = None
    """Title of the card. Null: the study's name."""
    version: Annotated[str, AfterValidator(_semantic)] = "1.0.0"
    """Semantic version of the release: the first number grows when volumes of an earlier version are changed or left
    out, the second when volumes are added, the third otherwise. An existing version is never overwritten."""
    licence: str = "not stated"
    """Licence of the synthetic cohort, to be compatible with the terms of the real data."""
    contact: str = "not stated"
    """Whom to ask."""
    models: bool = False
    """Whether anybody who receives the cohort will be given the models, too. A release holds none; where they
    leave by another way, every preset gates the attacks on their weights."""
    source: str = "not stated"
    """One public sentence on the real data, without anything that names a subject."""
    intended_use: str | None = None
    """What the cohort is for. Null: card and scorecard say that it is not stated."""
    not_intended_for: str | None = None
    """What it must not be used for, besides diagnosis, treatment, decisions about a person, and linking a volume to
    one."""
    data_use: list[Annotated[str, Field(pattern=r"^DUO:\d{7}$")]] = []
    """Conditions of use as terms of the Data Use Ontology: `[DUO:0000042]`, general research use."""
    code_repository: str | None = None
    """Public address of the code that made it. Null: not stated."""
    environment: str | None = None
    """What the volumes were made with. Null: the versions of Python and packages, the kind of system and of device,
    without the name of a machine."""
    signing_key: str | None = None
    """File of the private key that signs releases, as `meddiff keygen` makes it. Relative to this file. Null: the key
    in the environment variable MEDDIFF_SIGNING_KEY; without that, releases are not signed."""

    @field_validator("signing_key")
    @classmethod
    def _is_no_key(cls, path: str | None) -> str | None:
        if path and ("PRIVATE KEY" in path or "\n" in path):  # a study is logged and shared; the value is not repeated
            raise ValueError("must be the file of a key, is a key itself: take it out of the study, and make another")
        return path


class ClusterConfig(Config):
    """A Dask cluster whose workers come and go with the work, and end with the run."""

    options: dict[str, Any] = {}
    """Arguments of dask_jobqueue.SLURMCluster or dask_kubernetes.operator.KubeCluster."""
    minimum: Annotated[int, Field(ge=0)] = 0
    """Workers that are there in any case."""
    maximum: Count = 8
    """Workers at most."""

    @model_validator(mode="after")
    def _least_to_most(self) -> "ClusterConfig":
        if self.minimum > self.maximum:
            raise ValueError(f"minimum must be at most maximum, {self.maximum}, is {self.minimum}")
        return self


STARTED_CLUSTERS = ("slurm", "kubernetes")
"""Values of `runtime.dask` for which a cluster is started."""


def is_encrypted_or_here(address: str) -> bool:
    """Whether what goes to a scheduler's address is encrypted or stays on this machine."""
    parts = urlsplit(address)
    if parts.scheme == "tls":
        return True
    try:
        return parts.hostname == "localhost" or ip_address(parts.hostname or "").is_loopback
    except ValueError:
        return False


class RuntimeConfig(Config):
    """Where it runs. Dask and its workers change no result, and processes only the last digits of trained weights. The
    device changes more: the plan fits the networks to it, and a GPU rounds differently from a CPU."""

    dask: str = "local"
    """`local`, `off`, the address of a scheduler (tls://host:port; tcp:// on this machine), or `slurm` or `kubernetes`:
    a cluster that is started for the run."""
    cluster: ClusterConfig = ClusterConfig()
    """What `slurm` and `kubernetes` start."""
    allow_unencrypted: bool = False
    """Whether a scheduler on another machine may be spoken to without TLS. Dask runs whatever code reaches it: only in
    a network in which every machine is trusted."""
    workers: Count | None = None
    """Local Dask workers. Null: the processor's cores."""
    storage: str | None = None
    """s3://bucket/prefix or file:///path, where workers on other machines see what they need of the study; real scans
    stay here. Credentials are found in each machine's environment (infra/README.md). Null: workers share the study's
    folder."""
    device: str | None = None
    """`cpu`, `cuda` or `cuda:N`. Null: a GPU if there is one."""
    processes: Count | None = None
    """Processes that train a network together, each on its part of every batch. Null: one for each GPU."""

    @field_validator("dask")
    @classmethod
    def _is_known(cls, dask: str) -> str:
        if dask not in ("local", "off", *STARTED_CLUSTERS) and not re.fullmatch(r"(tcp|tls)://[^/@\s]+:\d+", dask):
            raise ValueError(f"must be local, off, tls://host:port, {' or '.join(STARTED_CLUSTERS)}, is {dask!r}")
        return dask

    @model_validator(mode="after")
    def _is_encrypted(self) -> "RuntimeConfig":
        if "://" in self.dask and not self.allow_unencrypted and not is_encrypted_or_here(self.dask):
            raise ValueError(
                f"dask must be tls://host:port on another machine, is {self.dask!r}: Dask runs whatever code reaches "
                "it; in a network in which every machine is trusted, set allow_unencrypted: true"
            )
        return self

    @field_validator("storage")
    @classmethod
    def _is_a_storage(cls, address: str | None) -> str | None:
        if address is not None and (fault := fault_of_storage(address)):
            raise ValueError(fault)
        return address


class Study(Config):
    """A study: one cohort of real scans, its models, its synthetic cohorts and releases."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]*$")]
    """Small letters, digits and hyphens; names the releases."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Seed of the split (for subjects that have no side yet) and of both trainings."""
    data: DataConfig
    """Real scans."""
    split: SplitConfig = SplitConfig()
    """Train, validation, sealed holdout."""
    plan: PlanConfig = PlanConfig()
    """Grid and budget."""
    train: TrainConfig = TrainConfig()
    """Models."""
    cohort: CohortConfig = CohortConfig()
    """Synthetic volumes wanted."""
    sampling: SamplingConfig = SamplingConfig()
    """Solver."""
    screen: ScreenConfig = ScreenConfig()
    """Filter."""
    audit: AuditConfig = AuditConfig()
    """Evidence and gates."""
    release: ReleaseConfig = ReleaseConfig()
    """Card."""
    runtime: RuntimeConfig = RuntimeConfig()
    """Machine."""


LOCAL_KEYS = {
    "data": {"images", "labels", "participants", "subject", "same_subject", "exclude"},
    "cohort": {"requests"},
    "audit": {"extractor_weights"},
    "release": {"signing_key"},
    "runtime": {"dask", "cluster", "storage"},
}
"""Settings that name files and folders of this machine, other machines, or subjects."""


def shareable_settings(study: Study) -> dict[str, Any]:
    """Settings as they may leave: without those that name files, folders or subjects."""
    return study.model_dump(mode="json", exclude=LOCAL_KEYS)


class _PlainLoader(yaml.SafeLoader):
    """Safe, and without aliases, by which a few lines become more nodes than any walk over them ends with."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("aliases (*name) are not taken; write the value out")
        return super().compose_node(parent, index)


def parse_yaml(raw: bytes | str) -> Any:
    """The content of a YAML file that a person wrote.

    Raises:
        yaml.YAMLError: it is none, is too large, too deep, or has aliases.
    """
    if len(raw) > MOST_YAML:
        raise yaml.YAMLError(f"must have at most {MOST_YAML} bytes, has {len(raw)}")
    try:
        return yaml.load(raw, _PlainLoader)
    except RecursionError as error:
        raise yaml.YAMLError("is nested too deeply") from error


def load_study(path: Path) -> Study:
    """Read study.yaml, or the one in a folder, and check everything.

    Raises:
        ConfigurationError: one line per fault that names the key, what it must be and what it is.
    """
    if path.is_dir():
        path = path / "study.yaml"
    if not path.exists():
        advice = "make one with `meddiff init`"
        raise ConfigurationError(f"study must be a study.yaml or its folder, {path} does not exist; {advice}")
    try:
        content = parse_yaml(path.read_bytes())
    except yaml.YAMLError as error:
        raise ConfigurationError(f"{path.name} must be YAML: {str(error).splitlines()[0]}") from error
    if not isinstance(content, dict):
        raise ConfigurationError(f"{path.name} must hold keys and values, holds {type(content).__name__}")
    try:
        return Study.model_validate(content)
    except ValidationError as error:
        raise ConfigurationError(describe_faults(error)) from error


def describe_faults(error: ValidationError, root: type[BaseModel] = Study) -> str:
    """One line per fault of a `root`: the key, what it must be, what it is."""
    return "\n".join(_describe(fault, root) for fault in error.errors())


OUTDATED_KEYS = {
    "sampling.candidates": "is called sampling.best_of now",
    "train.autoencoder.overlap_weight": "is called train.autoencoder.dice_weight now",
    "train.denoiser.ema_shares": "is called train.denoiser.ema_std now",
    "screen.tail": "is called screen.quantile now",
    "runtime.sharded": "does not exist any more, every process holds the whole network; where memory is short, set "
    "train.denoiser.gradient_checkpointing",
}
"""Keys of older studies, and what became of them."""


def _describe(fault: Any, root: type[BaseModel]) -> str:
    key = ".".join(str(part) for part in fault["loc"])
    if fault["type"] == "extra_forbidden" and root is Study and key in OUTDATED_KEYS:
        return f"{key}: {OUTDATED_KEYS[key]}"
    if fault["type"] == "extra_forbidden":
        return f"{key}: unknown key; {advise(str(fault['loc'][-1]), _keys_beside(fault['loc'], root))}"
    if fault["type"] == "missing":
        return f"{key}: must be given, is missing"
    message = re.sub(r"^(Value error, |Input )", "", fault["msg"]).replace("should", "must", 1)
    return f"{key}: {message}" if fault["type"] == "value_error" else f"{key}: {message}, is {fault['input']!r}"


def advise(name: str, known: Sequence[str], what: str = "keys") -> str:
    """Which of the known names was meant, or all of them if none is near."""
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.4)
    return f"did you mean {near[0]}?" if near else f"known {what}: {', '.join(known)}"


def _keys_beside(location: tuple[int | str, ...], root: type[BaseModel]) -> list[str]:
    model = root
    for part in location[:-1]:
        field = model.model_fields.get(str(part))
        if field is None:  # inside a list of gates
            continue
        possible = (field.annotation, *get_args(field.annotation))
        models = [kind for kind in possible if isinstance(kind, type) and issubclass(kind, BaseModel)]
        model = models[0] if models else model
    return list(model.model_fields)


def render_study(study: Study) -> str:
    """The study as YAML in which every key carries its documentation, for a person to edit."""
    lines = [
        "# A meddiff study. Null means: decided from the data and the hardware (see plan.json).",
        "# Check it with `meddiff plan`, run it with `meddiff run`; run again to continue.",
        "",
    ]
    _render(study, "", lines)
    return "\n".join(lines) + "\n"


def _render(config: BaseModel, indent: str, lines: list[str]) -> None:
    for name, field in type(config).model_fields.items():
        value = getattr(config, name)
        comment = " ".join((field.description or "").split())
        if isinstance(value, BaseModel):
            lines += [f"{indent}{name}:  # {comment}"]
            _render(value, indent + "  ", lines)
            continue
        if isinstance(value, list):
            value = [item.model_dump(exclude_none=True) if isinstance(item, BaseModel) else item for item in value]
        lines += [f"{indent}# {comment}", f"{indent}{name}: {_on_one_line(value)}"]


def _on_one_line(value: Any) -> str:
    flow: str = yaml.dump(
        value, Dumper=_Dumper, default_flow_style=True, sort_keys=False, width=sys.maxsize, allow_unicode=True
    )
    return flow.splitlines()[0]


class _Dumper(yaml.SafeDumper):
    """YAML breaks a text at its line breaks, unless it is in double quotes."""


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=None if text.isprintable() else '"')


_Dumper.add_representer(str, _represent_text)
