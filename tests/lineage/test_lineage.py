"""Whatever is pointed at leads up to the scans and down to the releases, with no server and no name."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from flows.cli import app
from meddiff_core.artefacts import digest_file, digest_of
from meddiff_core.errors import ConfigurationError
from meddiff_core.lineage.graph import lineage_of
from meddiff_core.lineage.resolve import resolve
from meddiff_core.workspace import CHAIN, Workspace
from tests.lineage.conftest import SIDES, make_release


def asked(*arguments: object) -> Any:
    """What `meddiff lineage --json` says, without MLflow."""
    done = CliRunner().invoke(app, ["lineage", *map(str, arguments), "--json", "--no-runs"])
    assert done.exit_code == 0, done.exception
    return json.loads(done.output)


def names(found: list[dict[str, Any]]) -> set[str]:
    return {one["name"] for one in found}


def test_every_artefact_leads_to_the_scans_and_to_the_release(study: Workspace) -> None:
    for name in CHAIN:
        found, key = resolve(str(study.folder / name), study.folder)
        assert key.kind == name
        above, below = ({one.kind for one in reached} for reached in (found.above(key), found.below(key)))
        assert name in ("inventory", "fingerprint", "split", "plan") or "scans" in above
        assert name in ("plan", "predictors", "guidance", "report", "release") or "release" in below
        assert not above & below


def test_one_thing_is_found_by_name_path_inside_path_and_digest(study: Workspace) -> None:
    digest = study.records()["denoiser"].digest
    (study.folder.parent / "broken").mkdir()
    (study.folder.parent / "broken" / "study.yaml").write_text("[")
    weights = study.path("denoiser") / "tensors.safetensors"
    weights.touch()
    ways = [study.folder / "denoiser", study.path("denoiser"), weights, digest[:9]]
    for what in ways:
        assert resolve(str(what), study.folder.parent)[1] == ("denoiser", digest)


def test_the_study_itself_is_its_newest_release(study: Workspace) -> None:
    found = asked(study.folder / "study.yaml")["artefact"]
    assert found["name"] == "release"
    assert found["digest"] == digest_file(study.path("release") / "knees-1.0.0" / "manifest.json")


def test_what_was_made_anew_is_found_by_what_its_release_says(study: Workspace) -> None:
    old = study.records()["denoiser"].digest
    for name in list(CHAIN)[CHAIN_FROM:]:
        study.record(name, digest_of(f"second {name}"), study.inputs(name), {"folder": "knees-1.0.0"})
    found = asked(old, "--study", study.folder)
    assert (found["artefact"]["name"], found["artefact"]["status"]) == ("denoiser", "replaced")
    (release,) = [one for one in found["went_into"] if one["name"] == "release"]
    assert release["place"] == "releases/knees-1.0.0"
    assert "scans" in names(found["made_from"])


CHAIN_FROM = list(CHAIN).index("denoiser")


def test_a_release_elsewhere_names_what_it_was_made_from(study: Workspace, tmp_path: Path) -> None:
    away = tmp_path / "pulled"
    shutil.copytree(study.path("release") / "knees-1.0.0", away)
    found = asked(away)
    assert {"dataset", "autoencoder", "denoiser", "audit"} <= names(found["made_from"])
    assert found["went_into"] == []


def test_scans_are_counted_and_named_only_if_asked(study: Workspace) -> None:
    done = CliRunner().invoke(app, ["lineage", str(study.folder / "audit"), "--no-runs"])
    assert "4 scans: 2 train, 1 validation, 1 holdout" in done.output
    assert "qx7" not in done.output
    named = asked(study.folder / "audit", "--names")["scans"]
    assert {one["subject"]: one["side"] for one in named} == SIDES


def test_a_scan_is_found_by_its_file_and_reaches_only_what_saw_it(study: Workspace) -> None:
    digest = digest_of("qx7-dov_T1")
    found = asked(digest, "--study", study.folder)
    assert found["artefact"]["note"] == "holdout side"
    assert names(found["went_into"]) == {"dataset", "cohort", "audit", "report", "release"}


@pytest.mark.parametrize(
    ("what", "said"),
    [("knees/denoise", "names are inventory"), ("0123abcd0123", "no study"), ("nowhere", "must be STUDY/NAME")],
)
def test_what_is_nothing_is_an_error_that_says_what_would_be(study: Workspace, what: str, said: str) -> None:
    with pytest.raises(ConfigurationError, match=said if what != "0123abcd0123" else "is none; name others"):
        resolve(str(study.folder.parent / what) if "/" in what else what, study.folder.parent)


def test_a_release_that_cannot_be_read_hides_no_other(study: Workspace) -> None:
    make_release(study, "2.0.0")
    broken = study.path("release") / "knees-0.0.1"
    broken.mkdir()
    (broken / "manifest.json").write_text("[]")
    found = {node.place: node.status for node in lineage_of(study).nodes.values() if node.key.kind == "release"}
    assert found["releases/knees-0.0.1"] == "refused"
    assert found["releases/knees-2.0.0"] == found["releases/knees-1.0.0"] == "released"
