"""A real name in a release is found wherever it hides, and chance is not taken for one."""

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meddiff_core.errors import IntegrityError
from meddiff_core.evidence.gates import GateResult
from meddiff_core.evidence.section import Curve, Line, Table
from meddiff_core.release.guard import _Index, _is_telling, _whole, find_leaks
from meddiff_core.study import WaiverConfig

SUBJECT = "IXI012-HH-1211"
TABLE = Table(part="privacy", title="Power", caption="Found.", columns=("of", "found"), rows=(("all", 0.5),))
CURVE = Curve(
    part="privacy", title="Power", caption="Found.", x="share", y="found",
    lines=(Line(name="all", x=(0.0, 1.0), y=(0.0, 1.0)),),
)  # fmt: skip
WAIVED = GateResult(
    metric="coverage", value=0.5, bound=0.4, threshold=0.6, direction="min", passed=False, verdict="block",
    waiver=WaiverConfig(metric="coverage", name="A. Person", reason=f"{SUBJECT} is an outlier."),
)  # fmt: skip


@pytest.fixture
def small(make_content: Any) -> Any:
    return make_content(count=1, histograms=())


def test_a_clean_release_has_no_leak(released: Path) -> None:
    ids = [f"IXI{n:03d}" for n in range(600)] + [f"{n:04d}" for n in range(2000)] + ["7", "M", "a1b", "scan_12.nii.gz"]
    assert find_leaks(released, ids) == []


@pytest.mark.parametrize(
    "change",
    [
        {"methods": (f"Everything but {SUBJECT.lower()} was used.",)},
        {"source": f"Scans such as {SUBJECT}_T1."},
        {"study": {"cohort": {"requests": f"{SUBJECT}.csv"}}},
        {"parents": {SUBJECT: "0" * 64}},
        {"shortfall": f"No neighbour of {SUBJECT}."},
        {"histograms": (), "title": f"Like {SUBJECT}"},
        {"statements": (f"Nothing was measured of {SUBJECT}.",)},
        {"tables": (TABLE.model_copy(update={"rows": ((SUBJECT, 0.5),)}),)},
        {"tables": (TABLE.model_copy(update={"caption": f"Without {SUBJECT.lower()}."}),)},
        {"curves": (CURVE.model_copy(update={"lines": (CURVE.lines[0].model_copy(update={"name": SUBJECT}),) * 2}),)},
        {"curves": (CURVE.model_copy(update={"x": f"distance to {SUBJECT}"}),)},
        {"gates": (WAIVED,)},
    ],
)
def test_a_real_name_stops_the_release(small: Any, build: Any, tmp_path: Path, change: dict[str, Any]) -> None:
    with pytest.raises(IntegrityError, match="nothing was published") as caught:
        build(replace(small, **change), tmp_path, [SUBJECT])
    assert not list(tmp_path.iterdir())
    assert SUBJECT.lower() not in str(caught.value).lower()


@pytest.mark.parametrize("secret", [SUBJECT, "A7", "0042", "100307", "Smith"])
def test_a_real_name_in_the_table_stops_the_release(small: Any, build: Any, tmp_path: Path, secret: str) -> None:
    table = small.table.assign(note=[secret])
    with pytest.raises(IntegrityError, match=r"participants\.(parquet|tsv)"):
        build(replace(small, table=table), tmp_path, [secret])


@pytest.mark.parametrize("path", ["/home/ann/scans/x", "file:///x", "C:\\scans\\x", "/mnt/pacs/9"])
def test_an_absolute_path_stops_the_release(small: Any, build: Any, tmp_path: Path, path: str) -> None:
    with pytest.raises(IntegrityError, match="an absolute path"):
        build(replace(small, study={"cohort": {"requests": path}}), tmp_path)


def test_a_name_inside_parquet_metadata_is_found(tmp_path: Path) -> None:
    frame = pd.DataFrame({"a": [1]})
    frame.attrs["source"] = SUBJECT
    frame.to_parquet(tmp_path / "participants.parquet")
    assert find_leaks(tmp_path, [SUBJECT]) == [f"participants.parquet: a real name or id of {len(SUBJECT)} characters"]


def test_a_name_of_a_file_is_found(tmp_path: Path) -> None:
    (tmp_path / f"{SUBJECT}.txt").touch()
    assert len(find_leaks(tmp_path, [SUBJECT])) == 1


@settings(deadline=None, max_examples=40)
@given(st.integers(100_000, 10**9))
def test_a_number_of_a_setting_is_no_id(tmp_path_factory: pytest.TempPathFactory, number: int) -> None:
    folder = tmp_path_factory.mktemp("numbers")
    (folder / "manifest.json").write_text(json.dumps({"bytes": number, "digest": f"ab{number}cd"}))
    (folder / "participants.tsv").write_text(f"participant_id\tseed\nhead\t{number}\n")
    (folder / "report.html").write_text(
        f'<path d="M 0.{number} {number}.5"/><img src="data:image/webp;base64,+{number}+">'
    )
    assert find_leaks(folder, [str(number)]) == []
    (folder / "README.md").write_text(f"Subject {number}.")
    assert len(find_leaks(folder, [str(number)])) == 1


def test_a_part_of_a_word_is_no_name(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("A smithy, 0.0042 and and/or and https://example.org/data/x and </var>.")
    assert find_leaks(tmp_path, ["Smith", "0042", "or"]) == []


@pytest.mark.parametrize(
    ("secret", "shown"),
    [
        ("s07", "s07"),
        ("sub-s07", "S07"),
        ("50772", "50772"),
        ("sub-0050772", "50772"),
        ("0012", "0012"),
        ("s07_T1.nii.gz", "s07_T1"),
        ("Anna", "anna"),
    ],
)
def test_a_name_inside_a_longer_cell_is_found(tmp_path: Path, secret: str, shown: str) -> None:
    frame = pd.DataFrame({"sex": ["M", f"F\n{shown}\t37\tM"]})
    frame.to_parquet(tmp_path / "participants.parquet")
    (tmp_path / "participants.json").write_text(json.dumps({"sex": {"Levels": {f"F {shown}, 37": "x"}}}))
    assert {leak.split(":")[0] for leak in find_leaks(tmp_path, [secret])} == {
        "participants.parquet",
        "participants.json",
    }


@pytest.mark.parametrize("secret", ["s07", "50772", "0012"])
@pytest.mark.parametrize(
    "manifest", [{"title": "Like {}"}, {"licence": "By {}, CC BY"}, {"study": {"requests": "like_{}.csv"}}]
)
def test_a_short_id_in_a_title_or_a_setting_is_found(tmp_path: Path, secret: str, manifest: dict[str, Any]) -> None:
    (tmp_path / "manifest.json").write_text(json.dumps(manifest).replace("{}", secret))
    assert len(find_leaks(tmp_path, [secret])) == 1


def test_codes_that_ids_share_with_categories_and_figures_are_no_leak(tmp_path: Path) -> None:
    ids = [*(f"{n:02d}" for n in range(1, 41)), *map(str, range(101, 141)), "sub-12", "sub-007", "2019", "1024"]
    frame = pd.DataFrame({"site": ["01", "101"], "group": ["age 12 to 18", "since 2019"], "age": [12.0, 1024.0]})
    frame.to_parquet(tmp_path / "participants.parquet")
    frame.to_csv(tmp_path / "participants.tsv", sep="\t", index=False)
    (tmp_path / "manifest.json").write_text(json.dumps({"licence": "© 2019, CC BY 4.0", "study": {"size": 1024}}))
    (tmp_path / "README.md").write_text("1024 volumes of 101 x 12 voxels, drawn in 2019.")
    assert find_leaks(tmp_path, ids) == []


def test_a_file_name_that_anyone_uses_is_no_leak(tmp_path: Path) -> None:
    pd.DataFrame({"note": ["image of the brain", "T1 and CT"]}).to_parquet(tmp_path / "participants.parquet")
    (tmp_path / "README.md").write_text("Each image shows a brain. #a12 is blue, T1w the contrast.")
    assert find_leaks(tmp_path, ["image.nii.gz", "brain.nii.gz", "ct.nii.gz", "T1.nii.gz", "T1w.nii.gz", "a12"]) == []


NAMES = st.lists(st.text(st.sampled_from("ab1 0-_/.é"), min_size=1, max_size=7), max_size=8, unique=True)


@settings(deadline=None)
@given(NAMES, st.text(st.sampled_from("ab1 0-_/.é#,"), max_size=40))
def test_all_names_at_once_are_the_names_one_by_one(names: list[str], text: str) -> None:
    one_by_one = {name for name in names if _whole(name).search(text)}
    assert _Index.of(names).found_in(text) == one_by_one


def test_twenty_thousand_names_cost_one_pass_over_each_file(tmp_path: Path) -> None:
    """One by one they took a quarter of an hour for a cohort; here they would take a hundred times as long."""
    names = [f"site-{n % 40:02d}/sub-{n:05d}_ses-1" for n in range(20_000)]
    assert all(map(_is_telling, names))
    text = " ".join(f"syn-{n:06d}-0 volume of site-{n % 40:02d} 0.{n}" for n in range(1000))
    for number in range(40):
        (tmp_path / f"{number}.md").write_text(text)
    (tmp_path / "last.md").write_text(f"{text} {names[12_345]}.")
    started = time.process_time()
    assert find_leaks(tmp_path, names) == [f"last.md: a real name or id of {len(names[0])} characters"]
    at_once = time.process_time() - started
    patterns = [_whole(name) for name in names[:200]]
    started = time.process_time()
    for pattern in patterns:
        assert pattern.search(text) is None
    one_by_one = (time.process_time() - started) / len(patterns) * len(names) * 41
    assert at_once < one_by_one / 10
