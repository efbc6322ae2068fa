"""Sentences that the card, the page and the metadata must say in the same words.

What a privacy test shows is easily overstated; it is written once: by the audit, whose caveats stand
here word for word.
"""

from meddiff_core.evidence.audit import caveats_of

PRIVACY_SHOWS = (
    "The privacy tests ask how close the synthetic volumes come to the scans that the models were trained on, compared"
    " with how close held-out scans come to the same scans.",
    "A gate passes on the unfavourable end of its confidence interval, not on the value itself.",
)
NOT_ANONYMOUS = (
    "It does not make this cohort anonymous in the sense of any law. That judgement belongs to the owner of the real"
    " scans, and looks at the setting of a release as well."
)
LIMITATIONS = (
    "The volumes are samples of a model of one set of real scans. What is rare or absent there is rare or absent here,"
    " and its biases are reproduced.",
    "Generated anatomy may be wrong in ways that no measurement here detects. Not for diagnosis, treatment or any"
    " decision about a person.",
    "Results obtained on this cohort should be confirmed on real scans before they are relied on.",
    "Do not try to link a volume to a person.",
)
NOT_INTENDED_FOR = "Diagnosis, treatment or any decision about a person; linking a volume to a person."
NOT_STATED = "not stated"
FACES = (
    "Faces were not removed by this software: nothing was masked. Where the real scans show heads with their faces,"
    " synthetic volumes show faces too."
)
EXTRAPOLATION = (
    "{count} of {total} volumes have a requested condition outside the range that the models were trained on; what"
    " they show is extrapolated. The column `extrapolated` marks them."
)
READING = """from meddiff_core.release import open_release

release = open_release("{folder}")
item = release.dataset()[0]  # image, label map and covariates, ready for a torch DataLoader"""
PLAIN_READING = """import zarr

cohort = zarr.open_group("{folder}/cohort.ome.zarr", mode="r")
volume = cohort["image"][0]  # (z, y, x)"""

SIGNED = (
    "`manifest.dsse.json` is an Ed25519 signature over `manifest.json`, and so over every file; "
    "`meddiff verify . --key KEY` checks it with the public key whose fingerprint is `{key}`."
)
NOT_SIGNED = "This release is not signed: the hashes in `manifest.json` show damage, not who made it."


def privacy_does_not_show(guarantee: str | None) -> tuple[str, ...]:
    """What no figure of a release shows; `guarantee` is what differential privacy promises of it, if anything."""
    return (*caveats_of(guarantee), NOT_ANONYMOUS)
