"""What the validation scans say of the models, measured once and kept: errors, spreads, reference scores.

Everything is named by the digest of the models, so that new models never meet old figures. All of it is made of
patient data and stays in the study.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from meddiff_core.applications.models import Models
from meddiff_core.applications.scans import GridScan
from meddiff_core.artefacts import write_bytes
from meddiff_core.types import Work

Tensors = Mapping[str, Tensor]


@dataclass(frozen=True)
class Calibration:
    """Validation scans, and a folder for what is measured of them."""

    models: Models
    validation: Callable[[], list[GridScan]]
    """Reads them, when something is measured for the first time."""
    folder: Path
    """Of these models."""

    def kept(self, name: str, measure: Callable[[Models, list[GridScan]], Work[Tensors]]) -> Work[Tensors]:
        """What was measured under a name; measured now if it never was, or if the file is broken."""
        path = self.folder / f"{name}.safetensors"
        if path.is_file():
            try:
                return load_file(path)
            except (SafetensorError, OSError):
                pass
        found = dict((yield from measure(self.models, self.validation())))
        write_bytes(path, save(found))
        return found
