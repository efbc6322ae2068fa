"""Bytes, time and undetected damage of every codec considered for volumes, beside .nii.gz of the same voxels.

    python tests/benchmarks/codec_choice.py [--scans FOLDER --labels FOLDER] [--volumes 12] [--spacing-mm 2.5]

Volumes are phantoms, or brains cut out of scans with label maps of the same subjects, resampled so that their values
are as continuous as a decoder's. Each is compressed as one chunk, as a release does: `int16` as it is released from
the study's uint8, `int16 of uint16` as from a study with `storage: uint16`, the study's own `uint8`, the decoder's
`float32`, and label maps. "Unseen" are the single flipped bits, of 50 in each of two volumes, that give other voxels
without an error.
Contenders take turns in one run; times are medians of a volume, processor time of one thread.
"""

import argparse
import gzip
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import nibabel
import numcodecs
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from meddiff_core.contract import Contract, IntensityMapping
from meddiff_core.phantoms.scan import make_phantom
from meddiff_core.release.ome import LEVEL, released_image

FLIPS, FLIPPED = 50, 2
Array = NDArray[Any]


@dataclass(frozen=True)
class Codec:
    encode: Callable[[Array], bytes]
    decode: Callable[[bytes], Any]


def zstd(level: int) -> Codec:
    codec = numcodecs.Zstd(level=level, checksum=True)
    return Codec(codec.encode, codec.decode)


def blosc(inner: str, level: int, checksum: bool = False) -> Codec:
    codec = numcodecs.Blosc(inner, clevel=level, shuffle=numcodecs.Blosc.BITSHUFFLE)
    if not checksum:
        return Codec(codec.encode, codec.decode)
    crc = numcodecs.CRC32C(location="end")
    return Codec(lambda array: crc.encode(codec.encode(array)), lambda data: codec.decode(bytes(crc.decode(data))))


def nifti() -> Codec:
    """As nibabel writes a file: gzip at its level, 1."""

    def encode(array: Array) -> bytes:
        return gzip.compress(nibabel.Nifti1Image(array, np.eye(4)).to_bytes(), 1)

    def decode(data: bytes) -> Any:
        return np.asarray(nibabel.Nifti1Image.from_bytes(gzip.decompress(data)).dataobj)

    return Codec(encode, decode)


def contenders() -> dict[str, Codec]:
    gzips = numcodecs.GZip(level=5)
    return {
        ".nii.gz": nifti(),
        "gzip 5": Codec(gzips.encode, gzips.decode),
        **{f"zstd {level}": zstd(level) for level in (1, 3, LEVEL, 9, 15)},
        "blosc bit shuffle, lz4 5": blosc("lz4", 5),
        "blosc bit shuffle, zstd 5": blosc("zstd", 5),
        "the same with crc32c": blosc("zstd", 5, checksum=True),
    }


def phantoms(count: int, spacing_mm: float) -> Iterator[tuple[Array, Array]]:
    for seed in range(count):
        phantom = make_phantom(seed, 30 + 4 * (seed % 12), "MF"[seed % 2], spacing_mm)
        yield phantom.image, phantom.label


def scans(images: Path, labels: Path, count: int, spacing_mm: float) -> Iterator[tuple[Array, Array]]:
    """Brains, cropped to themselves, with the values of their label maps numbered from 1."""
    for path in sorted(images.glob("*.nii*"))[:count]:
        name = path.name.partition(".")[0]
        (label_path,) = labels.glob(f"{name.removesuffix('_T1')}*.nii*")
        image, label = nibabel.load(path), nibabel.load(label_path)
        zoom = np.array(image.header.get_zooms()[:3]) / spacing_mm
        found = np.asarray(label.dataobj).astype(np.int32)
        box = ndimage.find_objects((found > 0).astype(np.int8))[0]
        brain = np.where(found > 0, image.get_fdata(dtype=np.float32), 0)[box]
        numbered = np.unique(found[box], return_inverse=True)[1].reshape(brain.shape).astype(np.uint8)
        yield ndimage.zoom(brain, zoom, order=1), ndimage.zoom(numbered, zoom, order=0)


def kinds(image: Array, label: Array) -> dict[str, Array]:
    """The same volume in each form, in the order of the store: (z, y, x)."""
    low, high = np.percentile(image[image > 0], (0.5, 99.5))
    unit = np.where(image > 0, np.clip((image - low) / (high - low), 0, 1), 0).astype(np.float32)

    def as_released(storage: Any) -> Array:
        mapping = IntensityMapping(modality="MR", low=0, high=1, percentiles=(0.5, 99.5), storage=storage)
        contract = Contract(spacing_mm=1.0, size=image.shape, mask="none", labels={}, conditions=(), intensity=mapping)  # type: ignore[arg-type]
        return released_image(mapping.store(unit), contract)

    return {
        "int16": as_released("uint8"),
        "int16 of uint16": as_released("uint16"),
        "uint8": np.ascontiguousarray(np.rint(unit * 255).astype(np.uint8).T),
        "float32": np.ascontiguousarray(unit.T),
        "label maps": np.ascontiguousarray(label.T),
    }


def unseen_flips(codec: Codec, volume: Array, seed: int) -> int:
    """How many of some single flipped bits end in other voxels instead of in an error."""
    random = np.random.default_rng(seed)
    encoded, unseen = bytes(codec.encode(volume)), 0
    for bit in random.integers(0, 8 * len(encoded), FLIPS):
        damaged = bytearray(encoded)
        damaged[bit // 8] ^= 1 << (bit % 8)
        try:
            unseen += as_bytes(codec.decode(bytes(damaged))) != volume.tobytes()
        except Exception:  # each codec raises its own
            continue
    return unseen


def as_bytes(decoded: Any) -> bytes:
    """Of an array in the order in which it was written, or of plain bytes."""
    return decoded.tobytes() if isinstance(decoded, np.ndarray) else bytes(decoded)


def measure(codecs: dict[str, Codec], volumes: list[Array]) -> None:
    """A line for each codec, all of the same volumes."""
    bytes_of, encoding, decoding = ({name: [] for name in codecs} for _ in range(3))  # type: ignore[var-annotated]
    for volume in volumes:
        for name, codec in codecs.items():
            started = time.thread_time()
            encoded = bytes(codec.encode(volume))
            between = time.thread_time()
            decoded = codec.decode(encoded)
            ended = time.thread_time()
            assert as_bytes(decoded) == volume.tobytes()
            bytes_of[name].append(len(encoded))
            encoding[name].append((between - started) * 1000)
            decoding[name].append((ended - between) * 1000)
    for name, codec in codecs.items():
        unseen = sum(unseen_flips(codec, volume, seed) for seed, volume in enumerate(volumes[:FLIPPED]))
        relative = sum(bytes_of[name]) / sum(bytes_of[".nii.gz"])
        print(
            f"  {name:<26} {sum(bytes_of[name]) / len(volumes) / 1e3:8.0f} kB {relative:6.2f}"
            f" {median(encoding[name]):8.2f} ms {median(decoding[name]):8.2f} ms   {unseen}/{FLIPS * FLIPPED}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scans", type=Path)
    parser.add_argument("--labels", type=Path)
    parser.add_argument("--volumes", type=int, default=12)
    parser.add_argument("--spacing-mm", type=float, default=2.5)
    options = parser.parse_args()
    numcodecs.blosc.set_nthreads(1)
    pairs = (
        scans(options.scans, options.labels, options.volumes, options.spacing_mm)
        if options.scans
        else phantoms(options.volumes, options.spacing_mm)
    )
    forms = [kinds(image, label) for image, label in pairs]
    for kind in forms[0]:
        volumes = [form[kind] for form in forms]
        size = " x ".join(map(str, volumes[0].shape[::-1]))
        print(f"{kind}, {len(volumes)} volumes of {size}: bytes, beside .nii.gz, encode, decode, unseen")
        measure(contenders(), volumes)


if __name__ == "__main__":
    main()
