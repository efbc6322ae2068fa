"""Activation offloading: an activation that is kept outside the memory, and its moments over the whole volume.

Between two layers of a tiled decoding only a slab has to be in memory. Moments of a slab instead of the volume would
show as steps of brightness between slabs.
"""

import tempfile
import weakref
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from meddiff_core.models.inference.exact_group_norm import add_sums, normed


class OffloadedActivation:
    """Slabs (1, c, n, j, k) of one sample, joined along i: in a file, or for a GPU in the machine's main memory."""

    def __init__(self, slabs: Iterator[Tensor], scratch: Path | None = None) -> None:
        self._slices = list[Tensor]()
        self._file: _File | None = None
        self._sums: Tensor | None = None
        self._voxels = self.length = 0
        for slab in slabs:
            self._append(slab.movedim(1, -1).contiguous()[0], scratch)

    def _append(self, slices: Tensor, scratch: Path | None) -> None:
        """(n, j, k, c)."""
        if slices.is_cuda:
            self._slices.extend(slices.cpu())
        else:
            self._file = self._file or _File(slices[0], scratch)
            self._file.append(slices)
        self._sums = add_sums(slices, self._sums)
        self._device = slices.device
        self._voxels += slices[..., 0].numel()
        self.length += len(slices)

    def read(self, start: int, stop: int) -> Tensor:
        """Slices along i, (1, c, n, j, k), channels last in memory."""
        slices = self._file.read(start, stop) if self._file else torch.stack(self._slices[start:stop])
        return slices.to(self._device).movedim(-1, 0)[None]

    def normed(self, norm: nn.GroupNorm, slices: Tensor) -> Tensor:
        """Some slices of this activation, after a group norm over all of them."""
        assert self._sums is not None
        return normed(slices, norm, self._sums, self._voxels)


class _File:
    """Slices in an unnamed file, which disappears with the last reference to this or with the process."""

    def __init__(self, like: Tensor, folder: Path | None) -> None:
        self._shape, self._dtype = like.shape, like.dtype
        self._file = tempfile.TemporaryFile(dir=folder, buffering=0)  # noqa: SIM115
        weakref.finalize(self, self._file.close)

    def append(self, slices: Tensor) -> None:
        """Raises OSError where the disk is full."""
        slices.view(torch.uint8).numpy().tofile(self._file)  # NumPy knows no bfloat16

    def read(self, start: int, stop: int) -> Tensor:
        size = self._shape.numel() * self._dtype.itemsize
        self._file.seek(start * size)
        read = np.fromfile(self._file, np.uint8, (stop - start) * size)
        return torch.from_numpy(read).view(self._dtype).reshape(-1, *self._shape)
