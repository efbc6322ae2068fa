"""The release for health data catalogues: HealthDCAT-AP (JSON-LD), the description of the European Health Data Space.

The type of the data set is what portals filter synthetic data by. Access rights and publisher are the catalogue's to
say: a release does not know through which door it leaves.
"""

from typing import Any

import pandas as pd

from meddiff_core.release.content import ReleaseContent
from meddiff_core.release.evidence import privacy_summary, verdict
from meddiff_core.release.ome import COHORT
from meddiff_core.release.participants_table import TABLE, TEXT, age_range
from meddiff_core.release.report import summarise

CONTEXT = {
    "dcat": "http://www.w3.org/ns/dcat#",
    "dct": "http://purl.org/dc/terms/",
    "dqv": "http://www.w3.org/ns/dqv#",
    "healthdcatap": "http://healthdataportal.eu/ns/health#",
    "oa": "http://www.w3.org/ns/oa#",
    "prov": "http://www.w3.org/ns/prov#",
    "rdf": "http://www.w3.org/1999/02/22-rdf-syntax-ns#",
    "rdfs": "http://www.w3.org/2000/01/rdf-schema#",
    "vcard": "http://www.w3.org/2006/vcard/ns#",
    "xsd": "http://www.w3.org/2001/XMLSchema#",
}
AUTHORITY = "http://publications.europa.eu/resource/authority"


def describe_for_catalogues(content: ReleaseContent, table: pd.DataFrame) -> dict[str, Any]:
    """The JSON-LD document. `table` is the public one."""
    return {
        "@context": CONTEXT,
        "@id": f"urn:sha256:{content.parents['cohort']}" if "cohort" in content.parents else "./",
        "@type": "dcat:Dataset",
        "dct:type": {"@id": f"{AUTHORITY}/dataset-type/SYNTHETIC_DATA"},
        "dcat:theme": {"@id": f"{AUTHORITY}/data-theme/HEAL"},
        "dct:identifier": content.folder,
        "dct:title": content.title,
        "dct:description": summarise(content),
        "dcat:version": content.version,
        "dct:license": {"@type": "dct:LicenseDocument", "rdfs:label": content.licence},
        "dcat:contactPoint": {"@type": "vcard:Kind", "vcard:fn": content.contact},
        "dct:provenance": {"@type": "dct:ProvenanceStatement", "rdfs:label": " ".join(content.methods)},
        "prov:wasDerivedFrom": [
            {"@id": f"urn:sha256:{digest}", "rdfs:label": name} for name, digest in sorted(content.parents.items())
        ],
        "healthdcatap:numberOfRecords": _count(len(table)),
        "healthdcatap:populationCoverage": content.source,
        **_ages(table),
        "healthdcatap:qualityAnnotation": [_annotation(text) for text in _quality(content)],
        "dcat:distribution": [
            _distribution(f"{COHORT}/", "application/vnd+zarr"),
            _distribution(TABLE, "application/vnd.apache.parquet"),
            _distribution(TEXT, "text/tab-separated-values"),
        ],
    }


def _count(number: int) -> dict[str, Any]:
    return {"@type": "xsd:nonNegativeInteger", "@value": str(number)}


def _ages(table: pd.DataFrame) -> dict[str, Any]:
    """The range that the card gives; nothing where no column is an age in years."""
    if (ages := age_range(table)) is None:
        return {}
    return {"healthdcatap:minTypicalAge": _count(ages[0]), "healthdcatap:maxTypicalAge": _count(ages[1])}


def _quality(content: ReleaseContent) -> list[str]:
    return [
        f"{verdict(content.gates)} Preset: {content.preset}. evidence/gates.json has each gate with its interval.",
        *privacy_summary(content.gates, content.metrics),
    ]


def _annotation(text: str) -> dict[str, Any]:
    return {
        "@type": "dqv:QualityAnnotation",
        "oa:motivatedBy": {"@id": "dqv:qualityAssessment"},
        "oa:hasBody": {"@type": "oa:TextualBody", "rdf:value": text},
    }


def _distribution(path: str, media_type: str) -> dict[str, Any]:
    return {"@type": "dcat:Distribution", "dcat:downloadURL": {"@id": path}, "dcat:mediaType": media_type}
