"""What `data.images` names, read by the layout that it has: BIDS, nnU-Net, FreeSurfer, a table, or any folder."""

import glob
from pathlib import Path

from meddiff_core.data.layouts.bids import bids_root, list_bids
from meddiff_core.data.layouts.folders import list_files
from meddiff_core.data.layouts.freesurfer import is_freesurfer, list_freesurfer
from meddiff_core.data.layouts.listing import Listing
from meddiff_core.data.layouts.nnunet import list_nnunet, nnunet_root
from meddiff_core.data.layouts.table import list_table
from meddiff_core.data.layouts.walking import Walk, below, relative, unusable, walk
from meddiff_core.data.tables.covariates import is_table
from meddiff_core.errors import ConfigurationError
from meddiff_core.study import DataConfig
from meddiff_core.types import Refusal


def find_images(config: DataConfig, base: Path) -> Listing:
    """Search what `data.images` names.

    Raises:
        ConfigurationError: it does not exist, or a setting does not fit its layout.
    """
    path = base / config.images
    named = config.labels is not None
    if path.is_file() and is_table(path):
        listing = list_table(path, named, config.follow_links)
    elif path.is_dir():
        labels = (base / config.labels).resolve() if config.labels else None
        listing = _list_folder(walk(path, labels, config.follow_links), config)
    elif path.is_file():
        listing = list_files(Walk(path.parent, (path,)), labels_are_named=True)
    elif any(sign in config.images for sign in "*?["):
        listing = list_files(_walk_pattern(config, base), named)
    else:
        raise ConfigurationError(f"data.images: must exist, {path} does not")
    if config.channel is not None and listing.kinds_key != "data.channel":
        raise ConfigurationError(f"data.channel: is for nnU-Net and Decathlon data sets, images is a {listing.layout}")
    return listing


def _list_folder(found: Walk, config: DataConfig) -> Listing:
    if root := bids_root(found):
        return list_bids(found, root)
    if root := nnunet_root(found):
        return list_nnunet(below(found, root), config.channel)
    if is_freesurfer(found):
        return list_freesurfer(found)
    return list_files(found, labels_are_named=config.labels is not None)


def _walk_pattern(config: DataConfig, base: Path) -> Walk:
    """The files that a pattern matches, and those below folders that it matches."""
    root = _before_signs(base, config.images)
    files: set[Path] = set()
    unread: list[Refusal] = []
    for match in sorted(glob.glob(config.images, root_dir=base, recursive=True)):
        path = base / match
        if reason := unusable(path, root.resolve(), config.follow_links):
            unread.append(Refusal(relative(path, root), reason))
        elif path.is_dir():
            inner = walk(path, follow_links=config.follow_links)
            files.update(inner.files)
            unread += [Refusal(f"{relative(path, root)}/{one.case}", one.reason) for one in inner.unread]
        else:
            files.add(path)
    return Walk(root, tuple(sorted(files)), tuple(unread))


def _before_signs(base: Path, pattern: str) -> Path:
    """The folder above the first part of a pattern that has a wildcard."""
    root = base
    for part in Path(pattern).parts:
        if any(sign in part for sign in "*?["):
            break
        root = root / part
    return root
