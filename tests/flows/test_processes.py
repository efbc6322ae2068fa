"""The same study, trained by one process and by two."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from meddiff_core.models.checkpoint import load_checkpoint

Run = Callable[..., Any]


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.timeout(1200)
def test_two_processes_train_the_models_of_one(chain: Any, write_study: Run, served: Run) -> None:
    """Not bit for bit: sums are rounded in another order, and Adam makes whole steps of what is left of a zero."""
    alone, together = chain.folder, chain.folder.with_name("together")
    shutil.copytree(alone, together)
    shutil.rmtree(together / "models")
    write_study(together, runtime={"processes": 2})
    trained = served("train", together)
    assert trained.status == 0, trained.err
    assert "autoencoder: trained by 2 processes" in trained.err
    for name in ("autoencoder", "denoiser"):
        one, two = (facts(folder / "models" / name) for folder in (alone, together))
        assert (one["processes"], two["processes"]) == (1, 2)
        assert two["metrics"] == pytest.approx(one["metrics"], rel=3e-4, abs=3e-4), name


def facts(model: Path) -> dict[str, Any]:
    return load_checkpoint(model)[1]
