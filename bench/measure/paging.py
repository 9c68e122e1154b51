"""A caller of the console's API that reads page after page; what it asks for."""

from __future__ import annotations

import contextlib
import http.client
import json
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit

_TIMEOUT_S: Final = 60.0


@dataclass(slots=True, frozen=True)
class Request:
    """What is asked for, and how many pages of it are read at most."""

    path: str
    pages: int = 1


#: Of the store alone.
OF_THE_STORE: Final = (Request("/clients?state=offline&limit=100", 1_000),)
#: What edges answer, or are asked for, too.
OF_EDGES: Final = (
    Request("/clients?limit=100"),
    Request("/clients?state=connected&limit=100", 1_000),
    Request("/clients?state=connected&limit=1000", 100),
    Request("/clients?state=connected&prefix=common-s49&limit=100", 10),
    Request("/clients?state=connected&prefix=nothing"),
    Request("/clients?state=connected&user=user-3&limit=100", 10),
    Request("/clients?state=connected&address=127.&limit=100", 10),
    Request("/clients/common-s1"),
    Request("/clients/common-s1/why?topic=common%2Fall%2Fdata"),
    Request("/subscriptions?filter=common%2Fall%2Fdata&limit=100", 100),
    Request("/topics/receivers?topic=common%2Fall%2Fdata"),
    Request("/retained/tree?prefix="),
    Request("/retained/tree?prefix=retained%2Fall"),
    Request("/retained?filter=retained%2F%23&limit=100", 10),
    Request("/overview"),
    Request("/nodes"),
    Request("/listeners"),
)


@dataclass(slots=True, frozen=True)
class Play:
    """What is asked for while clients exchange messages, and how often."""

    requests: tuple[Request, ...] = ()
    #: Requests in a second; 0: one after the other, as fast as they are answered.
    rate: float = 0.0


#: Who looks at the console reads the first page of one thing after the other.
PERSON: Final = Play(tuple(Request(request.path) for request in OF_EDGES), 2.0)


class Caller:
    """See the module's docstring."""

    def __init__(self, url: str, token: str) -> None:
        parts = urlsplit(url)
        self._address = (parts.hostname or "", parts.port or 0)
        self._headers = {"Authorization": f"Bearer {token}"}

    def get(self, path: str) -> dict[str, Any]:
        """Make one request; return its answer. Raises OSError, RuntimeError."""
        connection = http.client.HTTPConnection(*self._address, timeout=_TIMEOUT_S)
        try:
            connection.request("GET", f"/api/v1{path}", headers=self._headers)
            response = connection.getresponse()
            content = response.read()
        finally:
            connection.close()
        if response.status != 200:
            raise RuntimeError(f"{path}: {response.status} {content[:300]!r}")
        found: dict[str, Any] = json.loads(content)
        return found

    def pages(self, request: Request) -> Iterator[float]:
        """Read a request's pages one after another; yield the seconds that each has taken."""
        after = ""
        for _ in range(request.pages):
            started = time.monotonic()
            answer = self.get(request.path + after)
            yield time.monotonic() - started
            if not answer.get("next"):
                return
            after = f"&after={answer['next']}"

    @contextlib.contextmanager
    def busy(self, play: Play) -> Iterator[list[float]]:
        """Make a play's requests again and again meanwhile; yield the seconds each has taken."""
        taken: list[float] = []
        failures: list[BaseException] = []
        end = threading.Event()

        def run() -> None:
            began = time.monotonic()
            try:
                for seconds in self._again_and_again(play.requests):
                    taken.append(seconds)
                    due = began + len(taken) / play.rate if play.rate else 0.0
                    if end.wait(max(0.0, due - time.monotonic())):
                        return
            except (OSError, RuntimeError, http.client.HTTPException) as error:
                failures.append(error)

        thread = threading.Thread(target=run)
        if play.requests:
            thread.start()
        try:
            yield taken
        finally:
            end.set()
            if play.requests:
                thread.join()
        if failures:
            raise failures[0]

    def _again_and_again(self, requests: Sequence[Request]) -> Iterator[float]:
        while True:
            for request in requests:
                yield from self.pages(request)
