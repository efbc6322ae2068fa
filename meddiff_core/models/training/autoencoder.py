"""Training of the autoencoder: reconstruction, KL, patch-adversarial and perceptual terms.

The perceptual terms compare features of the discriminator that is trained along, Fourier spectra, or features of a
network that a package carries, so nothing has to be downloaded. Real and reconstructed images alone reach the
discriminator: a one-hot label map is told from a soft one at a glance and would teach it nothing.
"""

import time
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, autograd, nn
from torch.nn import functional

from meddiff_core.contract import Contract
from meddiff_core.data.grid import level_strides
from meddiff_core.errors import ConfigurationError
from meddiff_core.models.autoencoder import Autoencoder, AutoencoderShape
from meddiff_core.models.checkpoint import (
    Tensors,
    load_initial,
    optimizer_tensors,
    prefixed,
    restore_optimizer,
    unprefixed,
)
from meddiff_core.models.imagenet import imagenet_distance, imagenet_network
from meddiff_core.models.images import load_images, unit_image
from meddiff_core.models.randomness import batch_indices, derive_seed, generator_for
from meddiff_core.models.reconstruction import reconstruction_metrics
from meddiff_core.models.training.ema import PowerAverage
from meddiff_core.models.training.guards import discriminator_troubles, latent_troubles
from meddiff_core.models.training.loading import Ahead
from meddiff_core.models.training.loop import VALIDATIONS, learning_rate_factor, set_learning_rate
from meddiff_core.models.training.patches import load_patches, random_places
from meddiff_core.models.training.ranks import Ranks, add_losses
from meddiff_core.study import AutoencoderConfig
from meddiff_core.types import Images, Latents, Volumes

VALIDATED = 16
"""Volumes of the validation set that are looked at during training."""
BETAS = (0.5, 0.9)
"""Of Adam: short memory, as adversarial training needs."""
LARGEST_BALANCE = 1e4
"""Bound of the adaptive weight (Esser et al. 2021), where the adversarial gradient vanishes."""
SMALLEST_PATCH = 16
"""Voxels along each axis; of fewer the discriminator's layers leave nothing."""
FAINT = 1e-2
"""Magnitudes in a spectrum below this are noise: their logarithm is not compared."""
PLANES = 2
"""Slices along each axis of every volume that the ImageNet network looks at in a step."""


class Draws(NamedTuple):
    """The random choices of one step, or of a slice of its batch: one row per item."""

    indices: Tensor
    mirrored: Tensor
    places: Tensor
    noise: Latents


class AutoencoderTraining:
    """A `Training` (see loop.py) of an autoencoder, its average, and its discriminator."""

    label = "train autoencoder"
    watched = "autoencoder/image"
    relief = (
        "set train.autoencoder.gradient_checkpointing, or train.autoencoder.patch, lower train.autoencoder.channels, "
        "or raise plan.spacing_mm"
    )
    finished = False

    def __init__(
        self,
        shape: AutoencoderShape,
        contract: Contract,
        config: AutoencoderConfig,
        train: Volumes,
        validation: Volumes,
        steps: int,
        batch: int,
        seed: int,
        device: str = "cpu",
        *,
        ranks: Ranks = Ranks(),
        initial: Path | None = None,
    ) -> None:
        torch.manual_seed(derive_seed(seed, "autoencoder", "weights"))
        self.network = Autoencoder(shape)
        if initial is not None:
            load_initial(self.network, initial)
        self.network.to(device)
        self.size = _training_size(shape, contract, config)
        self.discriminator = _discriminator(self.size, contract.spacing_mm).to(device)
        self.average = PowerAverage(self.network, share=0.1)
        if config.gradient_checkpointing:
            self.network.recompute_activations()
        self.imagenet = imagenet_network(device) if config.perceptual == "imagenet" else None
        self.optimizer, self.critic = _adam(self.network), _adam(self.discriminator)
        self.contract, self.config, self.device = contract, config, device
        self.train, self.validation = train, validation
        self.steps, self.batch, self.seed = steps, batch, seed
        self.ranks, self.parts, self.rate = ranks, 1, 1.0
        self._batches = Ahead(self._make_batch, enabled=device != "cpu")
        self.balance = torch.zeros((), device=device)
        """Adaptive weight of the adversarial term, from the gradients of the step before."""
        self.verdicts = torch.zeros(3, device=device)
        """Number, sum and sum of squares of the discriminator's losses since the last validation."""
        self.troubles: list[str] = []

    def step(self, step: int) -> dict[str, Tensor]:
        judged = step >= self.config.adversarial_start * self.steps
        self.optimizer.zero_grad()
        self.critic.zero_grad()
        losses, edges = [], []
        for images, noise in self._batches(step):
            share = len(images) / self.batch
            found, edge = self._backward(step, images.to(self.device, non_blocking=True), noise, share, judged)
            losses.append((share, found))
            edges.append((share, edge))
        self._sum_gradients(judged)
        whole = self.ranks.sum_losses(self._nothing(self._terms(judged)) | add_losses(losses))
        whole_edges = self.ranks.sum_losses(self._nothing_at_the_edge(judged) | add_losses(edges))
        # Only from here on anything changes.
        self._update(step, judged)
        if judged:
            self._weigh(whole, whole_edges)
        return {f"autoencoder/{name}": loss for name, loss in whole.items()}

    def validate(self, step: int) -> dict[str, float]:
        indices = range(min(VALIDATED, len(self.validation)))
        network = self.average.network
        posteriors = [
            _posterior(network, load_images(self.validation, [n], self.contract), self.device) for n in indices
        ]
        mean, log_variance = (torch.cat(parts) for parts in zip(*posteriors, strict=True))
        self.troubles = latent_troubles(mean, log_variance) + discriminator_troubles(self.verdicts)
        self.verdicts.zero_()
        return reconstruction_metrics(network, self.validation, indices, self.contract, self.device)

    def validation_seconds(self) -> float:
        """Time that all validations of a whole training take."""
        started = time.perf_counter()
        self.validate(0)
        seen = min(VALIDATED, len(self.validation))
        return (time.perf_counter() - started) * VALIDATIONS * VALIDATED / seen

    def health(self) -> list[str]:
        return self.troubles

    def result(self) -> tuple[Autoencoder, dict[str, Any]]:
        """The averaged network, and what its checkpoint is to say of it beside how it was trained."""
        return self.average.network, {}

    def state(self) -> Tensors:
        return {
            **prefixed("network", self.network.state_dict()),
            **prefixed("average", self.average.network.state_dict()),
            **prefixed("discriminator", self.discriminator.state_dict()),
            **prefixed("optimizer", optimizer_tensors(self.optimizer)),
            **prefixed("critic", optimizer_tensors(self.critic)),
            "balance": self.balance,
            "verdicts": self.verdicts,
        }

    def restore(self, state: Tensors) -> None:
        self.network.load_state_dict(unprefixed("network", state))
        self.average.network.load_state_dict(unprefixed("average", state))
        self.discriminator.load_state_dict(unprefixed("discriminator", state))
        restore_optimizer(self.optimizer, unprefixed("optimizer", state))
        restore_optimizer(self.critic, unprefixed("critic", state))
        self.balance.copy_(state["balance"])
        self.verdicts.copy_(state["verdicts"])

    def _draw(self, step: int) -> Draws:
        """Volumes of this step, each mirrored left to right half of the time.

        Mirroring teaches the autoencoder more anatomy. What the denoiser is shown mirrored, it is told, so no
        mirrored patient is ever generated.
        """
        shape = self.network.shape
        latents = (self.batch, shape.latent_channels, *shape.latent_size(self.size))
        mirror, place, noise = (
            generator_for(self.seed, "autoencoder", name, step) for name in ("mirror", "place", "noise")
        )
        return Draws(
            batch_indices(len(self.train), self.batch, step, self.seed, "autoencoder"),
            torch.rand(self.batch, generator=mirror) < 0.5,
            random_places(self.batch, place),
            torch.randn(latents, generator=noise),
        )

    def _make_batch(self, step: int) -> list[tuple[Images, Latents]]:
        """Images and noise of each slice that this process works on."""
        draws = self._draw(step)
        slices = (Draws(*(rows[piece] for rows in draws)) for piece in self.ranks.slices(self.batch, self.parts))
        return [(self._load(part), part.noise) for part in slices]

    def _load(self, draws: Draws) -> Images:
        indices = draws.indices.tolist()
        if self.config.patch is None:
            images = load_images(self.train, indices, self.contract)
        else:
            grid = self.network.shape.downsampling
            images = load_patches(self.train, indices, self.contract, self.size, grid, draws.places)
        mirrored = torch.where(draws.mirrored[:, None, None, None, None], images.flip(2), images)
        return mirrored if self.device == "cpu" else mirrored.pin_memory()

    def _backward(
        self, step: int, images: Images, noise: Latents, share: float, judged: bool
    ) -> tuple[Tensors, Tensors]:
        """Add the gradients of a slice, which is a share of the batch, to both networks; gives its losses.

        Also the gradients at the decoder's last layer, of the reconstruction and of the adversarial term.
        """
        with torch.autocast(self.device.split(":")[0], torch.bfloat16, enabled=self.device != "cpu"):
            decoded, divergence = self._reconstruct(images, noise)
            losses, edges = self._fidelity(step, decoded, images), Tensors()
            if judged:
                opposition, features = self._oppose(images, decoded.detach(), share)
                losses |= self._judge(decoded, features)
        pull = autograd.grad(self._weighted(losses), decoded, retain_graph=judged)[0]
        if judged:
            push = autograd.grad(losses["adversarial"], decoded)[0]
            if self.config.adversarial_adaptive:
                edges = {"pull": self._at_the_edge(decoded, pull), "push": self._at_the_edge(decoded, push)}
            pull = pull + self._adversarial_weight() * push
            losses["discriminator"] = opposition
        weight = torch.as_tensor(share * self.config.kl_weight, device=divergence.device)
        autograd.backward([decoded, divergence], [share * pull, weight])
        return losses | {"kl": divergence}, edges

    def _reconstruct(self, images: Images, noise: Latents) -> tuple[Images, Tensor]:
        """Image and label logits of a draw from the posterior, and the KL divergence per latent element."""
        mean, log_variance = (part.float() for part in self.network.encode(images))
        latents = mean + (0.5 * log_variance).exp() * noise.to(self.device, non_blocking=True)
        divergence = 0.5 * (mean**2 + log_variance.exp() - 1 - log_variance).mean()
        return self.network.decode_logits(latents).float(), divergence

    def _fidelity(self, step: int, decoded: Images, images: Images) -> Tensors:
        losses = {"image": functional.l1_loss(decoded[:, :1], images[:, :1])}
        if self.contract.labels:
            # Cross-entropy spelled out: that of torch has no deterministic kernel for volumes on a GPU.
            likelihood = functional.log_softmax(decoded[:, 1:], dim=1)
            losses["label"] = -(likelihood * images[:, 1:]).sum(dim=1).mean()
            if self.config.dice_weight:
                losses["dice"] = dice_loss(likelihood.exp(), images[:, 1:])
        if self.config.perceptual in ("fft", "both"):
            losses["spectrum"] = spectral_distance(decoded[:, :1], images[:, :1])
        if self.imagenet is not None:
            places = torch.rand(3, PLANES, generator=generator_for(self.seed, "autoencoder", "planes", step))
            losses["imagenet"] = imagenet_distance(
                self.imagenet, unit_image(decoded), unit_image(images), places, self.contract.spacing_mm
            )
        return losses

    def _oppose(self, images: Images, decoded: Images, share: float) -> tuple[Tensor, list[Tensor]]:
        """Gradients of the discriminator on a slice; gives its loss, and its features of the real images."""
        *features, real = self.discriminator(images[:, :1])
        fake = self.discriminator(decoded[:, :1])[-1]
        loss: Tensor = (((real.float() - 1) ** 2).mean() + (fake.float() ** 2).mean()) / 2
        (share * loss).backward()
        return loss.detach(), [feature.detach() for feature in features]

    def _judge(self, decoded: Images, real: list[Tensor]) -> Tensors:
        """Least-squares adversarial loss (Mao et al. 2017) and feature matching (Larsen et al. 2016)."""
        *features, logits = self.discriminator(decoded[:, :1])
        losses = {"adversarial": ((logits.float() - 1) ** 2).mean()}
        if self.config.perceptual in ("discriminator", "both"):
            distances = [
                functional.l1_loss(fake.float(), goal.float()) for fake, goal in zip(features, real, strict=True)
            ]
            losses["perceptual"] = torch.stack(distances).mean()
        return losses

    def _weighted(self, losses: Tensors) -> Tensor:
        """All terms that pull the reconstruction towards the volume."""
        fine = self.config.perceptual_weight
        weights = {"image": 1.0, "label": self.config.label_weight, "dice": self.config.dice_weight}
        weights |= {"spectrum": fine, "imagenet": fine, "perceptual": fine}
        return torch.stack([weights[name] * loss for name, loss in losses.items() if name in weights]).sum()

    def _adversarial_weight(self) -> Tensor | float:
        return self.config.adversarial_weight * (self.balance if self.config.adversarial_adaptive else 1.0)

    def _at_the_edge(self, decoded: Images, gradient: Tensor) -> Tensor:
        return autograd.grad(decoded, self.network.last_weight, gradient, retain_graph=True)[0]

    def _terms(self, judged: bool) -> list[str]:
        labelled = bool(self.contract.labels)
        terms = {"image": True, "label": labelled, "dice": labelled and self.config.dice_weight > 0, "kl": True}
        terms |= {"spectrum": self.config.perceptual in ("fft", "both"), "imagenet": self.imagenet is not None}
        terms |= {"perceptual": judged and self.config.perceptual in ("discriminator", "both")}
        return [name for name, present in (terms | {"adversarial": judged, "discriminator": judged}).items() if present]

    def _nothing(self, names: list[str]) -> Tensors:
        """What a process without a slice of the batch adds to the sum over all."""
        return {name: torch.zeros((), device=self.device) for name in names}

    def _nothing_at_the_edge(self, judged: bool) -> Tensors:
        present = judged and self.config.adversarial_adaptive
        return {name: torch.zeros_like(self.network.last_weight) for name in ("pull", "push") if present}

    def _sum_gradients(self, judged: bool) -> None:
        for network in (self.network, self.discriminator) if judged else (self.network,):
            self.ranks.sum_gradients(network)
            nn.utils.clip_grad_norm_(network.parameters(), 1.0)

    def _update(self, step: int, judged: bool) -> None:
        rate = self.rate * self.config.learning_rate * learning_rate_factor(step, self.steps)
        set_learning_rate(self.optimizer, rate)
        self.optimizer.step()
        self.average.update(self.network, step + 1)
        if judged:
            set_learning_rate(self.critic, rate / 2)
            self.critic.step()

    def _weigh(self, losses: Tensors, edges: Tensors) -> None:
        """Take in how the discriminator did, and the balance of gradients (Esser et al. 2021, eq. 7) for the next step.

        The step before it decides, since that of the whole batch is known only after all its slices are done.
        """
        loss = losses["discriminator"]
        self.verdicts += torch.stack([torch.ones_like(loss), loss, loss**2])
        if edges:
            ratio = edges["pull"].norm() / (edges["push"].norm() + 1e-6)
            self.balance.copy_(ratio.clamp(max=LARGEST_BALANCE))


def spectral_distance(found: Images, target: Images) -> Tensor:
    """Mean distance of Fourier coefficients, and of the logarithms of their magnitudes.

    The first weighs structure, the second the fine detail that blur takes away, however faint it is.
    """
    one, other = (torch.fft.rfftn(part.float(), dim=(-3, -2, -1), norm="ortho") for part in (found, target))
    structure = functional.l1_loss(torch.view_as_real(one), torch.view_as_real(other))
    detail = functional.l1_loss((one.abs() + FAINT).log(), (other.abs() + FAINT).log())
    return structure + detail


def dice_loss(found: Tensor, target: Tensor) -> Tensor:
    """1 - soft Dice (Milletari et al. 2016) of probabilities and one-hot labels (b, groups, i, j, k).

    The mean over groups without the background, and over the items of the batch, each by itself: gradients of slices
    of a batch then add up to those of the whole.
    """
    common, both = ((part[:, 1:].sum(dim=(2, 3, 4)) + 1) for part in (2 * found * target, found + target))
    return 1 - (common / both).mean()


@torch.inference_mode()
def _posterior(network: Autoencoder, images: Images, device: str) -> tuple[Latents, Latents]:
    mean, log_variance = network.encode(images.to(device))
    return mean.float().cpu(), log_variance.float().cpu()


def _training_size(shape: AutoencoderShape, contract: Contract, config: AutoencoderConfig) -> tuple[int, int, int]:
    """Of what the network sees: a patch or the whole volume."""
    if (patch := config.patch) is None:
        return contract.size
    factors = shape.downsampling
    if any(
        side % factor or not min(SMALLEST_PATCH, whole) <= side <= whole
        for side, factor, whole in zip(patch, factors, contract.size, strict=True)
    ):
        multiples = factors[0] if len(set(factors)) == 1 else list(factors)
        expected = f"multiples of {multiples} from {SMALLEST_PATCH} to {list(contract.size)}"
        raise ConfigurationError(f"train.autoencoder.patch: must be {expected}, is {list(patch)}")
    return patch


def _adam(network: nn.Module) -> torch.optim.Adam:
    """Adam with all its memory taken at once: a step that ran out of it half done could not be repeated."""
    optimizer = torch.optim.Adam(network.parameters(), betas=BETAS, fused=True)
    for parameter in network.parameters():
        moments = {name: torch.zeros_like(parameter) for name in ("exp_avg", "exp_avg_sq")}
        optimizer.state[parameter] = {"step": torch.zeros((), device=parameter.device), **moments}
    return optimizer


def _discriminator(size: tuple[int, int, int], spacing_mm: tuple[float, float, float]) -> nn.Module:
    from monai.networks.nets import PatchDiscriminator  # type: ignore[attr-defined]

    # No norm: a batch of two has no statistics worth normalising by, and instance norm evens out the strength of
    # texture, which is what tells blur from detail. Behind it the discriminator learned nothing.
    network = PatchDiscriminator(3, channels=16, in_channels=1, num_layers_d=2, norm=None)  # type: ignore[arg-type]
    strides = level_strides(size, spacing_mm, levels=2, shortest=3)  # its last two layers take two voxels away
    for layer, stride in zip(("initial_conv", "0"), strides, strict=True):
        network.get_submodule(f"{layer}.conv").stride = stride  # type: ignore[assignment]
    network.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]  # its stub lacks it
    return network
