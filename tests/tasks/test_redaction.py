"""An error of a task names no subject in the engines' logs, and is shown whole to the user."""

import traceback
from pathlib import Path

import pytest

from meddiff_core.artefacts import write_bytes
from meddiff_core.data.ingest import Inventory
from meddiff_core.errors import CaseRefused, ConfigurationError, IntegrityError, MeddiffError
from meddiff_core.stages.inventory import _JSON
from meddiff_core.study import Study
from meddiff_core.types import CaseRef
from meddiff_core.workspace import Workspace
from tasks.redaction import REDACTED, without_names

SCANS = Path("/archive/heads")


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    """A study with an inventory of two subjects, of which one is a short number."""
    workspace = Workspace(Study.model_validate({"name": "knees", "data": {"images": "scans"}}), tmp_path)
    cases = tuple(
        CaseRef(case=f"{subject}_T1", subject=subject, image=SCANS / f"{subject}_T1.nii.gz")
        for subject in ("meier", "12")
    )
    inventory = Inventory(layout="a flat folder", cases=cases, refused=(), notes=())
    write_bytes(workspace.path("inventory"), _JSON.dump_json(inventory))
    return workspace


def logged(error: Exception) -> str:
    """What an engine writes of an error."""
    return "".join(traceback.format_exception(error))


@pytest.mark.parametrize(
    "error",
    [
        ConfigurationError("data.same_subject: 'Meier' (train) and 'huber' (holdout) are on two sides"),
        IntegrityError("the chunk of meier_T1 is corrupt"),
        FileNotFoundError(2, "No such file or directory", str(SCANS / "meier_T1.nii.gz")),
        CaseRefused("meier_T1", "must be a 3D volume"),
        KeyError("meier"),
    ],
)
def test_no_name_is_logged_and_the_command_still_shows_it(workspace: Workspace, error: Exception) -> None:
    with pytest.raises(Exception, match=r"\[name\]") as caught, without_names(workspace):
        raise error
    assert "meier" not in logged(caught.value).lower()
    if isinstance(error, MeddiffError) and not isinstance(error, CaseRefused):
        assert type(caught.value) is type(error)
        assert caught.value.shown == str(error)
    assert isinstance(caught.value, OSError) == isinstance(error, OSError)  # which is tried again


def test_names_in_the_cause_of_an_error_are_not_logged_either(workspace: Workspace) -> None:
    def read() -> None:
        try:
            raise OSError(f"cannot read {SCANS / 'meier_T1.nii.gz'}")
        except OSError as error:
            raise IntegrityError("a scan is gone") from error

    with pytest.raises(IntegrityError, match="a scan is gone") as caught, without_names(workspace):
        read()
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__
    assert "cannot read /archive" not in logged(caught.value)


def test_an_error_without_names_is_left_as_it_is(workspace: Workspace) -> None:
    error = ConfigurationError("split: at least 8 scans of 12 subjects must train")
    with pytest.raises(ConfigurationError) as caught, without_names(workspace):
        raise error
    assert caught.value is error
    assert caught.value.shown is None
    assert REDACTED not in str(caught.value)


def test_without_an_inventory_errors_pass(tmp_path: Path) -> None:
    workspace = Workspace(Study.model_validate({"name": "knees", "data": {"images": "scans"}}), tmp_path)
    with pytest.raises(KeyError, match="meier"), without_names(workspace):
        raise KeyError("meier")
