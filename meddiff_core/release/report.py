"""The page and the card of a release: one file each, that show and say what it is.

Both are filled from the same values, so that they cannot contradict each other. Nothing here reads a real
scan: real statistics arrive as shares and measurements that were aggregated before.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd

from meddiff_core.contract import EXTRAPOLATED, ConditionSpec, ContinuousCondition, Contract, spacing_text
from meddiff_core.evidence.aggregates import Histogram
from meddiff_core.evidence.metrics import Part
from meddiff_core.release import figures, wording
from meddiff_core.release.colours import label_colours
from meddiff_core.release.content import ReleaseContent
from meddiff_core.release.evidence import (
    PartView,
    gate_rows,
    metric_row,
    part_views,
    privacy_summary,
    verdict,
    waived,
)
from meddiff_core.release.methods import describe_preprocessing
from meddiff_core.release.ome import MR_RANGE
from meddiff_core.release.participants_table import age_range
from meddiff_core.release.scorecard import fill_scorecard, not_intended_for
from meddiff_core.release.slices import data_uri, middle_slab, window_of
from meddiff_core.release.templating import flat, humanise, number, percent, render
from meddiff_core.release.viewer import fits_whole, label_colormap, quantiles_of, turned_volumes, viewer_code
from meddiff_core.types import FloatArray, LabelArray, Volumes

SHOWN = 12
"""Volumes shown in three planes."""
ON_SHEET = 40
"""Volumes on the contact sheet."""
BEFORE, AFTER = (
    ("Gates", "Findings", "Volumes"),
    (
        "Distributions",
        "Conditions",
        "Methods",
        "Scorecard",
        "Reading",
        "Provenance",
    ),
)
"""Sections before and after the parts of the evidence."""
OPTIONAL = {"Findings": "statements", "Distributions": "histograms", "Conditions": "scatters"}
"""Sections that need what a release may lack."""
ALWAYS: tuple[Part, ...] = ("privacy", "screening")
"""Parts that a page has even if nothing was measured: they say what the tests show, and what was rejected."""
ML_PER_MM3 = 1e-3


def render_report(content: ReleaseContent) -> str:
    """report.html: a self-contained page."""
    pictures, parts = _pictures(content), part_views(content.metrics, content.tables, content.curves, ALWAYS)
    known = {**pictures, "statements": content.statements, "scorecard": _scorecard_rows(content)}
    return render("report.html.j2", **_shared(content), **known, parts=parts, sections=_sections(known, parts))


def render_card(content: ReleaseContent) -> str:
    """README.md: the data set card."""
    privacy = privacy_summary(content.gates, content.metrics)
    signed = wording.SIGNED.format(key=content.signed_by) if content.signed_by else wording.NOT_SIGNED
    return render("README.md.j2", **_shared(content), folder=content.folder, privacy=privacy, signed=signed)


def _shared(content: ReleaseContent) -> dict[str, Any]:
    """What page and card both say."""
    return {
        "title": content.title,
        "version": content.version,
        "licence": content.licence,
        "contact": content.contact,
        "source": content.source,
        "preset": content.preset,
        "shortfall": content.shortfall,
        "summary": summarise(content),
        "verdict": verdict(content.gates),
        "waived": waived(content.gates),
        "facts": _facts(content),
        "labels": legend(content.contract),
        "gates": gate_rows(content.gates, content.metrics),
        "privacy_shows": wording.PRIVACY_SHOWS,
        "privacy_does_not_show": wording.privacy_does_not_show(content.guarantee),
        "limitations": [*wording.LIMITATIONS, *_faces(content), *_extrapolations(content)],
        "intended_use": content.intended_use or wording.NOT_STATED,
        "not_intended_for": not_intended_for(content),
        "preprocessing": describe_preprocessing(content.contract),
        "environment": content.environment or wording.NOT_STATED,
        "code_repository": content.code_repository or wording.NOT_STATED,
        "data_use": content.data_use,
        "methods": content.methods,
        "acceptance": _acceptance(content),
        "reading": wording.READING.format(folder=content.folder),
        "plain_reading": wording.PLAIN_READING.format(folder=content.folder),
        "intensity": "Hounsfield units, as int16"
        if content.contract.intensity.modality == "CT"
        else f"int16 from 0, the background, to {MR_RANGE}; they have no physical unit",
    }


def _pictures(content: ReleaseContent) -> dict[str, Any]:
    """What only the page shows."""
    on_sheet = sheet_of(content.volumes, content.contract, ON_SHEET)
    window = window_of(on_sheet)
    return {
        "sheet": data_uri(figures.mosaic(on_sheet, spacing_mm=content.contract.spacing_mm)),
        "sheet_count": len(on_sheet),
        "samples": list(_samples(content, window)),
        **_viewer(content, window),
        "histograms": [_histogram(found) for found in content.histograms if found.edges],
        "scatters": list(_scatters(content)),
        "counts": count_bars(content),
        "cells": content.cells,
        "selection": figures.checkpoint_selection(content.selection).decode() if content.selection else None,
        "parents": sorted(content.parents.items()),
        "study": flat(dict(content.study)),
        "versions": sorted(content.versions.items()),
    }


def summarise(content: ReleaseContent) -> str:
    """What the cohort is, in one sentence."""
    contract = content.contract
    kind = {"MR": "magnetic resonance", "CT": "computed tomography"}[contract.intensity.modality]
    grid = " × ".join(str(size) for size in contract.size)
    voxels = f"{grid} voxels of {spacing_text(contract.spacing_mm)}"
    text = f"{len(content.volumes)} synthetic {kind} volumes of {voxels}"
    extras = []
    if contract.labels:
        extras.append(f"label maps of {len(contract.labels)} structure{'s' if len(contract.labels) > 1 else ''}")
    if contract.conditions:
        extras.append("the conditions that each was sampled for")
    return f"{text}{', with ' if extras else ''}{' and '.join(extras)}."


def spread(count: int, wanted: int) -> list[int]:
    """Up to `wanted` positions, evenly through `count`."""
    return [int(position) for position in np.linspace(0, count - 1, min(wanted, count)).round()]


def sheet_of(volumes: Volumes, contract: Contract, wanted: int) -> list[FloatArray]:
    """Middle axial slabs (i, j, 1) in [0, 1] of up to `wanted` volumes."""
    chosen = spread(len(volumes), wanted)
    return [contract.intensity.unit(middle_slab(volumes.image(index))) for index in chosen]


def legend(contract: Contract) -> list[dict[str, str]]:
    """Name and colour of each label."""
    colours = label_colours(len(contract.labels))
    return [
        {"name": humanise(name), "colour": f"rgb{colour}"}
        for name, colour in zip(contract.labels, colours, strict=True)
    ]


def count_bars(content: ReleaseContent) -> list[dict[str, Any]]:
    """Candidates, accepted, and each reason of rejection, as shares of the candidates."""
    counts = content.counts
    reasons = sorted(counts.rejected.items(), key=lambda item: (-item[1], item[0]))
    rows = [("generated", counts.candidates, True), ("accepted", counts.accepted, True)]
    rows += [(f"rejected: {humanise(reason)}", count, False) for reason, count in reasons]
    most = max(1, *(count for _, count, _ in rows))
    return [{"name": name, "count": count, "share": count / most, "main": main} for name, count, main in rows]


def _facts(content: ReleaseContent) -> list[tuple[str, str]]:
    contract = content.contract
    facts = [
        ("Volumes", str(len(content.volumes))),
        ("Modality", contract.intensity.modality),
        ("Grid", f"{' × '.join(map(str, contract.size))}, {spacing_text(contract.spacing_mm)}"),
        ("Age", _ages(content)),
        ("Structures", ", ".join(map(humanise, contract.labels))),
        ("Conditions", ", ".join(humanise(condition.name) for condition in contract.conditions)),
        ("Gates", content.preset),
        ("Licence", content.licence),
        ("Contact", content.contact),
    ]
    return [(name, value) for name, value in facts if value]


def _ages(content: ReleaseContent) -> str:
    """Of the synthetic volumes, rounded."""
    ages = age_range(content.table)
    return f"{ages[0]} to {ages[1]} years" if ages else ""


def _acceptance(content: ReleaseContent) -> str:
    counts = content.counts
    share = counts.accepted / counts.candidates if counts.candidates else 0.0
    generated, accepted = number(counts.candidates), number(counts.accepted)
    text = f"{generated} volumes were generated and {accepted} accepted ({percent(share)})."
    if counts.flagged:
        verb = "was" if counts.flagged == 1 else "were"
        text += f" {number(counts.flagged)} {verb} withheld as suspected copies."
    return f"{text} {counts.rounds}".rstrip()


def _faces(content: ReleaseContent) -> list[str]:
    return [wording.FACES] if content.contract.mask == "none" else []


def _scorecard_rows(content: ReleaseContent) -> dict[str, Any]:
    """The scorecard, with its figures as the other tables show theirs."""
    card, known = fill_scorecard(content), {metric.name: metric for metric in content.metrics}
    return {
        "criteria": [
            {**dict(one), "rows": [metric_row(known[figure.metric]) for figure in one.metrics]} for one in card.criteria
        ],
        "descriptor": flat(card.descriptor),
    }


def _extrapolations(content: ReleaseContent) -> list[str]:
    count = int(content.table[EXTRAPOLATED].sum()) if EXTRAPOLATED in content.table else 0
    return [wording.EXTRAPOLATION.format(count=number(count), total=number(len(content.table)))] if count else []


def _viewer(content: ReleaseContent, window: tuple[float, float]) -> dict[str, Any]:
    """The volumes that a reader can turn, with what was requested of them and what they measure."""
    by = quantiles_of(content)
    turned = [
        {**volume, "text": _described(content, content.table.iloc[volume["index"]])}
        for volume in turned_volumes(content, window)
    ]
    return {
        "viewer": viewer_code(),
        "colormap": label_colormap(content.contract),
        "turned": turned,
        "turned_by": f"at even quantiles of {humanise(by)}" if by else "chosen evenly through the cohort",
        "turned_smaller": not fits_whole(content.contract),
    }


def _described(content: ReleaseContent, row: "pd.Series[Any]") -> str:
    """`head-000003 · age 41 · ventricles 23 ml, measured 24 ml`."""
    parts = [str(row["sample_id"])]
    for condition in content.contract.conditions:
        if condition.name in row:
            measured = row.get(f"measured_{condition.name}")
            found = "" if measured is None else f", measured {_value(measured, condition)}"
            parts.append(f"{humanise(condition.name)} {_value(row[condition.name], condition)}{found}")
    return " · ".join(parts)


def _samples(content: ReleaseContent, window: tuple[float, float]) -> Iterator[dict[str, Any]]:
    spacing = content.contract.spacing_mm
    for index in spread(len(content.volumes), SHOWN):
        volume = content.contract.intensity.unit(content.volumes.image(index))
        label: LabelArray | None = content.volumes.label(index) if content.contract.labels else None
        row = content.table.iloc[index]
        yield {
            "name": row["sample_id"],
            "plain": data_uri(figures.planes(volume, window, spacing_mm=spacing)),
            "overlay": None if label is None else data_uri(figures.planes(volume, window, label, spacing_mm=spacing)),
            "conditions": [
                (humanise(c.name), _value(row[c.name], c)) for c in content.contract.conditions if c.name in row
            ],
        }


def _value(value: Any, condition: ConditionSpec) -> str:
    if value is None or pd.isna(value):
        return "not given"
    if isinstance(value, str):
        return value
    is_volume = isinstance(condition, ContinuousCondition) and condition.group is not None
    return f"{number(value * ML_PER_MM3)} ml" if is_volume else number(float(value))


def _in_ml(found: Histogram) -> Histogram:
    """The same, with a volume in the unit that the page gives all volumes in."""
    if found.unit != "mm3":
        return found
    return found.model_copy(update={"edges": tuple(edge * ML_PER_MM3 for edge in found.edges), "unit": "ml"})


def _histogram(found: Histogram) -> dict[str, str]:
    caption = f"Bars of equal height: the cohort has that {humanise(found.name)} as often as the real scans do."
    return {"svg": figures.histogram(_in_ml(found)).decode(), "caption": caption}


def _scatters(content: ReleaseContent) -> Iterator[dict[str, str]]:
    for condition in content.contract.conditions:
        measured = f"measured_{condition.name}"
        if isinstance(condition, ContinuousCondition) and {condition.name, measured} <= set(content.table.columns):
            factor, unit = (ML_PER_MM3, "ml") if condition.group else (1.0, "")
            requested, found = content.table[condition.name] * factor, content.table[measured] * factor
            name = humanise(condition.name)
            caption = f"The nearer a dot is to the line, the better that volume has the {name} it was sampled for."
            yield {"svg": figures.scatter(requested, found, name, unit).decode(), "caption": caption}


def _sections(known: dict[str, Any], parts: Sequence[PartView]) -> list[tuple[str, str]]:
    """Anchor and name of each section that the page has."""
    before, after = (
        [(name.lower(), name) for name in names if known.get(OPTIONAL.get(name, "sheet"))] for names in (BEFORE, AFTER)
    )
    return [*before, *((part.anchor, part.heading) for part in parts), *after]
