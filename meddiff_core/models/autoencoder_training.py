"""Training of the autoencoder: reconstruction, KL, patch-adversarial and perceptual terms.

The perceptual term compares features of the discriminator that is trained along, so nothing has to be
downloaded. Real and reconstructed images alone reach the discriminator: a one-hot label map is told from
a soft one at a glance and would teach it nothing.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from meddiff_core.contract import Contract
from meddiff_core.models.autoencoder import Autoencoder, AutoencoderShape
from meddiff_core.models.checkpoint import Tensors, optimizer_tensors, prefixed, restore_optimizer, unprefixed
from meddiff_core.models.ema import PowerAverage
from meddiff_core.models.images import load_images
from meddiff_core.models.loop import learning_rate_factor, set_learning_rate
from meddiff_core.models.randomness import batch_indices, derive_seed, generator_for
from meddiff_core.models.reconstruction import reconstruction_metrics
from meddiff_core.study import AutoencoderConfig
from meddiff_core.types import Images, Volumes

VALIDATED = 16
"""Volumes of the validation set that are looked at during training."""
BETAS = (0.5, 0.9)
"""Of Adam: short memory, as adversarial training needs."""


class AutoencoderTraining:
    """A `Training` (see loop.py) of an autoencoder, its average, and its discriminator."""

    label = "train autoencoder"

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
    ) -> None:
        torch.manual_seed(derive_seed(seed, "autoencoder", "weights"))
        self.network = Autoencoder(shape).to(device)
        self.discriminator = _discriminator().to(device)
        self.average = PowerAverage(self.network, share=0.1)
        self.optimizer = torch.optim.Adam(self.network.parameters(), config.learning_rate, BETAS)
        self.critic = torch.optim.Adam(self.discriminator.parameters(), config.learning_rate, BETAS)
        self.contract, self.config, self.device = contract, config, device
        self.train, self.validation = train, validation
        self.steps, self.batch, self.seed = steps, batch, seed

    def step(self, step: int) -> dict[str, Tensor]:
        images = self._batch(step)
        rate = self.config.learning_rate * learning_rate_factor(step, self.steps)
        set_learning_rate(self.optimizer, rate)
        set_learning_rate(self.critic, rate / 2)
        with torch.autocast(self.device.split(":")[0], torch.bfloat16, enabled=self.device != "cpu"):
            reconstructed, losses = self._reconstruct(images, step)
            if step >= self.config.adversarial_start * self.steps:
                losses |= self._judged(images, reconstructed)
        weights = self._weights()
        total = torch.stack([weights[name] * loss.float() for name, loss in losses.items()]).sum()
        self.optimizer.zero_grad()
        total.backward()
        nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
        self.optimizer.step()
        self.average.update(self.network, step + 1)
        if "adversarial" in losses:
            losses["discriminator"] = self._train_discriminator(images, reconstructed.detach())
        return {f"autoencoder/{name}": loss.detach() for name, loss in losses.items()}

    def validate(self) -> dict[str, float]:
        indices = range(min(VALIDATED, len(self.validation)))
        return reconstruction_metrics(self.average.network, self.validation, indices, self.contract, self.device)

    def state(self) -> Tensors:
        return {
            **prefixed("network", self.network.state_dict()),
            **prefixed("average", self.average.network.state_dict()),
            **prefixed("discriminator", self.discriminator.state_dict()),
            **prefixed("optimizer", optimizer_tensors(self.optimizer)),
            **prefixed("critic", optimizer_tensors(self.critic)),
        }

    def restore(self, state: Tensors) -> None:
        self.network.load_state_dict(unprefixed("network", state))
        self.average.network.load_state_dict(unprefixed("average", state))
        self.discriminator.load_state_dict(unprefixed("discriminator", state))
        restore_optimizer(self.optimizer, unprefixed("optimizer", state))
        restore_optimizer(self.critic, unprefixed("critic", state))

    def _batch(self, step: int) -> Images:
        """Volumes of this step, each mirrored left to right half of the time.

        Mirroring teaches the autoencoder more anatomy; the denoiser never sees a mirrored latent, so no
        mirrored patient is ever generated.
        """
        chosen = batch_indices(len(self.train), self.batch, step, self.seed, "autoencoder")
        images = load_images(self.train, chosen.tolist(), self.contract)
        mirrored = torch.rand(self.batch, generator=generator_for(self.seed, "autoencoder", "mirror", step)) < 0.5
        return torch.where(mirrored[:, None, None, None, None], images.flip(2), images).to(self.device)

    def _reconstruct(self, images: Images, step: int) -> tuple[Images, dict[str, Tensor]]:
        mean, log_variance = self.network.encode(images)
        noise = torch.randn(mean.shape, generator=generator_for(self.seed, "autoencoder", "noise", step))
        decoded = self.network.decode_logits(mean + (0.5 * log_variance).exp() * noise.to(self.device))
        losses = {
            "image": functional.l1_loss(decoded[:, :1], images[:, :1]),
            "kl": 0.5 * (mean**2 + log_variance.exp() - 1 - log_variance).mean(),
        }
        if self.contract.labels:
            losses["label"] = functional.cross_entropy(decoded[:, 1:], images[:, 1:].argmax(dim=1))
        return decoded, losses

    def _judged(self, images: Images, reconstructed: Images) -> dict[str, Tensor]:
        """Least-squares adversarial loss (Mao et al. 2017) and feature matching (Larsen et al. 2016)."""
        with torch.no_grad():
            *real_features, _ = self.discriminator(images[:, :1])
        *features, logits = self.discriminator(reconstructed[:, :1])
        distances = [functional.l1_loss(fake, real) for fake, real in zip(features, real_features, strict=True)]
        return {"perceptual": torch.stack(distances).mean(), "adversarial": ((logits - 1) ** 2).mean()}

    def _train_discriminator(self, images: Images, reconstructed: Images) -> Tensor:
        real, fake = self.discriminator(images[:, :1])[-1], self.discriminator(reconstructed[:, :1].float())[-1]
        loss: Tensor = (((real - 1) ** 2).mean() + (fake**2).mean()) / 2
        self.critic.zero_grad()
        loss.backward()
        self.critic.step()
        return loss

    def _weights(self) -> dict[str, float]:
        return {
            "image": 1.0,
            "label": 0.2,
            "kl": self.config.kl_weight,
            "perceptual": self.config.perceptual_weight,
            "adversarial": self.config.adversarial_weight,
        }


def _discriminator() -> nn.Module:
    from monai.networks.nets import PatchDiscriminator  # type: ignore[attr-defined]

    # Instance norm: a batch of two has no statistics worth normalising by.
    network = PatchDiscriminator(3, channels=16, in_channels=1, num_layers_d=2, norm="INSTANCE")
    network.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]  # its stub lacks it
    return network
