"""One foreign tool looks at one release, as a stranger would: without meddiff and without a network.

    .validators/bin/python tests/release/validators/ask.py TOOL RELEASE

Prints what the tool says in a line; exits with 1, and the tool's own last words, where it refuses. A validator that
stops before the pixels, or that has a row fewer than the release has volumes, would say yes to an empty release: so
each tool is also asked for something that only the data can answer.
"""

import json
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

STORE, TABLE, TEXT = "cohort.ome.zarr", "participants.parquet", "participants.tsv"
LABELS = "labels/structures"


class Refused(Exception):
    """The tool did not take the release, or took another one than lies there."""


def expect(what: str, wanted: object, found: object) -> None:
    if wanted != found:
        raise Refused(f"{what} must be {wanted}, is {found}")


def samples(release: Path) -> int:
    return int(json.loads((release / "manifest.json").read_text())["samples"])


def groups(release: Path) -> list[Path]:
    """The image, and the label maps where there are some."""
    found = [release / STORE, release / STORE / LABELS]
    return [path for path in found if path.exists()]


def ask_yaozarrs(release: Path) -> str:
    import yaozarrs

    valid = [yaozarrs.validate_zarr_store(str(path)) for path in groups(release)]
    return f"valid: {', '.join(type(one.ome_metadata()).__name__ for one in valid)}"


def ask_ome_zarr_models(release: Path) -> str:
    import zarr
    from ome_zarr_models import open_ome_zarr

    opened = [open_ome_zarr(zarr.open_group(path, mode="r"), version="0.5") for path in groups(release)]
    return f"valid: {', '.join(type(one).__name__ for one in opened)}"


def ask_ome_zarr_py(release: Path) -> str:
    from ome_zarr.io import parse_url
    from ome_zarr.reader import Reader

    found = []
    for path in groups(release):
        location = parse_url(path, mode="r")
        if location is None:
            raise Refused(f"{path.name} is no OME-Zarr to it")
        found += [node for node in Reader(location)() if node.data]
    expect("groups with data", len(groups(release)), len({node.zarr.basename() for node in found}))
    expect("samples", {samples(release)}, {level.shape[0] for node in found for level in node.data})
    [level[-1].compute() for node in found for level in node.data]
    return f"reads {len(found)} nodes of {len(found[0].data)} levels, axes {axes_of(found[0].metadata['axes'])}"


def axes_of(axes: list[dict[str, str]]) -> str:
    return ", ".join(axis["name"] for axis in axes)


def ask_ngff_zarr(release: Path) -> str:
    from ngff_zarr import from_ngff_zarr

    read = [from_ngff_zarr(str(path), validate=True, version="0.5") for path in groups(release)]
    full = read[0].images[0]
    expect("samples", samples(release), full.data.shape[0])
    [image.data[-1].compute() for levels in read for image in levels.images]
    return f"valid: {full.dims}, {full.scale['x']:g} {full.axes_units['x']}, {len(read[0].images)} levels"


def ask_frictionless(release: Path) -> str:
    from frictionless import Resource

    texts = {}
    for name in (TEXT, TABLE):
        report = Resource(path=name, basepath=str(release)).validate()
        if not report.valid:
            raise Refused(f"{name}: {report.flatten(['rowNumber', 'fieldName', 'note'])[:3]}")
        texts[name] = (report.tasks[0].stats["rows"], report.tasks[0].stats["fields"])
        expect(f"rows of {name}", samples(release), texts[name][0])
    expect("rows and columns of the two tables", texts[TEXT], texts[TABLE])
    return f"valid: {TEXT} and {TABLE} have {texts[TEXT][0]} rows of {texts[TEXT][1]} columns"


def ask_mlcroissant(release: Path) -> str:
    import mlcroissant

    data = mlcroissant.Dataset(jsonld=str(release / "croissant.json"))
    issues = data.metadata.ctx.issues
    wanted = {warning for warning in issues.warnings if "datePublished" not in warning}  # a release holds no date
    if issues.errors or wanted:
        raise Refused(issues.report())
    rows = list(data.records(record_set="samples"))
    expect("records", samples(release), len(rows))
    return f"valid, without a warning but that it has no date: {len(rows)} records of {len(rows[0])} fields"


def ask_datasets(release: Path) -> str:
    import pandas
    from datasets import load_dataset

    table = pandas.read_parquet(release / TABLE)
    loaded = load_dataset(str(release))
    expect("splits", ["train"], list(loaded))
    found = loaded["train"].to_pandas()
    expect("columns", list(table.columns), list(found.columns))
    expect("rows that are equal", len(table), int((found == table).all(axis=1).sum()))
    return f"load_dataset: the split train, {len(found)} rows of {len(found.columns)} columns"


def ask_zarr(release: Path) -> str:
    import pandas
    import zarr

    root = zarr.open_group(release / STORE, mode="r", use_consolidated=True)
    expect("ids", list(pandas.read_parquet(release / TABLE)["participant_id"]), list(root["participant_id"][:]))
    voxels = 0
    for path in ("image", *([f"{LABELS}/0"] if LABELS in root else [])):
        for index in range(samples(release)):
            voxels += root[path][index].size  # every chunk is decoded, and its checksum with it
    return f"opens, and decodes {voxels} voxels; {len(list(root.array_keys()))} arrays beside them"


def ask_xarray(release: Path) -> str:
    import pandas
    import xarray

    cohort = xarray.open_zarr(release / STORE)
    table = pandas.read_parquet(release / TABLE)
    expect("dimensions", ("sample", "z", "y", "x"), cohort["image"].dims)
    expect("ids", list(table["participant_id"]), list(cohort["participant_id"].values))
    brightest = int(cohort["image"].max())
    described = f"{dict(cohort.sizes)}, brightest voxel {brightest}"
    if len(groups(release)) > 1:
        labels = xarray.open_zarr(groups(release)[1], consolidated=False, drop_variables="1")
        expect("size of the label maps", cohort["image"].shape, labels["0"].shape)
        described += f", label maps 0 to {int(labels['0'].max())}"
    return described


def ask_nibabel(release: Path) -> str:
    """As the release says that it is done: the array's volume, turned to (x, y, z), with the affine beside it."""
    import nibabel
    import numpy
    import zarr

    root = zarr.open_group(release / STORE, mode="r")
    volume, contract = root["image"][0].T, root.attrs["contract"]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "volume.nii.gz"
        nibabel.save(nibabel.Nifti1Image(volume, numpy.array(root.attrs["affine"])), path)
        image = nibabel.load(path)
        expect("orientation", tuple("RAS"), nibabel.aff2axcodes(image.affine))
        expect("spacing", tuple(map(float, contract["spacing_mm"])), tuple(map(float, image.header.get_zooms())))
        expect("size", tuple(contract["size"]), image.shape)
        expect("voxels that differ", 0, int((numpy.asarray(image.dataobj) != volume).sum()))
        middle = image.affine @ [*((side - 1) / 2 for side in image.shape), 1]
        expect("middle of the grid in mm", [0.0, 0.0, 0.0], numpy.round(middle[:3], 6).tolist())
    return f"{image.shape}, {'x'.join(f'{step:g}' for step in image.header.get_zooms())} mm, RAS+"


def ask_torch(release: Path) -> str:
    """A loader that somebody without our reader would write, with two workers."""
    import torch
    import zarr

    class Images(torch.utils.data.Dataset[Any]):
        def __len__(self) -> int:
            return samples(release)

        def __getitem__(self, index: int) -> Any:
            return torch.from_numpy(zarr.open_array(release / STORE / "image", mode="r")[index])[None].float()

    batches = list(torch.utils.data.DataLoader(Images(), batch_size=2, num_workers=2))
    expect("volumes", samples(release), sum(len(batch) for batch in batches))
    return f"{len(batches)} batches of {tuple(batches[0].shape)}, mean {torch.cat(batches).mean():.1f}"


TOOLS: dict[str, Callable[[Path], str]] = {
    "yaozarrs": ask_yaozarrs,
    "ome-zarr-models": ask_ome_zarr_models,
    "ome-zarr-py": ask_ome_zarr_py,
    "ngff-zarr": ask_ngff_zarr,
    "frictionless": ask_frictionless,
    "mlcroissant": ask_mlcroissant,
    "datasets": ask_datasets,
    "zarr": ask_zarr,
    "xarray": ask_xarray,
    "nibabel": ask_nibabel,
    "torch": ask_torch,
}


def refuse_network() -> None:
    """Whoever asks for a host or a connection is an error, where the operating system lets him."""

    def look(event: str, arguments: tuple[Any, ...]) -> None:
        if event in ("socket.connect", "socket.getaddrinfo") and not isinstance(arguments[-1], str):
            raise Refused(f"asks for the network: {event} {arguments[1:2]}")

    sys.addaudithook(look)
    os.environ |= {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}


def main() -> None:
    tool, release = sys.argv[1], Path(sys.argv[2])
    refuse_network()
    try:
        print(TOOLS[tool](release))
    except Exception as error:  # each tool refuses in its own way
        sys.exit(f"{tool}: {type(error).__name__}: {error}")


if __name__ == "__main__":
    main()
