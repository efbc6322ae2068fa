"""Two folders become what an audit compares: on one grid, with sides, and nothing lost or joined by mistake."""

from collections.abc import Callable, Sequence
from pathlib import Path

import nibabel
import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from meddiff_core.data.dataset import Dataset
from meddiff_core.errors import ConfigurationError, DataRefused
from meddiff_core.stages.external_audit import audit_sources
from meddiff_core.stages.external_sources import Compared, Sources, read_sources, validated
from meddiff_core.stages.making import Resources
from meddiff_core.study import AuditConfig, DataConfig, UtilityConfig

HERE = Resources("cpu")


def head(seed: int, side: int = 16) -> NDArray[np.int16]:
    """A bright ball with a texture of its own."""
    i, j, k = np.indices((side,) * 3) - (side - 1) / 2
    ball = (i**2 + j**2 + k**2) < (side / 2.6) ** 2
    own = ndimage.gaussian_filter(np.random.default_rng(seed).standard_normal(ball.shape), 1.5)
    return np.where(ball, 600 + 100 * own / own.std(), 0).astype(np.int16)


def write_scans(
    folder: Path,
    seeds: Sequence[int],
    spacing: float = 4.0,
    ages: bool = True,
    side: int = 16,
    change: Callable[[NDArray[np.int16]], NDArray[np.int16]] | None = None,
) -> Path:
    folder.mkdir(parents=True)
    for seed in seeds:
        affine, volume = np.diag([spacing, spacing, spacing, 1]), head(seed, side)
        shown = volume if change is None else change(volume)
        nibabel.save(nibabel.Nifti1Image(shown, affine), folder / f"s{seed:03}.nii.gz")
    table = {"subject": [f"s{seed:03}" for seed in seeds], "image": [f"s{seed:03}.nii.gz" for seed in seeds]}
    rows = pd.DataFrame(table | ({"age": [30.0 + seed % 40 for seed in seeds]} if ages else {}))
    rows.to_csv(folder / "scans.csv", index=False)
    return folder / "scans.csv"


@pytest.fixture
def read(tmp_path: Path, finish: Callable[..., Compared]) -> Callable[[Sources], Compared]:
    return lambda sources: finish(read_sources(sources, tmp_path / "out", 0, HERE))


def subjects_of(dataset: Dataset) -> dict[str, list[str]]:
    return {side: dataset.subjects(side) for side in ("train", "validation", "holdout")}


def test_who_was_trained_on_is_the_train_side_and_nobody_else(tmp_path: Path, read: Callable) -> None:
    real, train = write_scans(tmp_path / "a", range(30)), write_scans(tmp_path / "c", range(100, 112))
    found = read(Sources(real, write_scans(tmp_path / "b", range(200, 210)), train))
    sides = subjects_of(found.real)
    assert {name.split("/")[0] for name in sides["train"]} == {"train"}
    assert len(sides["train"]) == 12
    assert {name.split("/")[0] for name in sides["validation"] + sides["holdout"]} == {"real"}
    assert len(sides["holdout"]) > len(sides["validation"]) >= 8
    assert [one.name for one in found.real.contract.conditions] == ["age"]


def test_two_sites_may_both_have_a_first_subject(tmp_path: Path, read: Callable) -> None:
    """Names are told apart; a scan that is in both is one that was trained on."""
    real, train = write_scans(tmp_path / "a", range(24)), write_scans(tmp_path / "c", range(12, 30))
    found = read(Sources(real, write_scans(tmp_path / "b", range(200, 210)), train))
    assert len(found.real.subjects("train")) == 18
    assert len(found.real.subjects(None)) == 30  # 12 scans of both are counted once
    assert sum("is the same scan as" in refusal.reason for refusal in found.refused) == 12


def test_identical_synthetic_volumes_are_a_finding_and_stay(tmp_path: Path, read: Callable) -> None:
    cohort = write_scans(tmp_path / "b", range(200, 204))
    for number in range(4):
        (tmp_path / f"b/copy{number}.nii.gz").write_bytes((tmp_path / "b/s200.nii.gz").read_bytes())
    rows = pd.read_csv(cohort)
    more = pd.DataFrame({"subject": [f"c{n}" for n in range(4)], "image": [f"copy{n}.nii.gz" for n in range(4)]})
    pd.concat([rows, more.assign(age=50.0)]).to_csv(cohort, index=False)
    found = read(Sources(write_scans(tmp_path / "a", range(30)), cohort))
    assert len(found.synthetic.subjects(None)) == 8
    assert not found.refused


def test_the_coarser_side_sets_the_grid(tmp_path: Path, read: Callable) -> None:
    real = write_scans(tmp_path / "a", range(20), spacing=4.0)
    coarse = write_scans(tmp_path / "b", range(200, 208), spacing=8.0, side=8)
    assert read(Sources(real, coarse)).real.contract.spacing_mm == (8, 8, 8)
    assert read(Sources(real, coarse, spacing_mm=6)).real.contract.spacing_mm == (6, 6, 6)


def test_only_covariates_that_all_have_are_compared(tmp_path: Path, read: Callable) -> None:
    real = write_scans(tmp_path / "a", range(20))
    found = read(Sources(real, write_scans(tmp_path / "b", range(200, 208), ages=False)))
    assert found.real.contract.conditions == ()


def test_what_is_wrong_is_said_of_the_source_that_it_is_in(tmp_path: Path, read: Callable) -> None:
    real = write_scans(tmp_path / "a", range(20))
    with pytest.raises(ConfigurationError, match=r"--synthetic .* does not exist"):
        read(Sources(real, tmp_path / "nowhere"))
    outside = tmp_path / "b/scans.csv"
    outside.parent.mkdir()
    outside.write_text("subject,image\nx,../a/s000.nii.gz\n")
    with pytest.raises(DataRefused, match="--synthetic"):
        read(Sources(real, outside))
    with pytest.raises(ConfigurationError, match="label_groups"):
        read(Sources(real, real, groups={"a": [1], "b": [1]}))


def test_settings_are_refused_in_words() -> None:
    with pytest.raises(ConfigurationError, match="preset"):
        validated(AuditConfig, {"preset": "loose"})
    assert validated(DataConfig, {"images": "x"}).images == "x"


def test_a_study_is_not_written_over(tmp_path: Path, finish: Callable) -> None:
    (tmp_path / "study.yaml").write_text("name: a")
    with pytest.raises(ConfigurationError, match="must not be a study"):
        finish(audit_sources(Sources(tmp_path, tmp_path), tmp_path, AuditConfig(), 0, HERE))


def blurred(volume: NDArray[np.int16]) -> NDArray[np.int16]:
    return np.asarray(ndimage.gaussian_filter(volume.astype(np.float32), 1.0).astype(np.int16))


def of_another_site(volume: NDArray[np.int16]) -> NDArray[np.int16]:
    return np.where(volume > 0, (volume / volume.max()) ** 3 * 900 + 50, 0).astype(np.int16)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("seeds", "change", "copies"),
    [
        pytest.param(range(100, 140), None, True, id="real scans given as synthetic"),
        pytest.param(range(100, 140), blurred, True, id="the training scans, blurred", marks=pytest.mark.long),
        pytest.param(range(200, 240), of_another_site, False, id="scans of another site", marks=pytest.mark.long),
    ],
)
def test_three_made_cohorts_are_told_apart(
    tmp_path: Path, finish: Callable, seeds: range, change: Callable | None, copies: bool
) -> None:
    real, train = write_scans(tmp_path / "a", range(40)), write_scans(tmp_path / "c", range(100, 140))
    sources = Sources(real, write_scans(tmp_path / "b", seeds, change=change), train)
    config = AuditConfig(repeats=50, utility=UtilityConfig(effort="none"))
    found = finish(audit_sources(sources, tmp_path / "out", config, 0, HERE))
    gates = {gate.metric: gate for gate in found.audit.gates}
    values = {metric.name: metric.value for metric in found.audit.metrics}
    assert (len(found.audit.flagged) > 5) is copies
    assert gates["copies_excess"].passed is not copies
    assert (values["membership_release_auc"] > 0.8) is copies
    assert (values["frechet_ratio:radiomics"] > 2) is (change is not None)
    # percentiles stretch what a blur flattens
    assert (values["effect:sharpness"] > (0.3 if change is blurred else 0.5)) is (change is not None)
    assert "accepted_share" not in gates
    page = found.report.read_text()
    assert "Contains patient data" in page
    assert "Not measured, since it takes" in page
