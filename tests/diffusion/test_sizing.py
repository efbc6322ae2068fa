"""The plan obeys what the study gives, and refuses what cannot work by the key to change."""

import math
from collections.abc import Callable
from typing import Any

import pytest

from meddiff_core.contract import Contract
from meddiff_core.diffusion import sizing
from meddiff_core.diffusion.sizing import (
    FEWEST_VARIANTS,
    LATENTS_GB,
    MOST_VARIANTS,
    Cost,
    augmented_variants,
    infer_plan,
)
from meddiff_core.errors import ConfigurationError
from meddiff_core.models.autoencoder import AutoencoderShape
from meddiff_core.models.plan import Plan
from meddiff_core.study import Study

SMALL: dict[str, Any] = {
    "train.autoencoder.channels": [8, 8, 8],
    "train.denoiser.channels": [32, 32],
    "train.denoiser.batch": 2,
}


@pytest.fixture
def infer(contract: Contract, finish: Callable[..., Plan]) -> Callable[..., Plan]:
    """The plan of a study with small networks, with changes by key."""

    def run(changes: dict[str, Any] | None = None, contract: Contract = contract, cases: int = 10) -> Plan:
        content: dict[str, Any] = {"name": "knees", "data": {"images": "scans"}}
        for key, value in (SMALL | (changes or {})).items():
            *sections, last = key.split(".")
            section = content
            for name in sections:
                section = section.setdefault(name, {})
            section[last] = value
        return finish(infer_plan(contract, {"size": "because"}, Study.model_validate(content), cases, "cpu"))

    return run


def test_what_the_study_gives_is_obeyed(infer: Callable[..., Plan], contract: Contract) -> None:
    plan = infer(
        {
            "train.autoencoder.steps": 7,
            "train.autoencoder.batch": 1,
            "train.autoencoder.latent_channels": 3,
            "train.denoiser.steps": 9,
            "train.denoiser.batch": 3,
        }
    )
    assert (plan.autoencoder_training.steps, plan.autoencoder_training.batch) == (7, 1)
    assert (plan.denoiser_training.steps, plan.denoiser_training.batch) == (9, 3)
    assert (plan.autoencoder.channels, plan.denoiser.channels) == ((8, 8, 8), (32, 32))
    assert plan.autoencoder.in_channels == contract.channels
    assert plan.autoencoder.latent_channels == plan.denoiser.latent_channels == 3
    assert plan.contract == contract


def test_what_was_measured_is_in_the_plan_with_its_reason(infer: Callable[..., Plan]) -> None:
    plan = infer({"train.autoencoder.steps": 7})
    for training in (plan.autoencoder_training, plan.denoiser_training):
        assert training.seconds_per_step > 0
        assert 0.0 < training.memory_gb < 1
    assert plan.reasons["size"] == "because"
    assert plan.reasons["autoencoder_training"].startswith("7 steps: given by the study")
    assert "what fits the budget of 60 minutes" in plan.reasons["denoiser_training"]


@pytest.mark.parametrize(
    ("minutes", "cases", "steps"),
    [(1.0, 10_000, (330, 270)), (1e9, 10, (1500 * 10 // 2, 1500 * 10 // 2)), (1e-6, 10, (20, 20))],
)
def test_steps_fit_the_budget_but_do_not_learn_by_heart(
    infer: Callable[..., Plan], monkeypatch: pytest.MonkeyPatch, minutes: float, cases: int, steps: tuple[int, int]
) -> None:
    """At a tenth of a second a step: 55% of a minute, 1500 epochs, and never fewer than 20 steps."""
    monkeypatch.setattr(sizing, "_measure", lambda training: Cost(0.1, 0.0, 0.0))
    plan = infer({"plan.budget_minutes": minutes}, cases=cases)
    assert (plan.autoencoder_training.steps, plan.denoiser_training.steps) == pytest.approx(steps, abs=1)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        (
            "train.autoencoder.channels",
            [8, 8],
            r"train\.autoencoder\.channels: must be 3 multiples of 8 for a latent factor of 4, is \[8, 8\]",
        ),
        ("train.autoencoder.channels", [8, 8, 12], r"train\.autoencoder\.channels: must be .*, is \[8, 8, 12\]"),
        ("plan.latent_factor", 2, r"train\.autoencoder\.channels: must be 2 multiples of 8 for a latent factor of 2"),
        ("train.denoiser.channels", [48], r"train\.denoiser\.channels: must be multiples of 32, .*, is \[48\]"),
        ("train.denoiser.channels", [32, 32, 32, 32], r"train\.denoiser\.channels: .* latents of \[4, 4, 4\]"),
        ("plan.memory_gb", 1e-6, r"plan\.memory_gb: training must fit 0\.0 GB, it does not; raise plan\.spacing_mm"),
    ],
)
def test_what_cannot_work_is_refused_by_its_key(infer: Callable[..., Plan], key: str, value: Any, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        infer({key: value})


def test_a_size_that_networks_cannot_halve_is_refused(
    infer: Callable[..., Plan], make_contract: Callable[..., Contract]
) -> None:
    with pytest.raises(
        ConfigurationError, match=r"plan\.size: must be multiples of 8 along each axis, is \[16, 20, 16\]"
    ):
        infer(contract=make_contract(size=(16, 20, 16)))


@pytest.mark.parametrize(
    ("size", "spacing", "latents"), [((8, 16, 16), 2.0, (4, 4, 4)), ((32, 32, 12), (1.0, 1.0, 6.0), (8, 8, 12))]
)
def test_short_and_thick_axes_have_a_plan(
    infer: Callable[..., Plan], make_contract: Callable[..., Contract], size: Any, spacing: Any, latents: Any
) -> None:
    plan = infer(contract=make_contract(size=size, spacing_mm=spacing))
    assert plan.latent_size == latents
    assert "coarser by" in plan.reasons["autoencoder"]
    assert plan.autoencoder_training.seconds_per_step > 0


def test_a_training_with_an_imagenet_network_has_a_plan(infer: Callable[..., Plan]) -> None:
    pytest.importorskip("efficientnet_lite_pytorch")
    plan = infer({"train.autoencoder.perceptual": "imagenet"})
    assert plan.autoencoder_training.seconds_per_step > 0


def test_a_study_without_labels_or_conditions_has_a_plan(
    infer: Callable[..., Plan], make_contract: Callable[..., Contract]
) -> None:
    plan = infer(contract=make_contract(labels={}, conditions=()))
    assert plan.autoencoder.in_channels == 1


def test_the_latent_factor_decides_the_levels(
    infer: Callable[..., Plan], make_contract: Callable[..., Contract], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sizing, "_measure", lambda training: Cost(0.1, 0.0, 0.0))
    plan = infer({"plan.latent_factor": 2, "train.autoencoder.channels": None}, make_contract(size=(8, 8, 8)))
    assert plan.autoencoder.channels == (16, 32)
    assert plan.latent_size == (4, 4, 4)


def test_time_beside_the_steps_comes_out_of_the_budget(
    infer: Callable[..., Plan], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sizing, "_measure", lambda training: Cost(0.1, 3.0, 0.0))
    plan = infer({"plan.budget_minutes": 1}, cases=10_000)
    assert plan.autoencoder_training.steps == pytest.approx(300, abs=1)
    assert plan.autoencoder_training.minutes == pytest.approx(0.55, abs=0.01)


def test_a_short_training_is_not_spent_on_samples_to_score(
    infer: Callable[..., Plan], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sizing, "_measure", lambda training: Cost(0.1, 10.0, 0.0))
    short, long = (infer({"plan.budget_minutes": minutes}, cases=10_000) for minutes in (1, 10))
    given = infer({"plan.budget_minutes": 1, "train.denoiser.steps": 50})
    assert (short.denoiser_training.scored, short.denoiser_training.steps) == (False, pytest.approx(270, abs=1))
    assert long.denoiser_training.scored
    assert given.denoiser_training.scored


def test_a_private_training_is_measured_as_one_and_scores_no_samples(
    infer: Callable[..., Plan], monkeypatch: pytest.MonkeyPatch
) -> None:
    def measured(training: Any) -> Cost:
        private = getattr(training, "mechanism", None) is not None
        return Cost(0.2 if private else 0.1, 0.0 if private else 10.0, 0.0)

    monkeypatch.setattr(sizing, "_measure", measured)
    private = {"train.denoiser.privacy": {"epsilon": 8, "delta": 1e-3}, "train.denoiser.uncertainty_weighting": False}
    plan = infer({**private, "plan.budget_minutes": 10}, cases=10_000).denoiser_training
    assert (plan.private, plan.scored, plan.steps) == (True, False, 1350)


def cost_of(training: Any) -> Cost:
    """A GB for each thousand voxels of a batch, half of it with activations computed again."""
    size = getattr(training, "size", (10, 10, 10))
    needed = training.batch * size[0] * size[1] * size[2] / 1000
    return Cost(0.1, 0.0, needed / 2 if training.config.gradient_checkpointing else needed)


@pytest.mark.parametrize(
    ("memory_gb", "batch", "checkpointing", "patch"),
    [
        (70.0, 2, False, None),
        (60.0, 2, True, None),
        (20.0, 1, True, None),
        (3.0, 1, True, (16, 16, 16)),
    ],
)
def test_a_training_is_made_smaller_until_it_fits(
    infer: Callable[..., Plan],
    make_contract: Callable[..., Contract],
    monkeypatch: pytest.MonkeyPatch,
    memory_gb: float,
    batch: int,
    checkpointing: bool,
    patch: tuple[int, int, int] | None,
) -> None:
    monkeypatch.setattr(sizing, "_measure", cost_of)
    plan = infer({"plan.memory_gb": memory_gb}, make_contract(size=(32, 32, 32))).autoencoder_training
    assert (plan.batch, plan.gradient_checkpointing, plan.patch) == (batch, checkpointing, patch)


def test_what_the_study_gives_is_not_made_smaller(
    infer: Callable[..., Plan], make_contract: Callable[..., Contract], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sizing, "_measure", cost_of)
    given = {"train.autoencoder.batch": 4, "train.autoencoder.gradient_checkpointing": False, "plan.memory_gb": 20.0}
    plan = infer(given, make_contract(size=(32, 32, 32))).autoencoder_training
    assert (plan.batch, plan.gradient_checkpointing, plan.patch) == (4, False, (16, 16, 16))


def test_a_step_that_runs_out_of_memory_does_not_fit(
    infer: Callable[..., Plan], make_contract: Callable[..., Contract], monkeypatch: pytest.MonkeyPatch
) -> None:
    def measure(training: Any) -> Cost:
        if training.batch == 2 and not training.config.gradient_checkpointing:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
        return Cost(0.1, 0.0, 0.0)

    monkeypatch.setattr(sizing, "_measure", measure)
    plan = infer({"train.denoiser.batch": 3}, make_contract(size=(32, 32, 32))).autoencoder_training
    assert (plan.batch, plan.gradient_checkpointing) == (2, True)


def test_on_a_processor_each_process_has_two_volumes(infer: Callable[..., Plan]) -> None:
    assert infer({}).autoencoder_training.batch == 2
    assert infer({"runtime.processes": 3}).autoencoder_training.batch == 6


def test_of_a_large_volume_a_part_is_measured_and_scaled(
    infer: Callable[..., Plan], make_contract: Callable[..., Contract], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sizing, "MOST_MEASURED", 16**3)
    monkeypatch.setattr(sizing, "MOST_LATENTS_MEASURED", 4**3)
    sizes = []

    def measure(training: Any) -> Cost:
        size = getattr(training, "size", (4, 4, 4))
        sizes.append(size)
        return Cost(0.1, 1.0, 3.0, fixed_gb=1.0)

    monkeypatch.setattr(sizing, "_measure", measure)
    plan = infer({"plan.memory_gb": 1000.0}, make_contract(size=(32, 16, 48)), cases=100_000)
    ratio = 32 * 16 * 48 / (16 * 16 * 12)
    autoencoder, denoiser = plan.autoencoder_training, plan.denoiser_training
    assert sizes == [(16, 16, 12), (4, 4, 4)]
    assert autoencoder.memory_gb == pytest.approx(1 + 2 * ratio)
    assert (autoencoder.seconds_per_step, denoiser.seconds_per_step) == pytest.approx((0.1 * ratio, 0.1 * 12))
    assert "on a part of a volume" in plan.reasons["autoencoder_training"]


@pytest.mark.parametrize(
    ("size", "device", "measured"),
    [
        ((48, 64, 48), "cpu", (48, 64, 48)),
        ((160, 192, 160), "cpu", (40, 48, 80)),
        ((512, 512, 24), "cpu", (64, 128, 24)),
        ((160, 192, 160), "cuda", (160, 192, 160)),
    ],
)
def test_a_cpu_measures_no_more_than_is_quick(size: Any, device: str, measured: Any) -> None:
    assert sizing._measured_part(size, (8, 8, 8), device, sizing.MOST_MEASURED) == measured


def test_patches_of_a_large_volume_are_measured_as_they_are(
    infer: Callable[..., Plan], make_contract: Callable[..., Contract], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sizing, "MOST_MEASURED", 32**3)
    monkeypatch.setattr(sizing, "_measure", lambda training: Cost(0.1, 1.0, 1.0))
    training = infer(
        {"train.autoencoder.patch": [16, 16, 16], "train.autoencoder.steps": 7}, make_contract(size=(64, 64, 64))
    ).autoencoder_training
    assert (training.seconds_per_step, training.seconds_besides) == (0.1, 8.0)


def test_measuring_says_how_far_it_is(contract: Contract, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sizing, "_measure", lambda training: Cost(0.1, 0.0, 0.0))
    study = Study.model_validate({"name": "knees", "data": {"images": "scans"}})
    steps = [(each.label, each.done < each.total) for each in infer_plan(contract, {}, study, 10, "cpu")]
    assert steps == [
        (f"measure {network}", before) for network in ("autoencoder", "denoiser") for before in (True, False)
    ]


@pytest.mark.parametrize(
    ("epochs", "cases", "size", "expected"),
    [
        pytest.param(1.0, 1000, (10, 12, 10), FEWEST_VARIANTS, id="many subjects, few epochs"),
        pytest.param(60.0, 100, (10, 12, 10), 10, id="each variant is seen six times"),
        pytest.param(5000.0, 10, (10, 12, 10), MOST_VARIANTS, id="few subjects"),
        pytest.param(60.0, 1000, (40, 48, 40), 1, id="as fit the memory"),
    ],
)
def test_variants_are_seen_seldom_and_fit_the_memory(
    epochs: float, cases: int, size: tuple[int, int, int], expected: int
) -> None:
    shape = AutoencoderShape(in_channels=2, channels=(16, 32, 64), latent_channels=4)
    variants = augmented_variants(epochs, cases, shape, size)
    assert variants == expected
    assert variants == 1 or variants * cases * 2 * 4 * shape.latent_channels * math.prod(size) <= LATENTS_GB * 2**30


@pytest.mark.parametrize(("epochs", "judged", "augmented"), [(49, False, False), (49, True, True), (50, False, True)])
def test_short_trainings_are_augmented_where_a_gate_judges_the_weights(
    epochs: float, judged: bool, augmented: bool
) -> None:
    kinds, why = sizing._augmentations(None, epochs, judged)
    assert bool(kinds) == augmented
    assert f"{epochs} epochs" in why
