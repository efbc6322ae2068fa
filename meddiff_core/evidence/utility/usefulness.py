"""Whether the cohort can stand in for real volumes, and whether it helps beside them: the part of the audit.

One segmentation network that was trained on real pairs serves twice: as the yardstick of the trials, and to measure
the structures of synthetic images without their own label maps.
"""

from collections.abc import Generator

from meddiff_core.evidence.inputs import AuditInput
from meddiff_core.evidence.intervals import Bootstrap
from meddiff_core.evidence.section import Section
from meddiff_core.evidence.utility.arms import design_trials, effort_of, missing_volumes
from meddiff_core.evidence.utility.covariates import covariate_trials
from meddiff_core.evidence.utility.pairs import pair_fidelity
from meddiff_core.evidence.utility.trials import segmentation_trials
from meddiff_core.types import Progress

NOT_ASKED = "Utility was not measured: audit.utility.effort is none."
NO_TASK = (
    "Utility could not be measured: it needs label maps to segment, or a covariate that is no volume of a structure."
)
ONE_SEED = (
    "Utility rests on one training of each kind: its intervals hold the test subjects, and not the luck of a training."
)


def utility(audit: AuditInput, bootstrap: Bootstrap) -> Generator[Progress, None, Section]:
    """Segmentation where there are label maps, prediction of covariates where there are any."""
    if effort_of(audit.config) == "none":
        return Section(statements=[NOT_ASKED])
    design = design_trials(audit.config, len(audit.dataset.volumes("train")), len(audit.accepted))
    sections: list[Section] = []
    if audit.contract.labels:
        trials = yield from segmentation_trials(audit, design, bootstrap)
        sections += [trials.section, (yield from pair_fidelity(audit, trials.segmenter, bootstrap))]
    sections.append((yield from covariate_trials(audit, design, bootstrap)))
    found = Section.merge(sections)
    limits = [*missing_volumes(design, audit.config, len(audit.accepted)), *([ONE_SEED] if design.seeds == 1 else [])]
    return Section.merge([found, Section(statements=limits if found.tables else [NO_TASK])])
