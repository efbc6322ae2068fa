"""The release for catalogues and machine-learning loaders: Croissant 1.1 (JSON-LD) with provenance.

Croissant cannot describe a zarr yet, so the record set is the table; its order is that of the arrays.
"""

from collections.abc import Mapping
from typing import Any

import pandas as pd

from meddiff_core.release import wording
from meddiff_core.release.array_names import array_names
from meddiff_core.release.content import ReleaseContent
from meddiff_core.release.manifest import FileEntry
from meddiff_core.release.methods import describe_preprocessing
from meddiff_core.release.ome import COHORT
from meddiff_core.release.participants_table import TABLE, describe_columns
from meddiff_core.release.report import summarise
from meddiff_core.release.scorecard import not_intended_for

TERMS = """
arrayShape citeAs column containedIn equivalentProperty excludes extract field fileObject fileProperty fileSet format
includes isArray isLiveDataset jsonPath key md5 parentField path recordSet references regex repeated replace
samplingRate separator source subField transform
""".split()  # noqa: SIM905 (the vocabulary is easier to compare with the standard this way)
CONTEXT: dict[str, Any] = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "sc": "https://schema.org/",
    "cr": "http://mlcommons.org/croissant/",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "dct": "http://purl.org/dc/terms/",
    "prov": "http://www.w3.org/ns/prov#",
    "duo": "http://purl.obolibrary.org/obo/DUO_",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "conformsTo": "dct:conformsTo",
} | {term: f"cr:{term}" for term in TERMS}
TYPES = {"i": "sc:Integer", "u": "sc:Integer", "f": "sc:Float", "b": "sc:Boolean"}


def describe_release(content: ReleaseContent, table: pd.DataFrame, files: Mapping[str, FileEntry]) -> dict[str, Any]:
    """The JSON-LD document. `files` holds at least the digest of the parquet table."""
    return {
        "@context": CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": "http://mlcommons.org/croissant/1.1",
        "name": content.folder,
        "description": f"{content.title}. {summarise(content)} Source: {content.source}",
        "version": content.version,
        "license": content.licence,
        "citeAs": f"{content.title}, version {content.version} (synthetic cohort)",
        "creator": {"@type": "sc:Organization", "name": content.contact},
        "rai:hasSyntheticData": True,
        **_responsible_use(content),
        **({"usageInfo": [_data_use(term) for term in content.data_use]} if content.data_use else {}),
        "prov:wasDerivedFrom": _parents(content),
        "prov:wasGeneratedBy": _generation(content),
        "distribution": _distribution(files),
        "recordSet": [_record_set(content, table)],
    }


def _responsible_use(content: ReleaseContent) -> dict[str, Any]:
    """Terms of the vocabulary for responsible use of data (RAI)."""
    return {
        "rai:dataCollection": " ".join(content.methods),
        "rai:dataCollectionType": "Synthetic: sampled from a generative model",
        "rai:dataPreprocessingProtocol": describe_preprocessing(content.contract),
        "rai:dataUseCases": content.intended_use or wording.NOT_STATED,
        "rai:dataLimitations": [*wording.LIMITATIONS, f"Not intended for: {not_intended_for(content)}"],
        "rai:dataBiases": wording.LIMITATIONS[0],
        "rai:personalSensitiveInformation": " ".join(wording.privacy_does_not_show(content.guarantee)),
    }


def _data_use(term: str) -> dict[str, Any]:
    """A term of the Data Use Ontology."""
    return {
        "@id": f"duo:{term.removeprefix('DUO:')}",
        "@type": "sc:DefinedTerm",
        "termCode": term,
        "inDefinedTermSet": "http://purl.obolibrary.org/obo/duo.owl",
    }


def _parents(content: ReleaseContent) -> list[dict[str, Any]]:
    return [{"@id": f"urn:sha256:{digest}", "name": name} for name, digest in sorted(content.parents.items())]


def _generation(content: ReleaseContent) -> dict[str, Any]:
    """The activity that made the volumes, and the program that carried it out."""
    version = content.versions.get("meddiff")
    agent = {"@type": "prov:SoftwareAgent", "name": "meddiff"} | ({"version": version} if version else {})
    used = [
        {"@id": f"urn:sha256:{content.parents[name]}"}
        for name in ("autoencoder", "denoiser")
        if name in content.parents
    ]
    return {
        "@type": "prov:Activity",
        "name": "sampling from a latent diffusion model",
        "prov:used": used,
        "prov:wasAssociatedWith": agent,
    }


def _distribution(files: Mapping[str, FileEntry]) -> list[dict[str, Any]]:
    return [
        {
            "@type": "cr:FileObject",
            "@id": TABLE,
            "name": TABLE,
            "contentUrl": TABLE,
            "encodingFormat": "application/x-parquet",
            "contentSize": f"{files[TABLE].bytes} B",
            "sha256": files[TABLE].sha256,
        },
        {
            "@type": "cr:FileSet",
            "@id": "cohort",
            "name": "cohort",
            "description": "OME-Zarr 0.5: volumes (sample, z, y, x), labels, covariates. Digests: manifest.json.",
            "encodingFormat": "application/vnd+zarr",
            "includes": f"{COHORT}/**",
        },
    ]


def _record_set(content: ReleaseContent, table: pd.DataFrame) -> dict[str, Any]:
    names = [str(name) for name in table.columns]
    meaning, ids = describe_columns(names, content.contract), array_names(names)  # an @id must hold no blank
    fields = [
        {
            "@type": "cr:Field",
            "@id": f"samples/{ids[name]}",
            "name": name,
            "description": text["Description"],
            "dataType": TYPES.get(getattr(table[name].dtype, "kind", "O"), "sc:Text"),
            "source": {"fileObject": {"@id": TABLE}, "extract": {"column": name}},
        }
        for name, text in meaning.items()
    ]
    return {
        "@type": "cr:RecordSet",
        "@id": "samples",
        "name": "samples",
        "key": {"@id": f"samples/{ids[names[0]]}"},
        "field": fields,
    }
