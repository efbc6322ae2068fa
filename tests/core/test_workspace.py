"""The chain knows what is done, what is stale and why, and nothing makes more stale than it must."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from meddiff_core.artefacts import write_json
from meddiff_core.errors import ConfigurationError
from meddiff_core.study import Study
from meddiff_core.workspace import CHAIN, State, Workspace, needed_by

PLAN: dict[str, Any] = {
    "contract": {"spacing_mm": 2.0, "size": [16, 16, 16]},
    "autoencoder": {"channels": [8, 8, 8], "latent_channels": 4},
    "autoencoder_training": {
        "steps": 10,
        "batch": 2,
        "gradient_checkpointing": False,
        "seconds_per_step": 0.1,
        "memory_gb": 0.2,
    },
    "denoiser": {"channels": [32, 32]},
    "denoiser_training": {"steps": 10, "batch": 2, "seconds_per_step": 0.1, "memory_gb": 0.2},
    "augmentations": [],
    "device": "cpu",
    "reasons": {"size": "because"},
}
TRAINED = ["guidance", "candidates", "verdicts", "cohort", "audit", "report", "release"]
MODELS = ["autoencoder", "latents", "denoiser", "grain", "predictors", "reference"]
SCANS = "digest of inventory"


def study(*changes: tuple[str, Any]) -> Study:
    content: dict[str, Any] = {"name": "knees", "data": {"images": "scans"}}
    for key, value in changes:
        *sections, last = key.split(".")
        section = content
        for name in sections:
            section = section.setdefault(name, {})
        section[last] = value
    return Study.model_validate(content)


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    """A study whose whole chain was made, with empty files for artefacts."""
    made = Workspace(study(), tmp_path)
    for name in CHAIN:
        if name == "plan":
            write_json(made.path("plan"), PLAN)
        elif name == "guidance":
            write_json(made.path("guidance"), {"guidance": 2.0, "interval": [0.3, 5.0]})
        elif made.path(name).suffix in (".json", ".parquet", ".html"):
            made.path(name).touch()
        else:
            made.path(name).mkdir(parents=True)
        made.record(name, f"digest of {name}", made.inputs(name), {})
    return made


def behind(workspace: Workspace, *changes: tuple[str, Any], scans: str = SCANS) -> dict[str, State]:
    """What would have to be made after some changes of the study, in the order of the chain."""
    states = Workspace(study(*changes), workspace.folder).states(scans)
    return {state.name: state for state in states if state.condition != "done"}


def edit_plan(workspace: Workspace, section: str, key: str, value: Any) -> None:
    content = json.loads(workspace.path("plan").read_text())
    content[section][key] = value
    write_json(workspace.path("plan"), content)


def test_a_study_that_nothing_was_made_of_is_all_missing(tmp_path: Path) -> None:
    states = Workspace(study(), tmp_path).states()
    assert [(state.name, state.condition) for state in states] == [(name, "missing") for name in CHAIN]


def test_a_finished_chain_is_done(workspace: Workspace) -> None:
    assert behind(workspace) == {}


@pytest.mark.parametrize(
    ("key", "value", "stale"),
    [
        ("data.modality", "CT", list(CHAIN)),
        ("plan.budget_minutes", 5, ["plan"]),
        (
            "split.train",
            0.5,
            ["split", "plan", "dataset", *MODELS, *TRAINED],
        ),
        (
            "seed",
            3,
            ["split", "plan", "dataset", *MODELS, *TRAINED],
        ),
        (
            "train.autoencoder.kl_weight",
            0.5,
            [*MODELS, *TRAINED],
        ),
        ("train.denoiser.learning_rate", 0.5, ["denoiser", "reference", *TRAINED]),
        ("train.denoiser.steps", 7, ["plan", "denoiser", "reference", *TRAINED]),
        (
            "train.autoencoder.patch",
            [8, 8, 8],
            ["plan", *MODELS, *TRAINED],
        ),
        ("cohort.size", 7, TRAINED[1:]),
        ("sampling.steps", 7, TRAINED),
        ("sampling.best_of", 1, TRAINED),
        ("sampling.guidance", 3.0, TRAINED),
        ("sampling.shard", 3, TRAINED[1:]),
        ("screen.margin", 0.5, ["reference", "verdicts", "cohort", "audit", "report", "release"]),
        ("audit.rounds", 7, ["cohort", "audit", "report", "release"]),
        ("audit.repeats", 7, ["audit", "report", "release"]),
        ("audit.preset", "strict", ["audit", "report", "release"]),
        ("release.contact", "me", ["release"]),
        ("name", "hips", ["report", "release"]),
        ("runtime.workers", 7, []),
        ("runtime.device", "cuda", []),
        ("train.checkpoint_every", 7, []),
        ("train.checkpoints_kept", 7, []),
        ("train.deterministic", False, []),
    ],
)
def test_a_setting_makes_stale_only_what_descends_from_it(
    workspace: Workspace, key: str, value: Any, stale: list[str]
) -> None:
    found = behind(workspace, (key, value))
    assert [name for name in CHAIN if name in stale] == list(found)
    assert {state.condition for state in found.values()} <= {"stale"}


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("train.autoencoder.steps", 10),
        ("train.autoencoder.batch", 2),
        ("train.autoencoder.channels", [8, 8, 8]),
        ("train.autoencoder.gradient_checkpointing", False),
        ("train.denoiser.steps", 10),
        ("train.denoiser.channels", [32, 32]),
        ("train.denoiser.augmentations", []),
    ],
)
def test_writing_down_what_the_plan_decided_makes_no_model_stale(workspace: Workspace, key: str, value: Any) -> None:
    assert list(behind(workspace, (key, value))) == ["plan"]


def test_writing_down_the_guidance_that_was_chosen_makes_no_volume_stale(workspace: Workspace) -> None:
    chosen = {"guidance": 2.0, "guidance_interval": [0.3, 5.0]}
    assert list(behind(workspace, ("sampling", chosen))) == ["guidance"]
    assert Workspace(study(("sampling", chosen)), workspace.folder).sampling == workspace.sampling
    assert "candidates" in behind(workspace, ("sampling", chosen | {"guidance": 1.5}))


def test_a_guidance_that_is_chosen_anew_makes_volumes_stale(workspace: Workspace) -> None:
    write_json(workspace.path("guidance"), {"guidance": 3.0, "interval": [0.3, 5.0]})
    assert behind(workspace)["candidates"].reasons == ("study.sampling changed",)


def test_the_guidance_of_the_study_goes_before_the_chosen_one(workspace: Workspace) -> None:
    assert (workspace.sampling.guidance, workspace.sampling.guidance_interval) == (2.0, (0.3, 5.0))
    own = Workspace(study(("sampling.guidance", 1.5)), workspace.folder).sampling
    assert (own.guidance, own.guidance_interval) == (1.5, None)
    within = Workspace(study(("sampling.guidance_interval", [1, 2])), workspace.folder).sampling
    assert (within.guidance, within.guidance_interval) == (2.0, (1.0, 2.0))


def test_the_calibration_of_the_study_goes_before_the_fitted_one(workspace: Workspace) -> None:
    lines = [{"condition": "age", "intercept": 9.0, "slope": 0.5}]
    write_json(workspace.path("guidance"), {"guidance": 2.0, "interval": [0.3, 5.0], "calibration": lines})
    assert behind(workspace)["candidates"].reasons == ("study.sampling changed",)
    fitted = workspace.sampling
    assert [line.model_dump() for line in fitted.calibration or ()] == lines
    written = {"guidance": 2.0, "guidance_interval": [0.3, 5.0], "calibration": lines}
    assert Workspace(study(("sampling", written)), workspace.folder).sampling == fitted
    assert Workspace(study(("sampling.calibration", [])), workspace.folder).sampling.calibration == ()


def test_a_training_needs_the_plan_to_follow_the_study(workspace: Workspace) -> None:
    changed = Workspace(study(("train.denoiser.steps", 7)), workspace.folder)
    said = r"plan must be up to date, is stale \(study\.train\.denoiser changed\); run `meddiff prepare` first"
    with pytest.raises(ConfigurationError, match=said):
        changed.require_for("train")
    changed.require_for("tune-solver")


@pytest.mark.parametrize(
    ("stage", "last"),
    [
        ("prepare", None),
        ("train", "dataset"),
        ("generate", "denoiser"),
        ("screen", "candidates"),
        ("audit", "verdicts"),
        ("release", "audit"),
    ],
)
def test_what_a_stage_needs_follows_from_the_chain(stage: str, last: str | None) -> None:
    assert next(iter(needed_by(stage)), None) == last


def test_every_section_of_the_study_but_the_machine_is_part_of_the_chain() -> None:
    """A new section that no artefact depends on would be changed without effect."""
    settings = {key for artefact in CHAIN.values() for key in artefact.settings(Workspace(study(), Path("none")))}
    sections = {key.split(".")[1] for key in settings if key.startswith("study.")}
    assert sections == Study.model_fields.keys() - {"runtime"}


def test_a_stale_artefact_names_what_changed(workspace: Workspace) -> None:
    found = behind(workspace, ("screen.margin", 0.5))
    assert found["reference"].reasons == ("study.screen changed",)
    assert found["verdicts"].reasons == ("study.screen changed",)
    assert found["audit"].reasons == ("cohort is stale",)


def test_new_scans_make_everything_stale(workspace: Workspace) -> None:
    found = behind(workspace, scans="other scans")
    assert found["inventory"].reasons == ("scans changed",)
    assert list(found) == list(CHAIN)


def test_scans_that_were_not_listed_count_as_unchanged(workspace: Workspace) -> None:
    assert workspace.state("inventory").condition == "done"


def test_timings_and_reasons_of_the_plan_decide_nothing(workspace: Workspace) -> None:
    edit_plan(workspace, "autoencoder_training", "seconds_per_step", 99)
    edit_plan(workspace, "denoiser_training", "memory_gb", 99)
    edit_plan(workspace, "reasons", "size", "by hand")
    assert behind(workspace) == {}


@pytest.mark.parametrize(
    ("section", "key", "value", "first"),
    [
        ("contract", "spacing_mm", 3.0, "dataset"),
        ("autoencoder_training", "steps", 11, "autoencoder"),
        ("autoencoder", "channels", [8, 8], "autoencoder"),
        ("denoiser_training", "batch", 3, "denoiser"),
        ("denoiser", "channels", [64, 64], "denoiser"),
    ],
)
def test_an_edited_plan_makes_stale_what_obeys_it(
    workspace: Workspace, section: str, key: str, value: Any, first: str
) -> None:
    edit_plan(workspace, section, key, value)
    found = behind(workspace)
    assert next(iter(found)) == first
    assert found[first].reasons[0].startswith("plan")
    assert "plan" not in found
    assert set(TRAINED) <= found.keys()


def test_a_split_edited_by_hand_makes_stale_whatever_was_made_with_the_other(workspace: Workspace) -> None:
    workspace.path("split").write_text("{}")
    found = behind(workspace)
    assert list(found)[:2] == ["plan", "dataset"]
    assert found["dataset"].reasons == ("split.json changed",)
    assert "autoencoder" in found


def test_the_same_split_made_again_makes_nothing_stale(workspace: Workspace) -> None:
    """Nobody moved: other shares concern new subjects alone."""
    other = Workspace(study(("split.train", 0.5)), workspace.folder)
    other.record("split", "digest of split", other.inputs("split"), {})
    assert behind(workspace, ("split.train", 0.5)) == {}


def test_the_digest_of_a_plan_is_that_of_its_decisions(workspace: Workspace) -> None:
    before = workspace.plan_digest()
    edit_plan(workspace, "denoiser_training", "seconds_per_step", 99)
    edit_plan(workspace, "reasons", "size", "by hand")
    assert workspace.plan_digest() == before
    edit_plan(workspace, "denoiser_training", "steps", 99)
    assert workspace.plan_digest() != before


def test_records_are_those_of_what_was_finished(workspace: Workspace) -> None:
    workspace.ledger.forget("audit")
    assert list(workspace.records()) == [name for name in CHAIN if name != "audit"]
    assert workspace.records()["plan"].digest == "digest of plan"


def test_an_artefact_that_was_deleted_is_missing_and_its_children_stale(workspace: Workspace) -> None:
    workspace.path("latents").rmdir()
    found = behind(workspace)
    assert (found["latents"].condition, found["latents"].reasons) == ("missing", ("latents.zarr is gone",))
    assert found["denoiser"].reasons == ("latents is missing",)


def test_bytes_without_a_record_are_missing(workspace: Workspace) -> None:
    """They may be half of something that was killed."""
    workspace.ledger.forget("audit")
    assert workspace.path("audit").exists()
    assert workspace.state("audit") == State("audit", "missing")


def test_an_artefact_made_anew_with_other_bytes_makes_its_children_stale(workspace: Workspace) -> None:
    workspace.record("denoiser", "other", workspace.inputs("denoiser"), {})
    assert behind(workspace)["candidates"].reasons == ("denoiser changed",)


def test_an_artefact_made_anew_with_the_same_bytes_changes_nothing(workspace: Workspace) -> None:
    workspace.record("denoiser", "digest of denoiser", workspace.inputs("denoiser"), {"minutes": 3})
    assert behind(workspace) == {}


def test_an_edited_table_of_requests_makes_candidates_stale(workspace: Workspace) -> None:
    table = workspace.folder / "wanted.csv"
    table.write_text("age\n30\n")
    wanted = ("cohort.requests", "wanted.csv")
    asked = Workspace(study(wanted), workspace.folder)
    asked.record("candidates", "digest of candidates", asked.inputs("candidates"), {})
    assert behind(workspace, wanted) == {}
    table.write_text("age\n31\n")
    assert behind(workspace, wanted)["candidates"].reasons == ("requests changed",)


def test_parents_come_before_their_children() -> None:
    names = list(CHAIN)
    assert all(names.index(parent) < names.index(name) for name in names for parent in CHAIN[name].parents)


def test_a_study_opens_by_its_file_and_by_its_folder(tmp_path: Path) -> None:
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump({"name": "knees", "data": {"images": "scans"}}))
    assert Workspace.open(path).folder == Workspace.open(str(tmp_path)).folder == tmp_path.resolve()


def test_another_file_is_no_study(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"must be a file study\.yaml or its folder, is plan\.json"):
        Workspace.open(tmp_path / "plan.json")
