"""Volumes of structures, measured on an image by a network that takes no part in making it.

The autoencoder reads from an image what it wrote there itself: where it read all of an asked change, a segmentation
network saw 44% of it (4 held-out brains). So the measure is the audit's U-Net, trained once, on the label maps of the
validation scans, of which no weight of the models was made.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from meddiff_core.applications.calibration import Calibration, Tensors
from meddiff_core.applications.models import Models
from meddiff_core.applications.scans import GridScan
from meddiff_core.applications.tasks.change import read_labels, volumes_of
from meddiff_core.applications.tasks.encoding import Probabilities
from meddiff_core.contract import Contract
from meddiff_core.evidence.utility.segmentation import Recipe, Segmenter, build_network, train_segmenter
from meddiff_core.models.randomness import derive_seed
from meddiff_core.types import FloatArray, LabelArray, StoredArray, Volumes, Work

FEWEST = 8
"""Scans with label maps below which no network is trained, and the autoencoder's reading has to do."""
STEPS = 300
"""Of the training."""
SEED = derive_seed("volumes")
"""Its own, so that it is none of the networks that judge the result."""
ReadVolumes = Callable[[FloatArray], Mapping[str, float]]
"""An image (i, j, k) of 0 to 1 to the volume in mm3 of each label group; empty for models without labels."""


def volume_reader(models: Models, calibration: Calibration, first: Probabilities) -> Work[ReadVolumes]:
    """What measures volumes on images; trained when it is wanted for the first time."""
    contract = models.contract

    def train(_: Models, scans: list[GridScan]) -> Work[Tensors]:
        pairs = _Pairs([scan for scan in scans if scan.labels is not None], contract)
        return (yield from trained_weights(pairs, contract, STEPS, SEED)) if len(pairs) >= FEWEST else {}

    weights = (yield from calibration.kept("volumes", train)) if contract.labels else {}
    if not weights:
        return lambda image: volumes_of(read_labels(models, image, first), contract)
    segmenter = segmenter_of_weights(weights, contract, SEED)
    return lambda image: volumes_of(segmenter(contract.intensity.store(image)), contract)


def trained_weights(pairs: Volumes, contract: Contract, steps: int, seed: int) -> Work[Tensors]:
    """Weights of the audit's segmentation network, trained on some pairs."""
    trained = yield from train_segmenter("train a segmentation network", pairs, contract, Recipe(steps), seed)
    return {name: tensor.detach().contiguous() for name, tensor in trained.network.state_dict().items()}


def segmenter_of_weights(weights: Tensors, contract: Contract, seed: int) -> Segmenter:
    """The network with these weights."""
    network = build_network(contract, seed)
    network.load_state_dict(dict(weights))
    return Segmenter(network, contract, "cpu")


@dataclass(frozen=True)
class _Pairs:
    """Validation scans whose label maps are known, as a `Volumes` set."""

    scans: Sequence[GridScan]
    contract: Contract

    def __len__(self) -> int:
        return len(self.scans)

    def image(self, index: int) -> StoredArray:
        return self.contract.intensity.store(self.scans[index].image)

    def label(self, index: int) -> LabelArray | None:
        return self.scans[index].labels
