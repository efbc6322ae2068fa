"""`meddiff-client` opens, verifies and trains from a release with the requirements that it names, and no others."""

import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

from tests.serving import serve

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[1]
GOLDEN = ROOT / "tests/release/golden/heads-1.0.0.zip"
COMMAND = "import sys; from flows.cli import main; sys.argv[0] = 'meddiff'; main()"
READ = """
import sys
from meddiff_core.errors import MeddiffError
from meddiff_core.release import open_release
release = open_release(sys.argv[1])
print(release.images().shape, release.where(age=(None, None)))
try:
    release.dataset()
except MeddiffError as error:
    print(error)
"""
TRAIN = """
import sys, torch
from meddiff_core.release import open_release
release = open_release(sys.argv[1])
network = torch.nn.Conv3d(1, len(release.labels) + 1, 3, padding=1)
optimiser = torch.optim.Adam(network.parameters(), 1e-2)
losses = []
for epoch in range(30):
    for batch in torch.utils.data.DataLoader(release.dataset(), batch_size=2, shuffle=True):
        assert type(batch["image"]) is torch.Tensor
        loss = torch.nn.functional.cross_entropy(network(batch["image"] / 1000), batch["label"][:, 0].long())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss))
print(losses[-1] < losses[0])
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    build = [sys.executable, ROOT / "infra/client/build.py", folder, "--no-build-isolation"]
    subprocess.run(build, check=True, capture_output=True)
    (made,) = folder.glob("meddiff_client-*.whl")
    return made


@pytest.fixture(scope="module")
def client(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Any]:
    """Python with the client, what it requires, and `extra` beside it: nothing else can be imported."""
    site = tmp_path_factory.mktemp("site")
    zipfile.ZipFile(wheel).extractall(site)
    (metadata,) = site.glob("*.dist-info/METADATA")
    prefix = "Requires-Dist: "
    required = [line.removeprefix(prefix) for line in metadata.read_text().splitlines() if line.startswith(prefix)]
    bring(site, required)

    def run(code: str, *arguments: object, extra: str = "") -> subprocess.CompletedProcess[str]:
        path = site
        if extra:
            path = Path(shutil.copytree(site, tmp_path_factory.mktemp("more") / "site", symlinks=True))
            bring(path, [extra])
        code = f"import sys; sys.path.insert(0, {str(path)!r})\n{code}"
        command = [sys.executable, "-I", "-S", "-c", code, *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, check=False, cwd=site)

    return run


def bring(site: Path, requirements: list[str]) -> None:
    """Link distributions, and what they require, from this environment into another."""
    for requirement in map(Requirement, requirements):
        if requirement.marker and not requirement.marker.evaluate({"extra": ""}):
            continue
        found = distribution(requirement.name)
        tops = {file.parts[0] for file in found.files or ()} - {"..", "__pycache__"}
        if all((site / top).exists() for top in tops):
            continue
        for top in tops:
            if not (site / top).exists():
                (site / top).symlink_to(str(found.locate_file(top)))
        bring(site, found.requires or [])


@pytest.fixture(scope="module")
def golden(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("golden")
    shutil.unpack_archive(GOLDEN, folder)
    return folder / "heads-1.0.0"


def test_it_has_no_torch_and_no_engine(client: Callable[..., Any]) -> None:
    code = "import importlib.util as u; print([n for n in sys.argv[1:] if u.find_spec(n)])"
    heavy = ("torch", "monai", "scipy", "sklearn", "prefect", "mlflow", "dask", "nibabel", "matplotlib")
    assert client(code, *heavy).stdout == "[]\n"


def test_it_verifies_a_release(client: Callable[..., Any], golden: Path, tmp_path: Path) -> None:
    done = client(COMMAND, "verify", golden)
    assert (done.returncode, done.stderr) == (0, "")
    copy = shutil.copytree(golden, tmp_path / "copy")
    (copy / "README.md").write_text("another")
    done = client(COMMAND, "verify", copy)
    assert done.returncode == 1
    assert "README.md: altered" in done.stderr


def test_it_reads_a_release(client: Callable[..., Any], golden: Path) -> None:
    done = client(READ, golden)
    assert done.stdout.splitlines()[0] == "(2, 16, 16, 16) [0, 1]", done.stderr
    assert done.stdout.splitlines()[1].endswith("found no module torch: pip install torch")


def test_it_trains_from_a_release_with_torch_beside_it(client: Callable[..., Any], golden: Path) -> None:
    done = client(TRAIN, golden, extra="torch")
    assert done.stdout == "True\n", done.stderr


def test_it_pulls_a_part_goes_on_after_a_cut_verifies_and_trains_by_url(
    client: Callable[..., Any], golden: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))  # its cache lies there
    with serve(golden) as server:
        pull = (COMMAND, "pull", server.url, tmp_path / "part", "--where", "age > 0", "--limit", "1")
        server.misbehave = {"image/c/0/0/0/0": lambda handler, _: bool(handler.answer(404, b"") or True)}
        done = client(*pull)
        assert done.returncode == 1
        assert "image/c/0/0/0/0: missing" in done.stderr
        assert not (tmp_path / "part").exists()
        server.misbehave = {}
        done = client(*pull)
        assert (done.returncode, done.stdout.splitlines()[0]) == (
            0,
            f"{tmp_path / 'part'}: 1 of 2 of heads 1.0.0: where age > 0, the first 1, each file as released",
        ), done.stderr
        for place in (tmp_path / "part", server.url):
            done = client(COMMAND, "verify", place)
            assert done.returncode == 0, done.stderr
        done = client(TRAIN, server.url, extra="torch")
        assert done.stdout == "True\n", done.stderr
    done = client(TRAIN, tmp_path / "part", extra="torch")
    assert done.stdout == "True\n", done.stderr


@pytest.mark.parametrize("command", ["train", "regenerate", "init"])
def test_what_needs_more_says_which_distribution_has_it(
    client: Callable[..., Any], golden: Path, tmp_path: Path, command: str
) -> None:
    arguments = {
        "train": (tmp_path,),
        "regenerate": (golden, "--sample", "head-000000"),
        "init": (tmp_path / "new", "--images", tmp_path),
    }
    done = client(COMMAND, command, *arguments[command])
    assert done.returncode == 1
    assert done.stderr.strip().endswith(": install meddiff, meddiff-client only reads releases")
    assert "Traceback" not in done.stderr
