"""A study whose whole chain was made, as far as records, tables and manifests say so: no voxel is in it."""

from pathlib import Path

import pyarrow as pa
import pytest
import yaml
from pydantic import TypeAdapter

from meddiff_core.artefacts import digest_file, digest_of, write_bytes, write_json
from meddiff_core.data.dataset import TABLE
from meddiff_core.data.ingest import Inventory
from meddiff_core.parquet import write_parquet
from meddiff_core.release.manifest import FORMAT, FileEntry, Manifest, write_manifest
from meddiff_core.types import CaseRef
from meddiff_core.workspace import CHAIN, Workspace

SIDES = {"qx7-ada": "train", "qx7-bea": "train", "qx7-cyd": "validation", "qx7-dov": "holdout"}


def make_release(workspace: Workspace, version: str, **parents: str) -> str:
    """A release of the artefacts that the records know, some of them otherwise; gives the digest of its manifest."""
    folder = workspace.path("release") / f"knees-{version}"
    folder.mkdir(parents=True)
    known = {name: record.digest for name, record in workspace.records().items()}
    apart = ("inventory", "report", "release")
    files = {f"cohort/{row}": FileEntry(bytes=1, sha256="0" * 64) for row in range(2)}
    manifest = Manifest(
        format=FORMAT, name="knees", version=version, title="Knees", licence="none", preset="trial", samples=2,
        counts={}, parents={name: one for name, one in (known | parents).items() if name not in apart}, study={},
        versions={}, files=files,
    )  # fmt: skip
    write_manifest(folder, manifest)
    return digest_file(folder / "manifest.json")


@pytest.fixture
def study(tmp_path: Path) -> Workspace:
    """The study of four subjects in `tmp_path/knees`, with one release."""
    folder = tmp_path / "knees"
    return make_study(folder)


def make_study(folder: Path) -> Workspace:
    folder.mkdir()
    (folder / "study.yaml").write_text(yaml.safe_dump({"name": "knees", "data": {"images": "../scans"}}))
    cases = [CaseRef(f"{name}_T1", name, folder.parent / "scans" / f"{name}_T1.nii.gz") for name in SIDES]
    write_bytes(folder / "inventory.json", TypeAdapter(Inventory).dump_json(Inventory(tuple(cases), (), ())))
    write_json(folder / "split.json", {"sides": SIDES, "train": 0.5, "validation": 0.25, "seed": 0})
    write_json(folder / "fingerprint.json", {"cases": [], "refused": [], "notes": [], "kinds": {}})
    rows = {
        "case": [case.case for case in cases],
        "subject": list(SIDES),
        "side": list(SIDES.values()),
        "source": [f"../scans/{case.image.name}" for case in cases],
        "image_sha256": [digest_of(case.case) for case in cases],
    }
    write_parquet(folder / TABLE, pa.table(rows))
    workspace = Workspace.open(folder)
    for name, artefact in CHAIN.items():
        if artefact.path.endswith((".zarr", "models", "reference", "audit", "releases")) or "/" in artefact.path:
            workspace.path(name).mkdir(parents=True, exist_ok=True)
        elif name == "plan":
            write_json(workspace.path(name), {})
        elif name == "guidance":
            write_json(workspace.path(name), {"guidance": 1.0, "interval": None})
        else:
            workspace.path(name).touch()
        summary = {"minutes": 2.5, "folder": "knees-1.0.0"}
        workspace.record(name, digest_of(f"first {name}"), workspace.inputs(name), summary)
    made = make_release(workspace, "1.0.0")
    workspace.record("release", made, workspace.inputs("release"), {"minutes": 2.5, "folder": "knees-1.0.0"})
    return workspace
