"""Errors without the names of subjects and files, and without credentials: what a task raises ends in Prefect's
database and in logs.

An error of the core names the case that it is about, for the user to find it. The command shows that text; what
travels on through the engines is the same error with each name of the inventory replaced. Passwords and keys, which
libraries repeat with the address that they failed at, are shown to nobody.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from meddiff_core.errors import CaseRefused, MeddiffError
from meddiff_core.stages.identifiers import identifiers_of
from meddiff_core.workspace import Workspace
from tasks.credentials import without_credentials

REDACTED = "[name]"
SHORTEST, SHORTEST_NUMBER = 2, 4
"""Characters of a name that is replaced; a shorter number is in many texts and names nobody by itself."""
Clean = Callable[[str], str]


@contextmanager
def without_names(workspace: Workspace) -> Iterator[None]:
    """Raise errors of this block without names; a MeddiffError keeps its own text as `shown`."""
    try:
        yield
    except Exception as error:
        clean = _cleaner(_identifiers(workspace))
        if all(clean(str(one)) == str(one) for one in _chain(error)):
            raise
        raise _redacted(error, clean).with_traceback(error.__traceback__) from None


def _identifiers(workspace: Workspace) -> set[str]:
    try:
        return identifiers_of(workspace)
    except (OSError, ValueError):  # no inventory yet; the stage that takes it names nobody
        return set()


def _pattern(names: Iterable[str]) -> re.Pattern[str] | None:
    """Any of some names as a whole word, the longest first."""
    telling = [name for name in names if len(name) >= (SHORTEST_NUMBER if name.isdigit() else SHORTEST)]
    words = "|".join(re.escape(name) for name in sorted(telling, key=len, reverse=True))
    return re.compile(rf"(?<![^\W_])(?:{words})(?![^\W_])", re.IGNORECASE) if words else None


def _cleaner(names: Iterable[str]) -> Clean:
    pattern = _pattern(names)

    def clean(text: str) -> str:
        text = without_credentials(text)
        return pattern.sub(REDACTED, text) if pattern else text

    return clean


def _chain(error: BaseException) -> Iterator[BaseException]:
    """An error and those that led to it, which a traceback prints as well."""
    following: BaseException | None = error
    while following is not None:
        yield following
        following = following.__cause__ or following.__context__


def _redacted(error: Exception, clean: Clean) -> Exception:
    text = clean(str(error))
    if isinstance(error, MeddiffError) and not isinstance(error, CaseRefused):
        twin = type(error)(text)
        twin.shown = without_credentials(str(error))
        return twin
    if isinstance(error, OSError):
        return OSError(text)
    return RuntimeError(f"{type(error).__name__}: {text}")
