"""How many volumes of a cohort are different from one another.

Two volumes count as the same one if they are nearer to each other than two training subjects ever are.
"""

from meddiff_core.evidence.duplicates import near_duplicates, smallest_distance
from meddiff_core.evidence.inputs import AuditInput
from meddiff_core.evidence.intervals import Bootstrap, from_count
from meddiff_core.evidence.metrics import Metric, MetricSpec, metric_of
from meddiff_core.evidence.voxel_keys import keys_of

DISTINCT_SHARE = MetricSpec(
    name="distinct_share", part="quality", better="higher", reference="that of the holdout", limited_by="synthetic"
)
METRICS = (DISTINCT_SHARE,)


def distinct_metric(audit: AuditInput, bootstrap: Bootstrap) -> Metric:
    """Share of volumes that no earlier one is nearer to than two training subjects ever are."""
    accepted, holdout = audit.accepted, audit.dataset.volumes("holdout")
    keys = keys_of(audit.dataset.volumes("train"), audit.contract)
    centre = keys.mean(0)
    threshold = smallest_distance(keys, centre, audit.dataset.subjects("train"))
    repeated = [len(near_duplicates(keys_of(side, audit.contract), centre, threshold)) for side in (accepted, holdout)]
    share = from_count(len(accepted) - repeated[0], len(accepted), bootstrap.confidence)
    words = "Share of synthetic volumes that do not repeat another one."
    return metric_of(DISTINCT_SHARE, share, words, reference=1 - repeated[1] / len(holdout))
