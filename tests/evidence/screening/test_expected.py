"""What a screen does to real volumes stands beside what it did to candidates."""

from collections.abc import Callable
from typing import Any

import pytest

from meddiff_core.contract import Contract
from meddiff_core.evidence.inputs import AuditInput, ScreenSummary
from meddiff_core.evidence.intervals import from_count
from meddiff_core.evidence.quality.comparison import Drawing
from meddiff_core.evidence.screening.expected import expected_rejections
from meddiff_core.evidence.screening.reasons import RealRejections, count_real, kind_of
from meddiff_core.evidence.section import Section
from meddiff_core.study import AuditConfig

DRAWING = Drawing(20, 0.95, 0)
LOW, HIGH = "mean 0.2 is below 0.3 (training range)", "std 0.9 is above 0.8 (training range)"


class NoData:
    """Nothing of the data set is looked at."""

    def volumes(self, side: str) -> Any:
        raise AssertionError(side)

    subjects = conditions = volumes


@pytest.fixture
def section(make_heads: Callable, contract: Contract, finish: Callable) -> Callable[[RealRejections | None], Section]:
    """What real volumes gave to the section of the report."""

    def run(real: RealRejections | None) -> Section:
        reasons = {kind_of(LOW): 30, "all voxels are equal": 2}
        summary = ScreenSummary(candidates=100, accepted=69, reasons=reasons, real=real)
        empty: dict[str, Any] = {"requested": [], "measured": [], "sample_ids": [], "extractors": []}
        audit = AuditInput(NoData(), contract, make_heads(1, 0), screen=summary, config=AuditConfig(), **empty)
        found: Section = finish(expected_rejections(audit, DRAWING))
        return found

    return run


def test_real_volumes_are_counted_by_kind_of_reason() -> None:
    found = count_real([[], [LOW, HIGH], [LOW.replace("0.2", "0.1")], []], bounds=12)
    assert (found.volumes, found.rejected, found.bounds) == (4, 2, 12)
    assert found.reasons == {kind_of(LOW): 2, kind_of(HIGH): 1}


def test_shares_of_real_volumes_have_their_exact_interval_and_stand_beside_candidates(section: Callable) -> None:
    real = count_real([[LOW, HIGH], [LOW], *[[]] * 18], bounds=12)
    (table,) = section(real).tables
    share = from_count(2, 20, 0.95)
    exact = tuple(round(figure, 4) for figure in (share.value, share.low, share.high))
    assert table.part == "screening"
    assert table.rows[0] == ("all together", *exact, 0.31)
    rows = {row[0]: row[1:] for row in table.rows}
    assert rows[kind_of(LOW)] == (*exact, 0.3)
    assert (rows[kind_of(HIGH)][0], rows[kind_of(HIGH)][3]) == (0.05, 0.0)
    assert (rows["all voxels are equal"][0], rows["all voxels are equal"][3]) == (0.0, 0.02)
    assert "20 real validation volumes" in table.caption
    assert "12 bounds" in table.caption


@pytest.mark.parametrize("real", [None, count_real([[]] * 4, bounds=12)])
def test_too_few_real_volumes_are_a_sentence(section: Callable, real: RealRejections | None) -> None:
    found = section(real)
    assert not found.tables
    assert "needs 5 validation volumes" in found.statements[0]
