"""A catalogue lists what lies in a folder, whatever that is, and overwrites nobody's page."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from flows.cli import app
from meddiff_core.artefacts import digest_file
from meddiff_core.distribution import catalogue
from meddiff_core.distribution.catalogue import Catalogue, list_releases, read_catalogue, write_catalogue
from meddiff_core.errors import ConfigurationError, IntegrityError
from meddiff_core.objects.local import LocalObjects
from meddiff_core.release.tombstone import yank_release
from tests.serving import serve


@pytest.fixture
def shelf(golden: Path, tmp_path: Path) -> Path:
    """A whole release, one below a folder, one that was withdrawn, one that lost a chunk, and three that are none."""
    folder = tmp_path / "shelf"
    for name in ("a <b>", "deep/er/heads", "withdrawn", "half", "junk", "edited"):
        shutil.copytree(golden, folder / name)
    yank_release(folder / "withdrawn", "A source <subject> withdrew.")
    next((folder / "half/cohort.ome.zarr/image").rglob("0")).rename(folder / "half/elsewhere")
    (folder / "junk/manifest.json").write_text('{"name": "\x1b[2J"}')
    manifest = json.loads((folder / "edited/manifest.json").read_text())
    (folder / "edited/manifest.json").write_text(
        json.dumps(manifest | {"files": {"../out": {"bytes": 1, "sha256": "0"}}})
    )
    (folder / "link").symlink_to(golden)
    (folder / ".partial").mkdir()
    shutil.copytree(golden, folder / ".partial/heads")
    return folder


def test_each_release_is_one_entry(shelf: Path, golden: Path, finish: Any) -> None:
    found = {one.path: one for one in finish(list_releases(shelf)).releases}
    assert {path: one.status for path, one in found.items()} == {
        "a <b>": "released",
        "deep/er/heads": "released",
        "withdrawn": "withdrawn",
        "half": "refused",
        "junk": "refused",
        "edited": "refused",
    }
    one = found["a <b>"]
    assert (one.name, one.version, one.samples, one.manifest) == (
        "heads",
        "1.0.0",
        2,
        digest_file(golden / "manifest.json"),
    )
    assert one.signature == "not signed"
    assert found["withdrawn"].reason == "A source <subject> withdrew."
    assert "missing or of another size" in found["half"].reason
    assert "\x1b" not in found["junk"].reason


def test_the_same_releases_give_the_same_bytes_and_text_is_no_markup(shelf: Path, finish: Any) -> None:
    written = []
    for _ in range(2):
        write_catalogue(shelf, finish(list_releases(shelf)))
        written.append((shelf / "catalogue.json").read_bytes() + (shelf / "index.html").read_bytes())
    assert written[0] == written[1]
    page = (shelf / "index.html").read_text()
    assert "a &lt;b&gt;" in page
    assert "A source &lt;subject&gt; withdrew." in page
    assert 'href="a%20%3Cb%3E/README.md"' in page
    assert "<script" not in page
    assert read_catalogue(LocalObjects(shelf)) == finish(list_releases(shelf))


def test_somebody_elses_page_is_left_alone(shelf: Path, finish: Any) -> None:
    found = finish(list_releases(shelf))
    (shelf / "index.html").write_text("<h1>mine</h1>")
    with pytest.raises(ConfigurationError, match=r"index\.html: must be new"):
        write_catalogue(shelf, found)
    assert (shelf / "index.html").read_text() == "<h1>mine</h1>"
    assert not (shelf / "catalogue.json").exists()


def test_a_release_is_not_written_into(golden: Path) -> None:
    done = CliRunner().invoke(app, ["catalogue", str(golden)])
    assert isinstance(done.exception, ConfigurationError)
    assert not (golden / "index.html").exists()


def test_the_walk_is_bounded(shelf: Path, monkeypatch: pytest.MonkeyPatch, finish: Any) -> None:
    monkeypatch.setattr(catalogue, "MOST_FOLDERS", 2)
    with pytest.raises(ConfigurationError, match="at most 2 folders"):
        finish(list_releases(shelf))


def test_the_catalogue_at_a_url_is_printed(shelf: Path, finish: Any) -> None:
    write_catalogue(shelf, finish(list_releases(shelf)))
    with serve(shelf) as server:
        said = CliRunner().invoke(app, ["catalogue", server.url])
    assert said.exit_code == 0, said.output
    assert "released   deep/er/heads: heads 1.0.0, 2 volumes" in said.output
    assert "withdrawn  withdrawn: heads 1.0.0: A source <subject> withdrew." in said.output


@pytest.mark.parametrize(
    "text", ["", "[]", '{"format": "meddiff-catalogue/1", "releases": [{"path": "x"}]}', "\x00" * 100]
)
def test_a_catalogue_of_another_form_is_a_line(tmp_path: Path, text: str) -> None:
    (tmp_path / "catalogue.json").write_text(text)
    with pytest.raises(IntegrityError, match=r"catalogue\.json: must follow"):
        read_catalogue(LocalObjects(tmp_path))


def test_a_catalogue_that_is_too_long_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "catalogue.json").write_text(Catalogue(format="meddiff-catalogue/1", releases=()).model_dump_json())
    assert read_catalogue(LocalObjects(tmp_path)).releases == ()
    monkeypatch.setattr(catalogue, "MOST_JSON", 10)
    with pytest.raises(IntegrityError):
        read_catalogue(LocalObjects(tmp_path))
