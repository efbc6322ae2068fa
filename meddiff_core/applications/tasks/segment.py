"""Segmentation by the joint model of image and labels: the image is observed, labels are what is missing.

No network was trained for it. Each sample is a whole volume whose image is the scan's; how far their labels agree
says where the model is not sure.
"""

import torch

from meddiff_core.applications.calibration import Calibration
from meddiff_core.applications.models import Models
from meddiff_core.applications.outcome import GridMap, Outcome
from meddiff_core.applications.posterior.observation import Observation, voxels
from meddiff_core.applications.posterior.sampling import PosteriorSamples, sample_posterior
from meddiff_core.applications.posterior.tolerance import tolerance
from meddiff_core.applications.scans import GridScan
from meddiff_core.applications.settings import TaskSettings
from meddiff_core.errors import ConfigurationError
from meddiff_core.types import Work


def segment(models: Models, scan: GridScan, settings: TaskSettings, calibration: Calibration) -> Work[Outcome]:
    """The label map of a scan, by the image alone; one that is known is not looked at.

    Raises:
        ConfigurationError: the model has no labels.
    """
    if not models.contract.labels:
        raise ConfigurationError("segment: the study must have label maps (labels: in study.yaml), has none")
    known = yield from tolerance(calibration)
    inside, image = torch.from_numpy(scan.inside), torch.from_numpy(scan.image)
    observation = Observation(voxels(inside), image[inside], known["image"][inside])
    samples = yield from sample_posterior(models, scan, settings, [observation], known, image)
    return Outcome(
        maps={
            "labels": GridMap("labels", samples.labels.numpy(), "Most likely label value of each voxel."),
            "uncertainty": GridMap(
                "uncertainty",
                entropy(samples).numpy(),
                "Entropy of the label values' probabilities: 0 where the model is sure, 1 where it knows nothing.",
            ),
        },
        figures=samples.figures | volumes_mm3(models, samples),
    )


def entropy(samples: PosteriorSamples) -> torch.Tensor:
    """(i, j, k), as a share of that of equal probabilities."""
    shares = samples.probabilities.clamp(1e-12, 1)
    return -(shares * shares.log()).sum(dim=0).clamp_max(0) / torch.tensor(float(len(shares))).log()


def volumes_mm3(models: Models, samples: PosteriorSamples) -> dict[str, float]:
    """Mean volume of each structure over the samples, `NAME_mm3`, and its standard deviation, `NAME_mm3_std`."""
    volumes = samples.counts[:, 1:].double() * models.contract.voxel_mm3
    means, spreads = volumes.mean(dim=0).tolist(), volumes.std(dim=0, correction=0).tolist()
    rows = zip(models.contract.labels, means, spreads, strict=True)
    return {key: value for name, mean, std in rows for key, value in ((f"{name}_mm3", mean), (f"{name}_mm3_std", std))}
