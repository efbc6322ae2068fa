"""What the audits of whole studies say, side by side: one column a study, value with its interval and reference.

    meddiff phantoms scans --subjects 145 --spacing-mm 6
    meddiff init seed0 --images scans/images --labels scans/labels --participants scans/participants.tsv
        --groups scans/groups.yaml --volume ventricles --size 64 --budget-minutes 8     (and study.yaml's seed)
    meddiff run seed0/study.yaml
    python tests/benchmarks/studies.py seed0 seed1 seed2

With several studies of one recipe a last column has the mean and the range over them.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from meddiff_core.evidence.audit import Audit
from meddiff_core.evidence.metrics import Metric
from meddiff_core.workspace import CHAIN

ROWS = (
    ("membership_auc", "denoiser"),
    ("membership_release_auc", ""),
    ("fidelity_r", None),
    ("fidelity_r_segmentation", None),
    ("kernel", "random-conv"),
    ("ms_ssim_gap", ""),
    ("utility_ratio", "segmentation"),
    ("utility_gain", "segmentation"),
    ("recall", "radiomics"),
    ("frechet_ratio", "radiomics"),
    ("copy_power", ""),
)
"""Names of metrics, and the detail of the one that is meant; None takes all."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("studies", type=Path, nargs="+")
    studies = parser.parse_args().studies
    audits = [Audit.model_validate_json((study / CHAIN["audit"].path / "audit.json").read_bytes()) for study in studies]
    several = len(audits) > 1
    _print_row(["", *(study.name for study in studies), *["mean (range)"] * several])
    _print_row(["---"] + ["---:"] * (len(audits) + several))
    for name, detail in ROWS:
        for key in dict.fromkeys(one.detail for audit in audits for one in _found(audit, name, detail)):
            found = [next(iter(_found(audit, name, key)), None) for audit in audits]
            _print_row([f"{name} {key}".strip(), *map(_cell, found), *[_over(found)] * several])
    _print_row(["suspected copies", *map(_copies, audits), *[""] * several])
    _print_row(["held back by", *map(_held_back, audits), *[""] * several])


def _print_row(cells: Sequence[str]) -> None:
    print(f"| {' | '.join(cells)} |")


def _found(audit: Audit, name: str, detail: str | None) -> list[Metric]:
    return [one for one in audit.metrics if one.spec.name == name and detail in (None, one.detail)]


def _cell(metric: Metric | None) -> str:
    if metric is None or metric.value is None:
        return ""
    beside = "" if metric.reference is None else f" ({metric.reference:.3g})"
    return f"{metric.value:.3g} [{metric.low:.3g}, {metric.high:.3g}]{beside}"


def _over(found: Sequence[Metric | None]) -> str:
    values = [one.value for one in found if one is not None and one.value is not None]
    return f"{sum(values) / len(values):.3g} ({min(values):.3g} to {max(values):.3g})" if values else ""


def _copies(audit: Audit) -> str:
    return f"{len(audit.flagged)} of {audit.sizes['synthetic']}"


def _held_back(audit: Audit) -> str:
    return ", ".join(gate.metric for gate in audit.gates if gate.holds_back) or "nothing"


if __name__ == "__main__":
    main()
