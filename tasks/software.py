"""The software of a Dask cluster must be that of the command.

A worker with another version of torch makes other voxels, one with another version of meddiff or Python fails with
something that looks like anything else. distributed itself only warns.
"""

import sys
from collections.abc import Mapping
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from meddiff_core.errors import ConfigurationError

if TYPE_CHECKING:
    from distributed import Client

PACKAGES = ("meddiff", "dask", "distributed", "torch", "zarr")
MISSING = "none"
_SHOWN = 5
"""Differences that a message names."""


@cache
def own_software() -> dict[str, str]:
    """Version of Python and of each package in this process."""
    return _comparable({"python": _dotted(sys.version_info), **{name: _installed(name) for name in PACKAGES}})


def require_same_software(client: "Client") -> None:
    """Compare scheduler and workers that are there with this process.

    Raises:
        ConfigurationError: it names who has what.
    """
    found: Any = client.get_versions(packages=list(PACKAGES))
    wanted = own_software()
    different = _differences("the scheduler", found["scheduler"], wanted)  # it unpickles what it passes on
    for address, worker in found["workers"].items():
        different += _differences(f"worker {address}", worker, wanted)
    if different:
        more = f" and {len(different) - _SHOWN} more" if len(different) > _SHOWN else ""
        raise ConfigurationError(f"a Dask cluster must have this software: {'; '.join(different[:_SHOWN])}{more}")


def difference_from(wanted: Mapping[str, str], who: str) -> str:
    """What this process has otherwise, or nothing."""
    return "; ".join(_compared(who, own_software(), wanted))


def _differences(who: str, answer: Mapping[str, Any], wanted: Mapping[str, str]) -> list[str]:
    packages = answer["packages"]
    return _compared(who, _comparable({name: packages.get(name) or MISSING for name in wanted}), wanted)


def _compared(who: str, found: Mapping[str, str], wanted: Mapping[str, str]) -> list[str]:
    return [
        f"{who} has {name} {found[name]} instead of {wanted[name]}" for name in wanted if found[name] != wanted[name]
    ]


def _comparable(versions: Mapping[str, str]) -> dict[str, str]:
    """Minor version of Python; of packages the public version, since a worker with a GPU has another build of torch."""
    public = {name: text.partition("+")[0] for name, text in versions.items()}
    return public | {"python": ".".join(versions["python"].split(".")[:2])}


def _dotted(parts: tuple[Any, ...]) -> str:
    return ".".join(map(str, parts))


def _installed(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return MISSING
