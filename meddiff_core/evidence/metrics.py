"""What a metric is, declared once beside the code that computes it, and what was measured of it.

The part of the report that shows it, the direction that is good and who may waive its gate belong to one declaration:
a new metric cannot be half there.
"""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from meddiff_core.contract import Frozen
from meddiff_core.evidence.intervals import Estimate

Part = Literal["privacy", "quality", "anatomy", "fidelity", "utility", "screening"]
"""Parts of the report, in its order."""
Better = Literal["lower", "higher", "nearer"]
"""Direction that is good; `nearer` to the real-to-real reference."""
LimitedBy = Literal["compared", "generated", "synthetic", "canary"]
"""Set of volumes that must grow for a narrower interval; `compared` is the smallest of those that are compared."""
EVERY = "*"
"""Detail in the name of a gate that stands for every metric of its family."""


class MetricSpec(Frozen):
    """Declaration of a metric, or of a family of metrics with a detail each: `recall` of `recall:latents`."""

    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*(:[a-z0-9_]+)?$")]
    part: Part
    better: Better | None
    """None where it depends on the task, which the explanation then says."""
    reference: str = ""
    """What the real-to-real value beside it is; empty where there is none."""
    detail: str = ""
    """What the members of a family are named after; empty for a single metric."""
    limited_by: LimitedBy = "compared"
    privacy: bool = False
    """Whether it speaks of real subjects: under `strict` nobody may waive its gate."""
    proof: bool = False
    """Whether it shows that another metric would have found a fault: nobody may ever waive its gate."""
    failure: str = ""
    """What it means that its gate failed, where its name does not say so."""
    requires: str = ""
    """What a study may lack that it is measured from: `label maps`."""

    def named(self, detail: str = "") -> str:
        """Name of the metric with a detail."""
        return f"{self.name}:{detail}" if detail else self.name


class Metric(Frozen):
    """One measured figure, with everything that a reader needs to assess it."""

    spec: MetricSpec
    detail: str = ""
    value: float
    low: float
    high: float
    """Confidence interval."""
    n: int
    """Volumes behind it; for comparisons at equal sizes, volumes on each side."""
    reference: float | None = None
    """The same figure between real and real, where the spec says what that is."""
    explanation: str
    """One plain sentence."""

    @model_validator(mode="after")
    def _is_as_declared(self) -> "Metric":
        if bool(self.detail) != bool(self.spec.detail):
            raise ValueError(f"{self.name}: must name {self.spec.detail or 'no detail'}, names {self.detail or 'none'}")
        if (self.reference is None) != (not self.spec.reference):
            wanted = "a" if self.spec.reference else "no"
            raise ValueError(f"{self.name}: must have {wanted} reference, has {self.reference}")
        return self

    @property
    def name(self) -> str:
        """Family and detail."""
        return self.spec.named(self.detail)


def metric_of(
    spec: MetricSpec, estimate: Estimate, explanation: str, detail: str = "", reference: float | None = None
) -> Metric:
    """A metric from an estimate, to six digits: what lies beyond differs between machines."""
    value, low, high = map(six_digits, estimate.figures)
    real = None if reference is None else six_digits(reference)
    return Metric(
        spec=spec, detail=detail, value=value, low=low, high=high, n=estimate.n, reference=real, explanation=explanation
    )


def six_digits(value: float) -> float:
    """A figure to six significant digits."""
    return float(f"{value:.6g}")
