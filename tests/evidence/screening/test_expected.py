"""What a screen does to real volumes stands beside what it did to candidates."""

from collections.abc import Callable

import pytest

from meddiff_core.evidence.inputs import ScreenSummary
from meddiff_core.evidence.intervals import Bootstrap, from_count
from meddiff_core.evidence.rejections import CONTRAST, RealRejections, Rejection, count_kinds, count_real
from meddiff_core.evidence.screening.expected import expected_rejections
from meddiff_core.evidence.section import Section

BOOTSTRAP = Bootstrap(20, 0.95, 0)
LOW = Rejection(measurement="mean", value=0.2, bound=0.3, side="below")
HIGH = Rejection(measurement="std", value=0.9, bound=0.8, side="above")
EQUAL = Rejection(measurement=CONTRAST, value=0.0, bound=0.0, side="below")


@pytest.fixture
def section() -> Callable[[RealRejections | None], Section]:
    """What real volumes gave to the section of the report."""

    def run(real: RealRejections | None) -> Section:
        kinds = count_kinds([[LOW]] * 30 + [[EQUAL]] * 2)
        summary = ScreenSummary(candidates=100, accepted=69, rejections=kinds, real=real)
        return expected_rejections(summary, BOOTSTRAP)

    return run


def test_real_volumes_are_counted_by_kind_of_reason() -> None:
    found = count_real([[], [LOW, HIGH], [LOW.model_copy(update={"value": 0.1})], []], bounds=12)
    assert (found.volumes, found.rejected, found.bounds) == (4, 2, 12)
    assert [(one.kind, one.count) for one in found.kinds] == [(LOW.kind, 2), (HIGH.kind, 1)]


def test_shares_of_real_volumes_have_their_exact_interval_and_stand_beside_candidates(section: Callable) -> None:
    real = count_real([[LOW, HIGH], [LOW], *[[]] * 18], bounds=12)
    (table,) = section(real).tables
    share = from_count(2, 20, 0.95)
    exact = tuple(round(figure, 4) for figure in (share.value, share.low, share.high))
    assert table.part == "screening"
    assert table.rows[0] == ("all together", *exact, 0.31)
    rows = {row[0]: row[1:] for row in table.rows}
    assert rows[LOW.summary] == (*exact, 0.3)
    assert (rows[HIGH.summary][0], rows[HIGH.summary][3]) == (0.05, 0.0)
    assert (rows["all voxels are equal"][0], rows["all voxels are equal"][3]) == (0.0, 0.02)
    assert "20 real validation volumes" in table.caption
    assert "12 bounds" in table.caption


@pytest.mark.parametrize("real", [None, count_real([[]] * 4, bounds=12)])
def test_too_few_real_volumes_are_a_sentence(section: Callable, real: RealRejections | None) -> None:
    found = section(real)
    assert not found.tables
    assert "needs 5 validation volumes" in found.statements[0]
