"""What every test stands on: types are checked at run time, and no engine sees the user's own state."""

import os
import tempfile
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest
from hypothesis import settings
from jaxtyping import install_import_hook

from tasks.environment import prepare_environment

Result = TypeVar("Result")
_state = tempfile.TemporaryDirectory(prefix="meddiff-tests-", ignore_cleanup_errors=True)


# An int is a float, as PEP 484 has it.
_TYPES = "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))"


def _prepare() -> None:
    """Before any other module of tests is imported: Prefect reads its settings, and types are woven in, on import."""
    for name in [name for name in os.environ if name.startswith(("PREFECT_", "MLFLOW_", "DASK_"))]:
        del os.environ[name]
    prepare_environment(Path(_state.name))
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # tests run side by side
    os.environ.setdefault(
        "OMP_WAIT_POLICY", "PASSIVE"
    )  # where a test takes two threads, they sleep instead of spinning
    os.fsync = lambda descriptor: None  # only a power cut would tell, and tests would wait for disks
    install_import_hook("meddiff_core", _TYPES)
    settings.register_profile("any machine", deadline=None)  # how long an example takes says nothing of the law
    settings.load_profile("any machine")


_prepare()


def pytest_unconfigure() -> None:
    _state.cleanup()


@pytest.fixture(scope="session")
def finish() -> Callable[[Generator[Any, None, Result]], Result]:
    """Run a generator to its end, and give what it returns."""

    def run(work: Generator[Any, None, Result]) -> Result:
        while True:
            try:
                next(work)
            except StopIteration as end:
                return end.value  # type: ignore[no-any-return]

    return run


@pytest.fixture(scope="session")
def make_contract() -> Callable[..., Any]:
    """A small contract with two label groups and two conditions, with changes."""
    from meddiff_core.contract import CategoricalCondition, ContinuousCondition, Contract, IntensityMapping

    def make(**changes: Any) -> Any:
        usual: dict[str, Any] = {
            "spacing_mm": 2.0,
            "size": (16, 16, 16),
            "intensity": IntensityMapping(modality="MR", low=0, high=100, percentiles=(1, 99)),
            "mask": "none",
            "labels": {"left": (1,), "right": (2,)},
            "conditions": (
                ContinuousCondition(name="age", low=20, high=80, mean=50, std=10),
                CategoricalCondition(name="sex", categories=("F", "M")),
            ),
        }
        return Contract(**(usual | changes))

    return make


@pytest.fixture(scope="session")
def contract(make_contract: Callable[..., Any]) -> Any:
    return make_contract()


@pytest.fixture
def plan(make_contract: Callable[..., Any]) -> Any:
    """A plan of two trainings that were measured."""
    from meddiff_core.models.autoencoder import AutoencoderShape
    from meddiff_core.models.denoiser import DenoiserShape
    from meddiff_core.models.plan import Plan, TrainingPlan

    return Plan(
        contract=make_contract(),
        autoencoder=AutoencoderShape(in_channels=4, channels=(8, 8, 8), latent_channels=2),
        autoencoder_training=TrainingPlan(steps=90, batch=2, seconds_per_step=2.0, memory_gb=0.1),
        denoiser=DenoiserShape(latent_channels=2, channels=(32, 32)),
        denoiser_training=TrainingPlan(steps=10, batch=4, seconds_per_step=0.5, memory_gb=0.1),
        device="cpu",
        reasons={"size": "because"},
    )


@pytest.fixture(scope="session")
def save_models() -> Callable[..., Path]:
    """(folder, contract, seed) to the folder, with both models in it: never trained, but they answer to conditions."""

    def save(folder: Path, contract: Any, seed: int = 0) -> Path:
        import torch

        from meddiff_core.models.autoencoder import Autoencoder, AutoencoderShape, save_autoencoder
        from meddiff_core.models.denoiser import Denoiser, DenoiserShape, LatentScale, save_denoiser

        torch.manual_seed(seed)
        shape = AutoencoderShape(in_channels=contract.channels, channels=(8, 8), latent_channels=2)
        denoiser = Denoiser(DenoiserShape(latent_channels=2, channels=(32, 32)), contract.conditions)
        for parameter in denoiser.parameters():  # MONAI starts with zeros where a residual ends
            torch.nn.init.normal_(parameter, std=0.05)
        autoencoder = Autoencoder(shape)
        for parameter in autoencoder.parameters():  # so that no two volumes are rounded to the same
            torch.nn.init.normal_(parameter, std=0.2)
        save_autoencoder(folder / "autoencoder", autoencoder, contract, {})
        scale = LatentScale(mean=(0.1, -0.2), std=(0.7, 1.3))
        save_denoiser(folder / "denoiser", denoiser, contract, scale, "digest", {})
        return folder

    return save


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real scans, which the project does not ship."""
    default = Path(__file__).parents[2] / "shared" / "data"
    folder = Path(os.environ.get("MEDDIFF_TEST_DATA", default))
    if not folder.is_dir():
        pytest.skip(f"needs real scans: set MEDDIFF_TEST_DATA, {folder} does not exist")
    return folder


@pytest.fixture(scope="session")
def prefect_api() -> Iterator[None]:
    """One Prefect API for the session, on a database of its own. Mark tests that use it with `server`."""
    from prefect.testing.utilities import prefect_test_harness

    with prefect_test_harness(server_startup_timeout=120):
        yield
