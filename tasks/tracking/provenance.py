"""Versions and commit of this code, as tags of a run."""

import functools
import subprocess
from pathlib import Path

from meddiff_core.stages.versions import installed_versions

_PACKAGES = ("meddiff", "torch", "monai", "numpy", "zarr", "prefect", "mlflow", "dask")


@functools.cache
def code_tags() -> dict[str, str]:
    """Versions of the packages that decide results, and the commit where this code is in a repository."""
    versions = {f"version.{name}": version for name, version in installed_versions(_PACKAGES).items()}
    return versions | _commit()


def _commit() -> dict[str, str]:
    """Commit of this code, and whether it was changed since; empty where it is not in a repository."""
    here = Path(__file__)
    try:
        _git(here.parent, "ls-files", "--error-unmatch", here.name)
        return {
            "git.commit": _git(here.parent, "rev-parse", "HEAD"),
            "git.dirty": str(bool(_git(here.parent, "status", "--porcelain", "--untracked-files=no"))).lower(),
        }
    except (OSError, subprocess.SubprocessError):
        return {}


def _git(folder: Path, *arguments: str) -> str:
    command = ["git", "-C", str(folder), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=10).stdout.strip()
