"""References that were fitted on small heads, and shards of candidates."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from meddiff_core.artefacts import write_json
from meddiff_core.contract import Contract
from meddiff_core.data.store import create_store, create_volumes
from meddiff_core.evidence.features.random_conv import RandomConvFeatures
from meddiff_core.evidence.features.records import extract
from meddiff_core.evidence.measurements import measure_all
from meddiff_core.evidence.screening.bounds import Reference, ReferenceArrays, fit_reference
from meddiff_core.evidence.voxel_keys import all_keys_of
from meddiff_core.generation.schedule import SampleRequest, Shard
from meddiff_core.generation.shards import MARKER, ShardMarker
from meddiff_core.study import ScreenConfig


@pytest.fixture(scope="session")
def inspect(contract: Contract, finish: Callable) -> Callable[..., Any]:
    """Volumes to their measurements, features and voxel keys."""

    def look(volumes: Any) -> Any:
        figures = finish(measure_all("heads", volumes, contract))
        return figures, finish(extract(RandomConvFeatures(contract), volumes)), all_keys_of(volumes, contract)

    return look


@pytest.fixture(scope="session")
def fit(inspect: Callable) -> Callable[..., tuple[Reference, ReferenceArrays]]:
    """(train, validation, settings, further arguments) to a reference."""

    def make(train: Any, validation: Any, config: ScreenConfig, **more: Any) -> tuple[Reference, ReferenceArrays]:
        figures, features, keys = inspect(train)
        v_figures, v_features, v_keys = inspect(validation)
        return fit_reference(figures, v_figures, features, v_features, keys[:, 0], v_keys, config, **more)

    return make


@pytest.fixture
def save_shard(tmp_path: Path) -> Callable[..., Shard]:
    """(name, volumes) to the shard of these candidates, at slots from `first` on."""

    def save(name: str, volumes: Any, first: int = 0) -> Shard:
        group = create_store(tmp_path / "candidates.zarr" / name)
        for key, values in (("image", volumes.images), ("label", volumes.labels)):
            create_volumes(group, key, len(values), values.shape[1:], str(values.dtype))[...] = values
        count = len(volumes)
        distances = tuple(0.5 * n for n in range(count))
        kept = ShardMarker(
            key="key", samples=(), digests=(), batch=8, kept=tuple(range(count)), distances=(None, *distances[1:])
        )
        write_json(tmp_path / "candidates.zarr" / name / MARKER, kept)
        slots = range(first, first + count)
        return Shard(name, tuple(SampleRequest(f"syn-{n:06d}-0", n, 0, 70 + n, {"core_volume": 9.0}) for n in slots))

    return save
