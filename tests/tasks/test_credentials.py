"""No password of an address and no secret of the environment is in a text that is kept."""

import traceback
from pathlib import Path

import pytest

from meddiff_core.errors import MeddiffError
from meddiff_core.study import Study
from meddiff_core.workspace import Workspace
from tasks.credentials import SECRET, split_credentials, without_credentials
from tasks.redaction import without_names

PASSWORD = "cAnAry/Pa55@w0rd"
QUOTED = "cAnAry%2FPa55%40w0rd"


@pytest.mark.parametrize(
    ("uri", "bare", "credentials"),
    [
        (f"https://anna:{QUOTED}@mlflow.org:5000/base", "https://mlflow.org:5000/base", ("anna", PASSWORD)),
        ("http://anna:secret@[::1]:5000", "http://[::1]:5000", ("anna", "secret")),
        ("http://mlflow:5000", "http://mlflow:5000", ()),
        ("http://anna@mlflow:5000", "http://anna@mlflow:5000", ()),  # MLflow needs both
        (f"postgresql://anna:{QUOTED}@db/mlflow", f"postgresql://anna:{QUOTED}@db/mlflow", ()),
        ("sqlite:///file:/a@b.db?uri=true", "sqlite:///file:/a@b.db?uri=true", ()),
        ("http://[broken", "http://[broken", ()),
    ],
)  # fmt: skip
def test_user_and_password_of_a_web_address_are_taken_out(uri: str, bare: str, credentials: tuple[str, ...]) -> None:
    assert split_credentials(uri) == (bare, credentials)


@pytest.mark.parametrize(
    "text",
    [
        f"cannot reach https://anna:{QUOTED}@mlflow:5000/api",
        f"(psycopg2.OperationalError) postgresql+psycopg2://anna:{QUOTED}@db/mlflow: timeout",
        f"invalid URL http://anna:{PASSWORD}@mlflow",  # not quoted, as users write them
        f"password {PASSWORD} is wrong",
        f"password {QUOTED} is wrong",
        "token tOkEn-123456 has expired",
    ],
)
def test_no_secret_is_in_a_cleaned_text(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"https://anna:{QUOTED}@mlflow:5000")
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "tOkEn-123456")
    cleaned = without_credentials(text)
    assert SECRET in cleaned
    assert not any(part in cleaned for part in ("cAnAry", "Pa55", "w0rd", "tOkEn"))


def test_a_text_without_secrets_is_left_as_it_is() -> None:
    text = "https://mlflow.example.org/a@b answered 500 (sub-012@site-2)"
    assert without_credentials(text) == text


def test_no_error_of_a_task_holds_a_password_whether_for_logs_or_for_the_user(tmp_path: Path) -> None:
    workspace = Workspace(Study.model_validate({"name": "knees", "data": {"images": "scans"}}), tmp_path)
    with pytest.raises(MeddiffError) as caught, without_names(workspace):
        raise MeddiffError(f"the bucket at https://anna:{QUOTED}@store:9000 must answer, it did not")
    assert "at https://[secret]@store:9000 must" in (caught.value.shown or "")
    assert "cAnAry" not in "".join(traceback.format_exception(caught.value))
