"""What a cohort may ask for, before anything is known of the data."""

from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from meddiff_core.study import CohortConfig, Study, describe_faults, render_study

CELLS = [{"where": {"sex": "F", "age": [60, 90]}, "count": 30}, {"where": {"sex": "M"}, "count": 50}]


def study(**cohort: Any) -> Study:
    return Study.model_validate({"name": "knees", "data": {"images": "scans"}, "cohort": cohort})


@pytest.mark.parametrize("size", [{}, {"size": None}, {"size": 80}])
def test_cells_that_all_have_a_count_say_the_size(size: dict[str, Any]) -> None:
    assert study(cells=CELLS, **size).cohort.size == 80


def test_a_study_of_cells_is_the_same_after_it_was_written() -> None:
    written = study(cells=[*CELLS, {"share": 0.2}], size=100, where={"age": [None, 70]}, extrapolation="allow")
    assert Study.model_validate(yaml.safe_load(render_study(written))) == written


def test_rounded_shares_may_add_up_to_nearly_the_size() -> None:
    assert len(CohortConfig.model_validate({"cells": [{"share": 0.333}] * 3}).cells) == 3


@pytest.mark.parametrize(
    ("cohort", "message"),
    [
        ({"cells": CELLS, "size": 90}, "cohort: counts and shares of cells must add up to size, 90, add up to 80"),
        ({"cells": [{"share": 0.5}]}, "cohort: counts and shares of cells must add up to size, 200, add up to 100"),
        (
            {"cells": [{"count": 30}, {"share": 0.25}], "size": 120},
            "cohort: counts and shares of cells must add up to size, 120, add up to 60",
        ),
        (
            {"cells": [{"count": 100}, {"share": 0.005}], "size": 100},
            "cohort: counts and shares of cells must add up to size, 100, add up to 100.5",
        ),
        ({"size": None}, "cohort.size: must be a valid integer, is None"),
        ({"cells": [{"wher": {}, "count": 3}]}, "cohort.cells.0.wher: unknown key; did you mean where?"),
        ({"cells": [{"where": {}}]}, "cohort.cells.0: exactly one of count and share must be given, is neither"),
        (
            {"cells": [{"count": 2, "share": 0.5}]},
            "cohort.cells.0: exactly one of count and share must be given, is both",
        ),
        ({"cells": [{"share": 1.5}]}, "cohort.cells.0.share: must be less than or equal to 1, is 1.5"),
        ({"cells": 3}, "cohort.cells: must be a valid list, is 3"),
        (
            {"shares": {"sex": {"F": -1}}},
            "cohort.shares.sex.F: must be greater than or equal to 0, is -1",
        ),
        (
            {"shares": {"sex": {"F": 1}}, "cells": [{"share": 1}]},
            "cohort: only one of shares and cells must be given, is both",
        ),
        (
            {"where": {"sex": "F"}, "requests": "wanted.csv"},
            "cohort: where must go with `like: train`, goes with requests",
        ),
        (
            {"shares": {"sex": {"F": 1}}, "distributions": {}},
            "cohort: shares must go with `like: train`, goes with distributions",
        ),
        ({"like": None}, "cohort: one of like, distributions and requests must be given, is none"),
        ({"extrapolation": "yes"}, "cohort.extrapolation: must be 'refuse' or 'allow', is 'yes'"),
        ({"sharess": {}}, "cohort.sharess: unknown key; did you mean shares?"),
    ],
)
def test_a_cohort_that_contradicts_itself_is_refused_by_its_key(cohort: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError) as caught:
        study(**cohort)
    assert message in describe_faults(caught.value).splitlines()
