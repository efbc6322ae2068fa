"""Card and metadata of a subset: they say of what it is a part, and that the evidence is about all of that.

Gates were passed by the whole cohort; a part of it, say of one age, was never measured. A card that went along as it
was would vouch for what nobody looked at.
"""

from typing import Any

import pandas as pd

from meddiff_core.release.manifest import FileEntry, Manifest
from meddiff_core.release.participants_table import age_range
from meddiff_core.release.templating import render

CARD, CATALOGUE = "README.md", "healthdcat-ap.jsonld"
EVIDENCE_IS_OF_THE_WHOLE = (
    "Gates, metrics and report are about the whole cohort, and lie in whole/ as they were; this part of it was not "
    "measured by itself."
)


def render_subset_card(manifest: Manifest) -> str:
    """README.md of a subset."""
    return render(
        "subset.md.j2", manifest=manifest, subset=manifest.subset, evidence=EVIDENCE_IS_OF_THE_WHOLE,
        folder=f"{manifest.name}-{manifest.version}", count=f"{manifest.samples:,}",
        total=f"{manifest.subset.samples:,}" if manifest.subset else "",
    )  # fmt: skip


def restate_croissant(content: dict[str, Any], manifest: Manifest, table: str, entry: FileEntry) -> dict[str, Any]:
    """Croissant of the whole as that of a part: its name, what it is derived from, and the digest of its table."""
    restated = content | {
        "name": f"{manifest.name}-{manifest.version}",
        "description": _description(content.get("description"), manifest),
        "prov:wasDerivedFrom": [*_listed(content.get("prov:wasDerivedFrom")), _whole(manifest, "name")],
    }
    files = [one | {"contentSize": f"{entry.bytes} B", "sha256": entry.sha256}
             if isinstance(one, dict) and one.get("contentUrl") == table else one
             for one in _listed(content.get("distribution"))]  # fmt: skip
    return restated | {"distribution": files}


def restate_catalogue(content: dict[str, Any], manifest: Manifest, table: pd.DataFrame) -> dict[str, Any]:
    """HealthDCAT-AP of the whole as that of a part."""
    ages = age_range(table)
    count = {"@type": "xsd:nonNegativeInteger"}
    known = {key: value for key, value in content.items() if "TypicalAge" not in key}
    quality = {
        "@type": "dqv:QualityAnnotation",
        "oa:motivatedBy": {"@id": "dqv:qualityAssessment"},
        "oa:hasBody": {"@type": "oa:TextualBody", "rdf:value": EVIDENCE_IS_OF_THE_WHOLE},
    }
    return known | {
        "@id": f"urn:meddiff:{manifest.name}",
        "dct:identifier": f"{manifest.name}-{manifest.version}",
        "dct:title": manifest.title,
        "dct:description": _description(content.get("dct:description"), manifest),
        "prov:wasDerivedFrom": [*_listed(content.get("prov:wasDerivedFrom")), _whole(manifest, "rdfs:label")],
        "healthdcatap:numberOfRecords": count | {"@value": str(len(table))},
        "healthdcatap:qualityAnnotation": [quality, *_listed(content.get("healthdcatap:qualityAnnotation"))],
        **({"healthdcatap:minTypicalAge": count | {"@value": str(ages[0])},
            "healthdcatap:maxTypicalAge": count | {"@value": str(ages[1])}} if ages else {}),
    }  # fmt: skip


def _description(text: Any, manifest: Manifest) -> str:
    part = manifest.subset.describe() if manifest.subset else ""
    return (
        f"A subset: {part}. {EVIDENCE_IS_OF_THE_WHOLE} The whole: {text if isinstance(text, str) else manifest.title}"
    )


def _whole(manifest: Manifest, label: str) -> dict[str, str]:
    whole = manifest.subset
    assert whole is not None
    return {"@id": f"urn:sha256:{whole.manifest}", label: f"{whole.name} {whole.version}"}


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [] if value is None else [value]
