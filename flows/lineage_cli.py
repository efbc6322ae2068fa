"""The commands that say what was made from what, and that call back a subject's data. They start no engine."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.tree import Tree

    from meddiff_core.lineage.graph import Key, Lineage
    from meddiff_core.lineage.recall import Called

app = typer.Typer()
WIDEST = 400
"""Letters of a line: a terminal wraps it, and a pipe gets all of it."""
SHORT = 12
"""Letters of a digest on the screen."""


@app.command()
def lineage(
    what: Annotated[
        str, typer.Argument(help="STUDY/denoiser, a path, a release, a scan, or a digest.", show_default=False)
    ],
    study: Annotated[Path, typer.Option(help="Study, or folder of studies, to look for a digest in.")] = Path(),
    names: Annotated[bool, typer.Option("--names", help="Name the scans, which is patient data.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON, with whole digests.")] = False,
    runs: Annotated[bool, typer.Option(help="Ask MLflow for the runs that made it, where it can be reached.")] = True,
) -> None:
    """Say what something was made from, up to the scans, and what was made from it, down to releases.

    It reads the records of the study and the manifests of its releases: also of
    releases that were withdrawn, and of artefacts that were made anew since.
    Scans are counted; --names names them.
    """
    from meddiff_core.lineage.resolve import resolve

    found, key = resolve(what, study)
    made = _runs(found, [key, *found.above(key), *found.below(key)]) if runs else {}
    sources = _sources(found, key) if names else []
    if as_json:
        print(json.dumps(_as_json(found, key, made, sources), indent=2, ensure_ascii=False))
        return
    _print_tree(_tree(found, key, found.parents, made, "made from"))
    _print_tree(_tree(found, key, found.children, made, "went into"))
    print(
        "\n".join(
            f"scan  {one['side']:<10} {one['subject']}  {one['file']}  {one['sha256'][:SHORT]}" for one in sources
        )
    )


def _runs(found: Lineage, keys: Sequence[Key]) -> dict[str, list[str]]:
    if found.folder is None:
        return {}
    from tasks.lineage import runs_that_made

    return runs_that_made(found.folder, [(key.kind, key.digest) for key in keys])


def _sources(found: Lineage, key: Key) -> list[dict[str, str]]:
    """The scans themselves, of what was made from the current data set."""
    from meddiff_core.lineage.graph import SCANS, sources_of

    if found.folder is None or not any(one.kind == SCANS for one in [key, *found.above(key)]):
        return []
    return [
        {"subject": one.subject, "case": one.case, "side": one.side, "file": one.file, "sha256": one.digest}
        for one in sources_of(found.folder)
    ]


def _as_json(found: Lineage, key: Key, made: dict[str, list[str]], sources: list[dict[str, str]]) -> dict[str, Any]:
    def described(one: Key) -> dict[str, Any]:
        node = found.nodes[one]
        return {
            "name": one.kind,
            "digest": one.digest,
            "status": node.status,
            "recalled": node.recalled,
            "place": node.place,
            "note": node.note,
            "made_from": [parent.digest for parent in found.parents(one)],
            "runs": made.get(one.digest, []),
        }

    return {
        "artefact": described(key),
        "made_from": [described(one) for one in found.above(key)],
        "went_into": [described(one) for one in found.below(key)],
        **({"scans": sources} if sources else {}),
    }


def _tree(found: Lineage, key: Key, step: Callable[[Key], list[Key]], made: dict[str, list[str]], title: str) -> Tree:
    """What is reached from something, each with its own once; where it comes again, its name alone."""
    from rich.text import Text
    from rich.tree import Tree

    shown = {key}
    root = Tree(Text(f"{_line(found, key, made)}\n{title}" if step(key) else f"{title}: nothing that is known"))

    def grow(tree: Tree, one: Key) -> None:
        for following in step(one):
            if following in shown:
                tree.add(Text(f"{following.kind} {following.digest[:SHORT]} (above)"))
                continue
            shown.add(following)
            grow(tree.add(Text(_line(found, following, made))), following)

    grow(root, key)
    return root


def _line(found: Lineage, key: Key, made: dict[str, list[str]]) -> str:
    node = found.nodes[key]
    parts = [node.status, *(["RECALLED"] if node.recalled else []), node.place, node.note]
    parts += [f"run {run}" for run in made.get(key.digest, [])]
    return f"{key.kind} {key.digest[:SHORT]}  " + ", ".join(filter(None, parts))


def _print_tree(tree: Tree) -> None:
    from rich.console import Console

    Console(highlight=False, width=WIDEST).print(tree)


@app.command()
def recall(
    study: Annotated[Path, typer.Argument(help="The study.yaml of a study, or its folder.", show_default=False)],
    subject: Annotated[str, typer.Argument(help="Subject, or one of its scans.", show_default=False)],
    reason: Annotated[
        str | None, typer.Option(help="Why; it stays where releases were, so it names nobody.", show_default=False)
    ] = None,
    yank: Annotated[bool, typer.Option("--yank", help="Withdraw the releases that descend from the subject.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say all of it, and write nothing.")] = False,
) -> None:
    """Call back a subject's data: what saw them, and what is made without them.

    The subject is left out of the study from now on, also where its scan comes
    back. Whatever was made with it counts as out of date: no release is made
    from it, `verify` says so of those that were, and `meddiff run` makes it all
    anew without. What saw a subject depends on its side: the models saw who was
    trained and validated on, the audit alone saw the holdout.
    """
    from meddiff_core.lineage.recall import REASON, recall_subject
    from meddiff_core.release.tombstone import yank_release
    from meddiff_core.stages.identifiers import identifiers_around
    from meddiff_core.workspace import Workspace

    workspace = Workspace.open(study)
    called = recall_subject(workspace, subject, REASON if reason is None else reason, write=not dry_run)
    print("\n".join(_describe(called, workspace.folder, study, dry_run)))
    standing = [node for node in called.releases if node.status == "released"]
    for node in standing:
        folder = workspace.folder / node.place
        if yank and not dry_run:
            yank_release(folder, called.recall.reason, identifiers_around(folder))
            print(f"withdrawn   {folder}: its manifest and the reason stay")
        else:
            print(f'withdraw    meddiff yank {folder} --reason "{called.recall.reason}"')


def _describe(called: Called, folder: Path, study: Path, dry_run: bool) -> list[str]:
    """Who, what saw the subject and how, what did not, and what comes next."""
    from meddiff_core.data.layouts.walking import counted
    from meddiff_core.data.recalled import RECALLED

    person, scans = called.person, called.person.scans
    where = f"{person.side} side" if person.side else "on no side: its scans were refused"
    kept = "nothing is written (--dry-run)" if dry_run else f"{'kept' if called.again else 'written'} in {RECALLED}"
    lines = [f"subject     {person.subject}, {where}, {counted(scans, 'scan')} in the current data set; {kept}"]
    lines += _under("saw it", _seen(called)) or ["saw it      nothing that is known"]
    lines += _under("did not", [", ".join(_unseen(called))] if _unseen(called) else [])
    return lines + _following(called, folder, study)


def _seen(called: Called) -> list[str]:
    lines = []
    for key, how in called.seen.items():
        node = called.lineage.nodes[key]
        sure = "" if called.surely(key) else "; it may have been: no list says who was in its data set"
        name = node.place.rpartition("/")[2] if key.kind == "release" else key.kind
        lines.append(f"{name} {key.digest[:SHORT]} ({node.status}): {how}{sure}")
    return lines


def _unseen(called: Called) -> list[str]:
    """Models that never had its data, which is what a holdout is for."""
    from meddiff_core.lineage.seen import MODELS

    return [
        f"{key.kind} {key.digest[:SHORT]}"
        for key in called.lineage.nodes
        if key.kind in MODELS and key not in called.seen
    ]


def _following(called: Called, folder: Path, study: Path) -> list[str]:
    from meddiff_core.data.recalled import RECALLED

    person, minutes = called.person, called.minutes
    left = ", ".join(f"{count} {side}" for side, count in called.remaining.items())
    total = sum(minutes.values())
    parts = ", ".join(f"{name} {length:.1f}" for name, length in minutes.items() if length >= 0.1)
    return [
        f"exclude     done by {RECALLED}, for good; the key of study.yaml is data.exclude: [{person.subject}]",
        *(
            [f"made anew   {len(minutes)} artefacts: {parts}; about {total:.0f} minutes, as the last time"]
            if minutes
            else []
        ),
        *([f"of          {left} scans"] if minutes else []),
        *([f"next        set another release.version, then meddiff run {study}"] if minutes else []),
        *_under("delete", [f"{folder / name} may show or hold it" for name in called.left]),
        *_under(
            "also in", [f"{name}: meddiff recall {folder.parent / name} {person.subject}" for name in called.beside]
        ),
    ]


def _under(title: str, lines: Sequence[str]) -> list[str]:
    return [f"{title if not number else '':<11} {line}" for number, line in enumerate(lines)]
