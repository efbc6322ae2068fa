"""Loaders read by URL and from a bucket however their workers are started, also after the parent has read there."""

import multiprocessing
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader

from meddiff_core.release import open_release
from tests.serving import Server, serve

pytestmark = [
    pytest.mark.slow,
    pytest.mark.long,
    pytest.mark.filterwarnings("ignore:.*use of fork.*:DeprecationWarning"),
]
KEYS = "reader", "a/secret+of=this test"
GOLDEN = Path(__file__).parents[1] / "release/golden/heads-1.0.0.zip"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("served")
    shutil.unpack_archive(GOLDEN, folder / "bucket")
    with serve(folder) as state:
        yield state


@pytest.fixture(params=["http", "s3"])
def address(server: Server, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    server.keys = KEYS if request.param == "s3" else None
    settings = {"ACCESS_KEY_ID": KEYS[0], "SECRET_ACCESS_KEY": KEYS[1], "REGION": "us-east-1"}
    for name, value in ({"ENDPOINT_URL": server.url, "ALLOW_HTTP": "true"} | settings).items():
        monkeypatch.setenv(f"AWS_{name}", value)
    start = server.url if request.param == "http" else "s3:/"
    return f"{start}/bucket/heads-1.0.0"


@pytest.mark.timeout(400)
@pytest.mark.parametrize("start", ["fork", "forkserver", "spawn"])
def test_two_workers_read_twenty_volumes_after_the_parent_did(address: str, start: str) -> None:
    release = open_release(address, cache=None)
    expected = torch.as_tensor(release.dataset()[1]["image"])  # manifest, table and a volume, in the parent
    assert len(release.table) == 2
    data = release.dataset(indices=[0, 1] * 10)
    context = multiprocessing.get_context(start)
    loader = DataLoader(data, batch_size=2, num_workers=2, multiprocessing_context=context, timeout=300)
    batches = list(loader)
    assert len(batches) == 10
    assert all(torch.equal(torch.as_tensor(batch["image"][1]), expected) for batch in batches)
