"""What a person wrote is text wherever it is shown: no markup, no formula, no mathematics."""

import csv
import io
import json
import re
from dataclasses import replace
from html import unescape
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from meddiff_core.contract import CategoricalCondition
from meddiff_core.evidence.aggregates import Histogram
from meddiff_core.release import figures
from meddiff_core.release.participants_table import as_tsv
from meddiff_core.release.report import render_card, render_report
from meddiff_core.release.templating import markdown

WICKED = "<img src=x onerror=alert(1)> [click](javascript:alert(1)) **loud** `code`\n\n# Heading | cell"
FIELDS = ("title", "licence", "contact", "source", "intended_use", "not_intended_for", "code_repository", "environment")


@pytest.mark.parametrize("field", FIELDS)
def test_free_text_is_text_on_card_and_page(make_content: Any, field: str) -> None:
    content = make_content(count=1, histograms=())
    plain, changed = content, replace(content, **{field: WICKED})
    card, page = render_card(changed), render_report(changed)
    assert "<img src=x" not in card + page
    for mark in ("[click]", "](javascript", "**loud**", "`code`", "| cell"):
        assert mark not in card
    assert card.count("\n") == render_card(plain).count("\n")
    assert WICKED.replace("\n\n", " ") in unescape(card)


def test_a_name_of_a_covariate_is_text_on_card_and_page(make_content: Any) -> None:
    content = make_content(count=1, histograms=())
    condition = CategoricalCondition(name="<b>sex</b> *", categories=("F", "M"))
    changed = replace(content, contract=content.contract.model_copy(update={"conditions": (condition,)}))
    assert "<b>sex" not in render_card(changed) + render_report(changed)


@given(st.text(st.sampled_from("ab_*<>&[]()`|$~\\!#\n .-"), max_size=30))
def test_a_text_in_markdown_is_the_same_text_for_a_reader(text: str) -> None:
    shown = markdown(text)
    assert unescape(shown) == re.sub(r"\n+", " ", text)
    assert not re.search(r"[<>\[\]*`|$~\\\n]|(?<![a-z])_|_(?![a-z])", shown)


def test_the_covariates_of_words_stay_readable_on_the_card() -> None:
    assert markdown("white_matter_mm3, CC BY 4.0: https://example.org/a_b") == (
        "white_matter_mm3, CC BY 4.0: https://example.org/a_b"
    )


@pytest.mark.parametrize("text", ["=1+1", '=HYPERLINK("http://x")', "+cmd|' /C calc'!A0", "-2+3", "@SUM(A1)", '"a" b'])
def test_no_cell_of_the_table_is_a_formula(text: str) -> None:
    table = pd.DataFrame({"participant_id": ["a"], "note": [text]})
    assert as_tsv(table) == f"participant_id\tnote\na\t'{text}\n"


def test_numbers_stay_numbers_and_nothing_is_quoted() -> None:
    table = pd.DataFrame(
        {"x": [-1.5, 2.0], "code": ["-1", "+2e5"], "size": ['5" scan', "two\tcells\nthere"], "ok": [True, False]}
    )
    assert as_tsv(table) == 'x\tcode\tsize\tok\n-1.5\t-1\t5" scan\ttrue\n2.0\t+2e5\ttwo cells there\tfalse\n'


@given(st.lists(st.text(st.sampled_from("a\"'=\t\n -1,"), min_size=1, max_size=6), min_size=1, max_size=4))
def test_the_table_reads_alike_for_readers_that_know_quotes_and_those_that_do_not(cells: list[str]) -> None:
    text = as_tsv(pd.DataFrame({"participant_id": range(len(cells)), "note": cells}))
    quoted = list(csv.reader(io.StringIO(text), delimiter="\t"))
    assert quoted == [line.split("\t") for line in text.splitlines()]
    assert {len(row) for row in quoted} == {2}


@pytest.mark.parametrize("name", ["$x^{}$", "cost $5 to $6", r"a\$b$"])
def test_a_dollar_in_a_name_is_no_formula_in_a_figure(name: str) -> None:
    found = Histogram(name=name, unit="$", edges=(1, 2), real=(0.3, 0.3, 0.4), synthetic=(0.3, 0.3, 0.4))
    plots = [
        figures.histogram(found),
        figures.scatter(np.array([1.0, 2.0]), np.array([1.0, 2.0]), name, "$"),
        figures.curve({name: [(0, 1.0), (1, 0.5)], "b": [(0, 1.0)]}, name),
    ]
    assert all(name in unescape(re.sub(r"<svg [^>]*>", "", plot.decode())) for plot in plots)


def test_a_release_of_wicked_names_holds_together(make_content: Any, build: Any, tmp_path: Any) -> None:
    content = make_content(count=2)
    wicked = replace(content, title=WICKED, table=content.table.assign(sex=["=F", '"M"']))
    release = build(wicked, tmp_path)
    assert list(pd.read_parquet(release / "participants.parquet")["sex"]) == ["=F", '"M"']
    assert "'=F" in (release / "participants.tsv").read_text()
    assert json.loads((release / "evidence/scorecard.json").read_text())
