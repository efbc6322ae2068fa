"""What can be said before any engine starts: what has to be run first, or that nothing is left to do.

Prefect, MLflow and torch take half a minute to start on a small machine; nobody should wait so long for one line.
"""

from collections.abc import Sequence

from meddiff_core.workspace import CHAIN, Workspace

LISTED = ("inventory", "fingerprint")
"""What is looked at anew whenever a file was touched, and changes nothing else by itself."""


def all_done(workspace: Workspace, names: Sequence[str]) -> bool:
    """Whether some artefacts are up to date.

    Raises:
        ConfigurationError: a setting or the folder of scans is wrong.
        DataRefused: there are no scans.
    """
    condition = {state.name: state.condition for state in workspace.states()}
    if "inventory" in names and (
        {condition[name] for name in names} == {"done"} or set(condition.values()) == {"missing"}
    ):
        from meddiff_core.data.ingest import listing_digest  # slow, and only the first stage and a whole run list them
        from meddiff_core.stages.inventory import look_at_scans

        # Scans are listed before the first artefact, to report at once that there are none, and after the last.
        scans = listing_digest(look_at_scans(workspace))
        condition = {state.name: state.condition for state in workspace.states(scans)}
    return all(condition[name] == "done" for name in names)


def version_taken(workspace: Workspace) -> str | None:
    """What to change before a run ends, where it makes something anew of which a release with this version exists."""
    study = workspace.study
    release = workspace.path("release") / f"{study.name}-{study.release.version}"
    changed = [name for name in CHAIN if name not in LISTED and workspace.state(name).condition == "stale"]
    if not changed or not release.exists():
        return None
    return (
        f"release.version: {study.release.version} exists and is never overwritten, and {changed[0]} is made anew: set "
        "another before this run ends, with a higher first number if volumes change"
    )
