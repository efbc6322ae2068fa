"""What lies at the top of every export, whatever its format: a page, a record, and the table with its columns."""

import json
from pathlib import Path
from typing import Any

import pandas as pd

from meddiff_core.artefacts import write_json, write_text
from meddiff_core.distribution.exports.cohort import CARD, DESCRIPTIONS, SENTENCE, Cohort
from meddiff_core.release.participants_table import TEXT, as_cell, as_tsv

RECORD = "export.json"
"""Where the volumes come from, for programs."""
MARKUP = "&<>\\*`[]|$~_#"
"""What Markdown takes for markup."""


def write_papers(folder: Path, cohort: Cohort, what: str, files: dict[str, str]) -> None:
    """Write the page, with the card of the release below it, and the record.

    Args:
        folder: Top of the export.
        cohort: What was exported.
        what: The format, as a heading says it.
        files: What each kind of file holds, by its name as Markdown.
    """
    told = cohort.provenance
    rows = {
        "Release": f"{told['title']} ({told['release']} {told['version']})",
        "SHA-256 of its manifest": told["manifest_sha256"],
        "Licence": told["licence"],
        "Volumes": f"{told['volumes']} of {told['volumes_of_release']}",
        **({"Where": told["where"]} if told["where"] else {}),
        **({"Split": f"{', '.join(map(str, told['split']))}, seed {told['seed']}"} if told["split"] else {}),
    }
    lines = [
        f"# {_plain(told['title'])}: {what}",
        f"**Synthetic.** {SENTENCE}",
        "\n".join(["| | |", "|---|---|", *(f"| {name} | {_plain(str(value))} |" for name, value in rows.items())]),
        "\n".join(["| File | Content |", "|---|---|", *(f"| {name} | {text} |" for name, text in files.items())]),
        "The card of the release follows. Files that it names lie in the release, not here.",
        "---",
        cohort.card,
    ]
    write_text(folder / CARD, "\n\n".join(lines))
    write_json(folder / RECORD, told | {"format": what})


def write_table(folder: Path, table: pd.DataFrame, columns: dict[str, dict[str, Any]]) -> None:
    """Write the table of an export, and what its columns mean."""
    write_text(folder / TEXT, as_tsv(table.rename(columns=as_cell)))
    write_json(folder / DESCRIPTIONS, {as_cell(name): described for name, described in columns.items()})


def plain_json(value: Any) -> bytes:
    """JSON as bytes that are the same everywhere."""
    return json.dumps(value, ensure_ascii=False, sort_keys=True, allow_nan=False).encode()


def _plain(text: str) -> str:
    """A text of which Markdown takes nothing for markup."""
    return "".join(f"&#{ord(sign)};" if sign in MARKUP else sign for sign in " ".join(text.split()))
