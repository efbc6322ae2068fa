"""Reading what a stranger wrote: every size is known to be small before anything is decoded.

A release comes over a network. Of its files a few bytes can claim gigabytes (a compressed chunk, a nested JSON), so
each is measured against what its neighbours allow first, and whatever is wrong ends as one line of plain text.
"""

import json
import stat
from typing import Any

from pydantic import ValidationError

from meddiff_core.errors import IntegrityError
from meddiff_core.objects.location import Location, RemotePath

MOST_JSON = 16 << 20
"""Bytes of a JSON file; the consolidated metadata of 1000 arrays have one."""
LONGEST_LINE = 400


def one_line(text: str) -> str:
    """Text from a release as one line that no terminal takes as a command and any encoding can print."""
    shown = text[: LONGEST_LINE + 1].encode("utf-8", "backslashreplace").decode()
    plain = "".join(sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in shown)
    return plain if len(plain) <= LONGEST_LINE else f"{plain[: LONGEST_LINE - 1]}…"


def describe_error(error: Exception) -> str:
    """An unexpected error as a part of a line."""
    detail = " ".join(str(error).split())[:200]
    return f"{type(error).__name__}: {detail}" if detail else type(error).__name__


def first_fault(error: ValidationError) -> str:
    """What is wrong first with a file that follows another form, as a part of a line."""
    fault = error.errors(include_url=False, include_input=False)[0]
    return f"{'.'.join(map(str, fault['loc'])) or 'file'}: {fault['msg']}"


def read_bounded(path: Location, most: int) -> bytes:
    """All bytes of a file.

    Raises:
        IntegrityError: there are more than `most`, or it is no file, or none that may be read.
    """
    if isinstance(path, RemotePath):
        return path.read(most)
    try:
        status = path.lstat()
        if not stat.S_ISREG(status.st_mode):
            raise IntegrityError(f"{path.name}: must be a file, is none")
        if status.st_size > most:
            raise IntegrityError(f"{path.name}: must have at most {most} bytes, has {status.st_size}")
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise IntegrityError(f"{path.name}: must be a file, there is none") from error
    except OSError as error:
        raise IntegrityError(f"{path.name}: must be readable: {error.strerror}") from error


def read_json(path: Location, most: int = MOST_JSON) -> Any:
    """`parse_json` of a file of at most `most` bytes."""
    return parse_json(read_bounded(path, most), path.name)


def parse_json(raw: bytes, name: str) -> Any:
    """JSON in which no key occurs twice, since readers differ in which one they take.

    Raises:
        IntegrityError: it is none, is nested too deeply, or has a number that JSON does not know.
    """
    try:
        return json.loads(raw.decode(), object_pairs_hook=_without_repeats, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise IntegrityError(f"{name}: must be JSON: {describe_error(error)}") from error


def read_object(path: Location, most: int = MOST_JSON) -> dict[str, Any]:
    """`read_json` where a file must hold keys and values."""
    content = read_json(path, most)
    if not isinstance(content, dict):
        raise IntegrityError(f"{path.name}: must hold keys and values, holds {type(content).__name__}")
    return content


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) != len(pairs):
        raise ValueError("a key occurs twice")
    return content


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no number of JSON")
