"""Build the wheel of `meddiff-client`: the sources of meddiff with the requirements of a reader alone.

Who trains on a release needs no network, engine or GPU library of ours, as `prefect-client` and `mlflow-skinny`
show. Version, sources and bounds of the requirements are those of the one pyproject.toml, so that nothing is
written twice and nothing can differ.
"""

import argparse
import json
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
PACKAGES = ("meddiff_core", "tasks", "flows")
REQUIRED = (
    "cryptography",
    "jinja2",
    "numcodecs",
    "numpy",
    "pandas",
    "pyarrow",
    "pydantic",
    "requests",
    "rule-engine",
    "typer",
    "urllib3",
    "zarr",
)
README = """# meddiff-client

Pulls, verifies and reads the synthetic cohorts that `meddiff` releases: `meddiff pull URL FOLDER`,
`meddiff subset`, `meddiff verify`, and `from meddiff_core.release import open_release`. Training on one needs torch
beside it. Do not install it beside the distribution `meddiff`, which holds all of it.
"""


def project() -> dict[str, Any]:
    """The `project` table of the client."""
    whole: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    kept = {name: whole[name] for name in ("version", "requires-python", "license", "license-files", "keywords")}
    bounds = {re.split(r"[^\w-]", requirement)[0]: requirement for requirement in whole["dependencies"]}
    return kept | {
        "name": "meddiff-client",
        "description": "Opens, verifies and reads the synthetic cohorts that meddiff releases",
        "readme": "README.md",
        "dependencies": [bounds[name] for name in REQUIRED],
        "scripts": whole["scripts"],
    }


def stage(folder: Path) -> None:
    """Put what the wheel is made of into an empty folder."""
    for package in PACKAGES:
        shutil.copytree(ROOT / package, folder / package, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "LICENSE", folder)
    (folder / "README.md").write_text(README)
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    tables = {
        "build-system": settings["build-system"],
        "project": project(),
        "tool.setuptools.packages.find": settings["tool"]["setuptools"]["packages"]["find"],
        "tool.setuptools.package-data": settings["tool"]["setuptools"]["package-data"],
    }
    lines = [line for name, table in tables.items() for line in (f"[{name}]", *_as_toml(table))]
    (folder / "pyproject.toml").write_text("\n".join(lines) + "\n")


def _as_toml(table: dict[str, Any]) -> list[str]:
    values = {
        key: f"{{{', '.join(_as_toml(v))}}}" if isinstance(v, dict) else json.dumps(v) for key, v in table.items()
    }
    return [f'"{key}" = {value}' for key, value in values.items()]


def main() -> None:
    """Build the wheel into the folder that is named."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--no-build-isolation", action="store_true", help="take the setuptools that is installed")
    options = parser.parse_args()
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(options.folder)]
    with tempfile.TemporaryDirectory() as name:
        stage(Path(name))
        subprocess.run([*command, *(["--no-build-isolation"] * options.no_build_isolation), name], check=True)


if __name__ == "__main__":
    main()
