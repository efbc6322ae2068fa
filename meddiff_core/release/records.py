"""The evidence of a release for programs: gates, metrics and tables as JSON, and the schema of the gates.

No standard has a form for evidence of privacy, so the gates carry theirs with them. All of it is aggregate, and the
same that the report prints.
"""

from pathlib import Path
from typing import Any

from pydantic import TypeAdapter
from pydantic.json_schema import GenerateJsonSchema

from meddiff_core.artefacts import write_json
from meddiff_core.evidence.gates import GateResult
from meddiff_core.release.content import ReleaseContent
from meddiff_core.release.scorecard import fill_scorecard

EVIDENCE = "evidence"
GATES = "gates.json"
METRICS = "metrics.json"
_GATES = TypeAdapter(tuple[GateResult, ...])


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
    write_json(folder / EVIDENCE / METRICS, [metric.model_dump(mode="json") for metric in content.metrics])
    write_json(folder / EVIDENCE / "tables.json", tables)
    write_json(folder / EVIDENCE / "scorecard.json", fill_scorecard(content))


def gates_schema() -> dict[str, Any]:
    """JSON schema of gates.json."""
    schema = _GATES.json_schema(mode="serialization")
    return {"$schema": GenerateJsonSchema.schema_dialect, "title": "Gates of a meddiff release"} | schema
