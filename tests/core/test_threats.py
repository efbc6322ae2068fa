"""Every limit on the page of threats names a function that enforces it and a test that holds it, and both exist."""

import re
from pathlib import Path

import pytest

from tests.core.test_theory import names_in

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "infra" / "THREATS.md").read_text()
ROWS = [line for line in PAGE.splitlines() if line.startswith("| ") and not line.startswith(("| from", "| to"))]
TESTS = sorted(set(re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", PAGE)))


@pytest.mark.parametrize("row", ROWS)
def test_every_limit_names_a_function_that_exists(row: str) -> None:
    (module, name) = re.findall(r"`((?:meddiff_core|tasks)[\w.]+):([\w.]+)`", row)[0]
    assert name in names_in(ROOT / Path(*module.split(".")).with_suffix(".py"))
    assert re.search(r"`tests/[\w/]+\.py::\w+`", row)


@pytest.mark.parametrize(("path", "name"), TESTS)
def test_every_test_on_the_page_exists(path: str, name: str) -> None:
    assert name in names_in(ROOT / path)
