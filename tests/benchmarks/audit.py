"""What each part of the audit costs, at 10,000 synthetic against 1,000 real volumes of 40x48x40.

    python tests/benchmarks/audit.py [--volumes 10000] [--utility full]

Volumes are made on the fly from a few smooth fields, so that nothing but the audit takes memory. A tenth as many as
the synthetic ones are real, and about a sixth of those are held out. Parts run in one process, whose time on the
processor is counted, and by how much the largest memory grew; in a study features are computed on the pool.
"""

import argparse
import resource
import tempfile
import time
from collections import defaultdict
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from scipy import ndimage
from torch.nn import functional

from meddiff_core.contract import CategoricalCondition, Condition, ContinuousCondition, Contract, IntensityMapping
from meddiff_core.data.split.sides import SIDES, Side
from meddiff_core.evidence import audit as audit_module
from meddiff_core.evidence.audit import Part, run_audit
from meddiff_core.evidence.features.cache import CachedExtractor, KeptVolumes
from meddiff_core.evidence.features.contrastive import fit_contrastive
from meddiff_core.evidence.features.latents import LatentFeatures
from meddiff_core.evidence.features.radiomics import RadiomicsFeatures
from meddiff_core.evidence.features.random_conv import RandomConvFeatures
from meddiff_core.evidence.features.records import Extractor
from meddiff_core.evidence.features.spectrum import SpectrumFeatures
from meddiff_core.evidence.inputs import AuditInput, ScreenSummary
from meddiff_core.evidence.intervals import Bootstrap
from meddiff_core.evidence.measurements import measure
from meddiff_core.evidence.section import Section
from meddiff_core.study import AuditConfig, UtilityConfig
from meddiff_core.types import FloatArray, LabelArray, Progress, StoredArray

SIZE = (40, 48, 40)
FIELDS = 12
Result = TypeVar("Result")
CONTRACT = Contract(
    spacing_mm=4.0,
    size=SIZE,
    intensity=IntensityMapping(modality="MR", low=0, high=1000, percentiles=(0.5, 99.5)),
    mask="none",
    labels={"shell": (1,), "core": (2,)},
    conditions=(
        ContinuousCondition(name="age", low=20, high=80, mean=50, std=15),
        ContinuousCondition(name="core_mm3", low=0, high=1e6, mean=4e5, std=1e5, group="core"),
        CategoricalCondition(name="sex", categories=("F", "M")),
    ),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--volumes", type=int, default=10_000)
    parser.add_argument("--utility", choices=("full", "quick", "none"), default="full")
    options = parser.parse_args()
    synthetic, real = options.volumes, max(60, options.volumes // 10)
    config = AuditConfig(utility=UtilityConfig(effort=options.utility))
    before, bill = peak_mb(), Bill()
    with tempfile.TemporaryDirectory(prefix="meddiff-audit-") as scratch:
        audit = prepare(synthetic, real, config, Path(scratch), bill)
        audit_module.PARTS = tuple(map(under_its_name, audit_module.PARTS))
        finish(run_audit(audit), bill)
    total = sum(bill.seconds.values())
    print(f"{synthetic:,} synthetic against {real:,} real: {total / 60:.1f} minutes", end="")
    print(f", {peak_mb() - before:.0f} MB beyond the {before:.0f} MB of the libraries")
    for name, seconds in sorted(bill.seconds.items(), key=lambda item: -item[1]):
        each = 1e3 * seconds / synthetic
        print(f"{name:<40} {seconds:8.1f} s {seconds / total:6.1%} {each:8.2f} ms a volume {bill.mb[name]:6.0f} MB")


class Bill:
    """Processor time, and growth of the largest memory, under each label."""

    def __init__(self) -> None:
        self.seconds, self.mb = defaultdict[str, float](float), defaultdict[str, float](float)
        self._last = time.process_time(), peak_mb()

    def add(self, label: str) -> None:
        """All that has come since the last call."""
        (seconds, mb), self._last = self._last, (time.process_time(), peak_mb())
        self.seconds[label] += self._last[0] - seconds
        self.mb[label] += self._last[1] - mb


class Heads:
    """Heads that are sums of smooth fields with weights of their own; reading one takes under a millisecond."""

    def __init__(self, count: int, seed: int) -> None:
        self.count, self.seed = count, seed
        rng = np.random.default_rng(0)
        grid = np.stack(np.meshgrid(*[np.linspace(-1, 1, side) for side in SIZE], indexing="ij"))
        self._distance = np.sqrt(((grid / 0.85) ** 2).sum(0)).astype(np.float32)
        fields = [ndimage.gaussian_filter(rng.standard_normal(SIZE), 2.5) for _ in range(FIELDS)]
        self._fields = np.stack([field / field.std() for field in fields]).astype(np.float32)

    def __len__(self) -> int:
        return self.count

    def image(self, index: int) -> StoredArray:
        label, texture = self._drawn(index)
        unit = (0.45 + 0.2 * (label == 2) + 0.08 * texture) * (label > 0)
        return CONTRACT.intensity.store(unit.astype(np.float32))

    def label(self, index: int) -> LabelArray:
        return self._drawn(index)[0]

    def _drawn(self, index: int) -> tuple[LabelArray, FloatArray]:
        rng = np.random.default_rng([self.seed, index])
        texture = np.tensordot(rng.standard_normal(FIELDS).astype(np.float32), self._fields, 1)
        distance = self._distance + 0.01 * texture
        edges = (1 + 0.03 * rng.standard_normal(), 0.45 + 0.05 * rng.standard_normal())
        return sum((distance < edge).astype(np.uint8) for edge in edges), texture


@dataclass(frozen=True)
class Study:
    """The real sides."""

    sizes: dict[Side, int]

    def volumes(self, side: Side) -> KeptVolumes:
        return KeptVolumes(Heads(self.sizes[side], 1 + SIDES.index(side)), side, side)

    def subjects(self, side: Side) -> list[str]:
        return [f"{side}-{index}" for index in range(self.sizes[side])]

    def conditions(self, side: Side) -> list[Condition]:
        return conditions(self.volumes(side), SIDES.index(side))


def conditions(volumes: KeptVolumes, seed: int) -> list[Condition]:
    rng = np.random.default_rng(seed)
    return [
        {"age": float(rng.uniform(20, 80)), "core_mm3": 4e5, "sex": str(rng.choice(["F", "M"]))}
        for _ in range(len(volumes))
    ]


def prepare(synthetic: int, real: int, config: AuditConfig, scratch: Path, bill: Bill) -> AuditInput:
    """What an audit gets."""
    dataset = Study({"train": real * 7 // 10, "validation": real * 3 // 20, "holdout": real * 3 // 20})
    accepted = KeptVolumes(Heads(synthetic, 0), "accepted", "accepted")
    measured = [measure(accepted.image(n), accepted.label(n), CONTRACT) for n in range(synthetic)]
    bill.add("measure synthetic (screening does)")
    encoder = finish(fit_contrastive(dataset.volumes("train"), CONTRACT, 0), bill)

    def cached(*extractors: Extractor) -> list[Extractor]:
        return [CachedExtractor(extractor, scratch) for extractor in extractors]

    return AuditInput(
        dataset=dataset,
        contract=CONTRACT,
        accepted=accepted,
        requested=conditions(accepted, 9),
        measured=measured,
        sample_ids=[f"syn-{n:06}" for n in range(synthetic)],
        extractors=cached(
            RandomConvFeatures(CONTRACT),
            LatentFeatures(lambda images: functional.avg_pool3d(images, 4), "0", CONTRACT),
            RadiomicsFeatures(CONTRACT),
        ),
        copy_extractors=cached(SpectrumFeatures(CONTRACT), encoder),
        screen=ScreenSummary(candidates=synthetic, accepted=synthetic, reasons={}),
        config=config,
    )


def finish(work: Generator[Progress, None, Result], bill: Bill) -> Result:
    """Run a part of work to its end, and put what it took since its last word under each label."""
    while True:
        try:
            bill.add(next(work).label)
        except StopIteration as end:
            bill.add("figures at the end")
            result: Result = end.value
            return result


def under_its_name(part: Part) -> Part:
    def run(audit: AuditInput, bootstrap: Bootstrap) -> Generator[Progress, None, Section]:
        work = part(audit, bootstrap)
        while True:
            try:
                next(work)
            except StopIteration as end:
                yield Progress(part.__name__, 1, 1)
                found: Section = end.value
                return found
            yield Progress(part.__name__, 0, 1)

    return run


def peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
