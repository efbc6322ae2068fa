"""An audit of a cohort that somebody else made: all evidence that needs neither weights nor candidates of ours.

Whoever is offered synthetic scans has two folders and no way to ask the model. What two folders cannot tell is said,
and no gate stands on it. The report shows real scans beside synthetic ones, so all that is written is patient data.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from meddiff_core.artefacts import STATE, digest_of, write_json
from meddiff_core.contract import spacing_text
from meddiff_core.data.dataset import Dataset, write_refusals
from meddiff_core.errors import ConfigurationError
from meddiff_core.evidence.audit import Audit, InternalFindings, run_audit
from meddiff_core.evidence.features.cache import CachedExtractor, KeptVolumes
from meddiff_core.evidence.features.contrastive import contrastive_features
from meddiff_core.evidence.features.radiomics import RadiomicsFeatures
from meddiff_core.evidence.features.random_conv import RandomConvFeatures
from meddiff_core.evidence.features.records import Extractor
from meddiff_core.evidence.features.spectrum import SpectrumFeatures
from meddiff_core.evidence.gates import GateResult
from meddiff_core.evidence.inputs import AuditInput
from meddiff_core.evidence.measurements import measure_all
from meddiff_core.evidence.privacy.membership import MEMBERSHIP_AUC, MEMBERSHIP_TPR
from meddiff_core.evidence.privacy.release_membership import RELEASE_AUC
from meddiff_core.evidence.screening.expected import ACCEPTED_SHARE
from meddiff_core.release.internal import InternalContent, Suspect, write_internal_report
from meddiff_core.stages.external_sources import Compared, Sources, read_sources
from meddiff_core.stages.features import KeptDataset
from meddiff_core.stages.making import Resources
from meddiff_core.study import AuditConfig
from meddiff_core.types import Message, Work
from meddiff_core.workspace import STUDY_FILE

REPORT, AUDIT, FINDINGS, REFUSED = "report.html", "audit.json", "findings.json", "refused.csv"
NEEDS_THE_MAKER = (ACCEPTED_SHARE, MEMBERSHIP_AUC, MEMBERSHIP_TPR)
"""Gated metrics that only the cohort's maker can have: of its screen and its weights."""
NEEDS_TRAIN = (RELEASE_AUC,)
"""Those that ask who was trained on."""


@dataclass(frozen=True)
class ExternalAudit:
    """What was found, and where it lies."""

    audit: Audit
    limits: tuple[str, ...]
    """On what the comparison rests, and what it could not measure."""
    report: Path


def audit_sources(
    sources: Sources, out: Path, config: AuditConfig, seed: int, resources: Resources
) -> Work[ExternalAudit]:
    """Audit a cohort; writes report.html, audit.json, findings.json and refused.csv into `out`.

    Raises:
        ConfigurationError: `out` is a study, or a source leaves a question open.
        DataRefused: fewer than 8 volumes of a set can be used.
    """
    if (out / STUDY_FILE).exists():
        raise ConfigurationError(f"{out} must not be a study: its own audit lies there; give another folder")
    scratch = out / STATE
    compared = yield from read_sources(sources, scratch, seed, resources)
    write_refusals(out / REFUSED, compared.refused)
    if compared.refused:
        yield Message(f"{len(compared.refused)} scans cannot be used; why, is in {out / REFUSED}")
    given = yield from _input(compared, sources, scratch, config, seed, resources)
    audit, findings = yield from run_audit(given)
    limits = _limits(audit, compared, sources)
    audit = audit.model_copy(update={"gates": _decidable(audit, sources), "statements": (*limits, *audit.statements)})
    write_json(out / AUDIT, audit)
    write_json(out / FINDINGS, findings)
    write_internal_report(out / REPORT, _content(sources, compared, audit, findings))
    return ExternalAudit(audit, limits, out / REPORT)


def _input(
    compared: Compared, sources: Sources, scratch: Path, config: AuditConfig, seed: int, resources: Resources
) -> Work[AuditInput]:
    real, cohort = KeptDataset(compared.real), compared.synthetic
    contract, train = compared.real.contract, real.volumes("train")
    accepted = KeptVolumes(cohort.volumes(None), "synthetic", digest_of(cohort.digest()))
    measured = yield from measure_all("measure the cohort", accepted, contract)
    learned = yield from contrastive_features(
        scratch / "encoder", train, contract, seed, train.digest, resources.device
    )

    def kept(extractors: Sequence[Extractor]) -> list[Extractor]:
        return [CachedExtractor(one, scratch / "features", resources.mapper) for one in extractors]

    return AuditInput(
        dataset=real,
        contract=contract,
        accepted=accepted,
        requested=cohort.conditions(None),
        measured=measured,
        sample_ids=list(cohort.table["case"]),
        extractors=kept([RandomConvFeatures(contract), RadiomicsFeatures(contract)]),
        screen=None,
        config=config,
        train_known=sources.train is not None,
        guarantee="Whether its models were trained with differential privacy is not known.",
        device=resources.device,
        seed=seed,
        copy_extractors=kept([SpectrumFeatures(contract), learned]),
    )


def _decidable(audit: Audit, sources: Sources) -> tuple[GateResult, ...]:
    """The gates without those that two folders cannot decide."""
    beyond = {spec.name for spec in (*NEEDS_THE_MAKER, *(() if sources.train else NEEDS_TRAIN))}
    return tuple(gate for gate in audit.gates if gate.bound is not None or gate.metric.partition(":")[0] not in beyond)


def _limits(audit: Audit, compared: Compared, sources: Sources) -> tuple[str, ...]:
    sizes = ", ".join(f"{count} {name}" for name, count in audit.sizes.items())
    compared_at = spacing_text(compared.real.contract.spacing_mm)
    known = [
        f"Compared at {compared_at}: {sizes} volumes. Finer detail was not looked at.",
        f"Not measured, since it takes the cohort's maker: {', '.join(spec.name for spec in NEEDS_THE_MAKER)}.",
    ]
    if sources.train is None:
        known.append(
            "Which scans the cohort was made from is not known. Copies were searched among half of the real scans, and "
            "scans of the other half say what is usual; attacks that ask who was trained on were left out."
        )
    return tuple(known)


def _content(sources: Sources, compared: Compared, audit: Audit, findings: InternalFindings) -> InternalContent:
    real, synthetic = compared.real, compared.synthetic
    return InternalContent(
        title=f"{sources.synthetic.absolute().name} against {sources.real.absolute().name}",
        contract=real.contract,
        real=real.volumes("train"),
        synthetic=synthetic.volumes(None),
        suspects=_suspects(real, synthetic, findings),
        refused=list(compared.refused),
        gates=audit.gates,
        metrics=audit.metrics,
        tables=audit.tables,
        evidence_curves=audit.curves,
        statements=audit.sentences,
    )


def _suspects(real: Dataset, synthetic: Dataset, findings: InternalFindings) -> list[Suspect]:
    """Each suspected copy beside the real scan that it resembles."""
    train, names = real.volumes("train"), list(real.table.iloc[real.rows("train")]["case"])
    cohort, rows = synthetic.volumes(None), {case: row for row, case in enumerate(synthetic.table["case"])}
    return [
        Suspect(
            found.sample_id,
            ["suspected copy"],
            cohort.image(rows[found.sample_id]),
            names[found.train_row],
            train.image(found.train_row),
            found.score,
        )
        for found in findings.suspected
    ]
