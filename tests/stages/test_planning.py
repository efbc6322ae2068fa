"""The planner takes whatever contract is inferred, and never times a step on volumes that a CPU is slow with."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meddiff_core.contract import Contract
from meddiff_core.data.contract_inference import infer_contract
from meddiff_core.data.fingerprint import CaseFingerprint, Fingerprint
from meddiff_core.diffusion import sizing
from meddiff_core.diffusion.sizing import MOST_LATENTS_MEASURED, MOST_MEASURED, Cost, Way, infer_plan
from meddiff_core.models.autoencoder import AutoencoderShape
from meddiff_core.models.plan import Plan
from meddiff_core.stages.describe import describe_contract
from meddiff_core.study import Study

MEMORY_GB = 8.0


def study_of(**plan: Any) -> Study:
    content = {"name": "any", "data": {"images": "scans"}, "plan": {"memory_gb": MEMORY_GB, **plan}}
    return Study.model_validate(content)


def scans_of(extent_mm: tuple[float, ...], spacing_mm: tuple[float, ...], modality: str, labels: int) -> Fingerprint:
    """Twelve scans of one size whose subjects differ in age and sex."""
    cases = [
        CaseFingerprint.model_construct(
            subject=f"s{number}",
            extent_mm=extent_mm,
            spacing_mm=spacing_mm,
            modality=modality,
            integer=True,
            bits=12,
            percentiles=(0.0, 300.0, 900.0),
            label_values=dict.fromkeys(range(1, labels + 1), 100),
            covariates={"age": 30.0 + number, "sex": "MF"[number % 2]},
        )
        for number in range(12)
    ]
    kinds = {"age": "continuous", "sex": "categorical"}
    return Fingerprint.model_construct(cases=tuple(cases), refused=(), notes=(), kinds=kinds)


@contextmanager
def measuring(voxels_that_fit: float) -> Iterator[None]:
    """No network is built or timed: a step fits the memory up to so many voxels, or in its smallest way."""

    def cost(fits: bool) -> Cost:
        return Cost(0.01, 1.0, MEMORY_GB if fits else math.inf)

    def autoencoder(shape: AutoencoderShape, contract: Contract, study: Study, way: Way, device: str) -> Cost:
        smallest = sizing._autoencoder_ways(shape, contract, study, device)[-1]
        return cost(way == smallest or way.batch * math.prod(way.patch or contract.size) <= voxels_that_fit)

    def denoiser(_shape: Any, _contract: Any, size: Any, _study: Any, way: Way, _device: str) -> Cost:
        return cost(way == Way(1, True) or way.batch * math.prod(size) <= voxels_that_fit)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sizing, "_autoencoder_cost", autoencoder)
        patch.setattr(sizing, "_denoiser_cost", denoiser)
        yield


@settings(max_examples=80, deadline=None)
@given(
    extent=st.tuples(*[st.floats(20.0, 500.0)] * 3),
    fine=st.floats(0.3, 4.0),
    ratio=st.sampled_from([1.0, 1.5, 6.0, 12.0]),
    axis=st.integers(0, 2),
    spacing=st.sampled_from([None, 1, 2.5, [1, 1, 6]]),
    factor=st.sampled_from([None, 2, 4, 8]),
    modality=st.sampled_from(["MR", "CT"]),
    labels=st.integers(0, 3),
    device=st.sampled_from(["cpu", "cuda:0"]),
    voxels_that_fit=st.sampled_from([1e5, 1e7, 1e12]),
)
def test_every_inferred_contract_is_accepted_by_the_planner(
    finish: Callable[..., Plan],
    extent: Any,
    fine: float,
    ratio: float,
    axis: int,
    spacing: Any,
    factor: Any,
    modality: str,
    labels: int,
    device: str,
    voxels_that_fit: float,
) -> None:
    lengths = [fine] * 3
    lengths[axis] *= ratio
    study = study_of(spacing_mm=spacing, latent_factor=factor)
    contract, reasons = infer_contract(scans_of(extent, tuple(lengths), modality, labels), study, device)

    with measuring(voxels_that_fit):
        plan = finish(infer_plan(contract, reasons, study, 12, device))
    assert plan.contract == contract
    factors = plan.autoencoder.downsampling
    assert tuple(a * b for a, b in zip(plan.latent_size, factors, strict=True)) == contract.size
    if patch := plan.autoencoder_training.patch:
        assert all(side % step == 0 for side, step in zip(patch, factors, strict=True))
        assert all(side <= whole for side, whole in zip(patch, contract.size, strict=True))
    assert Plan.model_validate_json(plan.model_dump_json()) == plan
    assert {"spacing_mm", "size", "intensity", "autoencoder_training", "denoiser_training"} <= plan.reasons.keys()


@pytest.mark.parametrize("fits", [lambda way: True, lambda way: way.patch or way == Way(1, True)])
def test_a_plan_for_a_large_volume_times_steps_on_parts_of_it_alone(
    finish: Callable[..., Plan], monkeypatch: pytest.MonkeyPatch, fits: Callable[[Way], bool]
) -> None:
    built: dict[str, list[int]] = {"autoencoder": [], "denoiser": []}

    def autoencoder(_shape: Any, contract: Contract, _study: Study, way: Way, _device: str) -> Way:
        built["autoencoder"] += [math.prod(contract.size), math.prod(way.patch or contract.size)]
        return way

    def denoiser(_shape: Any, _contract: Contract, size: Any, _study: Study, way: Way, _device: str) -> Way:
        built["denoiser"].append(math.prod(size))
        return way

    monkeypatch.setattr(sizing, "_autoencoder_probe", autoencoder)
    monkeypatch.setattr(sizing, "_denoiser_probe", denoiser)
    monkeypatch.setattr(sizing, "_measure", lambda way: Cost(0.01, 1.0, 0.001 if fits(way) else 1e9))
    study = study_of(size=[160, 192, 160], spacing_mm=1)
    contract, reasons = infer_contract(scans_of((158.0, 190.0, 158.0), (1.0,) * 3, "MR", 2), study, "cpu")
    plan = finish(infer_plan(contract, reasons, study, 100, "cpu"))
    assert plan.contract.size == (160, 192, 160)
    assert max(built["autoencoder"]) <= MOST_MEASURED
    assert max(built["denoiser"]) <= MOST_LATENTS_MEASURED
    assert sum(map(len, built.values())) < 20
    assert "on a part of a volume" in plan.reasons["autoencoder_training"]


def test_a_plan_that_masks_nothing_says_that_faces_stay() -> None:
    contract, reasons = infer_contract(scans_of((158.0, 190.0, 158.0), (1.0,) * 3, "MR", 2), study_of(), "cpu")
    (line,) = (text for text in describe_contract(contract, reasons) if text.startswith("mask"))
    assert "Faces are not removed: heads that have theirs keep them" in line
