"""What can go wrong, by what the user has to do about it.

Each class carries the exit status of the command. A message is one line: the case or key, what was
expected, what came.
"""


class MeddiffError(Exception):
    """Base of every error that meddiff raises on purpose."""

    exit_code = 1
    shown: str | None = None
    """The text for the user alone, where the message was cleared of names for logs."""


class ConfigurationError(MeddiffError):
    """The command or the study is wrong: names the key, what it must be, what it is."""

    exit_code = 2


class DataRefused(MeddiffError):
    """So much data was refused that nothing is left to do."""

    exit_code = 3


class GatesFailed(MeddiffError):
    """A release was refused: names each failed gate, its value and its threshold."""

    exit_code = 4


class IntegrityError(MeddiffError):
    """Stored bytes are missing or are not those that were written."""


class TrainingFailed(MeddiffError):
    """A training cannot go on: names what was seen, and what to change."""


class CaseRefused(MeddiffError):
    """One case cannot be used. Never stops a run: it is caught and listed with its reason."""

    def __init__(self, case: str, reason: str) -> None:
        super().__init__(f"{reason} (case {case})")
        self.case = case
        self.reason = reason

    def __reduce__(self) -> tuple[type, tuple[str, str]]:
        return type(self), (self.case, self.reason)
