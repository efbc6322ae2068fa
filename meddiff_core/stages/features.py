"""Features of the audit: computed on the study's pool, and kept in its `.meddiff/features`.

Features of the sealed holdout are among them, so nothing but the audit may open this room.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path

from meddiff_core.artefacts import STATE, digest_of
from meddiff_core.contract import Condition, Contract
from meddiff_core.data.dataset import Dataset
from meddiff_core.data.split.sides import Side
from meddiff_core.evidence.features.cache import CachedExtractor, KeptVolumes
from meddiff_core.evidence.features.contrastive import contrastive_features
from meddiff_core.evidence.features.external import ExternalFeatures
from meddiff_core.evidence.features.imagenet import ImageNetFeatures
from meddiff_core.evidence.features.latents import LatentFeatures
from meddiff_core.evidence.features.radiomics import RadiomicsFeatures
from meddiff_core.evidence.features.random_conv import RandomConvFeatures
from meddiff_core.evidence.features.records import Extractor
from meddiff_core.evidence.features.spectrum import SpectrumFeatures
from meddiff_core.models.autoencoder import Autoencoder, load_autoencoder
from meddiff_core.stages.making import Resources
from meddiff_core.types import Images, Latents, Volumes, Work, serial_map
from meddiff_core.workspace import Workspace

FEATURES = "features"


@dataclass(frozen=True)
class KeptDataset:
    """A data set whose sides are known to the cache of features."""

    dataset: Dataset

    def volumes(self, side: Side) -> KeptVolumes:
        """The stored volumes of one side."""
        digest = digest_of([self.dataset.digest(), self.dataset.rows(side)])
        return KeptVolumes(self.dataset.volumes(side), side, digest)

    def subjects(self, side: Side) -> list[str]:
        """Subject of each volume of one side."""
        return self.dataset.subjects(side)

    def conditions(self, side: Side) -> list[Condition]:
        """Conditions of each volume of one side."""
        return self.dataset.conditions(side)


def kept_cohort(workspace: Workspace, name: str, volumes: Volumes, sample_ids: Sequence[str]) -> KeptVolumes:
    """Volumes of some candidates, known to the cache of features."""
    records = [workspace.ledger.read(artefact) for artefact in ("candidates", "verdicts")]
    return KeptVolumes(volumes, name, digest_of([name, list(sample_ids), *(one and one.digest for one in records)]))


def set_extractors(workspace: Workspace, resources: Resources, contract: Contract) -> list[Extractor]:
    """Extractors of the features in which sets are compared."""
    device = resources.device
    autoencoder = workspace.inputs("latents")["autoencoder"]
    encode = partial(_encode, path=workspace.path("autoencoder"), digest=autoencoder, device=device)
    extractors: list[Extractor] = [
        RandomConvFeatures(contract),
        LatentFeatures(encode, autoencoder, contract),
        RadiomicsFeatures(contract),
    ]
    chosen, weights = workspace.study.audit.extractor, workspace.extractor_weights()
    if chosen == "efficientnet-lite0":
        extractors.append(ImageNetFeatures(contract, device))
    elif chosen is not None and weights is not None:
        extractors.append(ExternalFeatures(weights, chosen, contract, device))
    return _cached(extractors, workspace, resources)


def copy_extractors(
    workspace: Workspace, resources: Resources, dataset: KeptDataset, contract: Contract
) -> Work[list[Extractor]]:
    """Extractors of the features in which copies are searched; one of them is first trained on the train side."""
    train, folder = dataset.volumes("train"), workspace.folder / STATE / FEATURES / "encoder"
    seed, device = workspace.study.seed, resources.device
    learned = yield from contrastive_features(folder, train, contract, seed, train.digest, device)
    return _cached([SpectrumFeatures(contract), learned], workspace, resources)


def _cached(extractors: list[Extractor], workspace: Workspace, resources: Resources) -> list[Extractor]:
    """Extractors whose features are kept; on a GPU they run in this process, which is faster than any pool."""
    pool = resources.mapper if resources.device == "cpu" else serial_map
    return [CachedExtractor(extractor, workspace.folder / STATE / FEATURES, pool) for extractor in extractors]


def _encode(images: Images, path: Path, digest: str, device: str) -> Latents:
    return _autoencoder(path, digest, device).encode(images.to(device))[0]


@lru_cache(maxsize=1)
def _autoencoder(path: Path, digest: str, device: str) -> Autoencoder:
    """One per process; the digest distinguishes a retrained one from the one before."""
    return load_autoencoder(path, device)[0]
