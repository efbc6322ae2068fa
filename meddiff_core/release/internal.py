"""The study's own report: real beside synthetic, and each suspect beside the scan that it resembles.

It shows patients. It therefore stays in the study, never in a release, and says so in red before anything else. A
reader looks at it before the cohort is released.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from meddiff_core.artefacts import write_text
from meddiff_core.contract import Contract
from meddiff_core.diffusion.checkpoint_selection import SelectionRecord, describe_selection
from meddiff_core.evidence import section
from meddiff_core.evidence.gates import GateResult
from meddiff_core.evidence.guidance_choice import GuidanceChoice, describe_choice
from meddiff_core.evidence.metrics import Metric
from meddiff_core.generation.cells import CellCount
from meddiff_core.release import figures
from meddiff_core.release.evidence import PartView, gate_rows, part_views, verdict, waived
from meddiff_core.release.report import legend, sheet_of, spread
from meddiff_core.release.slices import data_uri, window_of
from meddiff_core.release.templating import humanise, render
from meddiff_core.types import FloatArray, Refusal, StoredArray, Volumes

CurvePoint = tuple[float | int, float | int]
ON_SHEET = 30
IN_PAIRS = 6


@dataclass(frozen=True)
class Suspect:
    """A flagged or rejected volume and the real one nearest to it."""

    sample_id: str
    reasons: Sequence[str]
    volume: StoredArray
    nearest_case: str | None = None
    nearest: StoredArray | None = None
    distance: float | None = None


@dataclass(frozen=True)
class InternalContent:
    """Everything that the internal report shows. What is not there yet is left empty."""

    title: str
    contract: Contract
    real: Volumes
    """The training side."""
    prepared: bytes | None = None
    """PNG of scans as they came beside what the networks see."""
    synthetic: Volumes | None = None
    """The accepted volumes."""
    reconstructions: Sequence[tuple[StoredArray, StoredArray]] = ()
    """Real volume, and what the autoencoder makes of it."""
    curves: Mapping[str, Sequence[CurvePoint]] = field(default_factory=dict)
    """(step, value) by name. `autoencoder/train` and `autoencoder/validation` share a figure."""
    selection: SelectionRecord | None = None
    """How the denoiser's weights were chosen."""
    guidance: GuidanceChoice | None = None
    """How the guidance was."""
    suspects: Sequence[Suspect] = ()
    refused: Sequence[Refusal] = ()
    minutes: Mapping[str, float | int] = field(default_factory=dict)
    """Minutes by stage."""
    cells: Sequence[CellCount] = ()
    """Wanted and accepted volumes, where the cohort is made up of parts."""
    gates: Sequence[GateResult] = ()
    metrics: Sequence[Metric] = ()
    tables: Sequence[section.Table] = ()
    evidence_curves: Sequence[section.Curve] = ()
    statements: Sequence[str] = ()


def write_internal_report(path: Path, content: InternalContent) -> None:
    """Write the report to `path`, one self-contained file."""
    write_text(path, render_internal(content))


def render_internal(content: InternalContent) -> str:
    """The page."""
    real = sheet_of(content.real, content.contract, ON_SHEET)
    synthetic = sheet_of(content.synthetic, content.contract, ON_SHEET) if content.synthetic else []
    failed = [gate for gate in content.gates if gate.holds_back]
    spacing = content.contract.spacing_mm
    guided = describe_choice(content.guidance) if content.guidance else None
    parts = part_views(content.metrics, content.tables, content.evidence_curves)
    return render(
        "internal.html.j2",
        title=content.title,
        labels=legend(content.contract),
        real_count=len(content.real),
        synthetic_count=len(content.synthetic) if content.synthetic else 0,
        prepared=data_uri(content.prepared, "png") if content.prepared else None,
        real_sheet=data_uri(figures.mosaic(real, spacing_mm=spacing)),
        synthetic_sheet=data_uri(figures.mosaic(synthetic, spacing_mm=spacing)) if synthetic else None,
        pairs=_pairs(content),
        reconstructions=_reconstructions(content),
        curves=[(humanise(name), figures.curve(lines, name).decode()) for name, lines in _grouped(content.curves)],
        selection=figures.checkpoint_selection(content.selection).decode() if content.selection else None,
        chosen=describe_selection(content.selection) if content.selection else None,
        guidance=figures.guidance(content.guidance).decode() if content.guidance and guided else None,
        guided=guided,
        suspects=list(_suspects(content)),
        refused=content.refused,
        minutes=content.minutes,
        cells=content.cells,
        gates=gate_rows(content.gates, content.metrics),
        failed=[(gate.verdict, gate.message) for gate in failed],
        verdict=verdict(content.gates),
        waived=waived(content.gates),
        statements=content.statements,
        parts=parts,
        sections=_sections(content, parts),
    )


def _sections(content: InternalContent, parts: Sequence[PartView]) -> list[tuple[str, str]]:
    """Anchor and name of each section that the page has."""
    named: list[tuple[str, Any]] = [
        ("prepared", content.prepared),
        ("gates", content.gates),
        ("findings", content.statements),
        ("volumes", True),
        ("reconstructions", content.reconstructions),
        ("training", content.curves or content.selection or (content.guidance and content.guidance.measured)),
        ("suspects", True),
        ("cells", content.cells),
    ]
    last = [("refused", True), ("time", content.minutes)]
    before, after = ([(name, name.capitalize()) for name, there in group if there] for group in (named, last))
    return [*before, *((part.anchor, part.heading) for part in parts), *after]


def _grouped(curves: Mapping[str, Sequence[CurvePoint]]) -> list[tuple[str, dict[str, Sequence[CurvePoint]]]]:
    """Lines by label, by figure, in the order given. Only what has one scale shares a figure."""
    figure: dict[str, dict[str, Sequence[CurvePoint]]] = {}
    for name, points in curves.items():
        title, _, line = name.rpartition("_" if "_sigma_" in name else "/")
        if title == "validation":
            title = name
        figure.setdefault(title, {})[line] = points
    return list(figure.items())


def _pairs(content: InternalContent) -> str | None:
    if not content.synthetic:
        return None
    real, synthetic = _some(content.real, content.contract), _some(content.synthetic, content.contract)
    return data_uri(figures.real_beside_synthetic(real, synthetic, spacing_mm=content.contract.spacing_mm))


def _some(volumes: Volumes, contract: Contract) -> list[FloatArray]:
    return [contract.intensity.unit(volumes.image(index)) for index in spread(len(volumes), IN_PAIRS)]


def _reconstructions(content: InternalContent) -> str | None:
    if not content.reconstructions:
        return None
    unit = content.contract.intensity.unit
    real, again = zip(*[(unit(left), unit(right)) for left, right in content.reconstructions[:IN_PAIRS]], strict=True)
    return data_uri(figures.real_beside_reconstruction(real, again, spacing_mm=content.contract.spacing_mm))


def _suspects(content: InternalContent) -> Iterator[dict[str, Any]]:
    unit, spacing = content.contract.intensity.unit, content.contract.spacing_mm
    for suspect in content.suspects:
        shown = [unit(volume) for volume in (suspect.volume, suspect.nearest) if volume is not None]
        window = window_of(shown)
        yield {
            "name": suspect.sample_id,
            "reasons": [humanise(reason) for reason in suspect.reasons],
            "nearest_case": suspect.nearest_case,
            "distance": suspect.distance,
            "pictures": [data_uri(figures.planes(volume, window, spacing_mm=spacing)) for volume in shown],
        }
