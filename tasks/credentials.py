"""Texts without credentials: libraries repeat, with the error, the address that they failed at and its password.

What is kept of an error is cleaned by what an address looks like, and of every secret that the environment holds.
"""

import os
import re
from urllib.parse import unquote, urlsplit

SECRET, SHORTEST_SECRET = "[secret]", 6
"""What stands for a secret, and its least characters: a shorter one is in many texts."""
_SECRET_VARIABLE = re.compile(r"PASSWORD|PASSWD|SECRET|TOKEN|API_KEY|ACCESS_KEY|AUTH_STRING")
_USER_INFO = re.compile(r"(?<=://)[^\s/?#]+@")


def without_credentials(text: str) -> str:
    """A text without the user and password of any address, and without a value of the environment that is secret."""
    text = _USER_INFO.sub(f"{SECRET}@", text)
    for secret in sorted(_secrets(), key=len, reverse=True):
        text = text.replace(secret, SECRET)
    return text


def split_credentials(uri: str) -> tuple[str, tuple[str, ...]]:
    """A web address without user and password, and those two; other addresses, and those without both, as they are."""
    try:
        parts = urlsplit(uri)
        user, password = parts.username, parts.password
    except ValueError:
        return uri, ()
    if parts.scheme not in ("http", "https") or not user or not password:
        return uri, ()
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl(), (unquote(user), unquote(password))


def _secrets() -> set[str]:
    """Passwords and keys that the environment holds, as they are given and as they are meant."""
    found = {value for name, value in os.environ.items() if _SECRET_VARIABLE.search(name)}
    for user_info in re.findall(r"://(\S+)@", " ".join(os.environ.values())):
        password = user_info.partition(":")[2]
        found |= {password, unquote(password)}
    return {secret for secret in found if len(secret) >= SHORTEST_SECRET}
