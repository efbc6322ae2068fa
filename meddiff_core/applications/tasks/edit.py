"""A scan varied or changed: noise of a level is added, and a solver walks down again (Meng et al. 2022, SDEdit).

`strength` sets how much of the subject stays: little noise keeps its structures, much noise keeps nothing. What is
added to the scan is the difference to its own reconstruction, so that a strength near 0 gives back the scan itself.
The result is the first sample: a mean of samples is smoother than any scan. Their spread is the uncertainty.
"""

import numpy as np

from meddiff_core.applications.calibration import Calibration
from meddiff_core.applications.models import Decoded, Models
from meddiff_core.applications.outcome import GridMap, Outcome
from meddiff_core.applications.scans import GridScan
from meddiff_core.applications.settings import TaskSettings
from meddiff_core.applications.tasks.asked import check_asked, own_condition
from meddiff_core.applications.tasks.change import Changed, changed_maps, laid_over, read_labels, rms, volumes_of
from meddiff_core.applications.tasks.encoding import Probabilities, encode_scan, mean_labels
from meddiff_core.applications.tasks.starts import HIGHEST, exact_inference, levels, restarted, seed_of
from meddiff_core.contract import Condition
from meddiff_core.diffusion.solvers import DenoisedAt, solve_adams
from meddiff_core.errors import ConfigurationError
from meddiff_core.types import LabelArray, Latents, Progress, Work

GUIDANCE = 2.0
"""Where a condition is asked for: without it the samples follow a condition less than half of the way."""


def edit(models: Models, scan: GridScan, settings: TaskSettings, calibration: Calibration) -> Work[Outcome]:
    """The scan from `settings.strength` of noise on, under `settings.asked` where something is asked for.

    Raises:
        ConfigurationError: a strength outside 0 to 1, or a condition that training never saw.
    """
    sigma = sigma_of(settings.strength)
    asked = check_asked(settings.asked, models.contract, settings.extrapolate)
    first = yield from mean_labels(models, calibration)
    labels, latents, before = _encoded(models, scan, first)
    condition = own_condition(scan.condition, {}, {}, models.contract) | asked
    denoised_at = models.denoised_under(condition, GUIDANCE if asked else 1.0)
    samples = list[Changed]()
    for number in range(settings.samples):
        yield Progress("edit", number, settings.samples)
        seed = seed_of(settings, scan, "edit", number)
        after = _sampled(models, denoised_at, latents, sigma, seed, settings.steps)
        samples.append(laid_over(scan, labels, before, after))
    yield Progress("edit", settings.samples, settings.samples)
    return _outcome(models, samples, sigma, asked, labels)


def sigma_of(strength: float) -> float:
    """Noise level at which noise is that share of the sum of noise and data: `sigma / (1 + sigma)`."""
    if not 0 <= strength <= 1:
        raise ConfigurationError(f"edit: strength must be in [0, 1], is {strength:g}")
    return HIGHEST if strength == 1 else min(HIGHEST, strength / (1 - strength))


def _encoded(models: Models, scan: GridScan, first: Probabilities) -> tuple[LabelArray | None, Latents, Decoded]:
    with exact_inference(models):
        labels = read_labels(models, scan.image, first) if scan.labels is None else scan.labels
        latents = encode_scan(models, scan, first)
        return labels, latents, models.decode(latents)


def _sampled(models: Models, denoised_at: DenoisedAt, latents: Latents, sigma: float, seed: int, steps: int) -> Decoded:
    with exact_inference(models):
        if sigma == 0:
            return models.decode(latents)
        sigmas = levels(models, steps, sigma)
        return models.decode(solve_adams(denoised_at, restarted(latents, float(sigmas[0]), seed), sigmas))


def _outcome(
    models: Models, samples: list[Changed], sigma: float, asked: Condition, labels: LabelArray | None
) -> Outcome:
    spread = np.std([sample.image for sample in samples], axis=0).astype(np.float32)
    uncertainty = GridMap("uncertainty", spread, "standard deviation over the samples")
    figures = {"sigma": sigma, "rms_change": rms(samples[0].difference), "rms_uncertainty": rms(spread)}
    before = volumes_of(labels, models.contract)
    for group, volume in volumes_of(samples[0].labels, models.contract).items():
        figures[f"change_{group}_mm3"] = volume - before[group]
    notes = ("one sample of many; the uncertainty map shows where others differ",)
    return Outcome(changed_maps(samples[0]) | {"uncertainty": uncertainty}, figures, notes)
