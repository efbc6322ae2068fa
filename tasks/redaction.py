"""Errors without the names of subjects and files: what a task raises ends in Prefect's database and in logs.

An error of the core names the case that it is about, for the user to find it. The command shows that text; what
travels on through the engines is the same error with each name of the inventory replaced.
"""

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from meddiff_core.errors import CaseRefused, MeddiffError
from meddiff_core.stages.identifiers import identifiers_of
from meddiff_core.workspace import Workspace

REDACTED = "[name]"
SHORTEST, SHORTEST_NUMBER = 2, 4
"""Characters of a name that is replaced; a shorter number is in many texts and names nobody by itself."""


@contextmanager
def without_names(workspace: Workspace) -> Iterator[None]:
    """Raise errors of this block without names; a MeddiffError keeps its own text as `shown`."""
    try:
        yield
    except Exception as error:
        pattern = _pattern(_identifiers(workspace))
        if pattern is None or not any(pattern.search(str(one)) for one in _chain(error)):
            raise
        raise _redacted(error, pattern).with_traceback(error.__traceback__) from None


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


def _chain(error: BaseException) -> Iterator[BaseException]:
    """An error and those that led to it, which a traceback prints as well."""
    following: BaseException | None = error
    while following is not None:
        yield following
        following = following.__cause__ or following.__context__


def _redacted(error: Exception, pattern: re.Pattern[str]) -> Exception:
    text = pattern.sub(REDACTED, str(error))
    if isinstance(error, MeddiffError) and not isinstance(error, CaseRefused):
        twin = type(error)(text)
        twin.shown = str(error)
        return twin
    if isinstance(error, OSError):
        return OSError(text)
    return RuntimeError(f"{type(error).__name__}: {text}")
