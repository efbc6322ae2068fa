"""The average of weights is an average over the share of steps that was asked for."""

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from meddiff_core.models.training.ema import PowerAverage


def network(value: float) -> nn.Module:
    made = nn.BatchNorm1d(2)
    nn.init.constant_(made.weight, value)
    return made


def test_weights_that_do_not_change_stay() -> None:
    constant = network(0.3)
    average = PowerAverage(constant, 0.1)
    for step in range(1, 50):
        average.update(constant, step)
    assert_close(average.network.weight, constant.weight, rtol=0, atol=1e-7)


def test_the_first_update_copies() -> None:
    average = PowerAverage(network(-5), 0.1)
    average.update(network(0.7), 1)
    assert torch.equal(average.network.weight, network(0.7).weight)


def test_the_network_itself_is_not_touched() -> None:
    trained = network(1)
    average = PowerAverage(trained, 0.1)
    average.update(network(2), 1)
    assert trained.weight.tolist() == [1, 1]
    assert trained.weight.requires_grad
    assert not average.network.weight.requires_grad
    assert not average.network.training


def test_buffers_are_those_of_the_last_step() -> None:
    average = PowerAverage(network(1), 0.1)
    other = network(1)
    other.get_buffer("running_mean").fill_(4)
    average.update(other, 3)
    assert average.network.get_buffer("running_mean").tolist() == [4, 4]


def test_the_exponent_for_a_tenth_is_that_of_the_paper() -> None:
    """Karras et al. 2024, section 3.1: gamma = 6.94 for a relative width of 0.1."""
    assert PowerAverage(network(1), 0.1).exponent == pytest.approx(6.94, abs=0.005)


def test_parameters_of_all_shapes_are_averaged_at_once() -> None:
    one, other = (nn.Sequential(nn.Conv3d(2, 3, 3), nn.Linear(4, 5)) for _ in range(2))
    average = PowerAverage(one, 0.1)
    average.update(other, 4)
    keep = (1 - 1 / 4) ** (average.exponent + 1)
    for found, first, second in zip(average.network.parameters(), one.parameters(), other.parameters(), strict=True):
        assert_close(found, keep * first.detach() + (1 - keep) * second.detach())


@pytest.mark.parametrize("share", [0.05, 0.1, 0.2, 0.28])
def test_the_deviation_of_the_steps_that_count_is_the_share(share: float) -> None:
    """The average is linear in the weights, so the weight of each step can be read off."""
    steps = 400
    average = PowerAverage(network(0), share)
    times = torch.linspace(1 / steps, 1, steps, dtype=torch.float64)
    moments = []
    for power in (1, 2):
        for step, time in enumerate(times.tolist(), start=1):
            average.update(network(time**power), step)
        moments.append(float(average.network.weight.detach()[0]))
    assert (moments[1] - moments[0] ** 2) ** 0.5 == pytest.approx(share, rel=0.02)
