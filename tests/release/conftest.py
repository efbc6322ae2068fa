"""Synthetic heads, made by formulas, and the content of a release of them."""

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import ndimage

from meddiff_core.contract import CategoricalCondition, ContinuousCondition, Contract, IntensityMapping
from meddiff_core.evidence.aggregates import Histogram
from meddiff_core.evidence.gates import GateResult
from meddiff_core.evidence.intervals import Estimate
from meddiff_core.evidence.metrics import Metric, metric_of
from meddiff_core.evidence.registry import spec_of
from meddiff_core.release.build import build_release
from meddiff_core.release.content import Counts, ReleaseContent
from meddiff_core.release.manifest import list_files


class Heads:
    """Ellipsoids in ellipsoids: a volume is a pure function of its index."""

    def __init__(self, count: int, size: tuple[int, int, int], labelled: bool = True) -> None:
        self.count, self.size, self.labelled = count, size, labelled

    def __len__(self) -> int:
        return self.count

    def label(self, index: int) -> Any:
        if not self.labelled:
            return None
        rng = np.random.default_rng(index)
        wobble = ndimage.gaussian_filter(rng.standard_normal(self.size), min(self.size) / 12)
        wobble *= 0.05 / wobble.std()
        i, j, k = np.meshgrid(*(np.linspace(-1, 1, size) for size in self.size), indexing="ij")
        wide = 0.07 + 0.06 * rng.random()
        brain = np.sqrt((i / 0.8) ** 2 + (j / 0.9) ** 2 + (k / 0.8) ** 2) + wobble
        side = np.sqrt(
            ((np.abs(i) - 0.2) / wide) ** 2 + ((j + 0.05) / (4.2 * wide)) ** 2 + ((k - 0.1) / (2 * wide)) ** 2
        )
        core = np.sqrt((i / 0.5) ** 2 + (j / 0.6) ** 2 + ((k - 0.05) / 0.5) ** 2) + 2.4 * wobble
        return np.select([side < 1, core < 1, brain < 1], [3, 2, 1], 0).astype(np.uint8)

    def image(self, index: int) -> Any:
        label = Heads(self.count, self.size).label(index)
        rng = np.random.default_rng(index + 10_000)
        tissue = np.array([0, 0.55, 0.85, 0.18])[label]
        grain = ndimage.gaussian_filter(rng.standard_normal(self.size), 0.8) * 0.09
        smooth = ndimage.gaussian_filter(tissue, 0.6) + grain * (label > 0)
        return np.rint(np.clip(smooth, 0, 1) * 255).astype(np.uint8)


def contract_of(size: tuple[int, int, int], modality: str = "MR", labelled: bool = True) -> Contract:
    percentiles = (0.5, 99.5) if modality == "MR" else None
    low, high = (12.0, 830.0) if modality == "MR" else (-1000.0, 1000.0)
    return Contract(
        spacing_mm=4.0,
        size=size,
        intensity=IntensityMapping(modality=modality, low=low, high=high, percentiles=percentiles),  # type: ignore[arg-type]
        mask="label",
        labels={"cortex": (100, 101), "white_matter": (81,), "ventricles": (4, 11)} if labelled else {},
        conditions=(
            ContinuousCondition(name="age", low=20.3137, high=82.7139, mean=48.1391, std=16.9),
            CategoricalCondition(name="sex", categories=("F", "M")),
            ContinuousCondition(
                name="ventricles", low=7000.1379, high=70000.9371, mean=23000.1397, std=9000, group="ventricles"
            ),
        )
        if labelled
        else (),
    )


def table_of(heads: Heads, contract: Contract) -> pd.DataFrame:
    rng, count = np.random.default_rng(7), len(heads)
    table = pd.DataFrame({"sample_id": [f"head-{n:06d}" for n in range(count)], "seed": rng.integers(0, 2**31, count)})
    if heads.labelled:
        counts = np.array([np.bincount(heads.label(index).ravel(), minlength=4) for index in range(count)])
        volumes = counts * contract.voxel_mm3
        asked = (volumes[:, 3] * rng.normal(1, 0.08, count)).round(1)
        table["age"] = rng.uniform(20, 80, count).round(1)
        table["sex"] = rng.choice(["F", "M"], count)
        table["ventricles"] = asked
        table["measured_ventricles"], table["cortex_mm3"] = volumes[:, 3], volumes[:, 1]
    return table


def metric(name: str, value: float, width: float, reference: float | None, explanation: str) -> Metric:
    spec = spec_of(name)
    assert spec is not None
    estimate = Estimate(value, value - width, value + width, 120)
    return metric_of(spec, estimate, explanation, name.removeprefix(spec.name).removeprefix(":"), reference)


def metrics() -> tuple[Metric, ...]:
    return (
        metric(
            "copies_excess",
            0.008,
            0.007,
            0.011,
            "Share of volumes nearer to a training scan than all but 1% of held-out scans are.",
        ),
        metric(
            "membership_auc:denoiser",
            0.514,
            0.031,
            0.5,
            "How well an attacker with the weights distinguishes training scans from unseen ones; 0.5 is chance.",
        ),
        metric(
            "copy_power",
            0.972,
            0.021,
            None,
            "Share of altered copies, planted on purpose, that the detector found.",
        ),
        metric(
            "ms_ssim",
            0.71,
            0.05,
            0.503,
            "Mean similarity of two synthetic volumes.",
        ),
        metric("coverage:latents", 0.81, 0.06, 0.97, "Share of real scans with a synthetic neighbour."),
        metric(
            "tstr:segmentation",
            0.842,
            0.018,
            0.871,
            "Dice on held-out real scans of a network trained on synthetic volumes only.",
        ),
    )


def gates(**limits: float) -> tuple[GateResult, ...]:
    chosen = {
        "copies_excess": 0.05,
        "membership_auc:denoiser": 0.6,
        "copy_power": 0.9,
        "coverage:latents": 0.6,
    } | limits
    known = {metric.name: metric for metric in metrics()}
    return tuple(gate(known[name], limit) for name, limit in chosen.items())


def gate(metric: Metric, limit: float) -> GateResult:
    upper = metric.spec.better == "lower"
    bound = metric.high if upper else metric.low
    passed = bound <= limit if upper else bound >= limit
    return GateResult(
        metric=metric.name,
        value=metric.value,
        bound=bound,
        threshold=limit,
        direction="max" if upper else "min",
        passed=passed,
        verdict="pass" if passed else "block",
        n=metric.n,
    )


def content_of(
    count: int = 3,
    size: tuple[int, int, int] = (16, 20, 18),
    modality: str = "MR",
    labelled: bool = True,
    **changes: Any,
) -> ReleaseContent:
    heads, contract = Heads(count, size, labelled), contract_of(size, modality, labelled)
    content = ReleaseContent(
        title="Synthetic heads",
        name="heads",
        version="1.0.0",
        licence="CC BY 4.0",
        contact="data@example.org",
        source="Head scans of healthy adults from one public collection.",
        contract=contract,
        volumes=heads,
        table=table_of(heads, contract),
        gates=gates(),
        metrics=metrics(),
        histograms=(
            Histogram(
                name="age",
                unit="years",
                edges=(30, 40, 50, 60, 70),
                real=(0.2, 0.2, 0.15, 0.15, 0.2, 0.1),
                synthetic=(0.15, 0.2, 0.2, 0.18, 0.17, 0.1),
            ),
            Histogram(
                name="volume of ventricles",
                unit="mm3",
                edges=(12_000, 18_000, 24_000, 36_000),
                real=(0.2, 0.3, 0.25, 0.15, 0.1),
                synthetic=(0.15, 0.32, 0.25, 0.2, 0.08),
            ),
        ),
        methods=(
            "Scans were conformed to 4 mm isotropic voxels, split by subject, and masked to the brain.",
            "An autoencoder with a patch discriminator and a latent diffusion model were trained on the training side.",
            "Volumes were sampled with Heun's method over 18 noise levels and screened one by one.",
        ),
        parents={"dataset": "3b" * 32, "autoencoder": "7c" * 32, "denoiser": "e1" * 32, "candidates": "0d" * 32},
        study={
            "sampling": {"steps": 18, "guidance": 1.0, "rho": 7.0},
            "cohort": {"size": count, "seed": 0, "like": "train"},
            "audit": {"preset": "research", "gates": []},
        },
        versions={"meddiff": "1.0.0", "monai": "1.6.1", "torch": "2.13.0", "zarr": "3.1.6"},
        preset="research",
        counts=Counts(
            candidates=count + 60,
            accepted=count,
            rejected={"condition_missed": 31, "outside_reference": 17, "suspected_copy": 4, "broken_structure": 11},
            flagged=4,
        ),
    )
    return replace(content, **changes)


@pytest.fixture
def content() -> ReleaseContent:
    return content_of()


@pytest.fixture(scope="session")
def make_content() -> Any:
    return content_of


@pytest.fixture
def build(finish: Any) -> Any:
    return lambda content, releases, identifiers=(), signer=None: finish(
        build_release(content, releases, identifiers, signer=signer)
    )


@pytest.fixture(scope="session")
def reseal() -> Any:
    """(folder) hashes every file again: what somebody does who edits one and wants the manifest to agree."""

    def seal(folder: Path) -> None:
        manifest = json.loads((folder / "manifest.json").read_text())
        manifest["files"] = {name: asdict(entry) for name, entry in list_files(folder).items()}
        (folder / "manifest.json").write_text(json.dumps(manifest))

    return seal


@pytest.fixture(scope="session")
def released(tmp_path_factory: pytest.TempPathFactory, finish: Any) -> Path:
    """A release of three small heads. Read it only."""
    return finish(build_release(content_of(), tmp_path_factory.mktemp("releases")))  # type: ignore[no-any-return]
