"""What the models never saw is not believed in silence; what they saw is taken without a word."""

import numpy as np
import pytest

from meddiff_core.applications.kinds import KINDS
from meddiff_core.applications.tasks.familiar import check_familiar
from meddiff_core.errors import CaseRefused


@pytest.fixture
def ask(models, make_scan, calibration, finish):  # type: ignore[no-untyped-def]
    inverted = make_scan(0, np.clip(1 - make_scan(1).image, 0, 1))

    def ask(task: str, known: bool, force: bool = False) -> tuple[str, ...]:
        scan = make_scan(1) if known else inverted
        found: tuple[str, ...] = finish(check_familiar("sub-1", models, scan, calibration, KINDS[task], force))
        return found

    return ask


def test_a_scan_like_those_of_training_is_taken_without_a_word(ask) -> None:  # type: ignore[no-untyped-def]
    assert ask("segment", known=True) == ()


def test_a_scan_from_elsewhere_is_refused_with_its_distance(ask) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(CaseRefused, match=r"5\.8 standard deviations from them, at most 5\.0.*--force.*sub-1"):
        ask("segment", known=False)


def test_a_forced_scan_from_elsewhere_carries_the_note(ask) -> None:  # type: ignore[no-untyped-def]
    (note,) = ask("segment", known=False, force=True)
    assert "unlike the scans that the models know" in note


def test_what_repairs_scans_notes_and_what_scores_them_takes_all(ask) -> None:  # type: ignore[no-untyped-def]
    assert len(ask("denoise", known=False)) == 1
    assert ask("score", known=False) == ()
