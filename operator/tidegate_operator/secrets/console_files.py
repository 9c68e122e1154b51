"""Whether the console can use a file of users or tokens; one bad line is enough that it does not.

Pure. Called by ``references``. Never quotes a line: more users may read a status than Secrets.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from tidegate.console.auth.tokens import parse_tokens
from tidegate.console.auth.users import parse_users

_SHOWN: Final = 3
_ROLES: Final = "roles are viewer, operator and admin"


def users_problem(content: bytes) -> str:
    """Return which lines are no users, "" if all are."""
    form = "USER:HASH:ROLE with a hash of argon2id (tidegate passwd --role)"
    return _problem(content, parse_users, form)


def tokens_problem(content: bytes) -> str:
    """Return which lines are no tokens, "" if all are."""
    return _problem(content, parse_tokens, "ROLE TOKEN")


def _problem(content: bytes, parse: Callable[[bytes, str], object], form: str) -> str:
    bad: list[str] = []
    for number, line in enumerate(content.splitlines(), 1):
        try:
            parse(line, "")
        except ValueError:
            bad.append(str(number))
    if not bad:
        return ""
    numbers = ", ".join(bad[:_SHOWN]) + (", …" if len(bad) > _SHOWN else "")
    return f"line {numbers}: expected {form}; {_ROLES}"
