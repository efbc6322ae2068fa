"""Keys of S3 from the file of AWS_SHARED_CREDENTIALS_FILE, read anew for each request.

obstore itself knows keys in the environment, which are fixed as long as a process lives, and the endpoints of
containers, web identities and instances, which it asks again in time. Keys in a file that another program renews every
minute would end a night's work without this.
"""

import configparser
import os
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from meddiff_core.errors import ConfigurationError

FILE, PROFILE, KEY = "AWS_SHARED_CREDENTIALS_FILE", "AWS_PROFILE", "AWS_ACCESS_KEY_ID"
NEEDED = ("aws_access_key_id", "aws_secret_access_key")


def keys_from_file() -> Callable[[], dict[str, Any]] | None:
    """What gives the keys that are in the file now; None where no file is named, or keys are in the environment."""
    path = os.environ.get(FILE)
    if not path or KEY in os.environ:
        return None
    profile = os.environ.get(PROFILE, "default")
    read_keys(Path(path), profile)
    return lambda: read_keys(Path(path), profile)


def read_keys(path: Path, profile: str) -> dict[str, Any]:
    """The keys of a profile, which are taken to run out at once.

    Raises:
        ConfigurationError: the file cannot be read, or has no such keys.
    """
    parsed = configparser.RawConfigParser()
    try:
        parsed.read_string(path.read_text())
    except (OSError, ValueError, configparser.Error):  # whose text may repeat a line of the file
        raise ConfigurationError(f"{FILE} must name a readable file of profiles with keys") from None
    if not parsed.has_section(profile) or not all(parsed[profile].get(name) for name in NEEDED):
        raise ConfigurationError(f"{FILE} must hold {' and '.join(NEEDED)} for the profile {profile}")
    found = parsed[profile]
    return {
        "access_key_id": found[NEEDED[0]],
        "secret_access_key": found[NEEDED[1]],
        "token": found.get("aws_session_token"),
        "expires_at": datetime.now(UTC),
    }
