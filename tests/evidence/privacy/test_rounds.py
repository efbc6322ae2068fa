"""Suspected copies are replaced until the cohort is full, and the gates still see what the model draws."""

from collections.abc import Callable, Collection, Generator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from meddiff_core.evidence.features.random_conv import RandomConvFeatures
from meddiff_core.evidence.inputs import AuditInput, Round
from meddiff_core.evidence.intervals import Bootstrap
from meddiff_core.evidence.privacy.authenticity import authenticity_evidence
from meddiff_core.evidence.privacy.copies import excess_of, level_of
from meddiff_core.evidence.privacy.copy_evidence import CopyEvidence, find_copies
from meddiff_core.evidence.privacy.rounds import (
    DROPPED,
    SEARCHED,
    describe_rounds,
    fill_in_rounds,
    first_round,
    rounds_of,
    rounds_section,
    screened,
    suspected_copies,
)
from meddiff_core.evidence.rejections import AUDITED, REJECTIONS, Rejection, count_rejections, rejections_of, stored
from meddiff_core.evidence.screening.verdicts import next_attempt, open_slots
from meddiff_core.evidence.selection import Selection
from meddiff_core.study import AuditConfig
from meddiff_core.types import Progress

SIZE = 12
BLURRED = Rejection(measurement="sharpness", value=0.1, bound=0.2, side="below")
COPY = Rejection(measurement=AUDITED, value=0.2, bound=0.4, side="below")
BOOTSTRAP = Bootstrap(20, 0.95, 0)


def rows(slots: Collection[int], attempt: int, rejected: Collection[int] = ()) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "sample_id": [f"syn-{slot:06d}-{attempt}" for slot in slots],
            "slot": list(slots),
            "attempt": attempt,
            "accepted": [slot not in rejected for slot in slots],
            REJECTIONS: [stored([BLURRED] if slot in rejected else []) for slot in slots],
        }
    )


@dataclass
class Study:
    """Screening and the search for copies, with known outcomes."""

    copies: Collection[str] = ()
    most: int = 3 * SIZE
    """Candidates."""
    breaks_at: int | None = None
    """The search that does not come back."""
    searched: list[list[str]] = field(default_factory=list)

    def search(self, new: pd.DataFrame) -> Generator[Progress, None, dict[str, Rejection]]:
        yield Progress("search", 1, 1)
        self.searched.append(list(new["sample_id"]))
        if len(self.searched) == self.breaks_at:
            raise KeyboardInterrupt
        return dict.fromkeys(set(self.copies) & set(new["sample_id"]), COPY)

    def refill(self, table: pd.DataFrame) -> pd.DataFrame:
        while slots := open_slots(table, SIZE, self.most):
            table = pd.concat([table, rows(slots, next_attempt(table))], ignore_index=True)
        return table

    def refill_in_steps(self, table: pd.DataFrame) -> Generator[Progress, None, pd.DataFrame]:
        yield Progress("draw", 1, 1)
        return self.refill(table)

    def fill(self, rounds: int = 5) -> pd.DataFrame:
        first = self.refill(rows(range(SIZE), 0, rejected=[7]))
        work = fill_in_rounds(first, rounds, self.search, self.refill_in_steps)
        while True:
            try:
                next(work)
            except StopIteration as end:
                return end.value


COPIES = ["syn-000002-0", "syn-000005-0", "syn-000002-2", "syn-000007-1"]


def accepted(cohort: pd.DataFrame) -> list[str]:
    return list(cohort.loc[cohort["accepted"], "sample_id"])


def test_the_cohort_becomes_full_of_volumes_that_were_searched_and_not_flagged() -> None:
    study = Study(COPIES)
    cohort = study.fill()
    assert sorted(cohort.loc[cohort["accepted"], "slot"]) == list(range(SIZE))
    assert not set(accepted(cohort)) & set(COPIES)
    assert (cohort.loc[cohort["accepted"], SEARCHED] > 0).all()
    assert rounds_of(cohort) == (
        Round(searched=12, dropped=3), Round(searched=3, dropped=1), Round(searched=1, dropped=0),
    )  # fmt: skip


def test_each_volume_is_searched_once() -> None:
    study = Study(COPIES)
    study.fill()
    names = [name for found in study.searched for name in found]
    assert len(names) == len(set(names)) == 16


def test_what_was_dropped_says_when_and_why_and_the_same_slot_is_tried_again() -> None:
    table = Study(COPIES).fill().set_index("sample_id")
    for name, number in (("syn-000005-0", 1), ("syn-000002-2", 2)):
        assert rejections_of(table.loc[name, REJECTIONS]) == (COPY,)
        assert table.loc[name, SEARCHED] == number
    assert list(table.index[table["slot"] == 2]) == ["syn-000002-0", "syn-000002-2", "syn-000002-3"]
    assert table.index.is_unique


def test_a_cohort_without_suspects_is_that_of_screening_after_one_round() -> None:
    study = Study()
    cohort = study.fill()
    pd.testing.assert_frame_equal(
        cohort.drop(columns=[SEARCHED, DROPPED]), study.refill(rows(range(SIZE), 0, rejected=[7]))
    )
    assert rounds_of(cohort) == (Round(searched=SIZE, dropped=0),)


@pytest.mark.parametrize("breaks_at", [1, 2, 3])
def test_rounds_broken_off_anywhere_come_to_the_same_table_again(breaks_at: int) -> None:
    study = Study(COPIES, breaks_at=breaks_at)
    with pytest.raises(KeyboardInterrupt):
        study.fill()
    pd.testing.assert_frame_equal(study.fill(), Study(COPIES).fill())


def test_spent_candidates_leave_the_cohort_short_and_without_suspects() -> None:
    cohort = Study(COPIES, most=SIZE + 2).fill()
    assert len(cohort) == SIZE + 2
    assert cohort["accepted"].sum() == SIZE - 3  # the one that could still be sampled is flagged, too
    assert not set(accepted(cohort)) & set(COPIES)


@pytest.mark.parametrize(("rounds", "full"), [(1, SIZE - 3), (2, SIZE - 1), (3, SIZE)])
def test_spent_rounds_leave_the_cohort_short_and_without_suspects(rounds: int, full: int) -> None:
    cohort = Study(COPIES).fill(rounds)
    assert cohort["accepted"].sum() == full
    assert not set(accepted(cohort)) & set(COPIES)
    assert (cohort.loc[cohort["accepted"], SEARCHED] > 0).all()


def test_a_model_that_copies_most_of_the_time_gets_no_second_round() -> None:
    """Volumes could be picked from it until the test is silent; the audit has to see it as it is."""
    study = Study([f"syn-{slot:06d}-0" for slot in range(7)])
    cohort = study.fill()
    assert cohort["accepted"].sum() == SIZE
    assert not cohort[DROPPED].any()
    assert len(study.searched) == 1
    assert "7 of 12 volumes were flagged, more than 50%" in describe_rounds(rounds_of(cohort), 7)


def test_the_first_round_and_the_screen_are_as_before_the_search() -> None:
    study = Study(COPIES)
    before, cohort = study.refill(rows(range(SIZE), 0, rejected=[7])), study.fill()
    assert list(first_round(cohort)["sample_id"]) == accepted(before)
    after_screening = screened(cohort)
    assert after_screening["accepted"].sum() == cohort["accepted"].sum() + len(COPIES)
    assert [(one.kind, one.count) for one in count_rejections(after_screening)] == [(BLURRED.kind, 1)]


@pytest.mark.parametrize(
    ("rounds", "said"),
    [
        ([Round(searched=32, dropped=0)], "took 1 round and dropped none of 32 volumes"),
        (
            [Round(searched=32, dropped=4), Round(searched=4, dropped=0)],
            "2 rounds: 4 suspected copies were dropped; others",
        ),
        ([Round(searched=32, dropped=4), Round(searched=4, dropped=0)], "the final cohort is a selected set"),
        ([Round(searched=32, dropped=4)], "1 round: 4 suspected copies were dropped; no others"),
    ],
)
def test_a_reader_is_told_of_the_rounds_and_why_they_matter(rounds: list[Round], said: str) -> None:
    assert said in describe_rounds(rounds)


@pytest.fixture(scope="module")
def sampled(make_heads: Callable[..., Any], audit_of: Callable[..., AuditInput], contract: Any) -> AuditInput:
    """A cohort of 20 heads, of which 6 are training heads."""
    train, heads = make_heads(20, 0), make_heads(14, 2)
    images, labels = (np.concatenate([getattr(heads, one), getattr(train, one)[:6]]) for one in ("images", "labels"))
    sides, extractors = {"train": train, "holdout": make_heads(19, 1)}, [RandomConvFeatures(contract, width=4)]
    return audit_of(sides, type(heads)(images, labels), extractors=extractors, config=AuditConfig(preset="trial"))


@pytest.fixture(scope="module")
def suspects(sampled: AuditInput, finish: Callable[..., Any]) -> list[int]:
    return list(finish(suspected_copies(sampled)))


@pytest.fixture(scope="module")
def final(sampled: AuditInput, suspects: list[int]) -> AuditInput:
    """The same cohort without its suspects."""
    kept = [row for row in range(20) if row not in suspects]
    return replace(
        sampled,
        accepted=Selection.of(sampled.accepted, kept),
        sample_ids=[sampled.sample_ids[row] for row in kept],
        first_round=sampled.accepted,
        first_round_ids=sampled.sample_ids,
    )


@pytest.fixture(scope="module")
def before(sampled: AuditInput, finish: Callable[..., Any]) -> CopyEvidence:
    """What the audit finds in the cohort as sampled."""
    found: CopyEvidence = finish(find_copies(sampled, {}, BOOTSTRAP))
    return found


def metrics(evidence: CopyEvidence) -> dict[str, Any]:
    return {metric.name: metric for metric in evidence.section.metrics}


def test_the_search_alone_flags_what_the_whole_audit_flags_and_no_flag_depends_on_others(
    sampled: AuditInput, before: CopyEvidence, final: AuditInput, suspects: list[int], finish: Callable[..., Any]
) -> None:
    assert set(range(14, 20)) <= set(suspects)
    assert list(before.flagged) == suspects
    assert finish(suspected_copies(replace(final, first_round=None))) == {}
    some = suspects[1::2]
    alone = replace(sampled, accepted=Selection.of(sampled.accepted, some))
    assert list(finish(suspected_copies(alone))) == list(range(len(some)))


def test_the_gates_on_copies_read_the_first_round(
    sampled: AuditInput, before: CopyEvidence, final: AuditInput, finish: Callable[..., Any]
) -> None:
    """A cohort without its suspects has fewer than any real one: the gate could never fail again."""
    after = finish(find_copies(final, {}, BOOTSTRAP))
    assert list(after.flagged) == []
    assert metrics(after) == metrics(before)
    assert metrics(after)["copies_excess"].value > 0.2
    assert excess_of(0, len(final.accepted), level_of(19), BOOTSTRAP).value < 0
    sides = [finish(authenticity_evidence(one, BOOTSTRAP)).metrics for one in (sampled, final)]
    assert sides[0] == sides[1]


def test_both_cohorts_have_their_figure() -> None:
    rounds = [Round(searched=32, dropped=4), Round(searched=4, dropped=0)]
    section = rounds_section(rounds, 0, 32, 0.95)
    assert [(metric.name, metric.value, metric.n) for metric in section.metrics] == [("copies_left", 0, 32)]
    assert section.tables[0].rows == ((1, 32, 4), (2, 4, 0))
    assert not rounds_section((), 0, 32, 0.95).metrics
