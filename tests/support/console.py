"""The console of a broker under test: where it is, and requests to its API."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from support.broker import Server, Tidegate
from support.waiting import wait_for

LINE = "tidegate console "
READY_DEADLINE_S = 30.0


def with_console() -> dict[str, str]:
    """Return the environment of a broker that has a console (``tests/conftest.py`` says no)."""
    return {name: value for name, value in os.environ.items() if "CONSOLE" not in name}


def console_line(server: Server) -> str:
    """Wait until the console is there; return the line that says where."""

    def line() -> str:
        lines = server.stdout().splitlines(keepends=True)
        return next((x.strip() for x in lines if x.startswith(LINE) and x[-1] == "\n"), "")

    wait_for(lambda: bool(line()), READY_DEADLINE_S, f"a line {LINE!r}")
    return line()


@dataclass(slots=True)
class Reply:
    """A response."""

    status: int
    headers: Mapping[str, str]
    body: Any

    @property
    def reason(self) -> str:
        """The word of a refusal."""
        return str(self.body["reason"])


@dataclass(slots=True)
class Api:
    """A caller of the API: with a token, with the cookie of a session, or without either."""

    url: str
    token: str = ""
    headers: dict[str, str] = field(default_factory=dict)
    #: The address that it calls from.
    source: str = "127.0.0.1"

    @classmethod
    def of(cls, server: Server) -> Api:
        """Return a caller with the first token, which the line has or whose file it names."""
        words = console_line(server).removeprefix(LINE).split(" ", 1)
        url, _, token = words[0].partition("/#token=")
        if not token:
            file = Path(words[1].removeprefix("(token in ").removesuffix(")"))
            token = file.read_text().split()[1]
        return cls(url, token)

    def call(self, method: str, path: str, body: Any = None, **headers: str) -> Reply:
        """Send one request; ``path`` without ``/api/v1`` begins with two slashes."""
        parts = urlsplit(self.url)
        assert parts.hostname is not None
        connection = http.client.HTTPConnection(
            parts.hostname, parts.port, timeout=20, source_address=(self.source, 0)
        )
        given = dict(self.headers)
        if self.token:
            given["Authorization"] = f"Bearer {self.token}"
        data = None
        if body is not None:
            given["Content-Type"] = "application/json"
            data = body if isinstance(body, bytes) else json.dumps(body).encode()
        given |= {name.replace("_", "-"): value for name, value in headers.items()}
        target = path[1:] if path.startswith("//") else f"/api/v1{path}"
        try:
            connection.request(method, target, data, given)
            response = connection.getresponse()
            raw = response.read()
        finally:
            connection.close()
        kind = response.headers.get("content-type", "")
        value = json.loads(raw) if kind == "application/json" and raw else raw.decode()
        return Reply(response.status, {k.lower(): v for k, v in response.headers.items()}, value)

    def get(self, path: str, **headers: str) -> Reply:
        """Read something."""
        return self.call("GET", path, **headers)

    def post(self, path: str, body: Any = None, **headers: str) -> Reply:
        """Change something."""
        return self.call("POST", path, body, **headers)

    def delete(self, path: str, **headers: str) -> Reply:
        """Delete something."""
        return self.call("DELETE", path, **headers)


@contextlib.contextmanager
def running_console(tokens: str, **settings: Any) -> Iterator[tuple[Tidegate, str]]:
    """Run a broker in one process with a console that has these tokens; yield it and the URL."""
    with tempfile.TemporaryDirectory(prefix="tg-", ignore_cleanup_errors=True) as name:
        directory = Path(name).resolve()
        (directory / "tokens").write_text(tokens)
        defaults: dict[str, Any] = {
            "listeners": [{"name": "tcp", "port": 0}],
            "auth": {"allow_anonymous": True},
            "store": {"data_dir": "data"},
            "admin": {"port": 0},
            "console": {"port": 0, "tokens_file": "tokens"},
        }
        server = Tidegate(directory, defaults | settings, [], with_console())
        try:
            server.start()
            yield server, console_line(server).split()[2]
        finally:
            server.cleanup()
