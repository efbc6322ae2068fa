"""Who was recalled is out of whatever is made from then on, and what saw the subject is said artefact by artefact."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from flows.cli import app
from meddiff_core.artefacts import digest_of
from meddiff_core.data.dataset import remember_subjects
from meddiff_core.data.fingerprint import Fingerprint, without_voxels
from meddiff_core.data.identity.subjects import exclude_subjects
from meddiff_core.data.layouts.listing import FoundImage
from meddiff_core.data.recalled import RECALLED, Recall, read_recalls, write_recall
from meddiff_core.errors import ConfigurationError
from meddiff_core.lineage.recall import Called, recall_subject
from meddiff_core.lineage.seen import SAW
from meddiff_core.release.manifest import read_any_manifest
from meddiff_core.release.verify import verify_release
from meddiff_core.stages.identifiers import identifiers_of
from meddiff_core.study import shareable_settings
from meddiff_core.workspace import CHAIN, Workspace
from tests.lineage.conftest import make_release, make_study

MODELS = {"autoencoder", "denoiser"}


def seen(called: Called) -> set[str]:
    """What saw the subject, by the names of the chain; `release VERSION` for releases."""
    named = {key: called.lineage.nodes[key].place.rpartition("-")[2] for key in called.seen if key.kind == "release"}
    return {f"release {named[key]}" if key in named else key.kind for key in called.seen}


def test_the_table_knows_every_artefact_that_is_made_from_volumes_or_latents() -> None:
    direct = {name for name, artefact in CHAIN.items() if {"dataset", "latents"} & set(artefact.parents)}
    assert direct - set(SAW) == set()


def test_a_training_subject_is_in_the_models_and_in_all_that_was_made_from_them(study: Workspace) -> None:
    found = seen(recall_subject(study, "qx7-ada"))
    assert found >= {*MODELS, "latents", "candidates", "verdicts", "cohort", "audit", "report", "release 1.0.0", "plan"}


def test_a_validation_subject_chose_a_checkpoint_and_fitted_nothing(study: Workspace) -> None:
    called = recall_subject(study, "qx7-cyd")
    said = {key.kind: how for key, how in called.seen.items()}
    assert "selected" in said["denoiser"]
    assert "trained" not in said["autoencoder"]
    assert "plan" not in said


def test_a_holdout_subject_is_in_the_evidence_and_in_no_model(study: Workspace) -> None:
    found = seen(recall_subject(study, "qx7-dov"))
    assert found == {"inventory", "fingerprint", "split", "dataset", "cohort", "audit", "report", "release 1.0.0"}


def test_everything_is_out_of_date_after_a_recall_and_the_subject_is_excluded(study: Workspace) -> None:
    assert {state.condition for state in study.states()} == {"done"}
    recall_subject(study, "qx7-ada")
    states = {state.name: state for state in study.states()}
    assert {state.condition for state in states.values()} == {"stale"}
    assert states["fingerprint"].reasons == ("recalled.json changed",)
    assert study.data.exclude == ["qx7-ada"]
    with pytest.raises(ConfigurationError, match="must be up to date, is stale"):
        study.require_for("release")


def test_a_recall_holds_although_the_records_were_brought_up_to_date_with_the_old_data(study: Workspace) -> None:
    recall_subject(study, "qx7-ada")
    for name, record in study.records().items():
        study.record(name, record.digest, study.inputs(name), record.summary)
    assert {state.condition for state in study.states()} == {"done"}
    with pytest.raises(ConfigurationError, match="a subject of its data set was"):
        study.require_unrecalled()
    for name in study.records():  # made anew from another data set
        study.record(name, digest_of(f"second {name}"), study.inputs(name), {"folder": "knees-2.0.0"})
    study.require_unrecalled()


def test_a_second_recall_changes_no_byte_and_keeps_the_first_reason(study: Workspace) -> None:
    first = recall_subject(study, "qx7-ada", "Consent was withdrawn.")
    written = (study.folder / RECALLED).read_bytes()
    second = recall_subject(study, "qx7-ada", "Another.")
    assert (first.again, second.again, second.recall.reason) == (False, True, "Consent was withdrawn.")
    assert (study.folder / RECALLED).read_bytes() == written
    recall_subject(study, "qx7-dov")
    assert [recall.subject for recall in read_recalls(study.folder)] == ["qx7-ada", "qx7-dov"]


@pytest.mark.parametrize("named", ["qx7-ad", "qx7", "QX7-ADA", ""])
def test_a_name_of_nobody_gives_the_nearest_and_writes_nothing(study: Workspace, named: str) -> None:
    with pytest.raises(ConfigurationError, match=r"nearest: .*qx7-ada"):
        recall_subject(study, named)
    assert not (study.folder / RECALLED).exists()


def test_a_scan_stands_for_its_subject_by_path_file_name_and_case(study: Workspace) -> None:
    scan = study.folder.parent / "scans" / "qx7-bea_T1.nii.gz"
    for named in (str(scan), scan.name, "qx7-bea_T1"):
        assert recall_subject(study, named, write=False).person.subject == "qx7-bea"
    assert not (study.folder / RECALLED).exists()


def test_a_reason_that_names_the_subject_is_refused_before_anything_is_written(study: Workspace) -> None:
    with pytest.raises(ConfigurationError, match="must name no real subject"):
        recall_subject(study, "qx7-ada", "qx7-ada withdrew")
    assert not (study.folder / RECALLED).exists()


def test_a_release_of_an_older_data_set_descends_unless_a_list_says_otherwise(study: Workspace) -> None:
    older, without = digest_of("older"), digest_of("without")
    for version, dataset in (("0.1.0", older), ("0.2.0", without)):
        parents = {name: digest_of(f"{version} {name}") for name in study.records()}
        make_release(study, version, **parents | {"dataset": dataset})
    table = study.folder / "cases.parquet"
    whole = table.read_bytes()
    pq.write_table(pq.read_table(table).slice(1), table)  # all but the first subject
    remember_subjects(study.folder, without)
    table.write_bytes(whole)
    called = recall_subject(study, "qx7-ada")
    assert {"release 0.1.0", "release 1.0.0"} <= seen(called)
    assert "release 0.2.0" not in seen(called)
    assert called.recall.datasets == {older: False, study.records()["dataset"].digest: True}


def test_the_recalled_subject_stays_out_under_its_name_and_under_another(study: Workspace) -> None:
    recall_subject(study, "qx7-ada")
    found = [FoundImage(name, Path(name), name, subject=name) for name in ("qx7-ada", "qx7-bea")]
    kept, refused = exclude_subjects(found, study.data.exclude)
    assert ([image.case for image in kept], [one.case for one in refused]) == (["qx7-bea"], ["qx7-ada"])
    cases: Any = tuple(SimpleNamespace(case=name, voxels_sha256=name[-1]) for name in ("new-x", "new-y"))
    fingerprint = Fingerprint.model_construct(cases=cases, refused=(), notes=(), kinds={})
    left = without_voxels(fingerprint, {"x"})
    assert ([case.case for case in left.cases], [one.case for one in left.refused]) == (["new-y"], ["new-x"])


def test_two_studies_of_one_subject_are_recalled_apart_and_named_to_each_other(study: Workspace) -> None:
    other = make_study(study.folder.parent / "hips")
    assert recall_subject(study, "qx7-ada").beside == ("hips",)
    assert not other.recalls


def test_verify_says_so_of_a_release_in_its_study_and_of_no_copy_elsewhere(study: Workspace, tmp_path: Path) -> None:
    release = study.path("release") / "knees-1.0.0"
    recall_subject(study, "qx7-dov")
    (said,) = [fault for fault in verify_release(release) if "recalled" in fault]
    assert said == "knees-1.0.0 was made from a data set of which a subject was recalled: withdraw it by `meddiff yank`"
    copy = tmp_path / "elsewhere" / "releases" / "knees-1.0.0"
    copy.parent.mkdir(parents=True)
    release.rename(copy)
    assert not any("recalled" in fault for fault in verify_release(copy))


def test_a_yanked_release_stays_in_the_lineage_with_its_reason(study: Workspace) -> None:
    said = ["recall", str(study.folder), "qx7-ada", "--reason", "Consent was *withdrawn*.", "--yank"]
    done = CliRunner().invoke(app, said)
    assert (done.exit_code, "withdrawn   " in done.output) == (0, True), done.output
    release = study.path("release") / "knees-1.0.0"
    assert read_any_manifest(release).version == "1.0.0"
    shown = CliRunner().invoke(app, ["lineage", str(release), "--no-runs"]).output
    assert "withdrawn, RECALLED, releases/knees-1.0.0, Consent was *withdrawn*." in shown
    assert "qx7" not in shown


def test_names_stay_in_the_study(study: Workspace) -> None:
    recall_subject(study, "qx7-ada")
    named = study.study.model_copy(update={"data": study.data})
    assert "qx7" not in str(shareable_settings(named))
    assert {"qx7-ada", "qx7-ada_T1", "qx7-ada_T1.nii.gz"} <= identifiers_of(study)
    assert "qx7" not in str(study.inputs("inventory"))


def test_a_recall_that_cannot_be_read_lets_nothing_be_made(study: Workspace) -> None:
    (study.folder / RECALLED).write_text('{"recalls": 3}')
    with pytest.raises(ConfigurationError, match=r"recalled.json must say who was recalled"):
        study.states()


def test_a_recall_of_many_names_never_loses_what_was_known(tmp_path: Path) -> None:
    known = Recall(subject="a", names=("x",), reason="r", datasets={"1": True, "2": False}, voxels=("v",))
    write_recall(tmp_path, known)
    kept = write_recall(
        tmp_path, known.model_copy(update={"names": ("y",), "datasets": {"1": False, "2": True}, "voxels": ()})
    )
    assert (kept.names, kept.datasets, kept.voxels) == (("x", "y"), {"1": True, "2": True}, ("v",))
