"""The papers of a release for committees and catalogues: filled from the audit, and saying what is not known."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from meddiff_core.evidence.audit import NO_GUARANTEE
from meddiff_core.evidence.registry import METRICS
from meddiff_core.release.croissant import describe_release
from meddiff_core.release.evidence import verdict
from meddiff_core.release.healthdcat import describe_for_catalogues
from meddiff_core.release.manifest import FileEntry
from meddiff_core.release.participants_table import TABLE, age_range, public_table
from meddiff_core.release.records import gates_schema
from meddiff_core.release.report import render_card, render_report
from meddiff_core.release.scorecard import FAMILIES, QUESTIONS, criterion_of, fill_scorecard
from meddiff_core.release.wording import FACES, LIMITATIONS, NOT_STATED
from meddiff_core.study import WaiverConfig

FIELDS = {
    "generation_method", "model_version/checkpoint", "hyperparameters", "random_seed", "real_data_source",
    "preprocessing_steps", "initial_evaluation", "intended_use", "not_intended_for", "privacy_method",
    "code_repository", "environment",
}  # fmt: skip
STATED = {"intended_use": "Teaching.", "code_repository": "https://example.org/code", "environment": "Python 3.12"}


def read(release: Path, name: str) -> Any:
    return json.loads((release / name).read_text())


def test_the_scorecard_has_seven_criteria_and_the_fields_by_their_names(released: Path) -> None:
    card = read(released, "evidence/scorecard.json")
    assert [criterion["name"] for criterion in card["criteria"]] == [
        "Congruence", "Coverage", "Constraint", "Completeness", "Compliance", "Comprehension", "Consistency",
    ]  # fmt: skip
    assert card["descriptor"].keys() == FIELDS


def test_every_measured_figure_stands_once_with_its_interval_and_reference(content: Any) -> None:
    figures = [figure for criterion in fill_scorecard(content).criteria for figure in criterion.metrics]
    assert sorted(figure.metric for figure in figures) == sorted(metric.name for metric in content.metrics)
    known = {metric.name: metric for metric in content.metrics}
    for figure in figures:
        metric = known[figure.metric]
        assert (figure.value, figure.low, figure.high) == (metric.value, metric.low, metric.high)
        assert figure.reference == metric.reference


def test_a_guarantee_stands_where_the_lack_of_one_did(content: Any) -> None:
    promised = "The denoiser was trained with differential privacy: epsilon = 8."
    private = replace(content, guarantee=promised)
    assert promised in fill_scorecard(private).descriptor["privacy_method"]
    assert NO_GUARANTEE in render_card(content)
    assert promised in render_card(private)
    assert NO_GUARANTEE not in render_card(private)


def test_what_was_not_measured_is_named_with_what_it_requires(content: Any) -> None:
    card = {criterion.name: criterion for criterion in fill_scorecard(replace(content, metrics=())).criteria}
    missing = [text.partition(": it requires")[0] for criterion in card.values() for text in criterion.not_measured]
    assert sorted(missing) == sorted(spec.name for spec in METRICS)
    assert "fidelity_r: it requires a condition" in " ".join(card["Constraint"].not_measured)


def test_every_metric_of_a_family_of_the_scorecard_exists() -> None:
    families = {spec.name.partition(":")[0] for spec in METRICS}
    assert {name for group in FAMILIES.values() for name in group} <= families
    assert {criterion_of(spec) for spec in METRICS} == QUESTIONS.keys() - {"Completeness", "Comprehension"}


def test_what_the_owner_does_not_state_is_said_to_be_not_stated(content: Any) -> None:
    silent, stated = fill_scorecard(content).descriptor, fill_scorecard(replace(content, **STATED)).descriptor
    for name, text in STATED.items():
        assert (silent[name], stated[name]) == (NOT_STATED, text)
        assert text in render_card(replace(content, **STATED))
        assert text in render_report(replace(content, **STATED))
    facts = next(one.facts for one in fill_scorecard(content).criteria if one.name == "Comprehension")
    assert facts == (
        "9 of 12 descriptive fields are stated.",
        f"Not stated: {', '.join(sorted(STATED, key=list(silent).index))}.",
    )


def test_what_no_cohort_is_for_stays_beside_what_the_owner_adds(content: Any) -> None:
    text = fill_scorecard(replace(content, not_intended_for="Training of products.")).descriptor["not_intended_for"]
    assert "Diagnosis" in text
    assert "Training of products." in text


def test_checkpoints_seeds_and_settings_are_those_of_the_release(content: Any) -> None:
    found = fill_scorecard(replace(content, hyperparameters={"seed": 5, "denoiser": {"steps": 9}})).descriptor
    assert found["model_version/checkpoint"]["denoiser"] == f"sha256:{content.parents['denoiser']}"
    assert (found["random_seed"]["models"], found["random_seed"]["cohort"]) == (5, 0)
    assert found["hyperparameters"]["denoiser"] == {"steps": 9}
    assert found["hyperparameters"]["sampling"] == content.study["sampling"]
    assert found["initial_evaluation"].startswith(verdict(content.gates))


def test_the_page_shows_all_criteria(content: Any) -> None:
    page = render_report(content)
    section = page[page.index('<section id="scorecard">') : page.index('<section id="reading">')]
    assert all(f"<h3>{name}</h3>" in section and QUESTIONS[name] in section for name in QUESTIONS)
    assert "Coverage: latents" in section
    assert "Not measured: " in section


def test_the_gates_of_a_release_follow_the_schema_that_lies_beside_them(
    content: Any, build: Any, tmp_path: Path
) -> None:
    waiver = WaiverConfig(metric="coverage", name="A. Person", reason="For teaching.")
    failed = content.gates[3].model_copy(update={"passed": False, "verdict": "quarantine", "waiver": waiver})
    release = build(replace(content, gates=(*content.gates[:3], failed)), tmp_path)
    gates, schema = read(release, "evidence/gates.json"), read(release, "evidence/gates.schema.json")
    assert schema == gates_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(gates, schema)
    assert [gate["metric"] for gate in gates] == [gate.metric for gate in content.gates]


@pytest.mark.parametrize("change", [{"verdict": "perhaps"}, {"threshold": None}, {"surprise": 1}])
def test_a_record_of_another_form_does_not_follow_the_schema(content: Any, change: dict[str, Any]) -> None:
    record = content.gates[0].model_dump(mode="json")
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate([record | change], gates_schema())


def test_metrics_for_programs_are_those_of_the_audit(content: Any, released: Path) -> None:
    assert read(released, "evidence/metrics.json") == [metric.model_dump(mode="json") for metric in content.metrics]
    assert [one["name"] for one in read(released, "evidence/tables.json")["histograms"]] == [
        histogram.name for histogram in content.histograms
    ]


def test_catalogues_learn_that_it_is_synthetic_how_large_and_how_good(content: Any) -> None:
    table = public_table(content.table.assign(age=[21.3, 44.0, 79.6]))
    found = describe_for_catalogues(content, table)
    assert found["dct:type"]["@id"].endswith("/dataset-type/SYNTHETIC_DATA")
    assert found["healthdcatap:numberOfRecords"]["@value"] == "3"
    assert (found["healthdcatap:minTypicalAge"]["@value"], found["healthdcatap:maxTypicalAge"]["@value"]) == (
        "20",
        "80",
    )
    annotations = [one["oa:hasBody"]["rdf:value"] for one in found["healthdcatap:qualityAnnotation"]]
    assert annotations[0].startswith(verdict(content.gates))
    assert any(text.startswith("Copies excess: 0.008") for text in annotations)
    prefixes = {key.partition(":")[0] for key in found if not key.startswith("@")}
    assert prefixes <= found["@context"].keys()


def test_the_age_range_of_the_card_is_the_one_of_the_catalogue(content: Any) -> None:
    changed = replace(content, table=content.table.assign(age=[21.3, 44.0, 79.6]))
    assert "| Age | 20 to 80 years |" in render_card(changed)
    assert age_range(changed.table) == (20, 80)
    for other in ({"age_days": 300.0}, {"age": "old"}, {"age": float("nan")}):
        assert age_range(content.table[["sample_id"]].assign(**other)) is None


def test_croissant_says_by_whom_from_what_and_for_which_use(content: Any) -> None:
    changed = replace(content, intended_use="Teaching.", data_use=("DUO:0000042",))
    files = {TABLE: FileEntry(bytes=1, sha256="0" * 64)}
    found = describe_release(changed, public_table(content.table), files)
    assert found["prov:wasGeneratedBy"]["prov:wasAssociatedWith"] == {
        "@type": "prov:SoftwareAgent", "name": "meddiff", "version": "1.0.0",
    }  # fmt: skip
    assert {one["@id"] for one in found["prov:wasGeneratedBy"]["prov:used"]} == {
        f"urn:sha256:{content.parents[name]}" for name in ("autoencoder", "denoiser")
    }
    assert found["usageInfo"][0]["termCode"] == "DUO:0000042"
    assert found["rai:dataUseCases"] == "Teaching."
    assert set(LIMITATIONS) <= set(found["rai:dataLimitations"])
    assert "usageInfo" not in describe_release(content, public_table(content.table), files)


def test_faces_that_were_not_removed_are_on_the_card_and_the_page(make_content: Any) -> None:
    content = make_content(count=1, histograms=())
    open_faces = replace(content, contract=content.contract.model_copy(update={"mask": "none"}))
    for show in (render_card, render_report):
        assert FACES in show(open_faces)
        assert FACES not in show(content)


def test_the_datasheet_has_its_paragraphs(content: Any) -> None:
    card = render_card(replace(content, data_use=("DUO:0000042",), intended_use="Teaching."))
    sheet = card[card.index("## Datasheet") : card.index("## Licence and contact")]
    heads = ["Motivation", "Not intended for", "Composition", "Collection", "Preprocessing", "Uses", "Distribution"]
    assert all(f"\n\n**{head}.** " in sheet for head in [*heads, "Maintenance"])
    assert "Data use: DUO:0000042." in sheet
    assert "Intended use: Teaching." in sheet
