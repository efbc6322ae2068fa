"""What can be told to MLflow, one small value each, as it lies in the outbox.

Each names its run by an id of our own, since MLflow's is known only once it has answered; and each may be sent twice
without being logged twice.
"""

import re
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter


class _Record(BaseModel):
    """`run` is our id of the run, `experiment` the name of its experiment."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", ser_json_inf_nan="constants", ser_json_bytes="base64", val_json_bytes="base64"
    )

    run: str
    experiment: str


class Opened(_Record):
    """A run began."""

    kind: Literal["opened"] = "opened"
    name: str
    tags: dict[str, str]
    parent: str | None
    """Our id of the run that it belongs to."""
    time_ms: int


class Closed(_Record):
    """A run ended."""

    kind: Literal["closed"] = "closed"
    status: Literal["FINISHED", "FAILED", "KILLED"]
    time_ms: int


class Parameters(_Record):
    """Settings."""

    kind: Literal["parameters"] = "parameters"
    values: dict[str, str]


class Metrics(_Record):
    """Measurements: name, value, step. Name, value, step and time together are what MLflow logs once."""

    kind: Literal["metrics"] = "metrics"
    points: list[tuple[str, float, int]]
    time_ms: int


class File(_Record):
    """A small file, whole: what lies under its path may be another one by the time it is sent."""

    kind: Literal["file"] = "file"
    path: str
    content: bytes


class MadeArtefact(_Record):
    """The run made an artefact from others, by their digests."""

    kind: Literal["artefact"] = "artefact"
    name: str
    digest: str
    parents: dict[str, str]


class Model(_Record):
    """A checkpoint, by its folder in the study; what lies there is sent if it still has this digest."""

    kind: Literal["model"] = "model"
    name: str
    digest: str
    folder: str


class Champions(_Record):
    """Models whose cohort passed the gates: digest by name."""

    kind: Literal["champions"] = "champions"
    digests: dict[str, str]


Record = Opened | Closed | Parameters | Metrics | File | MadeArtefact | Model | Champions
RECORD: TypeAdapter[Record] = TypeAdapter(Annotated[Record, Field(discriminator="kind")])


def mlflow_name(text: str) -> str:
    """Name that MLflow takes for a metric, a parameter, a tag or a model."""
    return re.sub(r"[^\w\-. :/]", "_", text)[:250]
