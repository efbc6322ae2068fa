"""Whose row is whose: ids that are written differently meet where that is unique, and nothing is guessed."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from meddiff_core.data.ingest import Inventory, discover
from meddiff_core.data.layouts.listing import FoundImage
from meddiff_core.data.tables.participants import (
    UP_TO,
    covariates_for,
    match_ids,
    match_rows,
    read_participants,
    row_of,
    table_id,
    unmatched,
)
from meddiff_core.errors import ConfigurationError
from meddiff_core.study import DataConfig

Made = Callable[..., Any]
KINDS = {"age": "continuous"}
INFER = DataConfig(images="x")


@pytest.fixture
def people(tmp_path: Path) -> Made:
    """(lines, missing) -> participants."""

    def _people(*lines: str, missing: Any = None) -> Any:
        (tmp_path / "p.csv").write_text("\n".join(lines))
        return read_participants(tmp_path / "p.csv", missing)

    return _people


def _found(*subjects: str) -> list[FoundImage]:
    return [
        FoundImage(f"{subject}_T1w", Path(f"{subject}_T1w.nii"), f"{subject}_T1w.nii", subject) for subject in subjects
    ]


def _scan(name: str, subject: str) -> FoundImage:
    return FoundImage(name, Path(f"{name}.nii"), f"{name}.nii", subject)


@pytest.mark.parametrize(
    ("ids", "subjects", "matches"),
    [
        (["50772", "50773"], ["sub-0050772", "sub-0050773"], {"sub-0050772": "50772", "sub-0050773": "50773"}),
        (["01", "02"], ["sub-01", "sub-02"], {"sub-01": "01", "sub-02": "02"}),
        (["sub-01"], ["1"], {"1": "sub-01"}),
        (["S01"], ["s01", "s02"], {"s01": "S01"}),
        (["1", "01"], ["sub-1"], {}),
        (["1"], ["01", "sub-1"], {}),
        (["1", "01"], ["01", "sub-1"], {"01": "01"}),
        (["01", "02"], ["01", "1"], {"01": "01"}),
        (["1", "11"], ["111"], {}),
        (["s1"], ["s01"], {}),
        (["0", "00x"], ["sub-0", "x"], {"sub-0": "0"}),
    ],
)
def test_ids_match_up_to_prefix_zeros_and_case_where_that_is_unique(
    ids: list[str], subjects: list[str], matches: dict[str, str]
) -> None:
    assert match_ids(ids, subjects) == matches


@pytest.mark.parametrize(
    ("name", "subject", "ids", "expected"),
    [
        ("s01_T1", None, ["s01", "s0"], "s01"),
        ("x_T1", "s01", ["s01", "x"], "s01"),
        ("0050772_T1", None, ["50772"], "50772"),
        ("sub-0050772_T1w", "sub-0050772", ["50772"], "50772"),
        ("S01_T1", None, ["s01", "s02"], "s01"),
        ("1_T1", None, ["01", "001"], None),
        ("12_T1", None, ["1"], None),
        ("ct", "s0001", ["s0001", "s0002"], "s0001"),
        ("ct", None, ["s0001"], None),
    ],
)
def test_a_scan_finds_its_row_by_its_subject_or_its_name(
    people: Made, name: str, subject: str | None, ids: list[str], expected: str | None
) -> None:
    rows = [f"{row},{number}" for number, row in enumerate(ids)]
    assert table_id(name, subject, people("participant_id,age", *rows)) == expected


def test_ids_unlike_the_folders_keep_their_covariates_and_say_so(tmp_path: Path, save: Made, head: Made) -> None:
    names = [f"sub-{50772 + n:07d}" for n in range(3)]
    for name in names:
        save(tmp_path / "bids" / name / "anat" / f"{name}_T1w.nii.gz", head(0)[0])
    (tmp_path / "bids" / "participants.tsv").write_text("participant_id\tage\n50772\t20\n50773\t21.5\n50774\t22\n")
    inventory = discover(DataConfig(images="bids"), tmp_path)
    assert {case.subject: case.covariates for case in inventory.cases} == {
        name: {"age": age} for name, age in zip(names, (20.0, 21.5, 22.0), strict=True)
    }
    assert [note.reason for note in inventory.notes] == [
        f"3 of 3 subjects have one of the 3 ids of the table, 3 of them up to {UP_TO}"
    ]


def test_a_table_that_fits_no_scan_shows_three_ids_of_each(people: Made) -> None:
    table = people("participant_id,age", *(f"P{n},{n}" for n in range(9)))
    found = _found(*(f"sub-{n}" for n in range(9)))
    with pytest.raises(ConfigurationError, match="not one id fits") as caught:
        match_rows(table, found, INFER)
    assert "it has 'P0', 'P1', 'P2', the scans are of 'sub-0', 'sub-1', 'sub-2', which" in str(caught.value)
    for covariates in ({}, {"left_mm3": "volume of left"}):
        config = DataConfig(images="x", covariates=covariates, label_groups={"left": [1]})
        assert match_rows(table, found, config).matches == {}


def test_a_table_that_fits_some_scans_says_which_it_does_not(people: Made) -> None:
    table, found = people("participant_id,age", "1,30", "2,40", "02,50"), _found("sub-01", "sub-2", "sub-9")
    notes = {note.case: note.reason for note in unmatched(match_rows(table, found, INFER), found)}
    assert set(notes) == {"2", "02", "sub-2_T1w", "sub-9_T1w", "p.csv"}
    assert "several rows or subjects are the same" in notes["sub-2_T1w"]
    assert "'sub-9' has no row in the participants table" in notes["sub-9_T1w"]
    assert notes["p.csv"].startswith("1 of 3 subjects have one of the 3 ids of the table, 1 of them up to")


def test_rows_of_several_sessions_go_to_the_scans_of_these(people: Made) -> None:
    table = people("participant_id,session_id,age", "sub-1,ses-01,30", "sub-1,ses-02,32", "sub-2,ses-01,50")
    found = [_scan("sub-1_ses-1_T1w", "sub-1"), _scan("sub-1_ses-2_T1w", "sub-1"), _scan("sub-2_ses-3_T1w", "sub-2")]
    matched = match_rows(table, found, INFER)
    assert [covariates_for(image, matched, KINDS)["age"] for image in found] == [30.0, 32.0, 50.0]


@pytest.mark.parametrize("name", ["sub-1_T1w", "sub-1_ses-3_T1w"])
def test_rows_of_several_sessions_are_no_ones_where_the_scan_does_not_say_which(people: Made, name: str) -> None:
    table = people("participant_id,session_id,age", "sub-1,ses-01,30", "sub-1,ses-02,32")
    image = _scan(name, "sub-1")
    with pytest.raises(ValueError, match="two rows claim the subject 'sub-1' and differ"):
        covariates_for(image, match_rows(table, [image], INFER), KINDS)


def test_rows_that_repeat_each_other_are_one(people: Made) -> None:
    table = people("participant_id,age", "a,30", "a,30")
    assert covariates_for(_scan("a_T1", "a"), table, KINDS) == {"age": 30.0}


def test_what_the_study_calls_missing_is_missing(people: Made) -> None:
    table = people("participant_id,age,site", "a,-999.0,refused", "b,30,1", missing=[-999, "Refused"])
    assert row_of(_scan("a_T1", "a"), table) == {"age": "", "site": ""}
    assert row_of(_scan("b_T1", "b"), table) == {"age": "30", "site": "1"}


def test_rows_without_an_id_are_left_out_with_a_note(people: Made) -> None:
    table = people("participant_id,age", "a,30", ",31", ",")
    assert list(table.rows) == ["a"]
    assert [note.reason for note in table.notes] == ["2 rows have no participant_id and are left out"]


@pytest.mark.parametrize(
    ("rows", "kinds", "covariates"),
    [
        (["s00\t30\tM", "s01\t90+\tF", *(f"s{n:02d}\t{n + 30}\tM" for n in range(2, 9))], "age", {"age": None}),
        ([f"s{n:02d}\t1\t{1 + n % 2}" for n in range(9)], "sex", {"sex": "2"}),
        ([f"s{n:02d}\t1\t0{1 + n % 3}" for n in range(9)], "sex", {"sex": "02"}),
    ],
)
def test_a_folder_reads_its_table_as_a_person_would(
    cohort: Made, data: Made, rows: list[str], kinds: str, covariates: dict[str, Any]
) -> None:
    folder = cohort(9)
    (folder / "participants.tsv").write_text("\n".join(["participant_id\tage\tsex", *rows]))
    inventory = discover(data(), folder)
    assert inventory.kinds[kinds] == ("continuous" if kinds == "age" else "categorical")
    assert covariates.items() <= inventory.cases[1].covariates.items()
    assert kinds in {note.case for note in inventory.notes}
    assert inventory.refused == ()


def _cohort(folder: Path, table: str, *names: str) -> Inventory:
    (folder / "table.csv").write_text(table)
    for name in names:
        path = folder / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    return discover(DataConfig(images="images", participants="table.csv"), folder)


def test_an_id_that_two_names_resemble_is_that_of_the_one_written_like_it(tmp_path: Path) -> None:
    inventory = _cohort(tmp_path, "subject,age\n1,30\n2,31\n", "1_T1.nii", "01_T1.nii", "002_T1.nii")
    assert {case.case: (case.subject, case.covariates["age"]) for case in inventory.cases} == {
        "1_T1": ("1", 30.0),
        "01_T1": ("01", None),
        "002_T1": ("2", 31.0),
    }


@pytest.mark.parametrize("end", ["_T1", "_T1.nii.gz", "_MR1"])
def test_an_id_of_a_scan_does_not_make_it_another_subject(tmp_path: Path, end: str) -> None:
    rows = "".join(f"P{n:02d}{end},{30 + n}\n" for n in range(6))
    scans = [f"P{n:02d}{own}.nii.gz" for n in range(6) for own in ("_T1", "_MR1", "_MR2_T1")]
    inventory = _cohort(tmp_path, f"subject,age\n{rows}", *scans)
    assert {case.subject for case in inventory.cases} == {f"P{n:02d}" for n in range(6)}


@pytest.mark.parametrize("column", ["Subject ID", "ID", "PARTICIPANT_ID", "eid", "image_id", "PatientID"])
def test_a_column_of_ids_may_have_another_usual_name(tmp_path: Path, column: str) -> None:
    inventory = _cohort(tmp_path, f"{column},age\n1.0,30\n2.0,31.5\n", "001_T1.nii", "002_T1.nii")
    assert [case.covariates for case in inventory.cases] == [{"age": 30.0}, {"age": 31.5}]


def test_two_columns_that_may_hold_ids_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="must have a column participant_id or subject"):
        _cohort(tmp_path, "ID,Patient ID\n1,2\n", "1_T1.nii")


@pytest.mark.parametrize(
    ("column", "cells"), [("visit", ("V1", "V2")), ("Session", ("1", "2")), ("wave", ("01", "02"))]
)
def test_a_scan_has_the_row_of_its_visit(tmp_path: Path, column: str, cells: tuple[str, str]) -> None:
    rows = "".join(f"P{n},{cell},{30 + n + place}\n" for n in range(3) for place, cell in enumerate(cells))
    scans = [f"P{n}_V{visit}_T1.nii" for n in range(3) for visit in (1, 2)]
    inventory = _cohort(tmp_path, f"subject,{column},age\n{rows}", *scans)
    assert [case.covariates["age"] for case in inventory.cases] == [30.0, 31.0, 31.0, 32.0, 32.0, 33.0]


def test_rows_without_a_scan_are_counted_where_they_are_many(tmp_path: Path) -> None:
    rows = "".join(f"P{n:03d},{20 + n % 60}.5\n" for n in range(100))
    inventory = _cohort(tmp_path, f"subject,age\n{rows}", "P000_T1.nii")
    assert [(note.case, note.reason) for note in inventory.notes][:1] == [
        ("table.csv", "1 of 1 subject has one of the 100 ids of the table")
    ]
    assert "99 rows have no scan, such as P001, P002, P003" in [note.reason for note in inventory.notes]


@pytest.mark.parametrize(
    ("name", "cell"),
    [
        ("birth", "{n:02d}.03.1950"),
        ("scanned", "2019-03-{n:02d}"),
        ("scanned", "3/{n}/2019"),
        ("name", "Doe John {n}"),
        ("weight", "{n} kg"),
    ],
)
def test_dates_and_words_of_one_person_are_no_categories(tmp_path: Path, name: str, cell: str) -> None:
    rows = "".join(f"P{n},{cell.format(n=n)}\n" for n in range(10, 20))
    inventory = _cohort(tmp_path, f"subject,{name}\n{rows}", *(f"P{n}_T1.nii" for n in range(10, 20)))
    assert inventory.kinds == {}
    assert [note.case for note in inventory.notes] == [name]
