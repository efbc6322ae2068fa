"""Data set and autoencoder to grain: what reconstructions of training scans lack of their power."""

import numpy as np

from meddiff_core.artefacts import digest_of
from meddiff_core.data.dataset import Dataset
from meddiff_core.generation.grain import fit_grain, powers_of, save_grain
from meddiff_core.models.autoencoder import load_autoencoder
from meddiff_core.models.checkpoint import digest_checkpoint
from meddiff_core.models.images import label_values, unit_image
from meddiff_core.models.reconstruction import reconstructions
from meddiff_core.stages.making import Made, Maker, Resources
from meddiff_core.types import Progress, Work
from meddiff_core.workspace import Workspace

MOST_FITTED = 64
"""Training volumes that are reconstructed for it; more would make it slower, not better."""


def make_grain(workspace: Workspace, resources: Resources) -> Work[Made]:
    """Fit it on the train side."""
    dataset, path = Dataset.open(workspace.folder), workspace.replaced("grain")
    network, contract = load_autoencoder(workspace.path("autoencoder"), resources.device)
    train, subjects, groups = dataset.volumes("train"), dataset.subjects("train"), len(dataset.contract.labels)
    rows = np.unique(np.linspace(0, len(train) - 1, min(len(train), MOST_FITTED)).astype(int)).tolist()
    found = []
    for pair in reconstructions(network, train, rows, contract, resources.device):
        volumes = [(unit_image(one)[0].numpy(), label_values(one)[0].numpy() if groups else None) for one in pair]
        found.append([powers_of(unit, label, groups) for unit, label in volumes])
        yield Progress("fit grain", len(found), len(rows))
    scans, copies = zip(*found, strict=True)
    grain = fit_grain(scans, copies, [subjects[row] for row in rows])
    save_grain(path, grain)
    strength = 0.0 if grain is None else float(np.sqrt(grain.power.sum(0).max()))
    return Made(digest_of(digest_checkpoint(path)), {"volumes": len(rows), "largest_amplitude": round(strength, 4)})


MAKERS: dict[str, Maker] = {"grain": make_grain}
