"""Private training: no subject moves a step by more than the clip, and the accountant's noise is added."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import nn
from torch.testing import assert_close

from meddiff_core.contract import Contract
from meddiff_core.diffusion.private import (
    Guarantee,
    PrivateMechanism,
    describe_guarantee,
    epsilon_of,
    guarantee_for,
)
from meddiff_core.diffusion.training import DenoiserTraining
from meddiff_core.errors import ConfigurationError
from meddiff_core.models.denoiser import DenoiserShape
from meddiff_core.models.training.loop import run_training
from meddiff_core.study import DenoiserConfig, PrivacyConfig
from tests.diffusion.small import small_side

PRIVACY = PrivacyConfig(epsilon=8, delta=1e-3, clip=0.5)


def mechanism(subjects: list[str], secret: str = "00" * 16, **changes: float) -> PrivateMechanism:
    usual = {"epsilon": 8.0, "delta": 1e-3, "clip": 0.5, "noise_multiplier": 0.0, "sample_rate": 1.0, "steps": 5}
    return PrivateMechanism(Guarantee(**{**usual, **changes}), subjects, secret)  # type: ignore[arg-type]


def test_noise_keeps_the_promise_and_no_more() -> None:
    pytest.importorskip("opacus")
    found = guarantee_for(PRIVACY, 100, 8, 400)
    assert 7.8 < found.epsilon <= 8
    assert found.epsilon == epsilon_of(found.noise_multiplier, 0.08, 400, 1e-3)
    assert guarantee_for(PRIVACY, 900, 8, 400).noise_multiplier < found.noise_multiplier


def test_accountant_agrees_with_the_gaussian_mechanism() -> None:
    """One step that takes everybody: the divergence of order a is a / (2 noise^2) (Mironov 2017, Balle et al. 2020)."""
    pytest.importorskip("opacus")
    order, noise, delta = np.arange(1.05, 200, 0.01), 2.0, 1e-5
    proven = order / (2 * noise**2) + np.log1p(-1 / order) - (np.log(delta) + np.log(order)) / (order - 1)
    assert epsilon_of(noise, 1.0, 1, delta) == pytest.approx(proven.min(), rel=0.01)


@pytest.mark.parametrize(
    ("changes", "subjects", "batch", "key"),
    [({"delta": 0.02}, 60, 8, "delta"), ({}, 6, 8, "batch"), ({"epsilon": 1e-9}, 60, 8, "epsilon")],
)
def test_promises_that_mean_nothing_are_refused(changes: dict, subjects: int, batch: int, key: str) -> None:
    pytest.importorskip("opacus")
    with pytest.raises(ConfigurationError, match=rf"train\.denoiser\.\S*{key}: must be"):
        guarantee_for(PRIVACY.model_copy(update=changes), subjects, batch, 400)


def test_what_is_learned_beside_without_noise_is_refused() -> None:
    with pytest.raises(ValidationError, match="uncertainty_weighting must be false"):
        DenoiserConfig(privacy=PRIVACY)


def test_each_subject_is_taken_with_the_same_probability_and_once(tmp_path: Path) -> None:
    subjects = ["a"] * 6 + ["b", "c", "d"]
    drawn = mechanism(subjects, sample_rate=0.3)
    counts, visits = dict.fromkeys("abcd", 0), set()
    for step in range(2000):
        rows = drawn.batch_indices(step).tolist()
        taken = [subjects[row] for row in rows]
        assert len(set(taken)) == len(taken)
        visits.update(rows)
        for subject in taken:
            counts[subject] += 1
    assert all(abs(count - 600) < 4 * (2000 * 0.3 * 0.7) ** 0.5 for count in counts.values())
    assert visits == set(range(9))
    assert any(len(drawn.batch_indices(step)) == 0 for step in range(50))


def test_nobody_moves_a_step_by_more_than_the_clip() -> None:
    network, asked = nn.Linear(7, 3, bias=False), mechanism(list("abcd"))

    def gradient(inputs: list[torch.Tensor]) -> torch.Tensor:
        asked.set_gradients(network, (network(one).square().sum() for one in inputs), 0)
        return torch.cat([parameter.grad.flatten() for parameter in network.parameters()]) * 4  # type: ignore[union-attr]

    others = [torch.randn(7, generator=torch.Generator().manual_seed(seed)) for seed in range(3)]
    loud, quiet = 1e4 * torch.ones(7), 1e-5 * torch.ones(7)
    assert float((gradient([*others, loud]) - gradient(others)).norm()) == pytest.approx(0.5, rel=1e-3)
    assert float((gradient([*others, quiet]) - gradient(others)).norm()) < 0.5


def test_noise_is_that_of_the_accountant_and_follows_from_the_secret() -> None:
    network = nn.Linear(200, 200)
    found = []
    for secret in ("00" * 16, "00" * 16, "01" * 16):
        mechanism(list("abcd"), secret, noise_multiplier=3.0).set_gradients(network, (), 2)
        found.append(network.weight.grad.clone())  # type: ignore[union-attr]
    assert float(found[0].std()) == pytest.approx(0.5 * 3 / 4, rel=0.02)
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


def start(contract: Contract, given: PrivateMechanism | None, steps: int = 5, **changes: object) -> DenoiserTraining:
    side = small_side(contract)
    config = DenoiserConfig(uncertainty_weighting=False, privacy=PRIVACY if given else None, **changes)  # type: ignore[arg-type]
    shape = DenoiserShape(latent_channels=2, channels=(32, 32))
    return DenoiserTraining(
        shape,
        contract.conditions,
        config,
        side,
        side,
        steps,
        5,
        0,
        mechanism=given,
    )


def test_gradients_one_by_one_are_those_of_the_batch(contract: Contract) -> None:
    """Through every layer of the denoiser, where nothing is clipped and no noise is added."""
    training = start(contract, mechanism(list("abcde"), clip=1e9))
    training._set_private_gradients(0)
    private = [parameter.grad.clone() for parameter in training.network.parameters()]  # type: ignore[union-attr]
    training.optimizer.zero_grad()
    loss, _ = training._losses(*training._batches(0))
    loss.backward()
    for one, other in zip(private, training.network.parameters(), strict=True):
        assert_close(one, torch.zeros_like(one) if other.grad is None else other.grad, rtol=1e-4, atol=1e-6)


def test_resumed_is_uninterrupted_with_the_secret_of_the_resume_point(
    contract: Contract, tmp_path: Path, finish: Callable
) -> None:
    changes = {"noise_multiplier": 1.0, "sample_rate": 0.4}
    whole, first, second = (
        start(contract, mechanism(list("aabcd"), secret, **changes), dropout=0.2) for secret in
        ("00" * 16, "00" * 16, "ff" * 16)
    )  # fmt: skip
    finish(run_training(whole, tmp_path / "whole", "key", 100))
    for progress in run_training(first, tmp_path / "resume", "key", 2):
        if progress.done == 3:
            break
    finish(run_training(second, tmp_path / "resume", "key", 2))
    assert all(torch.equal(one, second.state()[name]) for name, one in whole.state().items())
    assert second.result()[1]["privacy"] == whole.mechanism.guarantee.model_dump()  # type: ignore[union-attr]


def test_what_is_not_covered_is_said() -> None:
    said = [describe_guarantee(mechanism(["a"]).guarantee, imported) for imported in (False, True)]
    assert all("epsilon = 8, delta = 0.001" in text for text in said)
    assert all("no formal guarantee for the released volumes" in text for text in said)
    assert ["the autoencoder" in text for text in said] == [True, False]
