"""Volumes of the cohort, and the code that turns them, as they stand inside the report.

A committee has no viewer installed and its browser may have no network, so the page brings both: niivue, vendored in
one file, and a handful of synthetic volumes as NIfTI. Only code with a digest in the page's content policy may run,
so that no text that a person wrote can become a script.
"""

import base64
import gzip
import hashlib
from collections.abc import Iterator
from functools import cache
from importlib.resources import files
from itertools import accumulate
from typing import Any

import nibabel
import numpy as np
from numpy.typing import NDArray

from meddiff_core.contract import ContinuousCondition, Contract
from meddiff_core.release.colours import label_colours
from meddiff_core.release.content import ReleaseContent
from meddiff_core.release.ome import Factors, affine_of, halve_image, halve_label, intensity_range, released_image
from meddiff_core.release.slices import Window

TURNED = 6
"""Volumes that the page lets a reader turn, at most."""
VOXELS = 96**3
"""Voxels of one of them, at most; what is larger is halved until it fits."""
CHARACTERS = 4_000_000
"""Of all of them in base64, at most. One of `VOXELS` fits even if nothing of it can be compressed."""


@cache
def viewer_code() -> dict[str, str]:
    """The vendored viewer, packed; its licence; the script of the page; and the policy that allows these two."""
    read = files("meddiff_core.release").joinpath("templates")
    niivue, licence, script = (
        (read / name).read_text(encoding="utf-8") for name in ("niivue.umd.js", "niivue.LICENSE", "report.js")
    )
    policy = " ".join(f"'sha256-{_digest(text)}'" for text in (niivue, script))
    return {"niivue": _packed(niivue.encode()), "licence": licence, "script": script, "policy": policy}


def turned_volumes(content: ReleaseContent, window: Window) -> list[dict[str, Any]]:
    """Position in the cohort, image and label map of the volumes to be turned, within `CHARACTERS`."""
    volumes = [_as_nifti(content, index, window) for index in _chosen(content)]
    sizes = accumulate(len(volume["image"]) + len(volume["label"] or "") for volume in volumes)
    return [volume for volume, size in zip(volumes, sizes, strict=True) if size <= CHARACTERS]


def label_colormap(contract: Contract) -> dict[str, list[int]]:
    """Colours by label value as niivue takes them; the background is transparent."""
    red, green, blue = (list(part) for part in zip((0, 0, 0), *label_colours(len(contract.labels)), strict=True))
    return {"R": red, "G": green, "B": blue, "A": [0, *[255] * len(contract.labels)]}


def quantiles_of(content: ReleaseContent) -> str | None:
    """The first continuous covariate, at whose quantiles volumes are chosen, so that its range is seen."""
    continuous = (c.name for c in content.contract.conditions if isinstance(c, ContinuousCondition))
    return next((name for name in continuous if name in content.table), None)


def fits_whole(contract: Contract) -> bool:
    """Whether volumes are shown in the voxels that they are released in."""
    return not list(_halvings(contract))


def _chosen(content: ReleaseContent) -> list[int]:
    by, order = quantiles_of(content), np.arange(len(content.table))
    if by:
        order = content.table[by].to_numpy(dtype=float, na_value=np.nan).argsort(kind="stable")
    quantiles = np.linspace(0, len(order) - 1, min(TURNED, len(order))).round().astype(int)
    return [int(position) for position in order[quantiles]]


def _as_nifti(content: ReleaseContent, index: int, window: Window) -> dict[str, Any]:
    """As released, in released intensities and RAS mm, smaller where it is too large for a page."""
    contract = content.contract
    image = released_image(content.volumes.image(index), contract)
    stored = content.volumes.label(index) if contract.labels else None
    label = None if stored is None else np.ascontiguousarray(stored.T)
    affine = affine_of(contract)
    for factors in _halvings(contract):
        image, label = halve_image(image, factors), None if label is None else halve_label(label, factors)
        affine = affine @ _to_blocks(factors[::-1])
    low, high = intensity_range(contract)
    shown = (low + window[0] * (high - low), low + window[1] * (high - low))
    return {
        "index": index,
        "image": _nifti(image, affine, shown),
        "label": None if label is None else _nifti(label, affine, (0, len(contract.labels))),
    }


def _halvings(contract: Contract) -> Iterator[Factors]:
    """Factors along z, y, x until a volume fits; the shortest voxel sides first, so that voxels become cubes."""
    size, spacing = np.array(contract.size[::-1]), np.array(contract.spacing_mm[::-1])
    while size.prod() > VOXELS:
        axes = (spacing < 2 * spacing[size > 1].min()) & (size > 1)
        factors = np.where(axes, 2, 1)
        size, spacing = -(-size // factors), spacing * factors
        z, y, x = factors.tolist()
        yield z, y, x


def _to_blocks(factors: Factors) -> NDArray[np.float64]:
    """(4, 4), index of a block to the voxel index of its middle."""
    blocks = np.diag([*map(float, factors), 1.0])
    blocks[:3, 3] = (np.array(factors) - 1) / 2
    return blocks


def _nifti(array: NDArray[Any], affine: NDArray[np.float64], window: Window) -> str:
    """(z, y, x) as a packed NIfTI that says in which window it is shown."""
    image = nibabel.Nifti1Image(array.T, affine)
    image.header["cal_min"], image.header["cal_max"] = window
    image.header.set_xyzt_units("mm")
    data: bytes = image.to_bytes()
    return _packed(data)


def _packed(data: bytes) -> str:
    return f"data:application/gzip;base64,{base64.b64encode(gzip.compress(data, mtime=0)).decode()}"


def _digest(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
