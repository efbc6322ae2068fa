"""A sample is a pure function of its seed, its condition, the models and the settings: bit for bit."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from meddiff_core.contract import Contract
from meddiff_core.diffusion.noise import noise_levels
from meddiff_core.diffusion.solvers import solve_ancestral
from meddiff_core.errors import ConfigurationError, IntegrityError
from meddiff_core.generation.engine import Engine, open_engine, sample_noise
from meddiff_core.generation.schedule import SampleRequest
from meddiff_core.models.denoiser import load_denoiser, save_denoiser
from meddiff_core.models.inference import footprint, instructions, self_check
from meddiff_core.study import SamplingConfig
from meddiff_core.types import Latents, Sigma

Sampling = Callable[..., SamplingConfig]
STEPPING = ("euler", "ancestral")


def samples(count: int) -> list[SampleRequest]:
    conditions = [{"age": 25.0 + 10 * n, "sex": "F"} if n % 2 else {"age": None, "sex": "M"} for n in range(count)]
    return [SampleRequest(f"syn-{n:06d}-0", n, 0, 1000 + n, condition) for n, condition in enumerate(conditions)]


@pytest.fixture
def engine(models: Path, sampling: Sampling) -> Engine:
    return open_engine(models, "digest", sampling(), "cpu")


def same(one: tuple[np.ndarray, np.ndarray | None], image: np.ndarray, label: np.ndarray) -> bool:
    """Whether what was sampled are these images and labels."""
    return one[1] is not None and np.array_equal(one[0], image) and np.array_equal(one[1], label)


@pytest.mark.parametrize("threads", [1, 2])
def test_a_sample_depends_on_no_other_and_on_no_place(engine: Engine, threads: int) -> None:
    """Together, alone, and in another order."""
    torch.set_num_threads(threads)
    wanted = samples(5)
    images, labels = engine.sample(wanted)
    assert labels is not None
    for n, sample in enumerate(wanted):
        assert same(engine.sample([sample]), images[n : n + 1], labels[n : n + 1])
    order = [4, 2, 0, 1, 3]
    assert same(engine.sample([wanted[n] for n in order]), images[order], labels[order])


@pytest.mark.parametrize("batch", [2, 3, 8])
def test_the_size_of_a_batch_changes_no_bit(models: Path, engine: Engine, sampling: Sampling, batch: int) -> None:
    wanted = samples(10)
    images, labels = engine.sample(wanted)
    assert labels is not None
    larger = open_engine(models, "digest", sampling(batch=batch), "cpu")
    assert same(larger.sample(wanted), images, labels)
    assert same(larger.sample(wanted[:3]), images[:3], labels[:3])


def test_volumes_do_not_depend_on_the_number_of_threads(engine: Engine) -> None:
    one = engine.sample(samples(3))
    torch.set_num_threads(2)
    two = engine.sample(samples(3))
    assert same(two, one[0], one[1])  # type: ignore[arg-type]


def test_volumes_that_are_decoded_in_tiles_are_the_same(
    models: Path, engine: Engine, sampling: Sampling, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = engine.sample(samples(2))
    monkeypatch.setattr(footprint, "AMPLE_BYTES", 0)
    tiled = open_engine(models, "another digest", sampling(), "cpu")
    assert (engine.tiled, tiled.tiled) == (False, True)
    assert same(tiled.sample(samples(2)), wanted[0], wanted[1])  # type: ignore[arg-type]


def test_volumes_fit_the_contract(engine: Engine, contract: Contract) -> None:
    images, labels = engine.sample(samples(4))
    assert labels is not None
    assert images.shape == labels.shape == (4, *contract.size)
    assert (images.dtype, labels.dtype) == (np.uint16, np.uint8)
    assert labels.max() <= len(contract.labels)


def test_another_seed_or_condition_is_another_volume(engine: Engine) -> None:
    base = SampleRequest("a", 0, 0, 1, {"age": 30.0, "sex": "F"})
    others = [
        SampleRequest("a", 0, 0, 2, {"age": 30.0, "sex": "F"}),
        SampleRequest("a", 0, 0, 1, {"age": 60.0, "sex": "F"}),
        SampleRequest("a", 0, 0, 1, {"age": 30.0, "sex": "M"}),
        SampleRequest("a", 0, 0, 1, {"age": 30.0}),
    ]
    images, _ = engine.sample([base, *others])
    assert not any(np.array_equal(images[0], image) for image in images[1:])


def test_name_slot_and_attempt_are_only_names(engine: Engine) -> None:
    condition = {"age": 30.0, "sex": "F"}
    images, _ = engine.sample([SampleRequest("a", 0, 0, 1, condition), SampleRequest("b", 9, 3, 1, condition)])
    assert np.array_equal(images[0], images[1])


def test_no_global_generator_is_used_or_moved(engine: Engine) -> None:
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = engine.sample(samples(1))
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    assert np.array_equal(engine.sample(samples(1))[0], first[0])


def test_noise_is_standard_normal_and_its_seed_alone_decides_it() -> None:
    noise = sample_noise(5, (4, 16, 16, 16))
    assert noise.shape == (1, 4, 16, 16, 16)
    assert noise.mean().item() == pytest.approx(0, abs=0.03)
    assert noise.std().item() == pytest.approx(1, abs=0.03)
    assert torch.equal(sample_noise(5, (4, 16, 16, 16)), noise)
    for other in (6, 5 + 2**32, 5 + 2**62):  # every bit of it
        assert not torch.equal(sample_noise(other, (4, 16, 16, 16)), noise)


def test_noise_of_a_level_is_none_that_the_sample_has_had_and_needs_none_before_it() -> None:
    levels = torch.cat([sample_noise(5, (4, 16, 16, 16), level) for level in range(4)]).flatten(1)
    assert torch.equal(sample_noise(5, (4, 16, 16, 16), 3).flatten(), levels[3])
    assert torch.corrcoef(levels).sub(torch.eye(4)).abs().max() < 0.04
    assert not torch.isin(levels[0], levels[1:].flatten()).all()


@pytest.mark.parametrize("batch", [1, 3, 8])
def test_a_stochastic_sample_is_the_same_alone_and_in_any_batch(models: Path, sampling: Sampling, batch: int) -> None:
    config = sampling(solver="ancestral", steps=4, batch=batch)
    engine, wanted = open_engine(models, "digest", config, "cpu"), samples(5)
    images, labels = engine.sample(wanted)
    assert labels is not None
    for n, sample in enumerate(wanted):
        assert same(engine.sample([sample]), images[n : n + 1], labels[n : n + 1])
    order = [4, 2, 0, 1, 3]
    assert same(engine.sample([wanted[n] for n in order]), images[order], labels[order])


def test_the_noise_of_the_levels_reaches_the_sample(models: Path, sampling: Sampling) -> None:
    """Euler's method is the same walk without it."""
    sampled = [
        open_engine(models, "d", sampling(solver=name, steps=4), "cpu").sample(samples(1))[0] for name in STEPPING
    ]
    assert not np.array_equal(*sampled)


def test_noise_of_the_levels_keeps_the_marginals_of_a_gaussian() -> None:
    """As `Engine` adds it: the ends have the standard deviation of the data, and samples nothing in common."""

    def gaussian(noisy: Latents, sigma: Sigma) -> Latents:
        return noisy * 0.25 / (sigma.reshape(-1, 1, 1, 1, 1) ** 2 + 0.25)

    def noise(level: int) -> Latents:
        return torch.cat([sample_noise(seed, (2, 16, 16, 16), level) for seed in range(4)])

    levels = noise_levels(SamplingConfig(steps=200, sigma_max=20, sigma_min=0.02))
    sampled = solve_ancestral(gaussian, noise(0) * 20, levels, lambda level: noise(level + 1))
    assert sampled.std().item() == pytest.approx(0.5, rel=0.03)
    assert sampled.mean().item() == pytest.approx(0, abs=0.02)
    assert torch.corrcoef(sampled.flatten(1)).sub(torch.eye(4)).abs().max() < 0.06


def test_given_levels_are_those_that_are_walked(models: Path, sampling: Sampling) -> None:
    made = noise_levels(sampling(steps=3))[:-1].tolist()
    base, _ = open_engine(models, "digest", sampling(steps=3), "cpu").sample(samples(2))
    given, _ = open_engine(models, "digest", sampling(steps=9, sigmas=tuple(made)), "cpu").sample(samples(2))
    assert np.array_equal(given, base)
    other, _ = open_engine(models, "digest", sampling(sigmas=(made[0], 0.5, made[2])), "cpu").sample(samples(2))
    assert not np.array_equal(other, base)


def test_guidance_and_levels_are_part_of_the_identity(models: Path, engine: Engine, sampling: Sampling) -> None:
    base, _ = engine.sample(samples(1))
    for config in (sampling(guidance=3.0), sampling(steps=3), sampling(sigma_max=6.0)):
        other, _ = open_engine(models, "digest", config, "cpu").sample(samples(1))
        assert not np.array_equal(other, base)


def test_the_engine_is_kept_until_the_models_are_others(
    tmp_path: Path, models: Path, save_models: Callable[..., Path], contract: Contract, sampling: Sampling
) -> None:
    engine = open_engine(models, "digest", sampling(), "cpu")
    assert open_engine(models, "digest", sampling(), "cpu") is engine
    own = save_models(tmp_path / "models", contract)
    before, _ = open_engine(own, "first", sampling(), "cpu").sample(samples(1))
    save_models(own, contract, seed=1)
    after, _ = open_engine(own, "second", sampling(), "cpu").sample(samples(1))
    assert not np.array_equal(before, after)


def test_models_of_two_contracts_are_refused_with_the_difference(
    tmp_path: Path, save_models: Callable[..., Path], contract: Contract, sampling: Sampling
) -> None:
    folder = save_models(tmp_path / "models", contract)
    save_models(tmp_path / "others", contract.model_copy(update={"spacing_mm": (3.0,) * 3}))
    (tmp_path / "others" / "denoiser" / "facts.json").replace(folder / "denoiser" / "facts.json")
    with pytest.raises(IntegrityError, match=r"must share a contract; spacing_mm: \(2\.0, 2\.0, 2\.0\), not \(3\.0,"):
        open_engine(folder, "digest", sampling(), "cpu")


def test_a_batch_that_the_memory_does_not_hold_is_halved_and_changes_no_bit(
    models: Path, sampling: Sampling, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = samples(7)
    images, labels = open_engine(models, "roomy", sampling(batch=8), "cpu").sample(wanted)
    assert labels is not None
    cramped = open_engine(models, "cramped", sampling(batch=8), "cpu")
    solve = cramped._solve

    def fit_three(asked: list[SampleRequest], config: SamplingConfig) -> Latents:
        if len(asked) > 3:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
        return solve(asked, config)

    monkeypatch.setattr(cramped, "_solve", fit_three)
    assert same(cramped.sample(wanted), images, labels)
    assert cramped.batch == 2


def test_all_volumes_of_a_call_have_batches_of_one_size(
    models: Path, sampling: Sampling, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Memory may fall short in any batch; those before it are computed anew."""
    engine, sizes, short = open_engine(models, "later", sampling(batch=4), "cpu"), list[int](), [True]
    solve = engine._solve

    def fall_short_once(asked: list[SampleRequest], config: SamplingConfig) -> Latents:
        sizes.append(len(asked))
        if len(sizes) == 2 and short.pop():
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
        return solve(asked, config)

    monkeypatch.setattr(engine, "_solve", fall_short_once)
    engine.sample(samples(8))
    assert sizes == [4, 4, 2, 2, 2, 2]
    engine.sample(samples(8), batch=4)
    assert sizes[6:] == [4, 4]


def test_what_is_no_lack_of_memory_is_raised(models: Path, sampling: Sampling, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = open_engine(models, "broken", sampling(batch=8), "cpu")

    def fail(asked: list[SampleRequest], config: SamplingConfig) -> Latents:
        raise RuntimeError("no kernel")

    monkeypatch.setattr(engine, "_solve", fail)
    with pytest.raises(RuntimeError, match="no kernel"):
        engine.sample(samples(2))
    assert engine.batch == 8


BF16 = pytest.mark.skipif(instructions.bfloat16_instructions() is None, reason="no instructions for bfloat16")


@BF16
@pytest.mark.parametrize("batch", [1, 3])
def test_in_bfloat16_a_sample_depends_on_no_other_and_on_no_batch(
    models: Path, sampling: Sampling, batch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = sampling(precision="bfloat16", batch=4)
    images, labels = open_engine(models, "digest", config, "cpu").sample(samples(4))
    assert labels is not None
    near, _ = open_engine(models, "digest", sampling(), "cpu").sample(samples(4))
    assert 0 < np.abs(images.astype(float) - near).mean() < 0.01 * np.ptp(near)
    other = open_engine(models, "digest", config.model_copy(update={"batch": batch}), "cpu")
    assert same(other.sample(samples(4)[::-1]), images[::-1], labels[::-1])
    monkeypatch.setattr(footprint, "AMPLE_BYTES", 0)
    assert same(open_engine(models, "tiled", config, "cpu").sample(samples(4)), images, labels)


def test_precision_is_part_of_the_identity_and_older_samples_keep_theirs(sampling: Sampling) -> None:
    settings = sampling().model_dump(mode="json")
    assert "precision" not in settings
    assert SamplingConfig.model_validate(settings) == sampling()
    assert sampling(precision="bfloat16").model_dump(mode="json") == settings | {"precision": "bfloat16"}


@BF16
@pytest.mark.parametrize("wrong", ["check_denoiser", "check_decoder"])
def test_networks_that_bfloat16_computes_wrongly_are_refused(
    models: Path, sampling: Sampling, wrong: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kernel that is wrong in one place, as some are for a side of 1 behind a stride."""
    check = getattr(self_check, wrong)

    def damaged(exact: Any, rounded: Any, *rest: Any) -> None:
        *_, layer = (one for one in rounded.modules() if getattr(one, "_weight", None) is not None)
        layer._weight[:, :, 0] = 0
        check(exact, rounded, *rest)

    monkeypatch.setattr(f"meddiff_core.generation.engine.{wrong}", damaged)
    with pytest.raises(ConfigurationError, match=r"sampling.precision: must be float32 for these models.*differs by"):
        open_engine(models, wrong, sampling(precision="bfloat16"), "cpu")


def test_bfloat16_is_refused_where_no_instructions_are(
    models: Path, sampling: Sampling, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": False})
    with pytest.raises(ConfigurationError, match=r"must be float32 on this processor, which has none of amx_bf16, avx"):
        open_engine(models, "none", sampling(precision="bfloat16"), "cpu")
    with pytest.raises(ConfigurationError, match="must be float32 on a GPU, is bfloat16"):
        instructions.require_bfloat16("sampling.precision", "cuda")


def test_autoguidance_samples_from_both_weights(
    models: Path, sampling: Sampling, contract: Contract, tmp_path: Path
) -> None:
    settings = sampling(guidance=2.0, guided_by="autoguidance")
    with pytest.raises(ConfigurationError, match=r"sampling\.guided_by: must be classifier_free"):
        open_engine(models, "without a guide", settings, "cpu")
    denoiser, scale, _ = load_denoiser(models / "denoiser")
    same_weights = denoiser.state_dict()
    found = {}
    for name, guide in (("alike", same_weights), ("weaker", {key: 0.9 * value for key, value in same_weights.items()})):
        shutil.copytree(models / "autoencoder", tmp_path / name / "autoencoder")
        save_denoiser(tmp_path / name / "denoiser", denoiser, contract, scale, "digest", {}, guide)
        found[name] = open_engine(tmp_path / name, name, settings, "cpu").sample(samples(2))[0]
    plain = open_engine(models, "plain", sampling(), "cpu").sample(samples(2))[0]
    assert np.abs(found["alike"].astype(int) - plain).max() <= 1  # rounding
    assert not np.array_equal(found["weaker"], plain)
