"""What was asked of the API server, out of its audit log: who, what, and what came of it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qs, urlsplit

WRITES: Final = frozenset({"create", "update", "patch", "delete", "deletecollection"})
#: How much is read at once on the way back to the end of a line, in bytes.
_PIECE: Final = 65536


@dataclass(slots=True, frozen=True)
class Request:
    """One request. ``resource`` is a plural, with its part: ``mqttbrokers/status``."""

    user: str
    verb: str
    group: str
    resource: str
    namespace: str
    name: str
    status: int
    is_dry_run: bool
    #: Whether a right was missing; admission says no with the same status.
    is_forbidden: bool
    agent: str
    path: str
    body: Any
    #: Where its line begins in the log: a mark.
    position: int = 0

    @property
    def is_write(self) -> bool:
        """Whether it changes anything (being asked whether it would is no change)."""
        return self.verb in WRITES and not self.is_dry_run

    def __str__(self) -> str:
        return f"{self.verb} {self.resource} {self.namespace}/{self.name} {self.status}"


class AuditLog:
    """The log's file; marks are positions in it."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def mark(self) -> int:
        """Return where the log is now: behind the last line that has been written whole."""
        if not self.file.exists():
            return 0
        with self.file.open("rb") as file:
            at = file.seek(0, os.SEEK_END)
            while at > 0:
                begin = max(0, at - _PIECE)
                file.seek(begin)
                found = file.read(at - begin).rfind(b"\n")
                if found >= 0:
                    return begin + found + 1
                at = begin
        return 0

    def since(self, mark: int = 0, *, user: str = "", namespace: str = "") -> list[Request]:
        """Return what was asked since a mark, by one user, in one namespace, or all of it."""
        return [
            one
            for one in self._read(mark)
            if user in {"", one.user} and namespace in {"", one.namespace}
        ]

    def writes(self, mark: int = 0, *, user: str = "", namespace: str = "") -> list[str]:
        """Return what was written since a mark, in words."""
        found = self.since(mark, user=user, namespace=namespace)
        return [str(one) for one in found if one.is_write]

    def _read(self, mark: int) -> Iterator[Request]:
        if not self.file.exists():
            return
        with self.file.open("rb") as file:
            file.seek(mark)
            position = mark
            for line in file:
                if line.endswith(b"\n"):
                    yield _request(json.loads(line), position)
                position += len(line)


def _request(event: dict[str, Any], position: int) -> Request:
    ref = event.get("objectRef") or {}
    part = ref.get("subresource", "")
    annotations = event.get("annotations") or {}
    query = parse_qs(urlsplit(event["requestURI"]).query)
    return Request(
        # A request that was given up, or had no valid token, is nobody's.
        user=event["user"].get("username", ""),
        verb=event["verb"],
        group=ref.get("apiGroup", ""),
        resource=ref.get("resource", "") + (f"/{part}" if part else ""),
        namespace=ref.get("namespace", ""),
        name=ref.get("name", ""),
        status=(event.get("responseStatus") or {}).get("code", 0),
        is_dry_run="dryRun" in query,
        is_forbidden=annotations.get("authorization.k8s.io/decision") == "forbid",
        agent=event.get("userAgent", ""),
        path=event["requestURI"],
        body=event.get("requestObject"),
        position=position,
    )
