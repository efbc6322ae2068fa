"""A study's folder: where every artefact lies, what it is made from, and whether it is up to date.

The chain is a table. From it follow what a run still has to do, what `status` prints, and why something
is stale: nothing else in the system decides that.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from meddiff_core.artefacts import Ledger, Record, changed_inputs, digest_file, digest_of
from meddiff_core.errors import ConfigurationError
from meddiff_core.study import Study, load_study

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
    """What else it depends on, by a name that a person understands."""


@dataclass(frozen=True)
class State:
    """Whether an artefact is there and up to date, and if not, why."""

    name: str
    condition: Literal["done", "stale", "missing"]
    reasons: tuple[str, ...] = ()
    record: Record | None = None


def _fingerprint_settings(w: "Workspace") -> Mapping[str, Any]:
    return {"study.data": w.study.data}


def _plan_settings(w: "Workspace") -> Mapping[str, Any]:
    study = w.study
    training = study.train.model_dump(mode="json", include={"autoencoder", "denoiser"})
    # Networks are sized by the plan; rates and weights concern the trainings alone.
    sizes = {name: {key: part[key] for key in ("steps", "batch", "channels")} for name, part in training.items()}
    widths = {"latent_channels": study.train.autoencoder.latent_channels}
    return {
        "study.plan": study.plan,
        "study.seed": study.seed,
        "study.train": [sizes, widths],
        **_sides(w),
    }


def _sides(w: "Workspace") -> dict[str, Any]:
    """Who is on which side as it is written down, edited or not."""
    path = w.path("split")
    return {SPLIT_FILE: digest_file(path) if path.is_file() else "missing"}


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


DECISIONS = ("contract", "autoencoder", "autoencoder_training", "denoiser", "denoiser_training", "start_from")
"""The parts of plan.json that later stages follow."""

CHAIN: dict[str, Artefact] = {
    "fingerprint": Artefact("prepare", "fingerprint.json", (), _fingerprint_settings),
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
    ),
    "autoencoder": Artefact(
        "train",
        "models/autoencoder",
        ("dataset",),
        lambda w: {
            "plan": _planned(w, "autoencoder", "autoencoder_training"),
            "study.train.autoencoder": w.study.train.autoencoder,
            "study.seed": w.study.seed,
            **_start(w, "autoencoder"),
        },
    ),
    "latents": Artefact(
        "train",
        "latents.zarr",
        ("dataset", "autoencoder"),
        lambda w: {
            "plan.augmentations": _planned(w, "augmentations"),
            "study.seed": w.study.seed,
        },
    ),
    "denoiser": Artefact(
        "train",
        "models/denoiser",
        ("dataset", "latents"),
        lambda w: {
            "plan": _planned(w, "denoiser", "denoiser_training"),
            "study.train.denoiser": w.study.train.denoiser,
            "study.seed": w.study.seed,
            **_start(w, "denoiser"),
        },
    ),
    "candidates": Artefact(
        "generate",
        "candidates.zarr",
        ("dataset", "autoencoder", "denoiser"),
        lambda w: {"study.cohort": w.study.cohort, "study.sampling": w.study.sampling, "requests": w.requests_digest()},
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
        ("dataset", "autoencoder", "denoiser", "cohort"),
        lambda w: {"study.audit": w.study.audit, **w.extractor_digest()},
    ),
    "release": Artefact(
        "release",
        "releases",
        ("cohort", "audit"),
        lambda w: {"study.name": w.study.name, "study.release": w.study.release},
    ),
}
"""Every artefact, in the order in which they are made."""


class Workspace:
    """A study and its folder."""

    study: Study
    folder: Path

    def __init__(self, study: Study, folder: Path) -> None:
        self.study, self.folder = study, folder
        self.ledger = Ledger(folder / ".meddiff" / "ledger")

    @classmethod
    def open(cls, study: Path | str) -> "Workspace":
        """From the path of a study.yaml or of its folder.

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
        """Where an artefact lies."""
        return self.folder / CHAIN[name].path

    def plan_content(self) -> dict[str, Any]:
        """plan.json as plain values, or nothing before it is made."""
        path = self.path("plan")
        return dict(json.loads(path.read_text())) if path.exists() else {}

    def start(self, name: str) -> Path | None:
        """The checkpoint whose weights the training of a model starts from, or None for random ones."""
        start_from = self.plan_content().get("start_from")
        return None if start_from is None else self.folder / str(start_from) / name

    def plan_digest(self) -> str:
        """Of what the plan decides, without its reasons and what it measured of this machine."""
        return digest_of(_planned(self, *DECISIONS))

    def requests_digest(self) -> str | None:
        """Of the table of requests, if the cohort has one."""
        table = self.study.cohort.requests
        path = self.folder / table if table else None
        return digest_file(path) if path is not None and path.is_file() else None

    def extractor_digest(self) -> dict[str, str]:
        """Of the weights that the user brings for the audit's features, if any."""
        path = self.extractor_weights()
        return {} if path is None else {"extractor_weights": digest_file(path) if path.is_file() else "missing"}

    def extractor_weights(self) -> Path | None:
        """Where those weights lie."""
        weights = self.study.audit.extractor_weights
        return None if weights is None else self.folder / weights

    def inputs(self, name: str, scans: str | None = None) -> dict[str, str]:
        """Digest of everything that an artefact is made from today.

        `scans` is the digest of the listing of the real scans; without it they are taken to be unchanged.
        """
        artefact = CHAIN[name]
        inputs = {key: digest_of(_plain(value)) for key, value in artefact.settings(self).items()}
        if name == "fingerprint":
            record = self.ledger.read(name)
            inputs["scans"] = scans or (record.inputs["scans"] if record else "unknown")
        for parent in artefact.parents:
            record = self.ledger.read(parent)
            inputs[parent] = record.digest if record else "missing"
        return inputs

    def state(self, name: str, scans: str | None = None) -> State:
        """Whether an artefact is up to date with its direct inputs."""
        record = self.ledger.read(name)
        if record is None or not self.path(name).exists():
            return State(name, "missing", () if record is None else (f"{CHAIN[name].path} is gone",), record)
        reasons = tuple(f"{key} changed" for key in changed_inputs(record, self.inputs(name, scans)))
        return State(name, "stale" if reasons else "done", reasons, record)

    def states(self, scans: str | None = None) -> list[State]:
        """Of the whole chain; what comes after something stale or missing is stale too."""
        found: dict[str, State] = {}
        for name, artefact in CHAIN.items():
            state = self.state(name, scans)
            parents = [found[parent] for parent in artefact.parents]
            behind = tuple(f"{parent.name} is {parent.condition}" for parent in parents if parent.condition != "done")
            if state.condition == "done" and behind:
                state = State(name, "stale", behind, state.record)
            found[name] = state
        return list(found.values())

    def require(self, name: str) -> None:
        """Stop with the command to run when an artefact is missing or stale.

        Raises:
            ConfigurationError: it is.
        """
        state = next(state for state in self.states() if state.name == name)
        if state.condition != "done":
            why = f"{state.condition} ({', '.join(state.reasons)})" if state.reasons else state.condition
            raise ConfigurationError(f"{name} must be up to date, is {why}; run `meddiff {CHAIN[name].stage}` first")

    def records(self) -> dict[str, Record]:
        """Of every artefact that was ever finished, in the order of the chain."""
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
