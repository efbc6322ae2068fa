"""The evidence of a release for programs: gates, metrics and tables as JSON, and the schema of the gates.

No standard has a form for evidence of privacy, so the gates carry theirs with them. All of it is aggregate, and the
same that the report prints.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError
from pydantic.json_schema import GenerateJsonSchema

from meddiff_core.artefacts import write_json
from meddiff_core.errors import IntegrityError
from meddiff_core.evidence.gates import GateResult
from meddiff_core.evidence.metrics import Metric
from meddiff_core.objects.checked import CheckedObjects
from meddiff_core.objects.local import LocalObjects
from meddiff_core.release.content import ReleaseContent
from meddiff_core.release.manifest import Manifest
from meddiff_core.release.scorecard import fill_scorecard

EVIDENCE = "evidence"
GATES = "gates.json"
METRICS = "metrics.json"
MOST_BYTES = 1 << 24
"""Of a file of records that is read."""
_GATES = TypeAdapter(tuple[GateResult, ...])
_METRICS = TypeAdapter(tuple[Metric, ...])
Records = TypeVar("Records")


def write_evidence(folder: Path, content: ReleaseContent) -> None:
    """Write `evidence/` into a release."""
    tables = {
        "tables": [table.model_dump(mode="json") for table in content.tables],
        "curves": [curve.model_dump(mode="json") for curve in content.curves],
        "histograms": [histogram.model_dump(mode="json") for histogram in content.histograms],
        "statements": list(content.statements),
    }
    write_json(folder / EVIDENCE / GATES, _GATES.dump_python(tuple(content.gates), mode="json"))
    write_json(folder / EVIDENCE / "gates.schema.json", gates_schema())
    write_json(folder / EVIDENCE / METRICS, _METRICS.dump_python(tuple(content.metrics), mode="json"))
    write_json(folder / EVIDENCE / "tables.json", tables)
    write_json(folder / EVIDENCE / "scorecard.json", fill_scorecard(content))


def gates_schema() -> dict[str, Any]:
    """JSON schema of gates.json."""
    schema = _GATES.json_schema(mode="serialization")
    return {"$schema": GenerateJsonSchema.schema_dialect, "title": "Gates of a meddiff release"} | schema


def read_gates(folder: Path, manifest: Manifest) -> tuple[GateResult, ...]:
    """Gates of a release; none of a release of an older version, which did not record them.

    Raises:
        IntegrityError: they are not the file in the manifest, or have another form.
    """
    return _read(folder, f"{manifest.papers}{EVIDENCE}/{GATES}", manifest, _GATES.validate_json)


def read_metrics(folder: Path, manifest: Manifest) -> tuple[Metric, ...]:
    """Metrics of a release, likewise."""
    return _read(folder, f"{manifest.papers}{EVIDENCE}/{METRICS}", manifest, _METRICS.validate_json)


def _read(folder: Path, name: str, manifest: Manifest, parse: Callable[[bytes], Records]) -> Records:
    if name not in manifest.files:
        return parse(b"[]")
    if (size := manifest.files[name].bytes) > MOST_BYTES:
        raise IntegrityError(f"{name} must have at most {MOST_BYTES} bytes, has {size}")
    try:
        return parse(CheckedObjects(LocalObjects(folder), manifest.files).read(name))
    except ValidationError as error:
        raise IntegrityError(f"{name} must hold records of an audit: {error.error_count()} faults") from error
