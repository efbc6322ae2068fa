"""The key that signs a study's releases, looked for before training, so that a wrong one costs no night."""

from meddiff_core.release.signing import Signer, parse_signer, read_signer
from meddiff_core.stages.making import Resources
from meddiff_core.workspace import Workspace


def find_signer(workspace: Workspace, resources: Resources) -> Signer | None:
    """The key that signs the study's releases, if it has one.

    Raises:
        ConfigurationError: what should be one is none, or others can read it.
    """
    if path := workspace.study.release.signing_key:
        return read_signer(workspace.folder / path)
    if resources.signing_key:
        return parse_signer(resources.signing_key.encode(), "MEDDIFF_SIGNING_KEY")
    return None
