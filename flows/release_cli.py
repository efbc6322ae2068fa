"""The commands that read releases. They need no study, and most of them nothing but what `meddiff-client` brings."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from meddiff_core.release.reader import Release

app = typer.Typer()
MOST_FAULTS = 50
"""Lines on faults of a release."""
WHERE = "Filter of the table's columns, such as \"age > 60 and sex == 'F'\"."
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing but the result and errors.")]
ReleaseAddress = Annotated[
    str, typer.Argument(help="Folder of a release, or its http://, https:// or s3:// address.", show_default=False)
]
AllowHost = Annotated[
    list[str], typer.Option("--allow-host", help="Host that the server may redirect to; may be given more than once.")
]
ReleasePath = Annotated[Path, typer.Argument(help="Folder of a release.", show_default=False)]


@app.command()
def verify(
    release: ReleaseAddress,
    deep: Annotated[bool, typer.Option("--deep", help="Decode every volume, and measure it again.")] = False,
    key: Annotated[Path | None, typer.Option(help="Public key of who must have signed it.")] = None,
    sample: Annotated[str | None, typer.Option(help="Decode so many of the volumes only, such as 5%.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Which volumes --sample takes; chosen if not given.")] = None,
    whole: Annotated[str | None, typer.Option(help="Of a subset: the release that it must be a part of.")] = None,
    allow_host: AllowHost = [],  # noqa: B006 - typer makes a list of its own for each call
    quiet: Quiet = False,
) -> None:
    """Check that a release is whole, unaltered and consistent, in a folder or where it is served.

    Always: every file against its hash, metadata against each other and the
    contract, the tables against each other and the store, the signature if there
    is one. With --deep also every volume: its smaller copy, label values, the
    volumes in mm3 that its row gives.
    """
    from secrets import randbits

    from meddiff_core.distribution.subset import compare_with_whole
    from meddiff_core.objects.addresses import locate, open_source
    from meddiff_core.objects.http import Access
    from meddiff_core.release.checks.volume_checks import share_of
    from meddiff_core.release.signing import read_public_key
    from meddiff_core.release.verify import Depth, check_release
    from tasks.progress import console_for, show, speaking

    share, seed = share_of(sample) if sample else float(deep), randbits(32) if seed is None else seed
    depth = Depth(share, seed, read_public_key(key) if key else None)
    access = Access(tuple(allow_host))
    place = locate(release, access)
    with speaking(console_for(quiet=quiet or not (share or sys.stderr.isatty()))):
        found = show(check_release(place, depth))
    faults = found.faults or (compare_with_whole(place, open_source(whole, access)) if whole else ())
    if faults:
        _print_faults(faults)
        raise typer.Exit(1)
    print(f"{release}: every file is as it was released")
    if found.part:
        print(f"subset     {found.part}{f'; each file is what {whole} gives' if whole else ''}")
    if found.decoded:
        which = f", chosen by --seed {seed}" if share < 1 else ""
        print(f"volumes    {found.decoded} of {found.samples} decoded and measured again{which}")
    print(f"signature  {found.signature}")


def _print_faults(faults: Sequence[str]) -> None:
    """The first faults of a release, and how many more there are."""
    print("\n".join(faults[:MOST_FAULTS]), file=sys.stderr)
    if len(faults) > MOST_FAULTS:
        print(f"and {len(faults) - MOST_FAULTS} more", file=sys.stderr)


@app.command()
def pull(
    address: ReleaseAddress,
    destination: Annotated[Path, typer.Argument(help="New folder for it.", show_default=False)],
    where: Annotated[str | None, typer.Option(help=WHERE)] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Of these, take so many of the first.")] = None,
    written_as: Annotated[str, typer.Option("--format", help="zarr, as released; or one of export.")] = "zarr",
    digest: Annotated[str | None, typer.Option(help="SHA-256 that its manifest must have.")] = None,
    allow_host: AllowHost = [],  # noqa: B006
    quiet: Quiet = False,
) -> None:
    """Bring a release here from http://, https://, s3:// or a folder.

    Each file gets its name when its length and hash are right, the folder when it
    is complete. Give the same command again to go on after a cut, or to complete
    and repair a folder. With --where or --limit a part comes, as `meddiff subset`
    makes it: only its volumes are transferred. With another --format than zarr
    they are written as `meddiff export` writes them, straight from the address.
    """
    from meddiff_core.distribution.plan import Choice
    from meddiff_core.distribution.pull import check_digest, part_of, pull_release, whole_release
    from meddiff_core.objects.addresses import open_source
    from meddiff_core.objects.http import Access
    from tasks.progress import console_for, show, speaking

    if written_as != "zarr":
        from meddiff_core.release import open_release

        opened = open_release(address, allow_hosts=allow_host)
        check_digest(digest, opened.digest)
        _export(opened, destination, written_as, where, limit, quiet=quiet)
        return
    planner = whole_release if where is None and limit is None else part_of(Choice(where, limit))
    with speaking(console_for(quiet=quiet)):
        pulled = show(pull_release(open_source(address, Access(tuple(allow_host))), destination, digest, planner))
    whole, part = f"{pulled.manifest.title} {pulled.manifest.version}", pulled.manifest.subset
    print(f"{destination}: {part.describe() if part else whole}, each file as released")
    print(f"received   {pulled.transferred / 1e6:.1f} MB\nmanifest   {pulled.digest}")


@app.command()
def keygen(folder: Annotated[Path, typer.Argument(help="Folder to write the keys to.", show_default=False)]) -> None:
    """Make a pair of keys to sign releases with.

    Name the private key in study.yaml as release.signing_key, or put its text into
    MEDDIFF_SIGNING_KEY. Give the public key, or its fingerprint, to those who
    receive releases, by another way than the release itself.
    """
    from meddiff_core.release.signing import fingerprint, generate_keys, read_public_key

    private, public = generate_keys(folder)
    print(f"private  {private} (keep it; whoever has it signs in your name)\npublic   {public}")
    print(f"fingerprint {fingerprint(read_public_key(public))}")


@app.command()
def regenerate(
    release: ReleasePath,
    sample: Annotated[list[str], typer.Option(help="Id of a volume; may be given more than once.")],
    models: Annotated[
        Path | None, typer.Option(help="Folder of the models; that of the study around the release if not given.")
    ] = None,
) -> None:
    """Sample volumes of a release again, and say whether they are the released ones."""
    from meddiff_core.release.regenerate import regenerate as regenerate_volumes
    from meddiff_core.stages.making import choose_device

    unlike = False
    for volume in regenerate_volumes(
        release, sample, models or release.absolute().parents[1] / "models", choose_device(None)
    ):
        print(volume.describe())
        unlike |= not volume.alike
    if unlike:
        raise typer.Exit(1)


@app.command()
def export(
    release: ReleaseAddress,
    destination: Annotated[Path, typer.Argument(metavar="DEST", help="A new or empty folder.", show_default=False)],
    written_as: Annotated[
        str, typer.Option("--format", help="nifti, bids, nnunet, dicom, webdataset or ome-zarr.", show_default=False)
    ],
    where: Annotated[str | None, typer.Option(help=f"Only these volumes. {WHERE}")] = None,
    split: Annotated[
        str | None, typer.Option(help="Shares of train, validation and test, such as 0.8,0.1,0.1; or of two sides.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Which volumes --split puts where.")] = 0,
    suffix: Annotated[str | None, typer.Option(help="BIDS alone: the contrast of MR images, such as T1w.")] = None,
    allow_host: AllowHost = [],  # noqa: B006
    quiet: Quiet = False,
) -> None:
    """Write a release in the format of other tools: the same voxels, at the same place.

    It carries the release's licence, card and digest. After a kill or a full disk
    the same command goes on where it stopped.
    """
    from meddiff_core.distribution.exports.export import check_format
    from meddiff_core.release import open_release

    check_format(written_as)  # before a server is asked
    opened = open_release(release, allow_hosts=allow_host)
    _export(opened, destination, written_as, where, None, split, seed, suffix, quiet=quiet)


def _export(
    opened: "Release",
    destination: Path,
    written_as: str,
    where: str | None,
    limit: int | None,
    split: str | None = None,
    seed: int = 0,
    suffix: str | None = None,
    quiet: bool = False,
) -> None:
    from meddiff_core.distribution.exports.cohort import Selection
    from meddiff_core.distribution.exports.export import check_format, export_release
    from meddiff_core.distribution.exports.sides import parse_shares
    from tasks.progress import console_for, show, speaking

    name, shares = check_format(written_as), parse_shares(split) if split is not None else ()
    selection = Selection(_rows_of(opened, where, limit), where, shares, seed)
    with speaking(console_for(quiet=quiet)):
        done = show(export_release(opened, destination, name, selection, suffix))
    print(f"{destination}: {done.volumes} of {done.of} volumes as {done.title}")


def _rows_of(opened: "Release", where: str | None, limit: int | None) -> tuple[int, ...] | None:
    """Numbers of the volumes that --where and --limit keep; None for all."""
    from meddiff_core.distribution.where import select_rows

    if where is None and limit is None:
        return None
    rows = select_rows(opened.table, where) if where is not None else range(len(opened))
    return tuple(rows[:limit])


@app.command()
def diff(
    old: Annotated[Path, typer.Argument(help="Folder of the earlier release.", show_default=False)],
    new: Annotated[Path, typer.Argument(help="Folder of the later one.", show_default=False)],
) -> None:
    """Say what changed from one release to another: volumes, settings, gates, metrics."""
    from meddiff_core.release.difference import compare, describe_difference, version_of_release
    from tasks.progress import console_for, show, speaking

    with speaking(console_for()):
        difference = show(compare(version_of_release(old), version_of_release(new)))
    print("\n".join(describe_difference(difference)))


@app.command()
def yank(
    release: ReleasePath,
    reason: Annotated[str, typer.Option(help="Why; it stays where the release was, so it names nobody.")],
) -> None:
    """Withdraw a release: its data are removed, its manifest and the reason stay."""
    from meddiff_core.release.tombstone import yank_release
    from meddiff_core.stages.identifiers import identifiers_around

    yank_release(release, reason, identifiers_around(release))
    print(f"{release}: withdrawn; its manifest and the reason stay")


@app.command()
def subset(
    release: ReleasePath,
    dest: Annotated[Path, typer.Argument(help="New folder for the subset.", show_default=False)],
    where: Annotated[str | None, typer.Option(help=WHERE)] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Of these, take so many of the first.")] = None,
    key: Annotated[Path | None, typer.Option(help="Private key to sign the subset with.")] = None,
    quiet: Quiet = False,
) -> None:
    """Write a part of a release as a release of its own.

    It holds the chosen volumes alone, byte for byte, with their rows; its
    manifest names the whole, the filter and the place of each volume in the
    whole. Card, report and evidence of the whole go along in whole/.

    A filter compares columns of the table, such as
    --where "age > 60 and sex in ['F', 'X']", by == != < <= > >= and in, joined by
    and, or, not and brackets. A missing value is unknown: it is neither above 60
    nor not above 60, and `age == null` finds it. A column whose name is not one
    word has `_` in its place: `a_b` is the column "a b". A wrong name lists them.
    """
    from meddiff_core.distribution.plan import Choice
    from meddiff_core.distribution.subset import make_subset
    from meddiff_core.release.signing import read_signer
    from tasks.progress import console_for, show, speaking

    signer = read_signer(key, "--key") if key else None
    with speaking(console_for(quiet=quiet)):
        made = show(make_subset(release, dest, Choice(where, limit), signer))
    print(f"{dest}: {made.subset.describe() if made.subset else made.title}")
    print(f"signature  {'by the key ' + signer.key_id if signer else 'none: that of the whole is over all its files'}")


@app.command()
def catalogue(
    place: Annotated[str, typer.Argument(help="Folder of releases, or URL of one.", show_default=False)],
    key: Annotated[Path | None, typer.Option(help="Public key that must have signed them, in a folder.")] = None,
    quiet: Quiet = False,
) -> None:
    """List the releases in a folder, and write catalogue.json and index.html there.

    Withdrawn ones are listed with their reason, and what is not whole as
    refused. Of a URL, the catalogue.json that lies there is printed.
    """
    from meddiff_core.distribution.catalogue import describe_catalogue, list_releases, read_catalogue, write_catalogue
    from meddiff_core.objects.addresses import is_url, open_source
    from meddiff_core.release.signing import read_public_key
    from tasks.progress import console_for, show, speaking

    if is_url(place):
        found = read_catalogue(open_source(place))
    else:
        folder = Path(place).expanduser()
        with speaking(console_for(quiet=quiet or not sys.stderr.isatty())):
            found = show(list_releases(folder, read_public_key(key) if key else None))
        write_catalogue(folder, found)
    print("\n".join(describe_catalogue(found)) or "no releases")
