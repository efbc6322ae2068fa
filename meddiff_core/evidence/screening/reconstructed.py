"""Training volumes as the autoencoder gives them back: what a perfect denoiser would lead to.

A decoder smooths a little. Bounds fitted on scans alone would call every decoded volume too smooth.
"""

from collections.abc import Generator
from dataclasses import dataclass

from meddiff_core.contract import Contract
from meddiff_core.models.autoencoder import Autoencoder
from meddiff_core.models.images import to_stored
from meddiff_core.models.reconstruction import reconstructions
from meddiff_core.types import LabelArray, Progress, StoredArray, Volumes


@dataclass(frozen=True)
class Reconstructed:
    """Reconstructions in memory, as a `Volumes` set."""

    volumes: tuple[tuple[StoredArray, LabelArray | None], ...]

    @classmethod
    def of(
        cls, network: Autoencoder, volumes: Volumes, contract: Contract, device: str = "cpu"
    ) -> Generator[Progress, None, "Reconstructed"]:
        """Reconstruct every volume of a set."""
        made = []
        for _, copy in reconstructions(network, volumes, range(len(volumes)), contract, device):
            images, labels = to_stored(copy, contract)
            made.append((images[0], None if labels is None else labels[0]))
            yield Progress("reconstruct", len(made), len(volumes))
        return cls(tuple(made))

    def __len__(self) -> int:
        return len(self.volumes)

    def image(self, index: int) -> StoredArray:
        return self.volumes[index][0]

    def label(self, index: int) -> LabelArray | None:
        return self.volumes[index][1]
