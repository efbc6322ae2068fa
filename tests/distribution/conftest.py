"""The release of the first version, served by a web server of our own."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.release.conftest import reseal  # noqa: F401 (a fixture)
from tests.serving import Server, serve

GOLDEN = Path(__file__).parents[1] / "release/golden/heads-1.0.0.zip"


@pytest.fixture(scope="session")
def golden(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("golden")
    shutil.unpack_archive(GOLDEN, folder)
    return folder / "heads-1.0.0"


@pytest.fixture
def served(golden: Path, tmp_path: Path) -> Iterator[Server]:
    """A copy of it, so that a test may change what lies there."""
    with serve(Path(shutil.copytree(golden, tmp_path / "served" / "heads"))) as server:
        yield server
