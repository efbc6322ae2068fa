"""What is audited, from whatever a test gives of it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from meddiff_core.contract import Condition, Contract
from meddiff_core.evidence.inputs import AuditInput, ScreenSummary
from meddiff_core.study import AuditConfig
from meddiff_core.types import Volumes


@dataclass(frozen=True)
class Real:
    """The real sides: volumes, or a table of conditions alone."""

    sides: Mapping[str, Any]
    table: Mapping[str, Sequence[Condition]] = field(default_factory=dict)
    people: int | None = None
    """Volumes are of these in turn; each is somebody else's if None."""

    def volumes(self, side: str) -> Volumes:
        return self.sides[side]  # type: ignore[no-any-return]

    def conditions(self, side: str) -> list[Condition]:
        return list(self.table.get(side) or [{}] * len(self.sides[side]))

    def subjects(self, side: str) -> list[str]:
        rows = range(len(self.conditions(side)))
        return [f"{side}{row if self.people is None else row % self.people}" for row in rows]


@pytest.fixture(scope="session")
def audit_of(make_heads: Callable[..., Any], contract: Contract) -> Callable[..., AuditInput]:
    """(volumes, conditions, people, further fields) to what is audited; the cohort is of no interest unless given."""
    usual = {"accepted": make_heads(1, 9), "measured": [], "sample_ids": [], "extractors": [], "requested": []}
    screen = ScreenSummary(candidates=1, accepted=1, reasons={})

    def make(sides: Any, table: Any = None, people: int | None = None, **fields: Any) -> AuditInput:
        given = {"contract": contract, "screen": screen, "config": AuditConfig(), **usual, **fields}
        return AuditInput(dataset=Real(sides, table or {}, people), **given)

    return make
