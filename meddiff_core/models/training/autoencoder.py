"""Training of the autoencoder: reconstruction, KL, patch-adversarial and perceptual terms.

The perceptual terms compare features of the discriminator that is trained along, Fourier spectra, or features of a
network that a package carries, so nothing has to be downloaded. Real and reconstructed images alone reach the
discriminator: it tells a one-hot label map from a soft one at once, which would teach nothing.
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
from meddiff_core.models.training.loop import ROLLBACKS, VALIDATIONS, learning_rate_factor, set_learning_rate
from meddiff_core.models.training.patches import load_patches, random_places
from meddiff_core.models.training.ranks import Ranks, add_losses
from meddiff_core.study import AutoencoderConfig
from meddiff_core.types import Images, Latents, Volumes

VALIDATED = 16
"""Volumes of the validation set that are reconstructed during training."""
BETAS = (0.5, 0.9)
"""Betas of Adam: short memory, as adversarial training needs."""
LARGEST_ADAPTIVE_WEIGHT = 1e4
"""Bound of the adaptive weight (Esser et al. 2021), where the adversarial gradient vanishes."""
SMALLEST_PATCH = 16
"""Fewest voxels along each axis that the discriminator's layers can take."""
FAINT = 1e-2
"""Magnitudes in a spectrum below this are noise: their logarithm is not compared."""
PLANES = 2
"""Slices along each axis of every volume that the ImageNet network looks at in a step."""


class RandomChoices(NamedTuple):
    """The random choices of one step, or of a micro-batch: one row per item."""

    indices: Tensor
    mirrored: Tensor
    places: Tensor
    noise: Latents


class AutoencoderTraining:
    """A `Training` (see loop.py) of an autoencoder, its average, and its discriminator."""

    label = "train autoencoder"
    watched = "autoencoder/image"
    rollbacks = ROLLBACKS
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
        self.average = PowerAverage(self.network, std=0.1)
        if config.gradient_checkpointing:
            self.network.recompute_activations()
        self.imagenet = imagenet_network(device) if config.perceptual == "imagenet" else None
        self.optimizer, self.discriminator_optimizer = _adam(self.network), _adam(self.discriminator)
        self.contract, self.config, self.device = contract, config, device
        self.train, self.validation = train, validation
        self.steps, self.batch, self.seed = steps, batch, seed
        self.ranks, self.accumulation_steps, self.rate = ranks, 1, 1.0
        self._batches = Ahead(self._make_batch, enabled=device != "cpu")
        self.adaptive_weight = torch.zeros((), device=device)
        """Adaptive weight of the adversarial term, from the gradients of the step before."""
        self.discriminator_losses = torch.zeros(3, device=device)
        """Number, sum and sum of squares of the discriminator's losses since the last validation."""
        self.troubles: list[str] = []

    def step(self, step: int) -> dict[str, Tensor]:
        adversarial = step >= self.config.adversarial_start * self.steps
        self.optimizer.zero_grad()
        self.discriminator_optimizer.zero_grad()
        losses, last_layer = [], []
        for images, noise in self._batches(step):
            share = len(images) / self.batch
            found, gradients = self._backward(
                step, images.to(self.device, non_blocking=True), noise, share, adversarial
            )
            losses.append((share, found))
            last_layer.append((share, gradients))
        self._sum_gradients(adversarial)
        whole = self.ranks.sum_losses(self._zeros(self._terms(adversarial)) | add_losses(losses))
        last_layer_sums = self.ranks.sum_losses(self._zero_gradients(adversarial) | add_losses(last_layer))
        # Only from here on anything changes.
        self._update(step, adversarial)
        if adversarial:
            self._track_discriminator(whole, last_layer_sums)
        return {f"autoencoder/{name}": loss for name, loss in whole.items()}

    def validate(self, step: int) -> dict[str, float]:
        indices = range(min(VALIDATED, len(self.validation)))
        network = self.average.network
        posteriors = [
            _posterior(network, load_images(self.validation, [n], self.contract), self.device) for n in indices
        ]
        mean, log_variance = (torch.cat(parts) for parts in zip(*posteriors, strict=True))
        self.troubles = latent_troubles(mean, log_variance) + discriminator_troubles(self.discriminator_losses)
        self.discriminator_losses.zero_()
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
        """The averaged network, and further facts for its checkpoint."""
        return self.average.network, {}

    def state(self) -> Tensors:
        return {
            **prefixed("network", self.network.state_dict()),
            **prefixed("average", self.average.network.state_dict()),
            **prefixed("discriminator", self.discriminator.state_dict()),
            **prefixed("optimizer", optimizer_tensors(self.optimizer)),
            **prefixed("discriminator_optimizer", optimizer_tensors(self.discriminator_optimizer)),
            "adaptive_weight": self.adaptive_weight,
            "discriminator_losses": self.discriminator_losses,
        }

    def restore(self, state: Tensors) -> None:
        self.network.load_state_dict(unprefixed("network", state))
        self.average.network.load_state_dict(unprefixed("average", state))
        self.discriminator.load_state_dict(unprefixed("discriminator", state))
        restore_optimizer(self.optimizer, unprefixed("optimizer", state))
        restore_optimizer(self.discriminator_optimizer, unprefixed("discriminator_optimizer", state))
        self.adaptive_weight.copy_(state["adaptive_weight"])
        self.discriminator_losses.copy_(state["discriminator_losses"])

    def _choose(self, step: int) -> RandomChoices:
        """Volumes of this step, each mirrored left to right half of the time.

        Mirroring teaches the autoencoder more anatomy. For the denoiser it is a condition, so that no sample
        is mirrored.
        """
        shape = self.network.shape
        latents = (self.batch, shape.latent_channels, *shape.latent_size(self.size))
        mirror, place, noise = (
            generator_for(self.seed, "autoencoder", name, step) for name in ("mirror", "place", "noise")
        )
        return RandomChoices(
            batch_indices(len(self.train), self.batch, step, self.seed, "autoencoder"),
            torch.rand(self.batch, generator=mirror) < 0.5,
            random_places(self.batch, place),
            torch.randn(latents, generator=noise),
        )

    def _make_batch(self, step: int) -> list[tuple[Images, Latents]]:
        """Images and noise of each micro-batch of this process."""
        choices = self._choose(step)
        micro_batches = (
            RandomChoices(*(rows[piece] for rows in choices))
            for piece in self.ranks.micro_batches(self.batch, self.accumulation_steps)
        )
        return [(self._load(part), part.noise) for part in micro_batches]

    def _load(self, choices: RandomChoices) -> Images:
        indices = choices.indices.tolist()
        if self.config.patch is None:
            images = load_images(self.train, indices, self.contract)
        else:
            grid = self.network.shape.downsampling
            images = load_patches(self.train, indices, self.contract, self.size, grid, choices.places)
        mirrored = torch.where(choices.mirrored[:, None, None, None, None], images.flip(2), images)
        return mirrored if self.device == "cpu" else mirrored.pin_memory()

    def _backward(
        self, step: int, images: Images, noise: Latents, share: float, adversarial: bool
    ) -> tuple[Tensors, Tensors]:
        """Add the gradients of a micro-batch, a share of the batch, to both networks; gives its losses.

        Also the gradients at the decoder's last layer, of the reconstruction and of the adversarial term.
        """
        with torch.autocast(self.device.split(":")[0], torch.bfloat16, enabled=self.device != "cpu"):
            decoded, divergence = self._reconstruct(images, noise)
            losses, last_layer = self._reconstruction_losses(step, decoded, images), Tensors()
            if adversarial:
                discriminator_loss, features = self._train_discriminator(images, decoded.detach(), share)
                losses |= self._adversarial_losses(decoded, features)
        reconstruction_gradient = autograd.grad(self._reconstruction_loss(losses), decoded, retain_graph=adversarial)[0]
        if adversarial:
            adversarial_gradient = autograd.grad(losses["adversarial"], decoded)[0]
            if self.config.adversarial_adaptive:
                last_layer = {
                    "reconstruction_gradient": self._last_layer_gradient(decoded, reconstruction_gradient),
                    "adversarial_gradient": self._last_layer_gradient(decoded, adversarial_gradient),
                }
            reconstruction_gradient = reconstruction_gradient + self._adversarial_weight() * adversarial_gradient
            losses["discriminator"] = discriminator_loss
        weight = torch.as_tensor(share * self.config.kl_weight, device=divergence.device)
        autograd.backward([decoded, divergence], [share * reconstruction_gradient, weight])
        return losses | {"kl": divergence}, last_layer

    def _reconstruct(self, images: Images, noise: Latents) -> tuple[Images, Tensor]:
        """Image and label logits of a sample from the posterior, and the KL divergence per latent element."""
        mean, log_variance = (part.float() for part in self.network.encode(images))
        latents = mean + (0.5 * log_variance).exp() * noise.to(self.device, non_blocking=True)
        divergence = 0.5 * (mean**2 + log_variance.exp() - 1 - log_variance).mean()
        return self.network.decode_logits(latents).float(), divergence

    def _reconstruction_losses(self, step: int, decoded: Images, images: Images) -> Tensors:
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

    def _train_discriminator(self, images: Images, decoded: Images, share: float) -> tuple[Tensor, list[Tensor]]:
        """Add the discriminator's gradients of a micro-batch; gives its loss, and its features of the real images."""
        *features, real = self.discriminator(images[:, :1])
        fake = self.discriminator(decoded[:, :1])[-1]
        loss: Tensor = (((real.float() - 1) ** 2).mean() + (fake.float() ** 2).mean()) / 2
        (share * loss).backward()
        return loss.detach(), [feature.detach() for feature in features]

    def _adversarial_losses(self, decoded: Images, real: list[Tensor]) -> Tensors:
        """Least-squares adversarial loss (Mao et al. 2017) and feature matching (Larsen et al. 2016)."""
        *features, logits = self.discriminator(decoded[:, :1])
        losses = {"adversarial": ((logits.float() - 1) ** 2).mean()}
        if self.config.perceptual in ("discriminator", "both"):
            distances = [
                functional.l1_loss(fake.float(), goal.float()) for fake, goal in zip(features, real, strict=True)
            ]
            losses["perceptual"] = torch.stack(distances).mean()
        return losses

    def _reconstruction_loss(self, losses: Tensors) -> Tensor:
        """The weighted sum of all terms but the adversarial one and the divergence."""
        fine = self.config.perceptual_weight
        weights = {"image": 1.0, "label": self.config.label_weight, "dice": self.config.dice_weight}
        weights |= {"spectrum": fine, "imagenet": fine, "perceptual": fine}
        return torch.stack([weights[name] * loss for name, loss in losses.items() if name in weights]).sum()

    def _adversarial_weight(self) -> Tensor | float:
        return self.config.adversarial_weight * (self.adaptive_weight if self.config.adversarial_adaptive else 1.0)

    def _last_layer_gradient(self, decoded: Images, gradient: Tensor) -> Tensor:
        return autograd.grad(decoded, self.network.last_weight, gradient, retain_graph=True)[0]

    def _terms(self, adversarial: bool) -> list[str]:
        labelled = bool(self.contract.labels)
        terms = {"image": True, "label": labelled, "dice": labelled and self.config.dice_weight > 0, "kl": True}
        terms |= {"spectrum": self.config.perceptual in ("fft", "both"), "imagenet": self.imagenet is not None}
        terms |= {"perceptual": adversarial and self.config.perceptual in ("discriminator", "both")}
        terms |= {"adversarial": adversarial, "discriminator": adversarial}
        return [name for name, present in terms.items() if present]

    def _zeros(self, names: list[str]) -> Tensors:
        """Losses of a process without a micro-batch, for the sum over all processes."""
        return {name: torch.zeros((), device=self.device) for name in names}

    def _zero_gradients(self, adversarial: bool) -> Tensors:
        present = adversarial and self.config.adversarial_adaptive
        return {
            name: torch.zeros_like(self.network.last_weight)
            for name in ("reconstruction_gradient", "adversarial_gradient")
            if present
        }

    def _sum_gradients(self, adversarial: bool) -> None:
        for network in (self.network, self.discriminator) if adversarial else (self.network,):
            self.ranks.sum_gradients(network)
            nn.utils.clip_grad_norm_(network.parameters(), 1.0)

    def _update(self, step: int, adversarial: bool) -> None:
        rate = self.rate * self.config.learning_rate * learning_rate_factor(step, self.steps)
        set_learning_rate(self.optimizer, rate)
        self.optimizer.step()
        self.average.update(self.network, step + 1)
        if adversarial:
            set_learning_rate(self.discriminator_optimizer, rate / 2)
            self.discriminator_optimizer.step()

    def _track_discriminator(self, losses: Tensors, last_layer: Tensors) -> None:
        """Add the discriminator's loss to its statistics, and set the adaptive weight (Esser et al. 2021, eq. 7).

        It acts in the next step, since gradients of the whole batch are known only after all its micro-batches.
        """
        loss = losses["discriminator"]
        self.discriminator_losses += torch.stack([torch.ones_like(loss), loss, loss**2])
        if last_layer:
            ratio = last_layer["reconstruction_gradient"].norm() / (last_layer["adversarial_gradient"].norm() + 1e-6)
            self.adaptive_weight.copy_(ratio.clamp(max=LARGEST_ADAPTIVE_WEIGHT))


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

    The mean over groups without the background, and over the items of the batch, each by itself: gradients of
    micro-batches then add up to those of the batch.
    """
    common, both = ((part[:, 1:].sum(dim=(2, 3, 4)) + 1) for part in (2 * found * target, found + target))
    return 1 - (common / both).mean()


@torch.inference_mode()
def _posterior(network: Autoencoder, images: Images, device: str) -> tuple[Latents, Latents]:
    mean, log_variance = network.encode(images.to(device))
    return mean.float().cpu(), log_variance.float().cpu()


def _training_size(shape: AutoencoderShape, contract: Contract, config: AutoencoderConfig) -> tuple[int, int, int]:
    """Size of the network's input: a patch or the whole volume."""
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
    """Adam with its state allocated at once: a step that ran out of memory half done could not be repeated."""
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
