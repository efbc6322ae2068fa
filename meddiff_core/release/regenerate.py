"""A volume of a release, sampled again from what the release says of it and the models that it names.

Whoever holds the models can so prove where a volume came from, and restore it when its bytes are lost. On the kind of
machine that sampled it every voxel is the same; another kind may round some of them the other way.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from meddiff_core.artefacts import digest_file, digest_of
from meddiff_core.contract import CategoricalCondition, Condition, ConditionSpec, ConditionValue
from meddiff_core.errors import ConfigurationError, IntegrityError
from meddiff_core.generation.best_of import request_with_noise
from meddiff_core.generation.engine import Engine, open_engine
from meddiff_core.generation.schedule import SampleRequest
from meddiff_core.models.checkpoint import digest_checkpoint
from meddiff_core.models.inference.instructions import INSTRUCTIONS, bfloat16_instructions
from meddiff_core.release.bounded import describe_error
from meddiff_core.release.manifest import MANIFEST, Manifest
from meddiff_core.release.ome import intensity_range, released_image
from meddiff_core.release.participants_table import BATCH, IDENTIFIER, NOISE, OLD_NOISE, TABLE
from meddiff_core.release.reader import Release
from meddiff_core.study import OUTDATED_GUIDANCE, SamplingConfig

MODELS = ("autoencoder", "denoiser")
FEW = 1e-3
"""Share of voxels, or of the range, that rounding may change. Another model changes nearly all."""


@dataclass(frozen=True)
class Regenerated:
    """How a volume that was sampled again compares with the released one."""

    sample: str
    image_share: float
    """Share of voxels whose intensity differs."""
    image_largest: float
    """Largest difference of an intensity, as a share of the released range."""
    label_share: float
    """Share of voxels whose label differs; 0 without label maps."""
    processors: tuple[str, str] | None = None
    """Instructions for bfloat16 that sampled it and those that sampled it again, where these are others."""

    @property
    def equal(self) -> bool:
        """Every voxel is the same."""
        return self.image_share == self.label_share == 0

    @property
    def alike(self) -> bool:
        """The same volume, up to what another kind of machine may round otherwise."""
        return min(self.image_share, self.image_largest) < FEW and self.label_share < FEW

    def describe(self) -> str:
        """One line for a person."""
        if self.equal:
            return f"{self.sample}: every voxel is the released one"
        off = f"{self.image_share:.2%} of voxels differ, by up to {self.image_largest:.2%} of the range"
        made, here = self.processors or ("", "")
        why = f"; sampled in bfloat16 with {made}, and again with {here}, which rounds otherwise" if made else ""
        return f"{self.sample}: {off}; {self.label_share:.2%} of labels differ{why}"


def regenerate(path: Path, samples: Sequence[str], models: Path, device: str = "cpu") -> Iterator[Regenerated]:
    """Sample volumes of the release at `path` again, one by one, with the models below `models`.

    Raises:
        ConfigurationError: the release has no such sample, or there are no models.
        IntegrityError: the models are not those that the release names, or it lacks what a sampling needs.
    """
    release = Release(path)
    rows = [_row(release.table, sample) for sample in samples]
    engine = _engine(release.manifest, models, device)
    wanted = ("seed", *(condition.name for condition in engine.contract.conditions))
    if lacking := [name for name in wanted if name not in release.table]:
        raise IntegrityError(f"{TABLE}: must have the seed and every condition of a volume, lacks {', '.join(lacking)}")
    for row in rows:
        yield _compare(release, row, engine)


def _row(table: pd.DataFrame, sample: str) -> int:
    known = list(table[IDENTIFIER])
    if sample not in known:
        raise ConfigurationError(f"sample must be one of {known[0]} to {known[-1]}, is {sample!r}")
    return known.index(sample)


def _engine(manifest: Manifest, models: Path, device: str) -> Engine:
    settings = released_sampling(manifest)
    names = (*MODELS, "grain") if settings.grain else MODELS
    for name in names:
        if not (models / name).is_dir():
            raise ConfigurationError(f"models must be a folder with {' and '.join(names)}, {name} is not there")
        if digest_of(digest_checkpoint(models / name)) != manifest.parents.get(name):
            raise IntegrityError(f"{name} must be the one that the release was made from, it is another")
    digest = digest_of([manifest.parents[name] for name in names])
    if settings.precision == "bfloat16":
        _require_instructions(manifest)
        device = "cpu"  # no other samples in it
    return open_engine(models, digest, settings, device)


def _require_instructions(manifest: Manifest) -> None:
    if bfloat16_instructions() is None:
        made = manifest.versions.get(INSTRUCTIONS, "instructions for it")
        raise ConfigurationError(
            f"release must be regenerated on a processor with {made}, with which it was sampled in bfloat16; this one "
            "has no instructions for that"
        )


def _other_processors(manifest: Manifest) -> tuple[str, str] | None:
    """Instructions that the release names and those in use here, if both are known and differ."""
    made, here = manifest.versions.get(INSTRUCTIONS), bfloat16_instructions()
    return (made, here) if made and here and made != here else None


def released_sampling(manifest: Manifest) -> SamplingConfig:
    """Settings with which a volume of a release is sampled again, also of one that an older version wrote.

    The release says which noise of its seed a volume is from, so no other is made.

    Raises:
        IntegrityError: the manifest holds no such settings.
    """
    try:
        older: dict[str, Any] = {"grain": False}  # which had none
        settings = older | dict(manifest.study["sampling"]) | {"best_of": 1}
        settings.pop("candidates", None)  # its older name
        if (guided_by := settings.get("guided_by")) in OUTDATED_GUIDANCE:
            settings["guided_by"] = OUTDATED_GUIDANCE[guided_by]
        return SamplingConfig.model_validate(settings)
    except (KeyError, TypeError, ValueError) as error:
        raise IntegrityError(f"{MANIFEST}: study.sampling must be that of a study: {describe_error(error)}") from error


def _compare(release: Release, row: int, engine: Engine) -> Regenerated:
    sample, seed = str(release.table[IDENTIFIER].iloc[row]), int(release.table["seed"].iloc[row])
    condition = _condition(release.table.iloc[row], engine.contract.conditions)
    batch = int(release.table[BATCH].iloc[row]) if BATCH in release.table else engine.config.batch
    noise = next((column for column in (NOISE, OLD_NOISE) if column in release.table), None)
    number = 0 if noise is None else int(release.table[noise].iloc[row])
    image, label = engine.sample([request_with_noise(SampleRequest(sample, 0, 0, seed, condition), number)], batch)
    low, high = intensity_range(engine.contract)
    apart = np.abs(released_image(image[0], engine.contract).T - release.image(row))
    known = release.label(row)
    return Regenerated(
        sample=sample,
        image_share=float((apart > 0).mean()),
        image_largest=float(apart.max() / (high - low)),
        label_share=0.0 if label is None or known is None else float((label[0] != known).mean()),
        processors=_other_processors(release.manifest),
    )


def _condition(row: "pd.Series[Any]", specs: Sequence[ConditionSpec]) -> Condition:
    return {spec.name: _value(row[spec.name], spec) for spec in specs}


def _value(cell: object, spec: ConditionSpec) -> ConditionValue:
    if pd.isna(cell):  # type: ignore[call-overload]  # its stub knows fewer types than the function
        return None
    return str(cell) if isinstance(spec, CategoricalCondition) else float(str(cell))


def choose_few(path: Path, count: int) -> list[str]:
    """A few samples of a release, the same ones each time: chosen by its own digest."""
    known = list(Release(path).table[IDENTIFIER])
    random = np.random.default_rng(int(digest_file(path / MANIFEST)[:16], 16))
    return [known[place] for place in sorted(random.choice(len(known), min(count, len(known)), replace=False))]
