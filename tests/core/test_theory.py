"""The page on theory names functions and tests that exist."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "infra" / "THEORY.md").read_text()
FUNCTIONS = sorted(set(re.findall(r"`(meddiff_core[\w.]+):([\w.]+)`", PAGE)))
TESTS = sorted(set(re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", PAGE)))


def names_in(path: Path) -> set[str]:
    """Functions and classes of a file, and `Class.method`."""
    found = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        if isinstance(node, ast.ClassDef):
            found |= {f"{node.name}.{inner.name}" for inner in node.body if isinstance(inner, ast.FunctionDef)}
    return found


@pytest.mark.parametrize(("module", "name"), FUNCTIONS)
def test_every_function_on_the_page_exists(module: str, name: str) -> None:
    assert name in names_in(ROOT / Path(*module.split(".")).with_suffix(".py"))


@pytest.mark.parametrize(("path", "name"), TESTS)
def test_every_test_on_the_page_exists(path: str, name: str) -> None:
    assert name in names_in(ROOT / path)


def test_every_part_of_the_theory_has_a_function_and_a_test() -> None:
    parts = re.findall(r"^\*\*[^*]+\.\*\*.*?(?=\n\n)", PAGE, re.MULTILINE | re.DOTALL)
    assert len(parts) == 7
    for named in (r"`meddiff_core[\w.]+:[\w.]+`", r"`tests/[\w/]+\.py::\w+`"):
        assert all(re.search(named, part) for part in parts)
