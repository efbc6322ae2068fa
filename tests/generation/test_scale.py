"""What a cohort takes is what its shards and its release then have on disk."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from meddiff_core.data.store import create_store, create_volumes
from meddiff_core.generation.scale import describe_scale, scale_of
from meddiff_core.generation.shards import MARKER
from meddiff_core.study import Study


def study(size: int) -> Study:
    return Study.model_validate(
        {"name": "heads", "data": {"images": "in"}, "cohort": {"size": size}, "sampling": {"shard": 8}}
    )


@pytest.mark.parametrize("labels", [{}, {"left": (1,)}])
def test_files_of_candidates_are_those_that_shards_write(tmp_path: Path, make_contract: Any, labels: Any) -> None:
    contract = make_contract(labels=labels)
    create_store(tmp_path / "candidates.zarr")
    for shard, count in enumerate((8, 8, 3)):
        folder = tmp_path / "candidates.zarr" / f"00-{shard}"
        group = create_store(folder, {})
        for name in ("image", *(["label"] if labels else [])):
            array = create_volumes(group, name, count, contract.size, "uint8")
            array[...] = np.ones((count, *contract.size), np.uint8)
        (folder / MARKER).touch()
    files = sum(path.is_file() for path in tmp_path.rglob("*"))
    assert scale_of(study(19), contract, None).candidate_files == files


def test_hours_are_those_of_the_last_cohort_and_none_without_one(contract: Any) -> None:
    large = scale_of(study(100_000), contract, 2.7)
    assert large.hours == pytest.approx(75)
    assert (large.shards, large.release_files) == (12_500, 400_000)
    assert "about 75 hours as the last cohort took" in describe_scale(large)
    assert "known after a first cohort" in describe_scale(scale_of(study(8), contract, None))
