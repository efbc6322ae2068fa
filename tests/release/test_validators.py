"""The tools that others check and open releases with, as their registry has them, without meddiff and a network.

`make validators` installs them into `.validators`, since their pins clash with ours. MEDDIFF_TEST_RELEASE names the
folder of another release to ask them about; by default it is the small one that the writer of today writes.
"""

import os
import shutil
import subprocess
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.long]
ROOT = Path(__file__).parents[2]
PYTHON = Path(os.environ.get("MEDDIFF_VALIDATORS", ROOT / ".validators")) / "bin/python"
ASK = Path(__file__).parent / "validators/ask.py"
STORE = "cohort.ome.zarr"


def edit(file: str, old: str, new: str) -> Callable[[Path], None]:
    def change(release: Path) -> None:
        text = (release / file).read_text()
        assert old in text
        (release / file).write_text(text.replace(old, new))

    return change


def cut(file: str) -> Callable[[Path], None]:
    def change(release: Path) -> None:
        content = (release / file).read_bytes()
        (release / file).write_bytes(content[: len(content) // 2])

    return change


def flip(release: Path) -> None:
    chunk = release / STORE / "image/c.0.0.0.0"
    content = bytearray(chunk.read_bytes())
    content[len(content) // 2] ^= 1
    chunk.write_bytes(content)


NO_LEVELS = edit(f"{STORE}/zarr.json", '"datasets"', '"datasetz"')
BROKEN: dict[str, Callable[[Path], None]] = {
    "yaozarrs": NO_LEVELS,
    "ome-zarr-models": NO_LEVELS,
    "ome-zarr-py": NO_LEVELS,
    "ngff-zarr": NO_LEVELS,
    "frictionless": edit("participants.tsv", "\n", "\tmore\n"),
    "mlcroissant": edit("croissant.json", '"column": "seed"', '"column": "sead"'),
    "datasets": cut("participants.parquet"),
    "zarr": flip,
    "xarray": flip,
    "nibabel": flip,
    "torch": flip,
}
"""Each tool, and what it must refuse: else its yes says nothing."""


@cache
def _isolated() -> list[str]:
    """A network of its own with nothing in it, where the operating system lets us have one."""
    command = ["unshare", "--net", "--map-root-user"]
    if not shutil.which("unshare") or subprocess.run([*command, "true"], capture_output=True, check=False).returncode:
        return []
    return command


def ask(tool: str, release: Path, home: Path) -> subprocess.CompletedProcess[str]:
    if not PYTHON.exists():
        pytest.skip(f"{tool} is not installed: `make validators` makes .validators")
    places = dict.fromkeys(("HOME", "HF_HOME", "XDG_CACHE_HOME"), str(home))
    proxies = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), "http://127.0.0.1:9")
    environment = {"PATH": os.environ["PATH"], "OMP_NUM_THREADS": "1", **places, **proxies}
    command = [*_isolated(), str(PYTHON), "-I", str(ASK), tool, str(release)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, cwd=home)


@pytest.mark.parametrize("tool", BROKEN)
def test_a_foreign_tool_takes_the_release(tool: str, released: Path, tmp_path: Path) -> None:
    said = ask(tool, Path(os.environ.get("MEDDIFF_TEST_RELEASE", released)), tmp_path)
    assert said.returncode == 0, said.stderr[-2000:]
    print(f"{tool}: {said.stdout.strip()}")


@pytest.mark.parametrize("tool", BROKEN)
def test_the_tool_refuses_a_broken_one(tool: str, released: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(released, tmp_path / "copy"))
    BROKEN[tool](copy)
    said = ask(tool, copy, tmp_path)
    assert said.returncode == 1, said.stdout
    assert said.stderr.splitlines()
