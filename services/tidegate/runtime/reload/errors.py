"""Why a changed file is not in use: the exceptions of the reload, and their text.

Raised and caught by whoever reads configuration files and the files that they name.
"""

from __future__ import annotations

import ssl


class NotApplied(Exception):
    """A changed configuration is valid and cannot be applied now; nothing of it is in use.

    ``disturbs``: the attempt interrupted clients, so the next one is delayed.
    """

    def __init__(self, problem: str, *, disturbs: bool = False) -> None:
        super().__init__(problem)
        self.disturbs = disturbs


def error_text(error: BaseException) -> str:
    """Return an exception's text as one line."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return " ".join(str(error).split()) or type(error).__name__


def is_read_error(error: BaseException) -> bool:
    """Say whether a file could not be read, whatever its content: a retry may succeed."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and not isinstance(cause, ssl.SSLError):
            return True
        cause = cause.__cause__ or cause.__context__
    return False
