"""Weights of other trainings answer as they did there, to our one question; what does not fit is refused by name."""

import json
import pickle
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from monai.networks.nets import AutoencoderKL, DiffusionModelUNet  # type: ignore[attr-defined]
from monai.networks.schedulers.ddim import DDIMScheduler
from monai.networks.schedulers.ddpm import DDPMScheduler
from monai.networks.schedulers.rectified_flow import RFlowScheduler
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.testing import assert_close

from meddiff_core.contract import Contract
from meddiff_core.diffusion.guidance import guided
from meddiff_core.diffusion.solvers import solve_euler
from meddiff_core.errors import ConfigurationError
from meddiff_core.models.autoencoder import load_autoencoder
from meddiff_core.models.checkpoint import load_checkpoint, load_initial
from meddiff_core.models.denoiser import Denoiser, LatentScale, load_denoiser
from meddiff_core.models.imported.adoption import adopt_model, follow_models
from meddiff_core.models.imported.convert import convert_denoiser, convert_models
from meddiff_core.models.imported.description import read_description
from meddiff_core.models.imported.weights import read_weights, renamed
from meddiff_core.models.plan import Plan, TrainingPlan
from meddiff_core.models.preconditioning import Schedule, alphas_cumprod, check_sampling, clock_of
from meddiff_core.study import SamplingConfig, TrainConfig

Settings = dict[str, Any]
AUTOENCODER: Settings = {
    "spatial_dims": 3,
    "in_channels": 1,
    "out_channels": 1,
    "channels": [8, 16],
    "latent_channels": 3,
    "num_res_blocks": 1,
    "attention_levels": [False, True],
    "norm_num_groups": 4,
}
UNET: Settings = {
    "spatial_dims": 3,
    "in_channels": 3,
    "out_channels": 3,
    "channels": [16, 32],
    "num_res_blocks": [1, 2],
    "attention_levels": [False, True],
    "num_head_channels": [0, 16],
    "norm_num_groups": 8,
}
SCHEDULE: Settings = {
    "name": "scaled_linear_beta",
    "num_train_timesteps": 1000,
    "beta_start": 0.0015,
    "beta_end": 0.0195,
}
SCHEDULES: dict[str, Settings] = {
    "linear_beta": {"name": "linear_beta"},
    "scaled_linear_beta": SCHEDULE,
    "cosine": {"name": "cosine", "num_train_timesteps": 400},
}
KINDS = ["epsilon", "v_prediction", "rectified_flow"]
STEPS = [1, 37.5, 499.25, 950]
"""Times of the networks' own, on their grids and between."""
NONE = torch.empty(2, 0, dtype=torch.float64)
"""Conditions of a network that knows none."""


def with_random_weights(network: nn.Module, seed: int) -> nn.Module:
    """Everywhere: MONAI starts with zeros where a residual ends."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.08, generator=generator)
    return network.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def autoencoder() -> AutoencoderKL:
    return with_random_weights(AutoencoderKL(**AUTOENCODER), 0)  # type: ignore[return-value]


@pytest.fixture(scope="module")
def unet() -> DiffusionModelUNet:
    return with_random_weights(DiffusionModelUNet(**UNET), 1)  # type: ignore[return-value]


@pytest.fixture
def described(make_contract: Callable[..., Contract]) -> Settings:
    """A description without a fault."""
    return {
        "autoencoder": {"weights": "autoencoder.safetensors", "network": AUTOENCODER, "image_range": [0, 1]},
        "denoiser": {
            "weights": "unet.pt",
            "network": UNET,
            "kind": "epsilon",
            "schedule": SCHEDULE,
            "scale_factor": 0.8,
        },
        "contract": make_contract(labels={}, conditions=()).model_dump(mode="json"),
    }


@pytest.fixture
def describe(
    tmp_path: Path, described: Settings, autoencoder: AutoencoderKL, unet: DiffusionModelUNet
) -> Callable[..., Path]:
    """(**changes of sections) -> the path of a description, its weights beside it. A change of None drops a key."""
    save_file(autoencoder.state_dict(), tmp_path / "autoencoder.safetensors")
    torch.save(unet.state_dict(), tmp_path / "unet.pt")

    def write(**changes: Settings) -> Path:
        content = {name: {**described.get(name, {}), **changes.get(name, {})} for name in described}
        content = {name: {k: v for k, v in section.items() if v is not None} for name, section in content.items()}
        content |= {name: value for name, value in changes.items() if name not in described}
        path = tmp_path / "description.yaml"
        path.write_text(yaml.safe_dump(content))
        return path

    return write


def imported(path: Path) -> Path:
    """The folder of the checkpoints that a description is converted to."""
    convert_models(read_description(path), path.parent / "imported")
    return path.parent / "imported"


def refusal(path: Path) -> str:
    """What is said of a description that does not fit."""
    with pytest.raises(ConfigurationError) as refused:
        imported(path)
    return str(refused.value)


# The same answers


@pytest.fixture
def clean_and_noise() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(2)
    clean, noise = torch.randn(2, 2, 3, 4, 4, 4, generator=generator, dtype=torch.float64)
    return clean, noise


def kept_at(step: float, schedule: Settings) -> float:
    """MONAI's own alpha-bar at a step; between steps ln(sigma) runs straight."""
    arguments = {("schedule" if key == "name" else key): value for key, value in schedule.items()}
    alphas = DDPMScheduler(**arguments).alphas_cumprod.double().numpy()
    levels = np.log((1 - alphas) / alphas) / 2
    sigma = np.exp(np.interp(step, np.arange(len(levels)), levels))
    return float(1 / (1 + sigma**2))


@torch.inference_mode()
@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("step", STEPS)
def test_denoised_is_the_formula_of_a_ddpm_applied_to_the_network(
    describe: Callable[..., Path],
    unet: DiffusionModelUNet,
    clean_and_noise: tuple[Tensor, Tensor],
    schedule: str,
    kind: str,
    step: float,
) -> None:
    settings = SCHEDULES[schedule]
    step = step * settings.get("num_train_timesteps", 1000) / 1000
    recipe = read_description(describe(denoiser={"kind": kind, "schedule": settings}))
    clean, noise = clean_and_noise
    kept = kept_at(step, settings)
    shown = kept**0.5 * clean + (1 - kept) ** 0.5 * noise
    answer = deepcopy(unet).double()(shown, torch.full((2,), step, dtype=torch.float64))
    if kind == "epsilon":
        expected = (shown - (1 - kept) ** 0.5 * answer) / kept**0.5
    else:
        expected = kept**0.5 * shown - (1 - kept) ** 0.5 * answer
    sigma = torch.full((2,), ((1 - kept) / kept) ** 0.5, dtype=torch.float64)
    noisy = clean + sigma[0] * noise
    assert answer.std() > 0.01
    assert_close(convert_denoiser(recipe).double()(noisy, sigma, NONE), expected, rtol=1e-5, atol=1e-5)


@torch.inference_mode()
@pytest.mark.parametrize("step", STEPS)
def test_denoised_is_the_formula_of_a_rectified_flow_applied_to_the_network(
    describe: Callable[..., Path], unet: DiffusionModelUNet, clean_and_noise: tuple[Tensor, Tensor], step: float
) -> None:
    recipe = read_description(describe(denoiser={"kind": "rectified_flow", "schedule": None}))
    clean, noise = clean_and_noise
    scheduler = RFlowScheduler(num_train_timesteps=1000, use_discrete_timesteps=False)
    scheduler.set_timesteps(10)
    shown = scheduler.add_noise(clean, noise, torch.full((2,), step, dtype=torch.float64))
    answer = deepcopy(unet).double()(shown, torch.full((2,), step, dtype=torch.float64))
    _, expected = scheduler.step(answer, step, shown)  # type: ignore[arg-type]  # a float is as good
    sigma = torch.full((2,), step / (1000 - step), dtype=torch.float64)
    denoised = convert_denoiser(recipe).double()(clean + sigma[0] * noise, sigma, NONE)
    assert_close(denoised, expected, rtol=1e-5, atol=1e-5)


@torch.inference_mode()
@pytest.mark.parametrize("kind", KINDS)
def test_single_precision_answers_alike_at_every_common_level(
    describe: Callable[..., Path], unet: DiffusionModelUNet, clean_and_noise: tuple[Tensor, Tensor], kind: str
) -> None:
    changes = {"kind": kind, "schedule": None if kind == "rectified_flow" else SCHEDULE}
    denoiser = convert_denoiser(read_description(describe(denoiser=changes)))
    clean, noise = clean_and_noise
    for level in (0.1, 0.7, 3.0):
        sigma = torch.full((2,), level)
        exact = deepcopy(denoiser).double()(clean + level * noise, sigma.double(), NONE)
        assert_close(
            denoiser((clean + level * noise).float(), sigma, NONE.float()).double(), exact, rtol=1e-5, atol=1e-5
        )


@torch.inference_mode()
@pytest.mark.parametrize("kind", KINDS)
def test_training_on_weighs_the_answers_of_the_network_alike(describe: Callable[..., Path], kind: str) -> None:
    changes = {"kind": kind, "schedule": None if kind == "rectified_flow" else SCHEDULE}
    denoiser = convert_denoiser(read_description(describe(denoiser=changes)))
    sigma = torch.tensor([0.05, 0.9, 12.0])
    row = denoiser.clock(sigma)
    answer, other = torch.randn(2, 3, 3, 2, 2, 2, generator=torch.Generator().manual_seed(9))
    error = (row.c_out * (answer - other)).square().flatten(1).mean(dim=1)
    assert_close(denoiser.loss_weight(sigma) * error, (answer - other).square().flatten(1).mean(dim=1))


@torch.inference_mode()
def test_euler_over_the_noise_levels_is_ddim_over_the_steps(
    describe: Callable[..., Path], unet: DiffusionModelUNet
) -> None:
    denoiser = convert_denoiser(read_description(describe()))
    scheduler = DDIMScheduler(clip_sample=False, schedule=SCHEDULE["name"], beta_start=0.0015, beta_end=0.0195)
    scheduler.set_timesteps(10)
    times = range(900, -1, -100)
    kept = scheduler.alphas_cumprod.double()[list(times)]
    sigmas = torch.cat([((1 - kept) / kept).sqrt(), torch.zeros(1, dtype=torch.float64)])
    start = torch.randn(2, 3, 4, 4, 4, generator=torch.Generator().manual_seed(3))
    drawn = start
    for time in times:
        drawn, _ = scheduler.step(unet(drawn, torch.full((2,), time)), time, drawn)
    ours = solve_euler(guided(denoiser, NONE.float(), 1.0), start / kept[0].sqrt().float(), sigmas)
    assert_close(ours, drawn, rtol=1e-4, atol=1e-4)


@torch.inference_mode()
def test_images_are_shown_in_the_range_of_the_training_and_come_back(
    describe: Callable[..., Path], autoencoder: AutoencoderKL
) -> None:
    network, _ = load_autoencoder(imported(describe()) / "autoencoder")
    images = torch.rand(2, 1, 8, 8, 8, generator=torch.Generator().manual_seed(4)) * 2 - 1
    mean, std = autoencoder.encode((images + 1) / 2)
    ours, log_variance = network.encode(images)
    assert_close(ours, mean, rtol=1e-5, atol=1e-5)
    assert_close((log_variance / 2).exp(), std, rtol=1e-5, atol=1e-5)
    assert_close(network.decode(mean), autoencoder.decode(mean) * 2 - 1, rtol=1e-5, atol=1e-5)


@torch.inference_mode()
def test_classes_become_the_one_condition(describe: Callable[..., Path], tmp_path: Path) -> None:
    settings = {**UNET, "num_class_embeds": 3}
    network = with_random_weights(DiffusionModelUNet(**settings), 5)
    torch.save(network.state_dict(), tmp_path / "classes.pt")
    kinds = {"kind": "categorical", "name": "scanner", "categories": ["a", "b", "c"]}
    path = describe(denoiser={"weights": "classes.pt", "network": settings}, contract={"conditions": [kinds]})
    denoiser, noisy = convert_denoiser(read_description(path)), torch.randn(2, 3, 4, 4, 4)
    row = denoiser.clock(torch.full((2,), 0.9))
    answer = network(row.c_in * noisy, row.time, class_labels=torch.tensor([2, 0]))
    denoised = denoiser(noisy, torch.full((2,), 0.9), torch.tensor([[2.0], [0.0]]))
    assert_close(denoised, noisy - 0.9 * answer, rtol=1e-5, atol=1e-5)
    assert denoiser(noisy, torch.full((2,), 0.9), torch.full((2, 1), torch.nan)).isfinite().all()
    path = describe(denoiser={"weights": "classes.pt", "network": settings})
    assert "must be one categorical condition whose 3 categories" in refusal(path)


# Weights, however they were kept


def older(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """As GenerativeModels would have saved them, with the projection that it never used."""
    names = {".attn.to_q.": ".to_q.", ".attn.to_k.": ".to_k.", ".attn.to_v.": ".to_v.", ".postconv.": ".conv."}
    renamed = dict(state)
    for new, old in names.items():
        renamed = {name.replace(new, old): tensor for name, tensor in renamed.items()}
    blocks = [name.removesuffix(".to_q.weight") for name in renamed if name.endswith(".to_q.weight")]
    for block in blocks:
        width = len(renamed[f"{block}.to_q.weight"])
        renamed |= {
            f"{block}.proj_attn.weight": torch.randn(width, width),
            f"{block}.proj_attn.bias": torch.randn(width),
        }
    return renamed


@pytest.mark.parametrize(("kind", "settings"), [(AutoencoderKL, AUTOENCODER), (DiffusionModelUNet, UNET)])
def test_older_names_are_read_as_monai_reads_them(kind: type[nn.Module], settings: Settings) -> None:
    network = with_random_weights(kind(**settings, include_fc=False), 6)
    given = older(network.state_dict())
    assert given.keys() != network.state_dict().keys()
    theirs = kind(**settings, include_fc=False)
    theirs.load_old_state_dict(dict(given))  # type: ignore[operator]
    ours = renamed(given, theirs.state_dict(), "weights")
    assert ours.keys() == theirs.state_dict().keys()
    for name, tensor in theirs.state_dict().items():
        assert torch.equal(ours[name], tensor)


@torch.inference_mode()
def test_a_projection_that_was_never_used_is_not_used_now(describe: Callable[..., Path], tmp_path: Path) -> None:
    without = with_random_weights(DiffusionModelUNet(**UNET, include_fc=False), 7)
    torch.save(older(without.state_dict()), tmp_path / "older.pth")
    denoiser = convert_denoiser(read_description(describe(denoiser={"weights": "older.pth"})))
    noisy, time = torch.randn(2, 3, 4, 4, 4), torch.tensor([10.0, 500.0])
    answer = denoiser.network(noisy, time, class_labels=NONE.float())
    assert_close(answer, without(noisy, time), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.module."])
def test_weights_are_found_in_what_a_training_saved(tmp_path: Path, prefix: str) -> None:
    own = {"a.weight": torch.ones(2, dtype=torch.float16), "steps": torch.tensor(3)}
    saved = {"epoch": 4, "model": {prefix + name: tensor for name, tensor in own.items()}, "scale": torch.ones(1)}
    torch.save(saved, tmp_path / "run.pt")
    found = read_weights(tmp_path / "run.pt")
    assert found.keys() == own.keys()
    assert (found["a.weight"].dtype, found["steps"].dtype) == (torch.float32, torch.int64)


def test_of_several_sets_of_weights_one_must_be_named(tmp_path: Path) -> None:
    torch.save({"unet": {"a": torch.ones(1)}, "ema": {"a": torch.zeros(1)}, "epoch": 1}, tmp_path / "run.pt")
    with pytest.raises(ConfigurationError, match=r"run\.pt: state_key must say which to take, holds \['unet', 'ema'"):
        read_weights(tmp_path / "run.pt")
    assert read_weights(tmp_path / "run.pt", "ema")["a"] == 0
    with pytest.raises(ConfigurationError, match=r"must be one of \['unet', 'ema'\], is 'eme'"):
        read_weights(tmp_path / "run.pt", "eme")


class Harmful:
    """Runs when it is unpickled."""

    def __init__(self, witness: Path) -> None:
        self.witness = witness

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.witness,))


@pytest.mark.parametrize("save", [torch.save, lambda value, path: path.write_bytes(pickle.dumps(value))])
def test_code_in_a_file_of_weights_is_refused_and_does_not_run(tmp_path: Path, save: Callable[..., None]) -> None:
    save({"weight": torch.ones(1), "more": Harmful(tmp_path / "harmed")}, tmp_path / "bad.pt")
    with pytest.raises(ConfigurationError, match=r"bad\.pt: must be a file of tensors; it "):
        read_weights(tmp_path / "bad.pt")
    assert not (tmp_path / "harmed").exists()


def test_a_file_that_is_no_weights_is_refused(tmp_path: Path) -> None:
    for name in ("a.pt", "a.safetensors"):
        (tmp_path / name).write_bytes(b"not weights")
        with pytest.raises(ConfigurationError, match=f"{name}: must be a file of tensors; it is not readable: "):
            read_weights(tmp_path / name)
    with pytest.raises(ConfigurationError, match=r"none\.pt does not exist"):
        read_weights(tmp_path / "none.pt")
    torch.save({"a": torch.tensor([1.0, torch.nan])}, tmp_path / "b.pt")
    with pytest.raises(ConfigurationError, match=r"b\.pt: a must be finite, is not"):
        read_weights(tmp_path / "b.pt")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            lambda state: state.pop("conv_in.conv.bias"),
            "denoiser.weights: must hold every weight of the network, lacks ",
        ),
        (
            lambda state: state.update(extra=torch.ones(1)),
            "denoiser.weights: must hold the weights of the network alone",
        ),
        (
            lambda state: state.update({"conv_in.conv.bias": torch.ones(3)}),
            "denoiser.weights: conv_in.conv.bias must be [16] for this network, is [3]",
        ),
    ],
)
def test_weights_of_another_network_are_refused_by_name(
    describe: Callable[..., Path], unet: DiffusionModelUNet, tmp_path: Path, change: Callable[..., Any], said: str
) -> None:
    state = dict(unet.state_dict())
    change(state)
    torch.save(state, tmp_path / "other.pt")
    assert said in refusal(describe(denoiser={"weights": "other.pt"}))


def test_a_network_without_projections_is_told_by_what_lacks(describe: Callable[..., Path], tmp_path: Path) -> None:
    without = DiffusionModelUNet(**UNET, include_fc=False)
    torch.save(without.state_dict(), tmp_path / "without.pt")
    assert refusal(describe(denoiser={"weights": "without.pt"})).endswith("is its include_fc false?")


# What a description must say


def test_a_checkpoint_says_what_it_was_made_from(describe: Callable[..., Path]) -> None:
    folder = imported(describe())
    _, facts = load_checkpoint(folder / "denoiser")
    assert facts["shape"]["parametrisation"]["kind"] == "epsilon"
    assert facts["imported_from"]["file"] == "unet.pt"
    _, scale, contract = load_denoiser(folder / "denoiser")
    assert scale == LatentScale(mean=(0, 0, 0), std=(1.25, 1.25, 1.25))
    assert contract == load_autoencoder(folder / "autoencoder")[1]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"denoiser": {"scale_facto": 1}}, "denoiser.scale_facto: unknown key; did you mean scale_factor?"),
        ({"contract": {"spacing": 2}}, "contract.spacing: unknown key; did you mean spacing_mm?"),
        (
            {"denoiser": {"schedule": {**SCHEDULE, "beta_stop": 1}}},
            "denoiser.schedule.beta_stop: unknown key; did you mean beta_start?",
        ),
        (
            {"denoiser": {"network": {**UNET, "num_head_chanels": 8}}},
            "denoiser.network.num_head_chanels: unknown key; did you mean num_head_channels?",
        ),
        ({"autoencoder": {"image_range": None}}, "autoencoder.image_range: must be given, is missing"),
        (
            {"denoiser": {"kind": None}},
            "denoiser.kind: must be one of epsilon, v_prediction, rectified_flow, is missing",
        ),
        ({"denoiser": {"schedule": None}}, "denoiser.schedule: must be given for epsilon, is missing"),
        ({"denoiser": {"scale_factor": None}}, "denoiser: exactly one of scale_factor and latent_scale must be given"),
        (
            {"denoiser": {"scale_factor": None, "latent_scale": {"mean": [0, 0], "std": [1, 1]}}},
            "denoiser.latent_scale: must be a mean and a standard deviation above 0 for each of 3 latent channels",
        ),
        (
            {"denoiser": {"schedule": {"name": "cosine", "beta_start": 0.1}}},
            "denoiser.schedule: beta_start and beta_end must be left out for cosine, are given",
        ),
        ({"contract": {"size": [16, 16, 18]}}, "contract.size: must be multiples of 4, which both networks halve"),
        ({"contract": {"size": [16, 16, 17]}}, "contract.size: must be multiples of the latent factor 2, is"),
        (
            {"contract": {"labels": {"left": [1], "right": [2]}}},
            "in_channels and out_channels must be 4 for this contract, an image and 3 label channels; are 1 and 1",
        ),
        (
            {"contract": {"conditions": [{"kind": "categorical", "name": "sex", "categories": ["F", "M"]}]}},
            "contract.conditions: must be [], since the network knows none; holds ['sex']",
        ),
        (
            {"denoiser": {"network": {**UNET, "in_channels": 7}}},
            "in_channels and out_channels must be 3 as the latents, without channels for conditions; are 7 and 3",
        ),
        (
            {"denoiser": {"network": {**UNET, "with_conditioning": True, "cross_attention_dim": 4}}},
            "denoiser.network: with_conditioning must be false",
        ),
        (
            {"denoiser": {"network": {**UNET, "attention_levels": [True]}}},
            "denoiser.network: attention_levels must have one value for each of 2 channels, has 1",
        ),
        ({"denoiser": {"network": {**UNET, "norm_num_groups": 5}}}, "multiples of norm_num_groups 5, 16 is not"),
        ({"denoiser": {"network": {**UNET, "num_head_channels": [0, 0]}}}, "denoiser.network: MONAI builds no such"),
        (
            {"autoencoder": {"network": {**AUTOENCODER, "spatial_dims": 2}}},
            "autoencoder.network.spatial_dims: must be 3",
        ),
    ],
)
def test_a_description_that_does_not_fit_is_refused_by_its_key(
    describe: Callable[..., Path], changes: dict[str, Settings], said: str
) -> None:
    assert said in refusal(describe(**changes))


def test_a_description_that_is_none_is_refused(tmp_path: Path) -> None:
    for content, said in (("a: [", "must be YAML"), ("- a", "must hold keys and values, holds list")):
        (tmp_path / "d.yaml").write_text(content)
        assert said in refusal(tmp_path / "d.yaml")
    assert "cannot be read" in refusal(tmp_path / "none.yaml")


def test_sampling_keeps_to_the_noise_that_the_network_knows(describe: Callable[..., Path]) -> None:
    low, high = clock_of(read_description(describe()).denoiser.parametrisation).sigma_range
    kept = alphas_cumprod(Schedule(**SCHEDULE))
    assert_close(torch.tensor([low, high], dtype=torch.float64), ((1 - kept) / kept).sqrt()[[0, -1]])
    check_sampling(SamplingConfig(sigma_min=low, sigma_max=high), (low, high))
    for outside in (SamplingConfig(sigma_min=0.01), SamplingConfig(sigma_min=0.04, sigma_max=84.0)):
        with pytest.raises(ConfigurationError, match=r"must be in \[0\.0388, 83\.8\], the noise .* are "):
            check_sampling(outside, (low, high))
    check_sampling(SamplingConfig(sigmas=(80.0, 1.0, 0.04)), (low, high))
    with pytest.raises(ConfigurationError, match=r"ends of sampling\.sigmas: must be in .* are 0\.01 and 80"):
        check_sampling(SamplingConfig(sigmas=(80.0, 0.01)), (low, high))


# Bundles


@pytest.fixture
def bundle(describe: Callable[..., Path], tmp_path: Path) -> Callable[..., Path]:
    """(**changes of inference.json) -> a description that leaves networks and schedule to a bundle."""
    (tmp_path / "bundle" / "configs").mkdir(parents=True)
    content = {
        "imports": ["$import torch"],
        "spatial_dims": 3,
        "sizes": {"latent": [3, 8]},
        "latent_channels": "@sizes#latent#0",
        "autoencoder_def": {
            "_target_": "generative.networks.nets.AutoencoderKL",
            **{name: value for name, value in AUTOENCODER.items() if name != "channels"},
            "num_channels": AUTOENCODER["channels"],
            "spatial_dims": "@spatial_dims",
            "latent_channels": "@latent_channels",
            "use_checkpointing": True,
        },
        "autoencoder": "$@autoencoder_def.to(@device)",
        "run": {
            "network_def": {
                "_target_": "monai.networks.nets.DiffusionModelUNet",
                **UNET,
                "in_channels": "@latent_channels",
                "_disabled_": "$1 / 0",
            }
        },
        "scheduler": {
            "_target_": "monai.networks.schedulers.DDIMScheduler",
            "_requires_": ["@load"],
            "schedule": "scaled_linear_beta",
            "beta_start": 0.0015,
            "beta_end": "@beta",
            "num_train_timesteps": 1000,
            "clip_sample": "$False",
        },
    }

    def write(**changes: Any) -> Path:
        configs = tmp_path / "bundle" / "configs"
        (configs / "inference.json").write_text(json.dumps({**content, **changes}))
        (configs / "train.json").write_text(json.dumps({"beta": 0.0195, "net": {"_target_": "UNet"}}))
        leave = {"network": None, "kind": None, "schedule": None}
        return describe(bundle="bundle", autoencoder={"network": None}, denoiser=leave)

    return write


def test_a_bundle_says_what_a_description_would(bundle: Callable[..., Path], describe: Callable[..., Path]) -> None:
    of_bundle = read_description(bundle())
    assert of_bundle == read_description(describe())


@pytest.mark.parametrize(
    ("settings", "kind"),
    [
        ({"_target_": "monai.networks.schedulers.DDPMScheduler", "prediction_type": "v_prediction"}, "v_prediction"),
        ({"_target_": "monai.networks.schedulers.rectified_flow.RFlowScheduler"}, "rectified_flow"),
        ({"_target_": "generative.networks.schedulers.DDIMScheduler", "beta_schedule": "scaled_linear"}, "epsilon"),
    ],
)
def test_a_bundles_scheduler_says_what_the_network_predicts(
    bundle: Callable[..., Path], settings: Settings, kind: str
) -> None:
    found = read_description(bundle(scheduler=settings)).denoiser.parametrisation
    assert found.kind == kind
    if "beta_schedule" in settings:
        assert found.schedule.name == "scaled_linear_beta"  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "value", ["$__import__('pathlib').Path('harmed').touch()", "@nowhere", "@loop", "%other.json#a"]
)
def test_what_a_bundle_would_compute_is_refused_and_not_run(
    bundle: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.chdir(tmp_path)
    path = bundle(latent_channels=value, loop="@loop")
    assert "AutoencoderKL.latent_channels must be literal, is " in refusal(path)
    assert not (tmp_path / "harmed").exists()


def test_what_a_bundle_would_compute_may_be_given(bundle: Callable[..., Path]) -> None:
    path = bundle(latent_channels="$1 + 2")
    content = yaml.safe_load(path.read_text())
    content["autoencoder"]["network"] = {"latent_channels": 3}
    content["denoiser"]["network"] = {"in_channels": 3}
    path.write_text(yaml.safe_dump(content))
    assert read_description(path).denoiser.latent_channels == 3


def test_a_bundle_without_such_a_network_is_refused_with_what_it_builds(bundle: Callable[..., Path]) -> None:
    other = {"_target_": "monai.apps.generation.maisi.networks.autoencoderkl_maisi.AutoencoderKlMaisi"}
    said = refusal(bundle(autoencoder_def=other))
    assert "bundle bundle: must build AutoencoderKL, builds AutoencoderKlMaisi, DDIMScheduler" in said


def test_a_bundle_with_two_different_networks_is_refused(bundle: Callable[..., Path]) -> None:
    said = refusal(bundle(second={"_target_": "monai.networks.nets.DiffusionModelUNet", "in_channels": 5}))
    assert "bundle bundle, inference.json: must build one DiffusionModelUNet, builds 2 that differ" in said


def test_a_folder_that_is_no_bundle_is_refused(describe: Callable[..., Path], tmp_path: Path) -> None:
    assert "must be a folder with configs/*.json" in refusal(describe(bundle="elsewhere"))


# To go on from


@torch.inference_mode()
def test_training_can_start_from_imported_weights(describe: Callable[..., Path]) -> None:
    folder = imported(describe())
    network, scale, contract = load_denoiser(folder / "denoiser")
    torch.manual_seed(8)
    fresh = Denoiser(network.shape, contract.conditions)
    facts = load_initial(fresh, folder / "denoiser")
    assert LatentScale.model_validate(facts["scale"]) == scale
    for name, tensor in network.state_dict().items():
        assert torch.equal(fresh.state_dict()[name], tensor)


def test_a_model_is_adopted_as_it_is_under_the_same_contract_alone(
    describe: Callable[..., Path], make_contract: Callable[..., Contract], tmp_path: Path
) -> None:
    folder, target = imported(describe()), tmp_path / "models" / "denoiser"
    adopt_model(folder / "denoiser", target, make_contract(labels={}, conditions=()), {"autoencoder": "digest"})
    tensors, facts = load_checkpoint(target)
    before, _ = load_checkpoint(folder / "denoiser")
    assert facts["autoencoder"] == "digest"
    assert all(torch.equal(tensor, before[name]) for name, tensor in tensors.items())
    with pytest.raises(ConfigurationError, match=r"start_from: .*spacing_mm: \(2\.0, 2\.0, 2\.0\), not \(3\.0,"):
        adopt_model(folder / "denoiser", target, make_contract(labels={}, conditions=(), spacing_mm=3.0), {})


@pytest.fixture
def planned(plan: Plan, make_contract: Callable[..., Contract]) -> Plan:
    """What a study had planned before."""
    training = TrainingPlan(steps=500, batch=2, seconds_per_step=0.5, memory_gb=1.0)
    changes = {"autoencoder_training": training, "denoiser_training": training}
    return plan.model_copy(update=changes | {"contract": make_contract(size=(32, 32, 32))})


def steps(**given: int) -> TrainConfig:
    return TrainConfig.model_validate({name: {"steps": count} for name, count in given.items()})


def test_a_plan_follows_the_models_and_trains_nothing_unless_told(describe: Callable[..., Path], planned: Plan) -> None:
    recipe = read_description(describe())
    plan = follow_models(planned, recipe, steps())
    assert (plan.contract, plan.autoencoder, plan.denoiser) == (recipe.contract, recipe.autoencoder, recipe.denoiser)
    assert (plan.autoencoder_training.steps, plan.denoiser_training.steps) == (0, 0)
    assert plan.start_from == "imported"
    tuned = follow_models(planned, recipe, steps(denoiser=70))
    assert (tuned.autoencoder_training.steps, tuned.denoiser_training.steps) == (0, 70)
    assert (planned.minutes, plan.minutes) == (500 / 60, 0)
    assert tuned.minutes is None  # what was measured was measured on other networks
    with pytest.raises(
        ConfigurationError, match=r"denoiser_training\.steps: must be at least 1 since the autoencoder's"
    ):
        follow_models(planned, recipe, steps(autoencoder=70))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"mask": "brain"}, "contract.mask: must be none as data.mask of the study, is brain"),
        (
            {"intensity": {"modality": "CT", "low": -1000, "high": 1000, "storage": "uint8"}},
            "contract.intensity.modality: must be MR as the scans, is CT",
        ),
        (
            {"intensity": {"modality": "MR", "low": 0, "high": 1, "percentiles": [0, 99.5], "storage": "uint8"}},
            "contract.intensity.percentiles: must be (1.0, 99.0) as scans are measured, is (0.0, 99.5)",
        ),
    ],
)
def test_models_of_other_scans_are_refused(
    describe: Callable[..., Path], planned: Plan, changes: Settings, said: str
) -> None:
    with pytest.raises(ConfigurationError) as refused:
        follow_models(planned, read_description(describe(contract=changes)), steps())
    assert str(refused.value) == said
