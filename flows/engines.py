"""What a command that runs a flow starts first; nothing heavy is imported before that."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def engines(study: Path, verbose: bool, quiet: bool) -> Iterator[None]:
    """Check the study, then start what a flow needs: environment, local API, and a console to speak on."""
    from meddiff_core.stages.lock import locked
    from meddiff_core.workspace import Workspace
    from tasks.environment import prepare_environment
    from tasks.local_api import local_api
    from tasks.progress import console_for, speaking

    folder = Workspace.open(study).folder
    prepare_environment(folder, verbose=verbose)
    with locked(folder), local_api(folder) as wait_for_api, speaking(console_for(quiet=quiet)):
        _import_flows()
        wait_for_api()
        yield


def _import_flows() -> Any:
    """While the API starts: importing torch and MONAI takes as long."""
    import flows.chain

    return flows.chain
