"""A study's folder: where every artefact lies, what it is made from, and whether it is up to date.

The chain is a table. From it follow what a run still has to do, what a stage needs, what `status` prints, and why
something is stale: nothing else in the system decides that. An artefact depends on values, not on how they came
about: writing into the study what the plan had decided makes nothing stale that was made.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from meddiff_core.artefacts import STATE, Ledger, Record, changed_inputs, digest_file, digest_of
from meddiff_core.data.recalled import RECALLED, Recall, read_recalls, recalled_datasets
from meddiff_core.errors import ConfigurationError
from meddiff_core.study import CalibrationConfig, DataConfig, SamplingConfig, Study, load_study

STUDY_FILE = "study.yaml"
SPLIT_FILE = "split.json"
Settings = Callable[["Workspace"], Mapping[str, Any]]


@dataclass(frozen=True)
class Artefact:
    """One link of the chain."""

    stage: str
    """The flow that makes it."""
    path: str
    """File or folder, relative to the study's."""
    parents: tuple[str, ...]
    settings: Settings
    """What else it depends on, by a name that the user understands."""
    follows: tuple[str, ...] = ()
    """Artefacts of which only some values count, which `settings` names; they must be up to date as well."""
    always: bool = False
    """Whether each run makes it anew, since nothing else says whether it is up to date."""


@dataclass(frozen=True)
class State:
    """Whether an artefact is there and up to date, and if not, why."""

    name: str
    condition: Literal["done", "stale", "missing"]
    reasons: tuple[str, ...] = ()
    record: Record | None = None


DECIDED: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "autoencoder": {
        "steps": ("autoencoder_training", "steps"),
        "batch": ("autoencoder_training", "batch"),
        "patch": ("autoencoder_training", "patch"),
        "gradient_checkpointing": ("autoencoder_training", "gradient_checkpointing"),
        "channels": ("autoencoder", "channels"),
        "latent_channels": ("autoencoder", "latent_channels"),
    },
    "denoiser": {
        "steps": ("denoiser_training", "steps"),
        "batch": ("denoiser_training", "batch"),
        "gradient_checkpointing": ("denoiser_training", "gradient_checkpointing"),
        "channels": ("denoiser", "channels"),
        "augmentations": ("augmentations",),
    },
}
"""Settings of each training that the plan decides where the study does not, and where plan.json has their values."""


def contradictions(study: Study, plan: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Settings of a training that the study gives and plan.json, as plain values, has otherwise."""
    given = _given(study, name)
    return {key: given[key] for key, place in DECIDED[name].items() if given[key] not in (None, _at(plan, place))}


def _given(study: Study, name: str) -> dict[str, Any]:
    return dict(getattr(study.train, name).model_dump(mode="json"))


def _at(plan: Mapping[str, Any], place: Sequence[str]) -> Any:
    found: Any = plan
    for key in place:
        found = found.get(key) if isinstance(found, Mapping) else None
    return found


def _training_settings(w: "Workspace", name: str) -> dict[str, Any]:
    """The values that a training follows, whether the plan decided them or the study gave them."""
    own = {key: value for key, value in _given(w.study, name).items() if key not in DECIDED[name]}
    return {
        "plan": _planned(w, name, f"{name}_training"),
        f"study.train.{name}": own | contradictions(w.study, w.plan_content(), name),
        "study.seed": w.study.seed,
        **_start(w, name),
    }


def _data_settings(w: "Workspace") -> Mapping[str, Any]:
    """What is known of the scans, and who of them was recalled; nothing where nobody was."""
    subjects = [recall.subject for recall in w.recalls]
    return {"study.data": w.study.data, **({RECALLED: subjects} if subjects else {})}


BUDGET = "study.plan.budget_minutes"
"""An input of the plan, apart from the others because it decides the steps alone."""


def _plan_settings(w: "Workspace") -> Mapping[str, Any]:
    study = w.study
    sizes = {
        f"study.train.{name}": {key: value for key, value in _given(study, name).items() if key in DECIDED[name]}
        for name in DECIDED
    }
    return {
        "study.plan": study.plan.model_dump(mode="json", exclude={"budget_minutes"}),
        BUDGET: study.plan.budget_minutes,
        "study.seed": study.seed,
        **_privacy(study),
        **sizes,
        **_sides(w),
    }


def _sides(w: "Workspace") -> dict[str, Any]:
    """Who is on which side as it is written down, edited or not."""
    path = w.path("split")
    return {SPLIT_FILE: digest_file(path) if path.is_file() else "missing"}


def _privacy(study: Study) -> dict[str, Any]:
    """A promise that a plan must be able to keep; nothing where none is asked for."""
    privacy = study.train.denoiser.privacy
    return {} if privacy is None else {"study.train.denoiser.privacy": privacy}


FIGURES = ("seconds_per_step", "seconds_besides", "memory_gb")
"""What was measured when the plan was made; decides nothing."""


def _planned(w: "Workspace", *keys: str) -> Any:
    """The named parts of plan.json as it stands, edited or not; timings and reasons decide nothing."""
    content = w.plan_content()
    return {key: _without_figures(content[key]) for key in keys if content.get(key) is not None}


def _without_figures(part: Any) -> Any:
    if not isinstance(part, dict):
        return part
    return {key: value for key, value in part.items() if key not in FIGURES}


def _start(w: "Workspace", name: str) -> dict[str, Any]:
    """The checkpoint that a training starts from, by what it says of itself; nothing if it starts from none."""
    start = w.start(name)
    if start is None:
        return {}
    facts = start / "facts.json"
    return {"start_from": digest_file(facts) if facts.is_file() else "missing"}


def _guidance_settings(sampling: SamplingConfig) -> dict[str, Any]:
    """What a choice of the guidance follows: a number that the study gives, or how samples are made."""
    if sampling.guidance is not None:
        return {"guidance": sampling.guidance, "guidance_interval": sampling.guidance_interval}
    return sampling.model_dump(mode="json", exclude={"batch", "grain", "shard"})


DECISIONS = ("contract", "autoencoder", "autoencoder_training", "denoiser", "denoiser_training", "start_from")
"""The parts of plan.json that later stages follow."""

CHAIN: dict[str, Artefact] = {
    "inventory": Artefact("prepare", "inventory.json", (), _data_settings, always=True),
    "fingerprint": Artefact("prepare", "fingerprint.json", ("inventory",), _data_settings),
    "split": Artefact(
        "prepare",
        SPLIT_FILE,
        ("fingerprint",),
        lambda w: {"study.split": w.study.split, "study.seed": w.study.seed},
    ),
    "plan": Artefact("prepare", "plan.json", ("fingerprint", "split"), _plan_settings),
    "dataset": Artefact(
        "prepare",
        "dataset.zarr",
        ("fingerprint", "split"),
        lambda w: {"plan.contract": _planned(w, "contract"), **_sides(w)},
        follows=("plan",),
    ),
    "autoencoder": Artefact(
        "train",
        "models/autoencoder",
        ("dataset",),
        lambda w: _training_settings(w, "autoencoder"),
        follows=("plan",),
    ),
    "latents": Artefact(
        "train",
        "latents.zarr",
        ("dataset", "autoencoder"),
        lambda w: {
            "plan.augmentations": _planned(w, "augmentations", "variants"),
            "study.seed": w.study.seed,
        },
        follows=("plan",),
    ),
    "denoiser": Artefact(
        "train",
        "models/denoiser",
        ("dataset", "latents"),
        lambda w: _training_settings(w, "denoiser"),
        follows=("plan",),
    ),
    "grain": Artefact("generate", "models/grain", ("dataset", "autoencoder"), lambda w: {}),
    "predictors": Artefact("generate", "models/predictors", ("dataset", "latents"), lambda w: {}),
    "guidance": Artefact(
        "generate",
        "guidance.json",
        ("dataset", "autoencoder", "latents", "denoiser", "predictors"),
        lambda w: {"study.sampling": _guidance_settings(w.study.sampling), "study.seed": w.study.seed},
    ),
    "candidates": Artefact(
        "generate",
        "candidates.zarr",
        ("dataset", "autoencoder", "denoiser", "grain", "predictors"),
        lambda w: {"study.cohort": w.study.cohort, "study.sampling": w.sampling, "requests": w.requests_digest()},
        follows=("guidance",),
    ),
    "reference": Artefact(
        "screen", "reference", ("dataset", "autoencoder", "denoiser"), lambda w: {"study.screen": w.study.screen}
    ),
    "verdicts": Artefact(
        "screen", "verdicts.parquet", ("candidates", "reference"), lambda w: {"study.screen": w.study.screen}
    ),
    "cohort": Artefact(
        "audit",
        "cohort.parquet",
        ("dataset", "autoencoder", "denoiser", "candidates", "reference", "verdicts"),
        lambda w: {"study.screen": w.study.screen, "study.audit.rounds": w.study.audit.rounds},
    ),
    "audit": Artefact(
        "audit",
        "audit",
        ("dataset", "autoencoder", "latents", "denoiser", "cohort"),
        lambda w: {
            "study.audit": w.study.audit,
            "study.release.models": w.study.release.models,
            **w.extractor_digest(),
        },
    ),
    "report": Artefact("audit", "report.html", ("cohort", "audit"), lambda w: {"title": w.title}),
    "release": Artefact(
        "release",
        "releases",
        ("cohort", "audit"),
        lambda w: {"study.name": w.study.name, "study.release": w.study.release},
    ),
}
"""Every artefact, in the order in which they are made."""


def artefacts_of(stage: str) -> list[str]:
    """Artefacts that a stage makes, in that order."""
    return [name for name, artefact in CHAIN.items() if artefact.stage == stage]


def needed_by(stage: str) -> list[str]:
    """Artefacts of earlier stages that a stage reads, the latest first."""
    own = artefacts_of(stage)
    read = {name for made in own for name in (*CHAIN[made].parents, *CHAIN[made].follows)}
    return [name for name in reversed(CHAIN) if name in read and name not in own]


class Workspace:
    """A study and its folder."""

    study: Study
    folder: Path

    def __init__(self, study: Study, folder: Path) -> None:
        self.study, self.folder = study, folder
        self.ledger = Ledger(folder / STATE / "ledger")

    @classmethod
    def open(cls, study: Path | str) -> "Workspace":
        """Open a study by the path of its study.yaml or of its folder.

        Raises:
            ConfigurationError: a fault of the study, or a gate or waiver that names no metric.
        """
        path = Path(study)
        path = path / STUDY_FILE if path.is_dir() else path
        if path.name != STUDY_FILE:
            raise ConfigurationError(f"study must be a file {STUDY_FILE} or its folder, is {path.name}")
        opened = load_study(path)
        if opened.audit.gates or opened.audit.waivers:
            from meddiff_core.evidence.registry import check_gates  # slow to import, and few studies have any

            check_gates(opened.audit)
        return cls(opened, path.parent.resolve())

    def path(self, name: str) -> Path:
        """Path of an artefact."""
        return self.folder / CHAIN[name].path

    @property
    def recalls(self) -> tuple[Recall, ...]:
        """Subjects that were recalled."""
        return read_recalls(self.folder)

    @property
    def data(self) -> DataConfig:
        """Where the scans are, without the subjects that were recalled."""
        given = self.study.data
        excluded = sorted({*given.exclude, *(recall.subject for recall in self.recalls)})
        return given.model_copy(update={"exclude": excluded})

    @property
    def title(self) -> str:
        """Title of reports and releases."""
        return self.study.release.title or self.study.name

    def replaced(self, name: str) -> Path:
        """Path of an artefact that is about to be written again; the record of its old bytes is dropped."""
        self.ledger.forget(name)
        return self.path(name)

    def plan_content(self) -> dict[str, Any]:
        """plan.json as plain values, or nothing before it is made."""
        path = self.path("plan")
        return dict(json.loads(path.read_text())) if path.exists() else {}

    def start(self, name: str) -> Path | None:
        """The checkpoint whose weights the training of a model starts from, or None for random ones."""
        start_from = self.plan_content().get("start_from")
        return None if start_from is None else self.folder / str(start_from) / name

    @property
    def sampling(self) -> SamplingConfig:
        """How volumes are sampled, with guidance and calibration as chosen after training where the study leaves them
        open."""
        given, path = self.study.sampling, self.path("guidance")
        if given.guidance is not None or not path.exists():
            return given
        chosen = json.loads(path.read_text())
        interval = given.guidance_interval or chosen["interval"]
        lines = given.calibration
        if lines is None:
            lines = tuple(map(CalibrationConfig.model_validate, chosen.get("calibration", ()))) or None
        decided = {"guidance": chosen["guidance"], "guidance_interval": interval and (interval[0], interval[1])}
        return given.model_copy(update=decided | {"calibration": lines})

    def plan_digest(self) -> str:
        """Digest of what the plan decides, without its reasons and what it measured of this machine."""
        return digest_of(_planned(self, *DECISIONS))

    def plan_is_edited(self) -> bool:
        """Whether the user has edited what the plan decided."""
        record = self.ledger.read("plan")
        return record is not None and self.path("plan").exists() and self.plan_digest() != record.digest

    def models_digest(self, **trained: str) -> str:
        """Digest of the models as they are recorded, or of those just `trained`, given by name."""
        inputs = self.inputs("candidates") | trained
        return digest_of([inputs[name] for name in ("autoencoder", "denoiser", "grain", "predictors")])

    def requests_digest(self) -> str | None:
        """Digest of the table of requests, if the cohort has one."""
        table = self.study.cohort.requests
        path = self.folder / table if table else None
        return digest_file(path) if path is not None and path.is_file() else None

    def extractor_digest(self) -> dict[str, str]:
        """Digest of the weights that the user brings for the audit's features, if any."""
        path = self.extractor_weights()
        return {} if path is None else {"extractor_weights": digest_file(path) if path.is_file() else "missing"}

    def extractor_weights(self) -> Path | None:
        """Path of those weights."""
        weights = self.study.audit.extractor_weights
        return None if weights is None else self.folder / weights

    def inputs(self, name: str) -> dict[str, str]:
        """Digest of everything that an artefact is made from today."""
        artefact = CHAIN[name]
        inputs = {key: digest_of(_plain(value)) for key, value in artefact.settings(self).items()}
        for parent in artefact.parents:
            record = self.ledger.read(parent)
            inputs[parent] = record.digest if record else "missing"
        return inputs

    def state(self, name: str, scans: str | None = None) -> State:
        """Whether an artefact is up to date with its direct inputs.

        `scans` is the digest of what a look at the real scans finds; without it they are taken to be unchanged.
        """
        record = self.ledger.read(name)
        if record is None or not self.path(name).exists():
            return State(name, "missing", () if record is None else (f"{CHAIN[name].path} is gone",), record)
        changed = changed_inputs(record, self.inputs(name))
        if name == "inventory" and scans not in (None, record.digest):
            changed.append("scans")
        reasons = tuple(f"{key} changed" for key in changed)
        return State(name, "stale" if reasons else "done", reasons, record)

    def states(self, scans: str | None = None) -> list[State]:
        """States of the whole chain; what comes after something stale or missing is stale too."""
        found: dict[str, State] = {}
        for name, artefact in CHAIN.items():
            state = self.state(name, scans)
            parents = [found[parent] for parent in artefact.parents]
            behind = tuple(f"{parent.name} is {parent.condition}" for parent in parents if parent.condition != "done")
            if state.condition == "done" and behind:
                state = State(name, "stale", behind, state.record)
            found[name] = state
        return list(found.values())

    def require_for(self, stage: str) -> None:
        """`require` all that a stage reads of the stages before it."""
        for name in needed_by(stage):
            self.require(name)

    def require(self, name: str) -> None:
        """Stop with the command to run when an artefact is missing or stale.

        Raises:
            ConfigurationError: it is.
        """
        state = next(state for state in self.states() if state.name == name)
        if state.condition != "done":
            why = f"{state.condition} ({', '.join(state.reasons)})" if state.reasons else state.condition
            raise ConfigurationError(f"{name} must be up to date, is {why}; run `meddiff {CHAIN[name].stage}` first")

    def require_unrecalled(self) -> None:
        """Stop where something was made from the data of a subject who was recalled since.

        Raises:
            ConfigurationError: it was.
        """
        recalled = recalled_datasets(self.recalls)
        for name, record in self.records().items():
            if recalled & {record.digest, record.inputs.get("dataset")}:
                raise ConfigurationError(
                    f"{name} must be made from nobody's data who was recalled, a subject of its data set was; "
                    "`meddiff run` makes it anew without"
                )

    def records(self) -> dict[str, Record]:
        """Records of every artefact that was ever finished, in the order of the chain."""
        found = {name: self.ledger.read(name) for name in CHAIN}
        return {name: record for name, record in found.items() if record is not None}

    def record(self, name: str, digest: str, inputs: Mapping[str, str], summary: Mapping[str, Any]) -> Record:
        """Note a finished artefact, after its bytes are safe. `inputs` are those from before it was made."""
        return self.ledger.write(Record(name=name, inputs=dict(inputs), digest=digest, summary=dict(summary)))


def _plain(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return value.model_dump(mode="json") if hasattr(value, "model_dump") else value
