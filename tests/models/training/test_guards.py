"""Each trouble is named when it is there, and only then."""

import math

import pytest
import torch
from torch import Tensor

from meddiff_core.models.training.guards import (
    FEWEST,
    HIGH,
    LONG,
    RECENT,
    STRIKES,
    LossGuard,
    discriminator_troubles,
    is_finite,
    is_out_of_memory,
    latent_troubles,
)


def check_all(values: list[float], guard: LossGuard | None = None) -> list[str]:
    guard = guard or LossGuard()
    return [guard.check({"loss": value, "adversarial": 1.0}, "loss") for value in values]


def test_a_loss_that_falls_and_rattles_has_not_diverged() -> None:
    generator = torch.Generator().manual_seed(0)
    falling = torch.exp(-torch.linspace(0, 3, 200) + 0.5 * torch.randn(200, generator=generator))
    assert not any(check_all(falling.tolist()))


def test_a_loss_that_stays_high_has_diverged() -> None:
    told = check_all([1.0] * FEWEST + [HIGH + 1] * STRIKES)
    assert told == [""] * (FEWEST + STRIKES - 1) + [f"loss rose from 1 to {HIGH + 1:g}"]


def test_single_high_reports_are_no_divergence() -> None:
    assert not any(check_all(([1.0] * 3 + [50.0] * (STRIKES - 1)) * 10))


def test_a_new_level_within_the_bound_becomes_the_usual_one() -> None:
    assert not any(check_all([1.0] * RECENT + [HIGH - 1] * RECENT + [(HIGH - 1) ** 2] * RECENT))


def test_only_the_watched_loss_can_diverge_but_any_must_be_finite() -> None:
    guard = LossGuard([1.0] * RECENT)
    assert not any(guard.check({"loss": 1.0, "adversarial": 1e6}, "loss") for _ in range(10))
    assert guard.check({"loss": 1.0, "adversarial": math.nan}, "loss") == "adversarial is nan"


def test_a_guard_that_is_made_from_the_good_reports_of_another_judges_as_it() -> None:
    one = LossGuard()
    check_all([1.0, 2.0, 1.5, 1.2, 1.1, 0.9], one)
    assert check_all([9.0] * 4, LossGuard(one.good)) == check_all([9.0] * 4, one)
    assert not one.calm


def posteriors(means: Tensor, log_variances: Tensor) -> list[str]:
    """Of 3 volumes with the given standard deviation of means and the log-variance, per channel."""
    noise = torch.randn(3, len(means), 6, 6, 6, generator=torch.Generator().manual_seed(0))
    spread = means[:, None, None, None]
    return latent_troubles(spread * noise, log_variances[:, None, None, None].expand_as(noise))


def test_latents_that_tell_of_their_volumes_are_well() -> None:
    assert posteriors(torch.tensor([1.0, 0.5, 2.0]), torch.full((3,), -6.0)) == []


def test_small_latents_are_well_if_their_noise_is_smaller() -> None:
    assert posteriors(torch.full((3,), 0.01), torch.full((3,), -14.0)) == []


@pytest.mark.parametrize(("mean", "log_variance"), [(0.0, 0.0), (0.05, 0.0), (0.05, -1.0)])
def test_a_channel_without_information_is_a_posterior_collapse(mean: float, log_variance: float) -> None:
    told = posteriors(torch.tensor([1.0, mean, 1.0]), torch.tensor([-6.0, log_variance, -6.0]))
    assert len(told) == 1
    assert told[0].startswith("posterior collapse: of 3 latent channels these carry no information: 1;")


def test_a_channel_that_holds_nearly_all_variance_is_named() -> None:
    told = posteriors(torch.tensor([1.0, 1.0, 20.0]), torch.full((3,), -6.0))
    assert [trouble.split(";")[0] for trouble in told] == [
        "dominant channel: latent channel 2 of 3 holds over 95% of the variance"
    ]


def test_the_only_channel_may_hold_all_variance() -> None:
    assert posteriors(torch.tensor([1.0]), torch.tensor([-6.0])) == []


def sums(losses: Tensor) -> Tensor:
    return torch.stack([torch.tensor(float(len(losses))), losses.sum(), losses.square().sum()])


@pytest.mark.parametrize("level", [0.0, 0.25, 0.5])
def test_a_discriminator_whose_loss_stays_where_it_teaches_nothing_is_dead(level: float) -> None:
    told = discriminator_troubles(sums(torch.full((LONG,), level)))
    assert len(told) == 1
    assert told[0].startswith("dead discriminator: its loss ")


@pytest.mark.parametrize("level", [0.1, 0.25])
def test_a_discriminator_in_a_contest_is_alive(level: float) -> None:
    losses = level + 0.05 * torch.randn(200, generator=torch.Generator().manual_seed(0))
    assert discriminator_troubles(sums(losses)) == []


def test_nothing_is_said_of_a_discriminator_before_it_had_its_chance() -> None:
    assert discriminator_troubles(sums(torch.full((LONG - 1,), 0.25))) == []
    assert discriminator_troubles(torch.zeros(3)) == []


@pytest.mark.parametrize(("value", "expected"), [(1.0, True), (math.nan, False), (-math.inf, False)])
def test_one_value_that_is_not_finite_is_seen(value: float, expected: bool) -> None:
    tensors = {"steps": torch.tensor(3), "weights": torch.tensor([[0.0, value]])}
    assert is_finite(tensors) == expected


def test_a_lack_of_memory_is_recognised() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60)
    assert is_out_of_memory(caught.value)
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory"))
    assert not is_out_of_memory(RuntimeError("sizes must match"))
