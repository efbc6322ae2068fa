"""Data set and autoencoder to grain: what reconstructions of training scans lack of their power."""

from pathlib import Path

import numpy as np

from meddiff_core.artefacts import digest_of
from meddiff_core.data.dataset import Dataset
from meddiff_core.evidence.screening.reconstructed import Reconstructed
from meddiff_core.evidence.selection import Selection
from meddiff_core.generation.grain import LADDER, Grain, fit_grain, fit_tone, histogram_of, save_grain, sums_of, toned
from meddiff_core.models.autoencoder import load_autoencoder
from meddiff_core.models.checkpoint import digest_checkpoint
from meddiff_core.stages.making import Made, Maker, Resources
from meddiff_core.types import FloatArray, Progress, Volumes, Work
from meddiff_core.workspace import Workspace

MOST_FITTED = 64
"""Training volumes that it is fitted on; more would make it slower, not better."""


def make_grain(workspace: Workspace, resources: Resources) -> Work[Made]:
    """Fit it, and keep it beside the models."""
    dataset, path = Dataset.open(workspace.folder), workspace.replaced("grain")
    grain = yield from fit_on_train(dataset, workspace.path("autoencoder"), resources.device)
    save_grain(path, grain)
    return Made(digest_of(digest_checkpoint(path)), {"fitted": grain is not None})


def fit_on_train(dataset: Dataset, autoencoder: Path, device: str) -> Work[Grain | None]:
    """On scans of the train side, and what the autoencoder makes of them."""
    network, contract = load_autoencoder(autoencoder, device)
    whose, groups = dataset.subjects("train"), len(contract.labels)
    rows = np.unique(np.linspace(0, len(whose) - 1, min(len(whose), MOST_FITTED)).astype(int)).tolist()
    scans = Selection.of(dataset.volumes("train"), rows)
    copies = yield from Reconstructed.of(network, scans, contract, device)

    def unit(volumes: Volumes, index: int) -> FloatArray:
        return contract.intensity.unit(volumes.image(index))

    tone = LADDER
    if contract.mask != "none":  # only a mask has an outline that is sharper than any tissue's
        tone = fit_tone(*([histogram_of(unit(one, index)) for index in range(len(rows))] for one in (scans, copies)))
    found = []
    for index in range(len(rows)):
        copy, label = toned(unit(copies, index), tone), copies.label(index)
        found.append([sums_of(one, copy, label, groups) for one in (unit(scans, index), copy)])
        yield Progress("fit grain", index + 1, len(rows))
    originals, reconstructed = zip(*found, strict=True)
    return fit_grain(originals, reconstructed, [whose[row] for row in rows], tone)


MAKERS: dict[str, Maker] = {"grain": make_grain}
