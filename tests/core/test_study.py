"""What a study accepts, what it says of what it refuses, and that its YAML loses nothing."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from meddiff_core.errors import ConfigurationError
from meddiff_core.study import Study, load_study, render_study, shareable_settings

MINIMAL: dict[str, Any] = {"name": "knees", "data": {"images": "scans"}}


def save(folder: Path, *changes: tuple[str, Any]) -> Path:
    """The smallest study, with values at some keys `a.b.c`."""
    content: dict[str, Any] = {"name": "knees", "data": {"images": "scans"}}
    for key, value in changes:
        *sections, last = key.split(".")
        section = content
        for name in sections:
            section = section.setdefault(name, {})
        section[last] = value
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    return path


def fault(folder: Path, *changes: tuple[str, Any]) -> str:
    with pytest.raises(ConfigurationError) as caught:
        load_study(save(folder, *changes))
    return str(caught.value)


def test_the_smallest_study_is_a_name_and_images(tmp_path: Path) -> None:
    assert load_study(save(tmp_path)) == Study.model_validate(MINIMAL)


def test_a_folder_stands_for_the_study_in_it(tmp_path: Path) -> None:
    assert load_study(save(tmp_path).parent) == load_study(tmp_path / "study.yaml")


@pytest.mark.parametrize(
    ("key", "near"),
    [
        ("sampling.guidence", "guidance"),
        ("datas", "data"),
        ("train.denoiser.learning_rte", "learning_rate"),
        ("plan.spacing", "spacing_mm"),
    ],
)
def test_an_unknown_key_names_the_nearest_known_one(tmp_path: Path, key: str, near: str) -> None:
    assert fault(tmp_path, (key, 1)) == f"{key}: unknown key; did you mean {near}?"


def test_an_unknown_key_of_a_gate_names_those_of_gates(tmp_path: Path) -> None:
    message = fault(tmp_path, ("audit.gates", [{"metric": "m", "maxx": 1.0}]))
    assert "audit.gates.0.maxx: unknown key; did you mean max?" in message.splitlines()


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("train.autoencoder.overlap_weight", 0.05, "is called train.autoencoder.dice_weight now"),
        ("train.denoiser.ema_shares", [0.05], "is called train.denoiser.ema_std now"),
        ("screen.tail", 0.01, "is called screen.quantile now"),
        ("sampling.candidates", 4, "is called sampling.best_of now"),
        ("sampling.guided_by", "absent", "`absent` is called classifier_free now"),
        ("sampling.guided_by", "earlier", "`earlier` is called autoguidance now"),
        ("runtime.sharded", False, "does not exist any more, every process holds the whole network; .*checkpointing"),
    ],
)
def test_an_outdated_setting_is_refused_with_its_new_name(tmp_path: Path, key: str, value: Any, message: str) -> None:
    assert re.fullmatch(f"{re.escape(key)}: {message}", fault(tmp_path, (key, value)))


def test_the_new_names_of_outdated_settings_are_accepted(tmp_path: Path) -> None:
    changes = [
        ("train.autoencoder.dice_weight", 0.1),
        ("train.denoiser.ema_std", [0.2]),
        ("screen.quantile", 0.01),
        ("sampling.guided_by", "autoguidance"),
    ]
    study = load_study(save(tmp_path, *changes))
    assert (study.train.autoencoder.dice_weight, study.train.denoiser.ema_std) == (0.1, (0.2,))
    assert (study.screen.quantile, study.sampling.guided_by) == (0.01, "autoguidance")


def test_an_unknown_key_that_is_near_nothing_lists_the_known_ones(tmp_path: Path) -> None:
    message = fault(tmp_path, ("split.qqq", 1))
    assert message == "split.qqq: unknown key; known keys: train, validation"


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("sampling.steps", 0, "sampling.steps: must be greater than or equal to 1, is 0"),
        ("sampling.rho", -1.5, "sampling.rho: must be greater than 0, is -1.5"),
        ("sampling.sigma_max", float("inf"), "sampling.sigma_max: must be a finite number, is inf"),
        ("train.denoiser.sigma_mean", float("nan"), "train.denoiser.sigma_mean: must be a finite number, is nan"),
        ("train.denoiser.ema_std", [0.4], "train.denoiser.ema_std.0: must be less than or equal to 0.28, is 0.4"),
        ("plan.latent_factor", 3, "plan.latent_factor: must be 2, 4 or 8, is 3"),
        ("plan", "small", "plan: must be a valid dictionary or instance of PlanConfig, is 'small'"),
        ("data.mask", "skull", "data.mask: must be 'none', 'label' or 'brain', is 'skull'"),
        ("data.images", None, "data.images: must be a valid string, is None"),
        ("name", "My Knees", "name: String must match pattern '^[a-z0-9][a-z0-9-]*$', is 'My Knees'"),
        ("release.version", "1.0", "release.version: must be a semantic version such as 1.0.0, is '1.0'"),
        ("release.version", "01.0.0", "release.version: must be a semantic version such as 1.0.0, is '01.0.0'"),
        ("release.data_use", ["GRU"], r"release.data_use.0: String must match pattern '^DUO:\d{7}$', is 'GRU'"),
        (
            "cohort.seed",
            "zero",
            "cohort.seed: must be a valid integer, unable to parse string as an integer, is 'zero'",
        ),
        ("split.train", 0.9, "split: train + validation must leave at least 0.05 as holdout, is 1.05"),
        ("data.window_hu", [300, -100], "data: window_hu must be [low, high], is [300.0, -100.0]"),
        ("data.mask", "label", "data: labels must be given for `mask: label`, is null"),
        (
            "data.label_groups",
            {"left": [1, 2], "right": [2, 3]},
            "data: label_groups must not share values, shared is [2]",
        ),
        (
            "data.covariates",
            {"age": "number"},
            "data: covariates.age must be continuous, categorical or `volume of GROUP`, is 'number'",
        ),
        (
            "data.covariates",
            {"size": "volume of liver"},
            "data: covariates.size must be the volume of one of [], is that of 'liver'",
        ),
        ("sampling.sigma_min", 40.0, "sampling: sigma_min must be below sigma_max, 40, is 40"),
        (
            "sampling.sigmas",
            [40.0, 1.0, 1.0],
            "sampling.sigmas: must be two or more levels, each below the one before, is [40.0, 1.0, 1.0]",
        ),
        (
            "sampling.sigmas",
            [40.0],
            "sampling.sigmas: must be two or more levels, each below the one before, is [40.0]",
        ),
        ("sampling.sigmas", [40.0, 0], "sampling.sigmas.1: must be greater than 0, is 0"),
        (
            "cohort",
            {"distributions": {}, "requests": "wanted.csv"},
            "cohort: only one of distributions and requests must be given, is both",
        ),
        ("audit.gates", [{"max": 1.0}], "audit.gates.0.metric: must be given, is missing"),
        (
            "audit.gates",
            [{"metric": "m", "max": 1.0, "min": 0.0}],
            "audit.gates.0: exactly one of max and min must be given for m, is both",
        ),
        (
            "audit.gates",
            [{"metric": "m"}],
            "audit.gates.0: exactly one of max and min must be given for m, is neither",
        ),
    ],
)
def test_a_fault_says_key_and_what_must_be_and_what_is(tmp_path: Path, key: str, value: Any, message: str) -> None:
    assert fault(tmp_path, (key, value)) == message


def test_levels_that_are_given_hold_instead_of_those_that_would_be_made(tmp_path: Path) -> None:
    made = load_study(save(tmp_path, ("sampling.steps", 9))).sampling
    given = load_study(save(tmp_path, ("sampling", {"steps": 9, "sigmas": [30, 2.5, 0.02]}))).sampling
    assert (made.levels, made.span) == (9, (0.01, 40.0))
    assert (given.levels, given.span) == (3, (0.02, 30.0))


def test_every_fault_has_a_line_of_its_own(tmp_path: Path) -> None:
    lines = fault(tmp_path, ("sampling.steps", 0), ("cohort.size", 0), ("nme", "x")).splitlines()
    assert [line.split(":")[0] for line in lines] == ["cohort.size", "sampling.steps", "nme"]


def test_a_table_of_scans_may_bring_the_labels_of_a_mask(tmp_path: Path) -> None:
    assert load_study(save(tmp_path, ("data", {"images": "scans.csv", "mask": "label"}))).data.mask == "label"


def test_a_covariate_may_be_the_volume_of_a_group(tmp_path: Path) -> None:
    data = {"images": "scans", "label_groups": {"liver": [3]}, "covariates": {"size": "volume of liver"}}
    assert load_study(save(tmp_path, ("data", data))).data.covariates == {"size": "volume of liver"}


def test_a_missing_study_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"study\.yaml does not exist; make one with `meddiff init`"):
        load_study(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"name: [", "must be YAML"),
        (b"name: \xff\xfe", "must be YAML"),
        (b"- name", "must hold keys and values, holds list"),
        (b"", "must hold keys and values, holds NoneType"),
    ],
)
def test_what_is_no_study_is_refused_in_one_line(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "study.yaml").write_bytes(content)
    with pytest.raises(ConfigurationError, match=message) as caught:
        load_study(tmp_path)
    assert len(str(caught.value).splitlines()) == 1


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
numbers = st.floats(1e-9, 1e9)
sections = st.fixed_dictionaries(
    {"name": st.from_regex(r"[a-z0-9][a-z0-9-]{0,8}", fullmatch=True)},
    optional={
        "seed": st.integers(0, 2**63),
        "data": st.fixed_dictionaries(
            {"images": texts},
            optional={
                "labels": texts,
                "label_groups": st.dictionaries(texts, st.just([1]), max_size=1),
                "window_hu": st.just((-1e-7, 1e20)),
                "covariates": st.none() | st.dictionaries(texts, st.just("continuous"), max_size=3),
            },
        ),
        "plan": st.fixed_dictionaries(
            {}, optional={"spacing_mm": st.none() | numbers, "size": st.tuples(*[st.integers(1, 512)] * 3)}
        ),
        "cohort": st.fixed_dictionaries(
            {}, optional={"distributions": st.dictionaries(texts, st.tuples(numbers, numbers).map(list), max_size=2)}
        ),
        "audit": st.fixed_dictionaries(
            {},
            optional={"gates": st.lists(st.fixed_dictionaries({"metric": texts, "max": numbers}), max_size=2)},
        ),
        "sampling": st.fixed_dictionaries({"sigmas": st.none() | st.just((40.0, 0.5, 1e-5))}),
        "release": st.fixed_dictionaries({}, optional={"title": texts, "source": texts}),
        "train": st.fixed_dictionaries(
            {}, optional={"denoiser": st.fixed_dictionaries({"channels": st.lists(st.integers(1, 99)).map(tuple)})}
        ),
    },
)


@settings(deadline=None)
@given(sections)
def test_a_rendered_study_is_the_same_study(content: dict[str, Any]) -> None:
    study = Study.model_validate({"data": {"images": "scans"}} | content)
    assert Study.model_validate(yaml.safe_load(render_study(study))) == study


def test_a_text_of_several_lines_survives_in_one() -> None:
    study = Study.model_validate(MINIMAL | {"release": {"source": "one\ntwo\x85three\u2028" + "four " * 20_000}})
    assert Study.model_validate(yaml.safe_load(render_study(study))) == study


def keys(model: BaseModel, above: str = "") -> list[str]:
    """Every key, in the order in which it is written."""
    found = []
    for name in type(model).model_fields:
        value = getattr(model, name)
        found += [name, *keys(value)] if isinstance(value, BaseModel) else [name]
    return found


def test_every_key_is_written_with_its_comment() -> None:
    study = Study.model_validate(MINIMAL)
    lines = [line for line in render_study(study).splitlines() if line][2:]
    found = []
    for position, line in enumerate(lines):
        if line.lstrip().startswith("#"):
            continue
        name, _, rest = line.lstrip().partition(":")
        comment = rest if rest.startswith("  #") else lines[position - 1]
        assert len(comment.partition("# ")[2]) > 3, f"{name} has no comment"
        found.append(name)
    assert found == keys(study)


def test_a_setting_cannot_be_changed_after_it_was_read() -> None:
    study = Study.model_validate(MINIMAL)
    with pytest.raises(ValueError, match="frozen"):
        study.seed = 3  # type: ignore[misc]


def test_settings_that_may_leave_name_no_file_and_no_subject() -> None:
    study = Study.model_validate(
        {
            "name": "knees",
            "data": {
                "images": "../Smith/scans", "labels": "../Smith/labels", "participants": "Smith.tsv",
                "subject": "(?P<subject>Smith.*)", "same_subject": [["Smith-1", "Smith-2"]],
            },
            "cohort": {"like": None, "requests": "like-Smith.csv"},
            "audit": {"extractor": "resnet10", "extractor_weights": "Smith.pt"},
            "runtime": {"dask": "tls://Smith:1", "cluster": {"options": {"account": "Smith"}}},
        }
    )  # fmt: skip
    assert "Smith" in str(study.model_dump())
    assert "Smith" not in str(shareable_settings(study))
    assert shareable_settings(study)["audit"]["extractor"] == "resnet10"


@pytest.mark.parametrize(
    ("dask", "fault"),
    [
        ("locla", "must be local, off"),
        ("http://scheduler:8786", "must be local, off"),
        ("tls://scheduler", "must be local, off"),
        ("tcp://me@scheduler:8786", "must be local, off"),
        ("tcp://scheduler:8786", "must be tls://"),
        ("tcp://127.0.0.1.example:8786", "must be tls://"),
        ("tcp://0.0.0.0:8786", "must be tls://"),
        ("tcp://[fe80::1]:8786", "must be tls://"),
    ],
)
def test_a_scheduler_elsewhere_is_spoken_to_by_tls(tmp_path: Path, dask: str, fault: str) -> None:
    with pytest.raises(ConfigurationError, match=rf"^runtime\S*: (dask )?{fault}"):
        load_study(save(tmp_path, ("runtime.dask", dask)))


@pytest.mark.parametrize("dask", ["tls://scheduler:8786", "tcp://127.0.0.1:1", "tcp://localhost:1", "tcp://[::1]:1"])
def test_a_scheduler_here_needs_no_tls(tmp_path: Path, dask: str) -> None:
    assert load_study(save(tmp_path, ("runtime.dask", dask))).runtime.dask == dask


def test_an_unencrypted_network_is_trusted_on_demand(tmp_path: Path) -> None:
    path = save(tmp_path, ("runtime.dask", "tcp://scheduler:8786"), ("runtime.allow_unencrypted", True))
    assert load_study(path).runtime.allow_unencrypted


def test_a_private_key_in_the_study_is_refused_and_not_repeated(tmp_path: Path) -> None:
    pem = "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEI\n-----END PRIVATE KEY-----\n"
    with pytest.raises(ConfigurationError) as refused:
        load_study(save(tmp_path, ("release.signing_key", pem)))
    assert str(refused.value).startswith("release.signing_key: must be the file of a key, is a key itself")
    assert "MC4CAQAwBQYDK2VwBCIEI" not in str(refused.value)
