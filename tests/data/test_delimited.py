"""A table is read as it stands or refused with the line; nothing shifts and nothing is swallowed."""

from pathlib import Path

import pytest

from meddiff_core.data.tables import delimited
from meddiff_core.data.tables.covariates import open_table, read_table
from meddiff_core.data.tables.delimited import read_lists
from meddiff_core.errors import ConfigurationError

KEY = "data.participants"


def _write(folder: Path, text: str | bytes, name: str = "p.csv") -> Path:
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def _fault(path: Path) -> str:
    with pytest.raises(ConfigurationError) as caught:
        read_table(path, KEY)
    return str(caught.value)


def test_a_row_with_more_fields_than_names_is_refused_by_its_line(tmp_path: Path) -> None:
    reason = _fault(_write(tmp_path, "participant_id,age,sex\ns00,30,M\n\ns01,32,5,F\n"))
    assert reason.startswith("data.participants: p.csv line 4: must have 3 fields as the line of names, has 4; ")
    assert "a decimal comma must be in quotes, or the table separated by semicolons or tabs" in reason
    assert "32" not in reason


@pytest.mark.parametrize(
    "text", ["id,age,sex\ns00,30\n", "id\tage\tsex\ns00\t30\n", "id;age;sex\ns00;30;M\ns01;30\n", "id,age\ns01 30 M\n"]
)
def test_a_row_with_fewer_fields_is_refused(tmp_path: Path, text: str) -> None:
    assert "an empty cell keeps its separator" in _fault(_write(tmp_path, text))


@pytest.mark.parametrize(
    ("rows", "line"),
    [
        (["s00,30,M", 's01,"31,F', "s02,32,M", "s03,33,F"], 3),
        (["s00,30,M", 's01,31,"F', "s02,32,M", 's03,"33,F'], 3),
        (["s00,30,M", 's01,31,"F', "s02,32,M", 's03,33,"F', "s04,34,M"], 3),
        (["s00,30,M", "s01,31,F", 's02,"32"x,M'], 4),
        (['s00,"two', 'lines",M'], 2),
    ],
)
def test_a_quote_never_swallows_rows(tmp_path: Path, rows: list[str], line: int) -> None:
    reason = _fault(_write(tmp_path, "\n".join(["participant_id,age,sex", *rows])))
    assert reason.startswith(f"data.participants: p.csv line {line}: ")
    assert "quote" in reason
    assert "s0" not in reason


def test_quotes_enclose_separators_and_double_in_a_cell(tmp_path: Path) -> None:
    table = read_table(_write(tmp_path, 'id,note,n\na,"x, y",1\nb,"5"" nail", 2\nc, "z",3\nd,5" nail,4\n'), KEY)
    assert list(table["note"]) == ["x, y", '5" nail', "z", '5" nail']


@pytest.mark.parametrize(
    ("name", "text", "names"),
    [
        ("a.tsv", "id\tage, years\tsex, born\na\t1\tM\n", ["id", "age, years", "sex, born"]),
        ("a.tsv", "id,age\na,1\n", ["id", "age"]),
        ("a.csv", "id\tage\na\t1\n", ["id", "age"]),
        ("a.csv", "id;age (by form, at visit, in years)\na;1\n", ["id", "age (by form, at visit, in years)"]),
        ("a.csv", "sep=;\nid;a,b\na;1\n", ["id", "a,b"]),
        ("a.csv", "id\na\n", ["id"]),
        ("a.csv", "id,age\ra,1\r", ["id", "age"]),
    ],
)
def test_the_separator_is_the_one_that_gives_even_rows(tmp_path: Path, name: str, text: str, names: list[str]) -> None:
    table = read_table(_write(tmp_path, text, name), KEY)
    assert list(table.columns) == names
    assert len(table) == 1


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252"])
def test_umlauts_are_the_same_in_every_encoding(tmp_path: Path, encoding: str) -> None:
    table = open_table(_write(tmp_path, "id,age\nGrün,1\n".encode(encoding)), KEY)
    assert table.rows["id"][0] == "Grün"
    assert bool(table.notes) == (encoding == "cp1252")


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        ("id,ort\na,Москва\n".encode("cp1251"), "is in another encoding: save it as CSV in UTF-8"),
        ("id,age\na,1\n".encode("utf-16-le"), "NUL"),
        (b"id,age\na\0,1\n", "NUL"),
        (b"PK\x03\x04 and so on", "is a spreadsheet: save it as CSV in UTF-8"),
        (b"\xd0\xcf\x11\xe0 and so on", "is a spreadsheet"),
        (b"\n\n", "is empty"),
        (b"id,age,age\na,1,2\n", "has 'age' twice"),
        (b"id,,age\na,1,2\n", "column 2 of 3 has no name"),
        (b"id,age,\na,1,2\n", "column 3 of 3 has no name"),
    ],
)
def test_what_is_no_table_says_why(tmp_path: Path, raw: bytes, reason: str) -> None:
    assert reason in _fault(_write(tmp_path, raw))


def test_a_spreadsheet_is_refused_by_its_name(tmp_path: Path) -> None:
    assert "save it as CSV" in _fault(_write(tmp_path, b"anything", "people.xlsx"))


def test_separators_at_the_end_of_every_line_are_left_out_with_a_note(tmp_path: Path) -> None:
    table = open_table(_write(tmp_path, "id;age;;\na;1;;\nb;2;;\n"), KEY)
    assert list(table.rows.columns) == ["id", "age"]
    assert table.notes == ("ends in 2 empty columns without a name, which are left out",)


def test_a_table_is_bounded_before_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = _write(tmp_path, "id,age\n" + "a,1\n" * 40)
    monkeypatch.setattr(delimited, "MOST_FIELDS", 50)
    assert "at most 50 fields" in _fault(path)
    monkeypatch.setattr(delimited, "MOST_BYTES", 100)
    assert "at most 0 MiB" in _fault(path)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.csv", "id;age\na;38,5\nb;40\nc;n/a\n"),
        ("a.tsv", "id\tage\na\t38,5\nb\t40\nc\tn/a\n"),
        ("a.csv", 'id,age\na,"38,5"\nb,40\nc,n/a\n'),
    ],
)
def test_decimal_commas_are_read_with_a_note(tmp_path: Path, name: str, text: str) -> None:
    table = open_table(_write(tmp_path, text, name), KEY)
    assert list(table.rows["age"]) == ["38.5", "40", "n/a"]
    assert table.notes == ("column age: decimal commas were read as points",)


@pytest.mark.parametrize("cells", [["38,5", "38.5"], ["1,234.5", "2"], ["1.234,5", "2,5"], ["1,234", "2,345"]])
def test_numbers_that_can_be_read_in_two_ways_are_refused(tmp_path: Path, cells: list[str]) -> None:
    reason = _fault(_write(tmp_path, "id\tmm3\n" + "".join(f"a\t{cell}\n" for cell in cells)))
    assert reason.startswith("data.participants: p.csv column mm3: ")


@pytest.mark.parametrize("cells", [["1,2", "1,2,3", "3"], ["left,5", "right", "1,2"], ["a, b", "c", "d"]])
def test_lists_and_words_with_commas_stay_as_they_are(tmp_path: Path, cells: list[str]) -> None:
    table = open_table(_write(tmp_path, "id\tcodes\n" + "".join(f"a\t{cell}\n" for cell in cells)), KEY)
    assert list(table.rows["codes"]) == cells
    assert table.notes == ()


def test_lists_may_be_of_any_length_and_keep_their_first_line(tmp_path: Path) -> None:
    path = _write(tmp_path, 'a;b\nc; "d;e";f\ng;;\n\n')
    assert read_lists(path) == [["a", "b"], ["c", "d;e", "f"], ["g"]]
    with pytest.raises(ValueError, match="line 2: "):
        read_lists(_write(tmp_path, 'a,b\nc,"d\ne,f\n'))
