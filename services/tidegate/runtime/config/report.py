"""The configuration in force as the admin page /settings shows it. Pure.

Passwords in URLs are replaced: the page is for operators, but its answers end up in tickets.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final
from urllib.parse import urlsplit, urlunsplit

from tidegate.runtime.config.model import Config

_HIDDEN: Final = "***"
#: Keys whose values are URLs that may have a password.
_URLS: Final = frozenset({"store.url", "telemetry.otlp_endpoint"})


def settings_of(config: Config) -> dict[str, Any]:
    """Return every setting by its dotted key; a list is one value."""
    return {
        key: _without_password(value) if key in _URLS and isinstance(value, str) else value
        for key, value in _leaves(config.model_dump(mode="json"), "")
    }


def _leaves(section: Mapping[str, Any], above: str) -> Iterator[tuple[str, Any]]:
    for key, value in section.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{above}{key}.")
        else:
            yield f"{above}{key}", value


def _without_password(url: str) -> str:
    parts = urlsplit(url)
    credentials, at, rest = parts.netloc.rpartition("@")
    if not at:
        return url
    user = credentials.partition(":")[0]
    return urlunsplit(parts._replace(netloc=f"{user}:{_HIDDEN}@{rest}"))
