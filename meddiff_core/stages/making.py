"""Resources of a stage, and its result.

The science of a stage is a generator over a study's folder: it yields progress and messages, and returns a digest.
The caller decides whether a Dask cluster is behind the mapper, or torch's launcher behind a training, so that the
same stage runs under an engine and without any.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from meddiff_core.errors import ConfigurationError
from meddiff_core.types import Mapper, Work, serial_map
from meddiff_core.workspace import Workspace

Fit = Callable[[Workspace, str, str, str], Work[dict[str, Any]]]
"""From a study, the name of a model, the digest of what it is made from, and a device, to a trained model."""


def fit_here(workspace: Workspace, name: str, key: str, device: str) -> Work[dict[str, Any]]:
    """Train a model in this process."""
    from meddiff_core.training import fit_model  # torch; whoever only asks how a study stands shall not wait for it

    return (yield from fit_model(workspace.folder, name, key, device))


@dataclass(frozen=True)
class Resources:
    """What the machine and the engines lend to a stage."""

    device: str
    """Where networks run."""
    mapper: Mapper = serial_map
    """Where cases and shards are worked on."""
    fit: Fit = fit_here
    """How a model is trained."""
    signing_key: str | None = field(default=None, repr=False)
    """Private key in PEM that signs releases, where the study names no file of one."""


@dataclass(frozen=True)
class Made:
    """Result of making an artefact."""

    digest: str
    summary: dict[str, Any]
    """Small figures for the ledger."""
    files: tuple[Path, ...] = ()
    """Small files for the lineage."""
    metrics: dict[str, float] = field(default_factory=dict)
    """Measurements for the lineage."""


Maker = Callable[[Workspace, Resources], Work[Made]]
"""Makes one artefact of a study anew."""


def choose_device(wanted: str | None) -> str:
    """The wanted device, or a GPU if there is one, or the CPU."""
    import torch

    if wanted is None:
        return "cuda" if torch.cuda.is_available() else "cpu"
    if wanted.startswith("cuda") and not torch.cuda.is_available():
        raise ConfigurationError(f"runtime.device must be cpu on a machine without a GPU, is {wanted!r}")
    return wanted
