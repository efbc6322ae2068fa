"""A volume of a release can be regenerated from what the release says, and is distinguished from another one."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from meddiff_core.artefacts import digest_of
from meddiff_core.errors import ConfigurationError, IntegrityError
from meddiff_core.generation.engine import Engine, open_engine
from meddiff_core.generation.grain import BINS, CELLS, LADDER, Grain, save_grain
from meddiff_core.generation.schedule import SampleRequest
from meddiff_core.models.checkpoint import digest_checkpoint
from meddiff_core.models.inference.instructions import INSTRUCTIONS, bfloat16_instructions
from meddiff_core.release import reader
from meddiff_core.release import regenerate as regenerating
from meddiff_core.release.build import build_release
from meddiff_core.release.checks.parquet_bounds import parse_table
from meddiff_core.release.manifest import read_manifest
from meddiff_core.release.participants_table import NOISE, OLD_NOISE, with_batches, with_noises
from meddiff_core.release.regenerate import Regenerated, choose_few, regenerate, released_sampling
from meddiff_core.study import SamplingConfig

SAMPLING = SamplingConfig(guidance=1.0, steps=2, sigma_max=5.0, sigma_min=0.1, grain=False)
CONDITIONS = [
    {"age": 41.5, "sex": "F", "ventricles": 20000.0},
    {"age": None, "sex": "M", "ventricles": 9000.0},
    {"age": 60.0, "sex": None, "ventricles": 50000.0},
]


class Drawn:
    """What an engine drew, as a `Volumes` set."""

    def __init__(self, images: Any, labels: Any) -> None:
        self.images, self.labels = images, labels

    def __len__(self) -> int:
        return len(self.images)

    def image(self, index: int) -> Any:
        return self.images[index]

    def label(self, index: int) -> Any:
        return self.labels[index]


@pytest.fixture
def models(tmp_path: Path, make_content: Any, save_models: Callable[..., Path]) -> Path:
    return save_models(tmp_path / "models", make_content(size=(8, 8, 8)).contract)


@pytest.fixture
def release(tmp_path: Path, models: Path, make_content: Any, build: Any, request: pytest.FixtureRequest) -> Path:
    """Three volumes that the models drew, with gaps among their conditions, each the nearest of four."""
    sampling = getattr(request, "param", SAMPLING)
    engine = open_engine(models, "first", sampling, "cpu")
    samples = [SampleRequest(f"syn-{n}", n, 0, 2**62 + n, condition) for n, condition in enumerate(CONDITIONS)]
    table = pd.DataFrame({"sample_id": [s.sample_id for s in samples], "seed": [s.seed for s in samples]})
    content = make_content(size=(8, 8, 8))
    sampled = engine.sample_nearest(samples)
    assert any(sampled.kept)
    content = replace(
        content,
        volumes=Drawn(sampled.images, sampled.labels),
        table=with_noises(pd.concat([table, pd.DataFrame(CONDITIONS)], axis=1), sampled.kept),
        parents={name: digest_of(digest_checkpoint(models / name)) for name in ("autoencoder", "denoiser")},
        study={"sampling": sampling.model_dump(mode="json")},
        versions=content.versions | {INSTRUCTIONS: "avx512_bf16"},
    )
    return Path(build(content, tmp_path / "releases"))


def test_every_volume_comes_out_as_released(release: Path, models: Path) -> None:
    found = list(regenerate(release, ["syn-2", "syn-0", "syn-1"], models))
    assert [volume.sample for volume in found] == ["syn-2", "syn-0", "syn-1"]
    assert all(volume.equal and volume.alike for volume in found)
    assert found[0].describe() == "syn-2: every voxel is the released one"


@pytest.mark.skipif(bfloat16_instructions() is None, reason="no instructions for bfloat16")
@pytest.mark.parametrize("release", [SAMPLING.model_copy(update={"precision": "bfloat16"})], indirect=True)
def test_bfloat16_is_regenerated_by_its_own_kind_of_processor(
    release: Path, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert all(volume.equal for volume in regenerate(release, ["syn-1"], models))
    for kind, differs in (("avx512_bf16", False), ("amx_bf16", True)):
        monkeypatch.setattr(regenerating, "bfloat16_instructions", lambda kind=kind: kind)
        (volume,) = regenerate(release, ["syn-0"], models)
        assert ("avx512_bf16, and again with amx_bf16" in replace(volume, image_share=0.5).describe()) == differs
    monkeypatch.setattr(regenerating, "bfloat16_instructions", lambda: None)
    with pytest.raises(ConfigurationError, match=r"regenerated on a processor with avx512_bf16.* this one has no"):
        next(regenerate(release, ["syn-0"], models))


def change_table(monkeypatch: pytest.MonkeyPatch, change: Callable[[pd.DataFrame], pd.DataFrame]) -> None:
    """Let every reader of a release see another table."""
    monkeypatch.setattr(reader, "parse_table", lambda *given: change(parse_table(*given)))


def test_a_volume_is_sampled_in_the_batch_that_the_release_names(
    release: Path, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, sample = list[int | None](), Engine.sample

    def watched(engine: Engine, samples: Any, batch: int | None = None) -> Any:
        asked.append(batch)
        return sample(engine, samples, batch)

    monkeypatch.setattr(Engine, "sample", watched)
    assert next(regenerate(release, ["syn-1"], models)).equal
    change_table(monkeypatch, lambda table: with_batches(table, [8, 2, 8], usual=8))
    assert next(regenerate(release, ["syn-1"], models)).equal
    assert asked == [SAMPLING.batch, 2]


def test_the_noise_that_was_kept_is_made_again_and_no_other(
    release: Path, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    walked, solve = list[int](), Engine._solve

    def watched(engine: Engine, samples: Any, config: Any) -> Any:
        walked.append(len(samples))
        return solve(engine, samples, config)

    monkeypatch.setattr(Engine, "_solve", watched)
    kept = list(pd.read_parquet(release / "participants.parquet")[NOISE])
    names = [f"syn-{n}" for n in range(3)]
    assert all(volume.equal for volume in regenerate(release, names, models))
    assert walked == [1, 1, 1]
    change_table(monkeypatch, lambda table: table.assign(**{NOISE: [n + 1 for n in kept]}))
    assert not any(volume.alike for volume in regenerate(release, names, models))


def test_the_noise_has_another_name_in_older_releases(
    release: Path, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    change_table(monkeypatch, lambda table: table.rename(columns={NOISE: OLD_NOISE}))
    assert all(volume.equal for volume in regenerate(release, [f"syn-{n}" for n in range(3)], models))


def test_noises_are_named_only_where_another_than_the_first_was_kept() -> None:
    table = pd.DataFrame({"sample_id": ["a", "b"]})
    assert list(with_noises(table, [0, 0])) == ["sample_id"]
    assert list(with_noises(table, [0, 3])[NOISE]) == [0, 3]


def test_batches_are_named_only_where_memory_was_short() -> None:
    table = pd.DataFrame({"sample_id": ["a", "b"]})
    assert list(with_batches(table, [8, 8], 8)) == ["sample_id"]
    assert list(with_batches(table, [8, 4], 8)["sampling_batch"]) == [8, 4]


def test_a_volume_of_another_seed_or_condition_is_distinguished(
    release: Path, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for column, value in (("seed", 1), ("sex", "F")):
        change_table(monkeypatch, lambda table, column=column, value=value: table.assign(**{column: value}))
        found = next(regenerate(release, ["syn-1"], models))
        assert not found.equal, (column, found)
        assert not found.alike
        assert "of voxels differ, by up to" in found.describe()


def test_other_models_are_refused(
    release: Path, tmp_path: Path, make_content: Any, save_models: Callable[..., Path]
) -> None:
    other = save_models(tmp_path / "other", make_content(size=(8, 8, 8)).contract, seed=1)
    with pytest.raises(IntegrityError, match="autoencoder must be the one that the release was made from"):
        next(regenerate(release, ["syn-0"], other))
    with pytest.raises(ConfigurationError, match="autoencoder is not there"):
        next(regenerate(release, ["syn-0"], tmp_path))


def test_grain_is_made_again_and_another_grain_or_none_is_refused(
    release: Path, models: Path, make_content: Any, build: Any, tmp_path: Path
) -> None:
    contract, settings = make_content(size=(8, 8, 8)).contract, SAMPLING.model_copy(update={"grain": True})
    grain = Grain(np.full((CELLS,) * 3, 1e-3), np.ones((1 + len(contract.labels), BINS)), 0.1, LADDER)
    save_grain(models / "grain", grain)
    sampled = open_engine(models, "grained", settings, "cpu").sample_nearest(
        [SampleRequest("syn-0", 0, 0, 5, CONDITIONS[0])] * 3
    )
    plain = open_engine(models, "plain", SAMPLING, "cpu").sample([SampleRequest("syn-0", 0, 0, 5, CONDITIONS[0])])
    assert not np.array_equal(sampled.images[:1], plain[0])
    table = pd.DataFrame([{"sample_id": f"syn-{n}", "seed": 5, **CONDITIONS[0]} for n in range(3)])
    content = replace(
        make_content(size=(8, 8, 8)),
        volumes=Drawn(sampled.images, sampled.labels),
        table=with_noises(table, sampled.kept),
        parents={name: digest_of(digest_checkpoint(models / name)) for name in ("autoencoder", "denoiser", "grain")},
        study={"sampling": settings.model_dump(mode="json")},
    )
    grained = Path(build(content, tmp_path / "grained"))
    assert next(regenerate(grained, ["syn-1"], models)).equal
    save_grain(models / "grain", replace(grain, spread=0.2))
    with pytest.raises(IntegrityError, match="grain must be the one that the release was made from"):
        next(regenerate(grained, ["syn-1"], models))
    shutil.rmtree(models / "grain")
    with pytest.raises(ConfigurationError, match="grain is not there"):
        next(regenerate(grained, ["syn-1"], models))
    assert next(regenerate(release, ["syn-1"], models)).equal


@pytest.mark.parametrize(("before", "now"), [("absent", "classifier_free"), ("earlier", "autoguidance")])
def test_a_release_of_an_older_version_is_sampled_as_then(release: Path, before: str, now: str) -> None:
    manifest = read_manifest(release)
    sampling = manifest.study["sampling"] | {"guided_by": before, "candidates": 4}
    del sampling["best_of"], sampling["grain"]
    older = manifest.model_copy(update={"study": {"sampling": sampling}})
    assert released_sampling(older) == SAMPLING.model_copy(update={"guided_by": now, "best_of": 1})


@pytest.mark.parametrize(
    "study", [{}, {"sampling": 5}, {"sampling": {"steps": "many"}}, {"sampling": {"guided_by": []}}]
)
def test_settings_that_are_none_are_a_line_of_text(release: Path, study: dict[str, Any]) -> None:
    manifest = read_manifest(release).model_copy(update={"study": study})
    with pytest.raises(IntegrityError, match=r"manifest\.json: study\.sampling must be that of a study"):
        released_sampling(manifest)


def test_an_unknown_sample_is_refused_with_the_known_ones(release: Path, models: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"sample must be one of syn-0 to syn-2, is 'syn-9'"):
        next(regenerate(release, ["syn-9"], models))


def test_few_are_chosen_without_repeats_and_the_same_ones_each_time(release: Path) -> None:
    few = choose_few(release, 2)
    assert len(set(few)) == 2
    assert choose_few(release, 2) == few
    assert choose_few(release, 10) == ["syn-0", "syn-1", "syn-2"]


def test_what_cannot_be_proven_is_not_published(tmp_path: Path, make_content: Any, finish: Any) -> None:
    releases = tmp_path / "releases"
    with pytest.raises(IntegrityError, match="does not hold together: sampled otherwise"):
        finish(build_release(make_content(), releases, prove=lambda folder: [f"sampled otherwise: {folder.is_dir()}"]))
    assert not list(releases.glob("heads*"))


def test_rounding_is_forgiven_and_nothing_else() -> None:
    assert Regenerated("a", 0.5, 0.0005, 0.0).alike
    assert Regenerated("a", 0.0005, 0.4, 0.0005).alike
    assert not Regenerated("a", 0.5, 0.4, 0.0).alike
    assert not Regenerated("a", 0.0, 0.0, 0.01).alike
