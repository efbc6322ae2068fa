"""Denoising: the scan is observed with its noise besides the autoencoder's error.

Noise of magnitude images is Rician: it lifts dark voxels, and the observation expects the lifted value. What the mean
of the samples misses of the scan is noise and what the autoencoder loses; frequency by frequency, the share that the
latter usually has of both is added back (Wiener's filter), so that a scan with little noise comes back as it was.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from meddiff_core.applications.calibration import Calibration, Tensors
from meddiff_core.applications.models import Models
from meddiff_core.applications.outcome import GridMap, Outcome
from meddiff_core.applications.posterior.observation import Observation, magnitudes, spectrum, voxels
from meddiff_core.applications.posterior.sampling import sample_posterior
from meddiff_core.applications.posterior.tolerance import noise_energy, tolerance
from meddiff_core.applications.scans import GridScan
from meddiff_core.applications.settings import TaskSettings
from meddiff_core.errors import ConfigurationError
from meddiff_core.types import Work

LEAST, MOST = 0.005, 0.5
"""Noise that is expected at least, and the most that leaves something to go by, as shares of the intensity range."""


def denoise(models: Models, scan: GridScan, settings: TaskSettings, calibration: Calibration) -> Work[Outcome]:
    """The scan without noise; that of MR is taken for Rician, of CT for Gaussian.

    Voxels of exactly 0 were masked, and hold no noise.

    Raises:
        ConfigurationError: the noise is outside of what can be removed.
    """
    known = yield from tolerance(calibration)
    noise = _noise(scan, settings, known)
    rician = models.contract.intensity.modality == "MR"
    inside, image = torch.from_numpy(scan.inside), torch.from_numpy(scan.image)
    noisy, masked = inside & (image > 0), inside & (image == 0)
    there = magnitudes(noisy, noise) if rician else voxels(noisy)
    observations = [Observation(there, image[noisy], (known["image"][noisy].square() + noise**2).sqrt())]
    if masked.any():
        observations.append(Observation(voxels(masked), image[masked], known["image"][masked], "masked"))
    lifted = torch.where(noisy, unlifted(image, noise), image) if rician else image
    samples = yield from sample_posterior(models, scan, settings, observations, known, lifted)
    kept = autoencoder_share(known["spectrum"], noise, float(noisy.float().mean()))
    missed = torch.where(noisy, lifted - samples.mean, torch.zeros(()))
    found = samples.mean + torch.fft.ifftn(spectrum(missed) * kept, norm="ortho").real
    clean = torch.where(noisy, found, image).clamp(0, 1)
    left = ((known["spectrum"].square() * (1 - kept)).mean() / known["spectrum"].square().mean()).sqrt()
    error = torch.where(noisy, samples.std(known["image"] * left), torch.zeros(()))
    maps = {
        "denoised": GridMap("intensity", clean.numpy(), "The scan without its noise."),
        "uncertainty": GridMap("uncertainty", error.numpy(), "Expected error of the image, one standard deviation."),
    }
    given = "given" if settings.noise is not None else "estimated from the scan's highest frequencies"
    kind = "Rician" if rician else "Gaussian"
    note = f"The noise was taken for {kind} with standard deviation {noise:.3g} of the intensity range, {given}."
    return Outcome(maps, samples.figures | {"noise": noise}, (note,))


def autoencoder_share(lost: Float[Tensor, "i j k"], noise: float, noisy: float) -> Float[Tensor, "i j k"]:
    """Share of the autoencoder in what is missed at each frequency, the rest being noise.

    `lost` is its standard deviation there, real or imaginary part; `noisy` is the share of voxels that have noise.
    """
    return lost.square() / (lost.square() + noise**2 * noisy / 2)


def unlifted(image: Float[Tensor, "i j k"], noise: float) -> Float[Tensor, "i j k"]:
    """Intensities of expected magnitudes: the inverse of `magnitudes`, and 0 below the noise."""
    return (image.square() - noise**2).clamp_min(0).sqrt()


def _noise(scan: GridScan, settings: TaskSettings, known: Tensors) -> float:
    found = settings.noise
    if found is None:
        found = max(noise_energy(scan) - float(known["texture"]), LEAST**2) ** 0.5
    if not 0 < found <= MOST:
        raise ConfigurationError(f"denoise: noise must lie between 0 and {MOST} of the intensity range, is {found:g}")
    return found
